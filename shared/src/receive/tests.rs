use std::os::unix::fs::FileExt;

use super::*;
use crate::durable::Durability;
use crate::ending::{End, end};
use crate::lookup::{self, State};
use crate::record::{self, Place};
use crate::spool::Options;

fn spool(dir: &tempfile::TempDir) -> Arc<Spool> {
    Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap())
}

fn now(secs: u64) -> UnixTime {
    UnixTime::from_secs(secs)
}

fn create(spool: &Arc<Spool>, length: u64) -> Receiving {
    let record = Record::new(Some(Length(length)), now(1));
    let receiving = NewData::create(spool)
        .unwrap()
        .into_receiving(record)
        .unwrap();
    receiving.sync_creation().unwrap();
    receiving
}

fn opened(spool: &Arc<Spool>, id: UploadId) -> Receiving {
    match Receiving::open(spool, id, now(2)).unwrap() {
        Open::Held(receiving) => *receiving,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_upload_goes_from_creation_over_two_patches_to_completed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let first = create(&spool, 10);
    let id = first.id();
    assert!(matches!(
        Receiving::open(&spool, id, now(1)).unwrap(),
        Open::Busy
    ));
    drop(first);
    let mut patch = opened(&spool, id);
    patch
        .data()
        .write_all_at(b"hello and more than counts", 0)
        .unwrap();
    patch.advance(Offset(5), now(3)).unwrap();
    drop(patch);
    let found = lookup::find(&spool, id).unwrap().unwrap();
    assert_eq!(
        (found.state(), found.record.offset),
        (State::Receiving, Offset(5))
    );
    let patch = opened(&spool, id);
    patch.data().write_all_at(b"world", 5).unwrap();
    let record = patch.hand_over(Offset(10), now(4)).unwrap();
    assert_eq!(
        (record.place, record.finished_at),
        (Place::Completed, Some(now(4)))
    );
    let found = lookup::find(&spool, id).unwrap().unwrap();
    assert_eq!((found.state(), found.record), (State::Queued, record));
    let data = std::fs::read(spool.layout().data(id, DataAt::Completed)).unwrap();
    assert_eq!(data, b"helloworld");
    assert!(matches!(
        Receiving::open(&spool, id, now(5)).unwrap(),
        Open::Missing
    ));
}

#[test]
fn an_upload_that_comes_whole_is_completed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let new = NewData::create(&spool).unwrap();
    let id = new.id();
    new.data().write_all_at(b"hello", 0).unwrap();
    let mut record = Record::new(Some(Length(5)), now(1));
    record.offset = Offset(5);
    record.rest.announce = true;
    new.into_completed(record, now(2)).unwrap();
    assert_eq!(
        lookup::find(&spool, id).unwrap().unwrap().state(),
        State::Queued
    );
    assert_eq!(spool.entries(Dir::Uploads).unwrap().count(), 0);
    assert!(durable::stat(&spool.layout().event(id)).unwrap().is_some());
}

#[test]
fn every_failing_step_of_a_creation_leaves_no_upload_and_no_litter() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let new = NewData::create(&spool).unwrap();
    let blocker = spool.layout().record(new.id(), RecordAt::Uploads);
    std::fs::create_dir(&blocker).unwrap();
    assert!(new.into_receiving(Record::new(None, now(1))).is_err());
    std::fs::remove_dir(&blocker).unwrap();
    let new = NewData::create(&spool).unwrap();
    let mut short = Record::new(Some(Length(5)), now(1));
    short.offset = Offset(5);
    assert!(
        new.into_completed(short, now(1)).is_err(),
        "data shorter than its length"
    );
    assert_eq!(spool.entries(Dir::Uploads).unwrap().count(), 0);
    assert_eq!(spool.entries(Dir::Completed).unwrap().count(), 0);
}

