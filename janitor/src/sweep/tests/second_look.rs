//! What the look under the lock finds out after all.

use std::path::Path;

use super::*;
use crate::sweep::deeds::Done;

/// What happens to an upload that nobody has claimed between the look at it, `DAY * 8` after its
/// end, and the deed.
fn given_up_after(meanwhile: impl Fn(&Fixture, UploadId, UnixTime)) -> (Done, Vec<String>) {
    let spool = Fixture::new();
    let id = spool.completed();
    let now = UnixTime::now().plus(8 * DAY);
    meanwhile(&spool, id, now);
    let deeds = Deeds {
        spool: &spool.spool,
        quick: &spool.spool,
        look: Look {
            layout: spool.layout(),
            policy: &spool.rules.policy,
            now,
        },
        orphans: spool.rules.orphans,
    };
    let did = deeds.to_data(id, DataAt::Completed, Found::Completed, Verdict::Fail);
    (did.unwrap(), spool.places(id))
}

fn set_changed(path: &Path, when: UnixTime) {
    let since_epoch = Duration::from_secs(when.as_secs());
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + since_epoch)
        .unwrap();
}

fn change_record(spool: &Fixture, id: UploadId, change: impl Fn(&mut Record)) {
    let path = spool.layout().record(id, RecordAt::Completed);
    let (file, mut record) = spool.spool.open_record(path, Dir::Completed, id).unwrap();
    change(&mut record);
    file.write_head(&record).unwrap();
}

#[test]
fn what_is_still_due_under_the_lock_becomes_a_dead_letter() {
    let (did, places) = given_up_after(|_, _, _| ());
    assert_eq!(did, Done::Yes);
    assert_eq!(
        places,
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
}

#[test]
fn what_has_changed_before_the_lock_was_taken_stays() {
    type Change = fn(&Fixture, UploadId, UnixTime);
    let changes: [(&str, Change); 6] = [
        ("data written", |spool, id, now| {
            set_changed(&spool.layout().data(id, DataAt::Completed), now);
        }),
        ("record written", |spool, id, now| {
            set_changed(&spool.layout().record(id, RecordAt::Completed), now);
        }),
        ("finished later", |spool, id, now| {
            change_record(spool, id, |record| record.finished_at = Some(now));
        }),
        ("ended", |spool, id, now| {
            change_record(spool, id, |record| {
                record.set_ending(Place::Terminated, now)
            });
        }),
        ("data cut", |spool, id, _| {
            let data = spool.layout().data(id, DataAt::Completed);
            let file = durable::open(&data, true).unwrap();
            file.set_len(2).unwrap();
        }),
        ("record gone", |spool, id, _| {
            durable::unlink(&spool.layout().record(id, RecordAt::Completed)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (did, places) = given_up_after(change);
        assert_eq!(did, Done::Changed, "{what}");
        assert_eq!(places[0], "completed/ID", "{what}");
        assert!(places.iter().all(|at| !at.starts_with("failed")), "{what}");
    }
}

#[test]
fn a_second_name_of_data_is_not_buried_as_the_first() {
    let (did, places) = given_up_after(|spool, id, _| {
        let layout = spool.layout();
        let (from, to) = (DataAt::Completed, DataAt::Held);
        durable::link(&layout.data(id, from), &layout.data(id, to)).unwrap();
        change_record(spool, id, |record| record.set_place(to));
    });
    assert_eq!(did, Done::Changed);
    assert_eq!(places, ["completed/ID", "completed/ID.meta", "held/ID"]);
}

#[test]
fn what_becomes_a_dead_letter_is_not_looked_at_again_in_the_same_pass() {
    let spool = Fixture::new();
    spool.completed();
    let report = spool.pass_after(7 * DAY);
    assert_eq!(report.counted(Tally::ExpiredMoved), 1);
    assert_eq!(report.entries, 2, "data and record");
}
