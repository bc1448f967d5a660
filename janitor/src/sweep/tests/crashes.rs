//! An operation stopped between any two steps, then a pass: what was begun is finished, nothing
//! is lost, and nothing is left that belongs to nothing.

use shared::ending;
use shared::failpoint::scoped;
use shared::operate;

use shared::burial;
use shared::failpoint::Failpoint;
use shared::lock::{DataLock, TryLock};
use shared::locked::Locked;

use super::*;

/// How an upload looks when nothing is half done.
const IN_ORDER: [&[&str]; 7] = [
    &[],
    &["uploads/ID", "uploads/ID.meta"],
    &["completed/ID", "completed/ID.meta"],
    &["completed/ID.meta", "deferred/1700000000-ID"],
    &["completed/ID.meta", "held/ID"],
    &["failed/ID", "failed/ID.meta", "failed/ID.reason.json"],
    &["receipts/ID.meta"],
];

/// Stops `operation` at every failpoint that it passes; then a pass, which must bring the upload
/// to one of `ends`.
fn stopped_everywhere(
    prepare: impl Fn(&Fixture) -> UploadId,
    operation: impl Fn(&Fixture, UploadId),
    ends: &[&[&str]],
) {
    let mut stopped = 0;
    for point in Failpoint::ALL {
        let spool = Fixture::new();
        let id = prepare(&spool);
        let before = spool.places(id);
        let scope = scoped(&format!("{}=error:EIO", point.name())).unwrap();
        operation(&spool, id);
        drop(scope);
        stopped += u32::from(spool.places(id) != before);
        let left = spool.places(id);
        for pass in 0..2 {
            let report = spool.pass_after(HOUR);
            assert_eq!(report.counted(Tally::Errors), 0, "{point:?}: {report}");
            let is = spool.places(id);
            let seen = |end: &&[&str]| is == **end;
            assert!(
                IN_ORDER.iter().any(seen),
                "{point:?}, pass {pass}: {left:?} became {is:?}"
            );
            assert!(
                ends.iter().any(seen),
                "{point:?}, pass {pass}: {left:?} became {is:?}"
            );
        }
        if let Some(data) = data_of(&spool, id) {
            let received = &b"hello"[..data.len().min(5)];
            assert_eq!(data, received, "{point:?}");
        }
    }
    assert!(0 < stopped, "nothing happened");
}

fn data_of(spool: &Fixture, id: UploadId) -> Option<Vec<u8>> {
    let places = [
        DataAt::Completed,
        DataAt::Failed,
        DataAt::Held,
        DataAt::Deferred(1_700_000_000),
    ];
    places
        .iter()
        .find_map(|&at| std::fs::read(spool.layout().data(id, at)).ok())
}

const COMPLETED: &[&str] = IN_ORDER[2];
const DEFERRED: &[&str] = IN_ORDER[3];
const HELD: &[&str] = IN_ORDER[4];
const FAILED: &[&str] = IN_ORDER[5];
const RECEIPT: &[&str] = IN_ORDER[6];

#[test]
fn a_hand_over_is_finished() {
    let begun = |spool: &Fixture| spool.receiving(3);
    let hand_over = |spool: &Fixture, id| {
        let upload = open(spool, id);
        upload.data().write_all_at(b"lo", 3).unwrap();
        upload.hand_over(Offset(5), UnixTime::now()).ok();
    };
    stopped_everywhere(begun, hand_over, &[COMPLETED]);
}

#[test]
fn a_lost_claim_goes_back_to_the_queue() {
    let claim = |spool: &Fixture, id| {
        drop(claim::try_claim(
            &spool.spool,
            id,
            DataAt::Completed,
            UnixTime::now(),
        ));
    };
    stopped_everywhere(Fixture::completed, claim, &[COMPLETED]);
}

#[test]
fn a_delivery_is_settled_or_made_again() {
    let delivered = |spool: &Fixture, id| {
        if let Ok(TryClaim::Claimed(claim)) =
            claim::try_claim(&spool.spool, id, DataAt::Completed, UnixTime::now())
        {
            claim
                .delivered(Some("a.txt".into()), None, UnixTime::now())
                .ok();
        }
    };
    stopped_everywhere(Fixture::completed, delivered, &[COMPLETED, RECEIPT]);
    let plainly = |spool: &Fixture, id| {
        if let Ok(TryClaim::Claimed(claim)) =
            claim::try_claim(&spool.spool, id, DataAt::Completed, UnixTime::now())
        {
            claim.delivered(None, None, UnixTime::now()).ok();
        }
    };
    stopped_everywhere(Fixture::completed, plainly, &[COMPLETED, RECEIPT]);
}