#[test]
fn a_paused_upload_can_be_taken_over_and_the_first_holder_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let mut first = create(&spool, 10);
    let id = first.id();
    first.pause().unwrap();
    assert!(first.resume().unwrap(), "nobody came");
    first.pause().unwrap();
    let mut second = opened(&spool, id);
    assert!(!first.resume().unwrap(), "the second holds it");
    second.data().write_all_at(b"xx", 0).unwrap();
    second.advance(Offset(2), now(3)).unwrap();
    drop(second);
    assert!(!first.resume().unwrap(), "the watermark has moved");
    assert_eq!(
        opened(&spool, id).record().offset,
        Offset(2),
        "giving up released the lock"
    );
}

#[test]
fn a_resting_upload_is_free_for_others_and_given_up_once_they_moved_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let first = create(&spool, 10);
    let id = first.id();
    let resting = Box::new(first).rest().unwrap();
    let back = resting.resume().unwrap().expect("nobody came");
    let resting = Box::new(back).rest().unwrap();
    opened(&spool, id).data().write_all_at(b"x", 0).unwrap();
    let resumed = resting.resume().unwrap();
    assert!(resumed.is_none(), "whether that byte is lost, nobody knows");
    let mut second = opened(&spool, id);
    assert!(resting.resume().unwrap().is_none(), "the second holds it");
    second.data().write_all_at(b"xx", 0).unwrap();
    second.advance(Offset(2), now(3)).unwrap();
    drop(second);
    assert!(resting.resume().unwrap().is_none(), "the watermark moved");
    assert_eq!(
        opened(&spool, id).record().offset,
        Offset(2),
        "giving up released the lock"
    );
}

#[test]
fn an_ended_upload_leaves_a_receipt_and_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let receiving = create(&spool, 10);
    let id = receiving.id();
    assert_eq!(
        end(&spool, id, Place::Terminated, now(5)).unwrap(),
        End::Busy
    );
    drop(receiving);
    assert_eq!(
        end(&spool, id, Place::Terminated, now(5)).unwrap(),
        End::Ended
    );
    let found = lookup::find(&spool, id).unwrap().unwrap();
    assert_eq!(
        (found.at, found.state()),
        (RecordAt::Receipts, State::Terminated)
    );
    assert_eq!(found.record.ended_at, Some(now(5)));
    assert_eq!(spool.entries(Dir::Uploads).unwrap().count(), 0);
    let again = end(&spool, id, Place::Expired, now(6)).unwrap();
    assert_eq!(again, End::Already(Place::Terminated));
    assert_eq!(
        end(&spool, UploadId::generate(), Place::Expired, now(6)).unwrap(),
        End::Missing
    );
}

#[test]
fn a_file_that_was_delivered_keeps_its_bytes_when_its_upload_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let new = NewData::create(&spool).unwrap();
    let id = new.id();
    new.data().write_all_at(b"hello", 0).unwrap();
    let mut record = Record::new(Some(Length(5)), now(1));
    record.offset = Offset(5);
    new.into_completed(record, now(2)).unwrap();
    // A consumer delivers by link and dies before the receipt.
    let delivered = dir.path().join("delivered");
    durable::link(&spool.layout().data(id, DataAt::Completed), &delivered).unwrap();
    let ended = end(&spool, id, Place::Terminated, now(5)).unwrap();
    assert_eq!(ended, End::Ended);
    assert_eq!(std::fs::read(&delivered).unwrap(), b"hello");
    assert_eq!(spool.entries(Dir::Completed).unwrap().count(), 0);
}

#[test]
fn an_ending_that_was_cut_short_is_finished_by_whoever_looks_next() {
    for stop in ["end.recorded", "end.data_cut", "end.receipt_moved"] {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        let id = create(&spool, 10).id();
        {
            let _scope = failpoint::scoped(&format!("{stop}=error:EIO")).unwrap();
            assert!(end(&spool, id, Place::Terminated, now(5)).is_err());
        }
        let found = lookup::find(&spool, id).unwrap().unwrap();
        assert_eq!(
            found.state(),
            State::Terminated,
            "{stop}: it has ended from the first step on"
        );
        assert!(matches!(
            Receiving::open(&spool, id, now(6)).unwrap(),
            Open::Missing
        ));
        let found = lookup::find(&spool, id).unwrap().unwrap();
        assert_eq!(found.at, RecordAt::Receipts, "{stop}");
    }
}

