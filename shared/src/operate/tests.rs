use std::os::unix::fs::MetadataExt;

use super::*;
use crate::claim::tests::{Case, case, now};
use crate::lookup::State;

/// What was asked for, cut short before one of its steps.
fn cut_short(at: &str, word: impl Fn() -> Result<Operated, DiskError>) {
    let _scope = failpoint::scoped(&format!("{at}=error:EIO")).unwrap();
    word().unwrap_err();
}

fn dead() -> Case {
    let case = case();
    case.claim().dead(None, "no", now(4)).unwrap();
    case
}

#[test]
fn a_retry_that_was_cut_short_is_finished_and_the_data_has_one_name_all_the_time() {
    let stops = [
        ("back.recorded", ["completed/ID.meta", "failed/ID"]),
        ("back.moved", ["completed/ID", "completed/ID.meta"]),
    ];
    for (stop, names) in stops {
        let case = dead();
        cut_short(stop, || retry(&case.spool, case.id));
        assert_eq!(
            case.names(),
            [names[0], names[1], "failed/ID.reason.json"],
            "{stop}"
        );
        // The janitor removes a reason that belongs to nothing.
        if settle_backward(&case.spool, case.id).unwrap() == Operated::Done {
            assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
        }
        assert_eq!(case.state(), State::Queued, "{stop}");
        assert_eq!(case.claim().attempt(), 1, "{stop}: attempts are forgotten");
    }
}

#[test]
fn a_release_that_was_cut_short_is_finished() {
    let case = case();
    assert_eq!(hold(&case.spool, case.id).unwrap(), Operated::Done);
    assert_eq!(
        settle_held(&case.spool, case.id).unwrap(),
        Operated::NotThere,
        "what was taken aside stays there"
    );
    cut_short("back.recorded", || release(&case.spool, case.id));
    assert_eq!(case.names(), ["completed/ID.meta", "held/ID"]);
    assert_eq!(settle_held(&case.spool, case.id).unwrap(), Operated::Done);
    assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(case.claim().attempt(), 1);
}

#[test]
fn the_end_of_an_upload_that_was_taken_aside_is_finished() {
    for stop in ["end.recorded", "end.receipt_moved", "end.data_cut"] {
        let case = case();
        hold(&case.spool, case.id).unwrap();
        {
            let _scope = failpoint::scoped(&format!("{stop}=error:EIO")).unwrap();
            ending::end(&case.spool, case.id, Place::Terminated, now(4)).unwrap_err();
        }
        assert_eq!(settle_held(&case.spool, case.id).unwrap(), Operated::Done);
        assert_eq!(case.names(), ["receipts/ID.meta"], "{stop}");
    }
}

/// Between an operator's look and the lock, a client may end the upload and die half-way.
#[test]
fn an_upload_that_ended_before_the_lock_was_held_is_not_brought_back() {
    let case = case();
    let locked = with_locked(
        &case.spool,
        case.id,
        |at| at == DataAt::Completed,
        |locked, record_at| {
            let path = case.spool.layout().record(case.id, RecordAt::Completed);
            let (file, mut record) = case.spool.open_record(path, Dir::Claimed, case.id).unwrap();
            record.set_ending(Place::Terminated, now(5));
            file.write_head(&record)?;
            tell(locked, record_at, DataAt::Held, &|_| ())
        },
    );
    assert_eq!(locked.unwrap(), Operated::NotThere);
    assert_eq!(case.names(), ["receipts/ID.meta"]);
}

/// A power cut can keep the data's new name and lose the record that says why: the renames in two
/// directories need not be written in one go.
#[test]
fn data_whose_record_does_not_know_of_its_burial_is_buried_and_not_removed() {
    let case = dead();
    let layout = case.spool.layout();
    let (failed, completed) = (
        layout.record(case.id, RecordAt::Failed),
        layout.record(case.id, RecordAt::Completed),
    );
    let mut record = case.record();
    record.set_place(DataAt::Deferred(7));
    case.spool
        .replace_record(failed.clone(), Dir::Claimed, case.id, &record)
        .unwrap();
    durable::rename(&failed, &completed).unwrap();
    settle_backward(&case.spool, case.id).unwrap();
    assert_eq!(
        case.names(),
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
    assert_eq!(case.state(), State::Failed);
}

#[test]
fn the_end_of_an_upload_frees_what_was_set_aside_for_it_whoever_has_it_open() {
    let case = case();
    let data = durable::open(&case.spool.layout().data(case.id, DataAt::Completed), true).unwrap();
    data.set_len(0).unwrap();
    let keep_size = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&data, keep_size, 0, 1 << 20).unwrap();
    assert_ne!(data.metadata().unwrap().blocks(), 0);
    ending::end(&case.spool, case.id, Place::Terminated, now(4)).unwrap();
    assert_eq!(data.metadata().unwrap().blocks(), 0);
}

/// A reason is written under its own name, so that a kill can leave half of one.
#[test]
fn half_a_reason_is_written_anew_by_who_buries_the_upload_after_that() {
    let case = case();
    let reason = case.spool.layout().reason(case.id);
    std::fs::write(&reason, "{\"id\":").unwrap();
    case.claim().dead(None, "no", now(4)).unwrap();
    let written = std::fs::read(&reason).unwrap();
    let written: crate::burial::Reason = serde_json::from_slice(&written).unwrap();
    assert_eq!(written.final_reason, "no");
    assert_eq!(
        case.names(),
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
}

#[test]
fn a_record_that_tells_of_a_claim_and_not_of_which_is_no_ending() {
    for place in [Place::Claimed, Place::Deferred] {
        let case = dead();
        let layout = case.spool.layout();
        let (from, to) = (
            layout.record(case.id, RecordAt::Failed),
            layout.record(case.id, RecordAt::Completed),
        );
        let (file, mut record) = case
            .spool
            .open_record(from.clone(), Dir::Claimed, case.id)
            .unwrap();
        record.place = place;
        file.write_head(&record).unwrap();
        durable::rename(&from, &to).unwrap();
        assert_eq!(
            settle_backward(&case.spool, case.id).unwrap(),
            Operated::Done
        );
        assert_eq!(
            case.names(),
            ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
        );
        let data = layout.data(case.id, DataAt::Failed);
        assert_eq!(std::fs::read_to_string(data).unwrap(), "hello");
    }
}