#[test]
fn a_retry_waits_for_its_time_or_is_due_now() {
    let retry = |spool: &Fixture, id| {
        if let Ok(TryClaim::Claimed(claim)) =
            claim::try_claim(&spool.spool, id, DataAt::Completed, UnixTime::now())
        {
            claim.retry(Attempt::default(), 1_700_000_000).ok();
        }
    };
    stopped_everywhere(Fixture::completed, retry, &[COMPLETED, DEFERRED]);
}

#[test]
fn a_burial_is_finished() {
    let bury = |spool: &Fixture, id| {
        if let Ok(TryClaim::Claimed(claim)) =
            claim::try_claim(&spool.spool, id, DataAt::Completed, UnixTime::now())
        {
            claim.dead(None, "not an image", UnixTime::now()).ok();
        }
    };
    stopped_everywhere(Fixture::completed, bury, &[COMPLETED, FAILED]);
    for at in [DataAt::Uploads, DataAt::Completed] {
        let prepare = |spool: &Fixture| match at {
            DataAt::Uploads => spool.receiving(5),
            _ => spool.completed(),
        };
        let bury = |spool: &Fixture, id| {
            let path = spool.layout().data(id, at);
            let TryLock::Held(lock) = DataLock::try_lock(&path).unwrap() else {
                panic!()
            };
            let locked = Locked {
                spool: &spool.spool,
                id,
                at,
                lock: &lock,
            };
            burial::bury(locked, "torn", UnixTime::now()).ok();
        };
        stopped_everywhere(prepare, bury, &[COMPLETED, FAILED]);
    }
}

#[test]
fn an_ending_that_was_told_is_carried_out() {
    for make in [
        (|spool: &Fixture| spool.receiving(3)) as fn(&Fixture) -> UploadId,
        Fixture::completed,
        Fixture::deferred,
        dead,
    ] {
        let end = |spool: &Fixture, id| {
            ending::end(&spool.spool, id, Place::Terminated, UnixTime::now()).ok();
        };
        stopped_everywhere(make, end, &[RECEIPT]);
    }
}

#[test]
fn an_operators_word_is_carried_out_or_was_not_heard() {
    let retry = |spool: &Fixture, id| {
        operate::retry(&spool.spool, id).ok();
    };
    stopped_everywhere(dead, retry, &[COMPLETED, FAILED]);
    stopped_everywhere(Fixture::deferred, retry, &[COMPLETED, DEFERRED]);
    let hold = |spool: &Fixture, id| {
        operate::hold(&spool.spool, id).ok();
    };
    stopped_everywhere(Fixture::completed, hold, &[COMPLETED, HELD]);
}

fn dead(spool: &Fixture) -> UploadId {
    let id = spool.completed();
    spool
        .claim(id)
        .dead(None, "not an image", UnixTime::now())
        .unwrap();
    id
}

#[test]
fn a_pass_that_is_stopped_is_followed_by_one_that_does_the_rest() {
    let stale = |spool: &Fixture| spool.receiving(3);
    let pass = |spool: &Fixture, _| {
        spool.pass_after(2 * DAY);
    };
    let mut spool_of_point = Vec::new();
    for point in Failpoint::ALL {
        let spool = Fixture::new();
        let id = stale(&spool);
        let scope = scoped(&format!("{}=error:EIO", point.name())).unwrap();
        pass(&spool, id);
        drop(scope);
        spool.pass_after(2 * DAY + 2 * HOUR);
        spool_of_point.push((point, spool.places(id)));
    }
    for (point, places) in spool_of_point {
        assert_eq!(places, RECEIPT, "{point:?}");
    }
}

#[test]
fn both_records_that_an_ended_upload_left_go_in_one_pass() {
    let spool = Fixture::new();
    let id = spool.completed();
    let claim = spool.claim(id);
    claim.delivered(None, None, UnixTime::now()).unwrap();
    let receipt = spool.layout().record(id, RecordAt::Receipts);
    for at in [RecordAt::Completed, RecordAt::Failed] {
        std::fs::copy(&receipt, spool.layout().record(id, at)).unwrap();
    }
    let report = spool.pass_after(2 * HOUR);
    assert_eq!(report.counted(Tally::LeftoversRemoved), 2);
    assert_eq!(spool.places(id), ["receipts/ID.meta"]);
}