#[test]
fn a_tussi_upload_in_progress_goes_on_under_our_rules() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let id: UploadId = "6f2ee5c5-8c1c-4c5a-9f4e-0b8b2f3f2c11".parse().unwrap();
    let meta = r#"{"length":5,"offset":3,"metadata":{"a":"b"},"server_metadata":{},
        "last_write":1764000000.5,"created_at":1764000000.25,"finished_at":null,"duration":null}"#;
    std::fs::write(spool.layout().record(id, RecordAt::Uploads), meta).unwrap();
    std::fs::write(spool.layout().data(id, DataAt::Uploads), "hel\0\0").unwrap();
    let patch = opened(&spool, id);
    assert_eq!(patch.record().offset, Offset(3));
    patch.data().write_all_at(b"lo", 3).unwrap();
    let record = patch.hand_over(Offset(5), now(4)).unwrap();
    assert_eq!(record.rest.metadata["a"], "b");
    assert_eq!(
        std::fs::read(spool.layout().data(id, DataAt::Completed)).unwrap(),
        b"hello"
    );
}

#[test]
fn after_a_failed_sync_nobody_finds_unsynced_bytes_received_in_full() {
    let dir = tempfile::tempdir().unwrap();
    for (durability, offset) in [(Durability::OnFinish, 0), (Durability::EveryPatch, 5)] {
        let options = Options {
            durability,
            ..Options::default()
        };
        let spool = Arc::new(Spool::open(&dir.path().join("s"), options).unwrap());
        let mut patch = create(&spool, 5);
        let id = patch.id();
        patch.data().write_all_at(b"hello", 0).unwrap();
        patch.advance(Offset(5), now(2)).unwrap();
        // What the hand-over does when its sync of the data fails.
        patch.give_back_unsynced().unwrap();
        drop(patch);
        let found = lookup::find(&spool, id).unwrap().unwrap();
        assert_eq!(found.record.offset, Offset(offset), "{durability:?}");
    }
}

#[test]
fn nothing_is_appended_behind_bytes_that_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let mut patch = create(&spool, 10);
    let id = patch.id();
    patch.data().write_all_at(b"hello", 0).unwrap();
    patch.advance(Offset(5), now(2)).unwrap();
    patch.data().set_len(3).unwrap();
    drop(patch);
    assert_eq!(opened(&spool, id).record().offset, Offset(0));
}

#[test]
fn a_watermark_whose_record_cannot_be_synced_is_taken_back_for_all_who_look() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let mut receiving = create(&spool, 10);
    let id = receiving.id();
    receiving.data().write_all_at(b"hello", 0).unwrap();
    receiving.advance(Offset(3), now(1)).unwrap();
    let scope = failpoint::scoped("advance.marked=error:EIO").unwrap();
    receiving.advance(Offset(5), now(2)).unwrap_err();
    drop(scope);
    let seen = record::read(&spool.layout().record(id, RecordAt::Uploads)).unwrap();
    assert_eq!(seen.offset, Offset(3));
    assert_eq!(receiving.record().offset, Offset(3));
}

/// What a boot that comes after this one reads in a record.
fn after_a_reboot(spool: &Spool, id: UploadId) -> Record {
    let bytes = std::fs::read(spool.layout().record(id, RecordAt::Uploads)).unwrap();
    let record = Record::from_bytes(&bytes).unwrap();
    record.read_in("0123456789ab".parse().unwrap())
}

#[test]
fn an_offset_is_shown_only_once_its_record_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let shown = |id| record::read(&spool.layout().record(id, RecordAt::Uploads)).unwrap();
    for step in ["advance.marked", "advance.record_synced"] {
        let mut receiving = create(&spool, 10);
        let id = receiving.id();
        receiving.data().write_all_at(b"hello", 0).unwrap();
        receiving.advance(Offset(3), now(1)).unwrap();
        let scope = failpoint::scoped(&format!("{step}=error:EIO")).unwrap();
        receiving.advance(Offset(5), now(2)).unwrap_err();
        drop((scope, receiving));
        assert_eq!(shown(id).offset, Offset(3), "{step}");
        assert_eq!(after_a_reboot(&spool, id).offset, Offset(5), "{step}");

        // Whoever comes next makes sure of it and shows it: it may have been acknowledged, before
        // the file system was mounted anew.
        let heir = opened(&spool, id);
        assert_eq!(heir.record().offset, Offset(5), "{step}");
        assert_eq!(shown(id).offset, Offset(5), "{step}");
        assert_eq!(after_a_reboot(&spool, id).offset, Offset(5), "{step}");
    }
}

#[test]
fn what_was_not_synced_counts_until_the_next_boot_only() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::OnFinish, Durability::None] {
        let with = |durability| {
            let options = Options {
                durability,
                ..Options::default()
            };
            Arc::new(Spool::open(&dir.path().join("s"), options).unwrap())
        };
        let synced = with(Durability::EveryPatch);
        let mut first = create(&synced, 10);
        let id = first.id();
        first.data().write_all_at(b"hello", 0).unwrap();
        first.advance(Offset(2), now(1)).unwrap();
        drop(first);

        let spool = with(durability);
        let mut patch = opened(&spool, id);
        patch.data().write_all_at(b"llo", 2).unwrap();
        patch.advance(Offset(5), now(2)).unwrap();
        drop(patch);
        assert_eq!(opened(&spool, id).record().offset, Offset(5));
        assert_eq!(after_a_reboot(&spool, id).offset, Offset(2));

        // A wrong checksum takes back more than was ever synced.
        opened(&spool, id).advance(Offset(1), now(3)).unwrap();
        assert_eq!(after_a_reboot(&spool, id).offset, Offset(1));

        let mut last = opened(&synced, id);
        last.data().write_all_at(b"ello", 1).unwrap();
        last.advance(Offset(5), now(4)).unwrap();
        assert_eq!(after_a_reboot(&spool, id).offset, Offset(5));
    }
}

#[test]
fn an_upload_whose_last_offset_was_synced_but_not_shown_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let mut receiving = create(&spool, 5);
    let id = receiving.id();
    receiving.data().write_all_at(b"hello", 0).unwrap();
    let scope = failpoint::scoped("advance.record_synced=error:EIO").unwrap();
    receiving.advance(Offset(5), now(1)).unwrap_err();
    drop((scope, receiving));
    assert!(matches!(
        Receiving::open(&spool, id, now(2)).unwrap(),
        Open::Missing
    ));
    let found = lookup::find(&spool, id).unwrap().unwrap();
    assert_eq!(found.state(), State::Queued);
}

#[test]
fn what_lies_above_the_watermark_is_cut_before_it_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let mut first = create(&spool, 10);
    let id = first.id();
    first.data().write_all_at(b"hello and", 0).unwrap();
    first.advance(Offset(5), now(1)).unwrap();
    drop(first);
    let second = opened(&spool, id);
    assert_eq!(second.data().metadata().unwrap().len(), 5);
    assert!(second.was_cut());
    drop(second);
    assert!(!opened(&spool, id).was_cut());
}

#[test]
fn a_creation_is_settled_whoever_syncs_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let (spool, tell) = (&spool, tell.clone());
            scope.spawn(move || {
                let new = NewData::create(spool).unwrap();
                let record = Record::new(Some(Length(5)), now(1));
                let receiving = new.into_receiving(record).unwrap();
                receiving.sync_creation_then(move |settled| tell.send(settled).unwrap());
            });
        }
    });
    drop(tell);
    let told: Vec<_> = told.iter().map(Result::unwrap).collect();
    assert_eq!(told.len(), 16);
}

#[test]
fn a_creation_whose_last_step_fails_is_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let new = NewData::create(&spool).unwrap();
    let receiving = new.into_receiving(Record::new(None, now(1))).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let _scope = failpoint::scoped("create.synced=error:EIO").unwrap();
    receiving.sync_creation_then(move |settled| tell.send(settled.is_err()).unwrap());
    assert!(told.recv().unwrap());
}
