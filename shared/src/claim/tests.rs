use std::os::unix::fs::FileExt;

use super::*;
use crate::lookup::{self, State};
use crate::operate::{self, Operated};
use crate::orphan::{self, Orphan, Rules};
use crate::receive::NewData;
use crate::record::{Attempt, Place};
use crate::settle::Settled;
use crate::size::{Length, Offset};
use crate::spool::Options;

/// Of claims whose lock, name or data is gone before they are settled.
mod lost;

const RULES: Rules = Rules {
    lease: None,
    max_attempts: 3,
};

pub(crate) fn now(secs: u64) -> UnixTime {
    UnixTime::from_secs(secs)
}

pub(crate) struct Case {
    _dir: tempfile::TempDir,
    pub(crate) spool: Arc<Spool>,
    pub(crate) id: UploadId,
}

/// A spool with one completed upload of five bytes.
pub(crate) fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap());
    let new = NewData::create(&spool).unwrap();
    let id = new.id();
    new.data().write_all_at(b"hello", 0).unwrap();
    let mut record = Record::new(Some(Length(5)), now(1));
    record.offset = Offset(5);
    new.into_completed(record, now(2)).unwrap();
    Case {
        _dir: dir,
        spool,
        id,
    }
}

impl Case {
    fn claim_from(&self, at: DataAt) -> Claim {
        match try_claim(&self.spool, self.id, at, now(3)).unwrap() {
            TryClaim::Claimed(claim) => *claim,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn claim(&self) -> Claim {
        self.claim_from(DataAt::Completed)
    }

    pub(crate) fn state(&self) -> State {
        lookup::find(&self.spool, self.id).unwrap().unwrap().state()
    }

    pub(crate) fn record(&self) -> Record {
        lookup::find(&self.spool, self.id).unwrap().unwrap().record
    }

    /// Every name below the spool that belongs to an upload.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in Dir::ALL {
            for entry in std::fs::read_dir(self.spool.layout().dir(dir)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                names.push(format!("{}/{name}", dir.name()).replace(&self.id.to_string(), "ID"));
            }
        }
        names.sort();
        names
    }

    /// What any consumer does when it comes by: looks at every orphaned claim.
    fn recover(&self) -> Vec<Orphan> {
        for entry in self.spool.entries(Dir::Claimed).unwrap() {
            if let crate::layout::Entry::State(id, claim) = entry.unwrap() {
                orphan::finish_settled(&self.spool, id, claim, now(9)).unwrap();
            }
        }
        let claims: Vec<_> = self
            .spool
            .entries(Dir::Claimed)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let claims = claims.into_iter().filter_map(|entry| match entry {
            crate::layout::Entry::Data(id, DataAt::Claimed(claim)) => Some((id, claim)),
            _ => None,
        });
        claims
            .map(|(id, c)| orphan::recover(&self.spool, id, c, RULES, now(9)).unwrap())
            .collect()
    }
}

fn failed(n: u32) -> Attempt {
    Attempt {
        n,
        error: "exit 75".to_owned(),
        exit: Some(75),
        ..Attempt::default()
    }
}

#[test]
fn a_claim_is_one_consumers_and_counts_its_attempt_first() {
    let case = case();
    let claim = case.claim();
    assert_eq!((claim.attempt(), case.state()), (1, State::Processing));
    assert_eq!(case.record().claim, Some(claim.claim_id()));
    let again = try_claim(&case.spool, case.id, DataAt::Completed, now(3)).unwrap();
    assert!(matches!(again, TryClaim::Gone));
    let ended = ending::end(&case.spool, case.id, Place::Terminated, now(3)).unwrap();
    assert_eq!(
        ended,
        ending::End::Busy,
        "a claimed upload cannot be terminated"
    );
    assert!(matches!(case.recover()[..], [Orphan::Alive(Some(_))]));
    assert!(claim.is_ours().unwrap());
    claim.beat().unwrap();
}

#[test]
fn delivered_leaves_a_receipt_and_nothing_else() {
    for (destination, result) in [
        (None, None),
        (Some("/d/x".to_owned()), Some(serde_json::json!({"ok": 1}))),
    ] {
        let case = case();
        let settled = case
            .claim()
            .delivered(destination.clone(), result.clone(), now(4))
            .unwrap();
        assert_eq!(settled, Settled::Done);
        assert_eq!(case.names(), ["receipts/ID.meta"]);
        let record = case.record();
        assert_eq!(
            (case.state(), record.ended_at),
            (State::Delivered, Some(now(4)))
        );
        assert_eq!(
            (record.rest.destination, record.rest.result),
            (destination, result)
        );
        assert_eq!(record.offset, Offset(5), "HEAD stays true");
    }
}

#[test]
fn a_retry_waits_in_deferred_and_is_claimed_from_there() {
    let case = case();
    let mut claim = case.claim();
    claim.set_destination("/d/name_1", 7).unwrap();
    assert_eq!(claim.retry(failed(1), 77).unwrap(), Settled::Done);
    assert_eq!(case.state(), State::Deferred);
    assert_eq!(
        case.names(),
        ["completed/ID.meta", "deferred/0000000077-ID"]
    );
    let claim = case.claim_from(DataAt::Deferred(77));
    assert_eq!(claim.attempt(), 2);
    assert_eq!(claim.record().rest.history, [failed(1)]);
    assert_eq!(claim.state().destination.as_deref(), Some("/d/name_1"));
    assert_eq!(claim.state().destination_inode, Some(7));
    assert_eq!(claim.put_back().unwrap(), Settled::Done);
    assert_eq!((case.state(), case.record().attempts), (State::Queued, 1));
    assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
}

#[test]
fn a_dead_letter_keeps_data_record_and_reason_and_can_be_retried() {
    let case = case();
    assert_eq!(
        case.claim()
            .dead(Some(failed(1)), "exit 65", now(4))
            .unwrap(),
        Settled::Done
    );
    assert_eq!(
        case.names(),
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
    assert_eq!(case.state(), State::Failed);
    let reason = std::fs::read(case.spool.layout().reason(case.id)).unwrap();
    let reason: burial::Reason = serde_json::from_slice(&reason).unwrap();
    assert_eq!(
        (reason.final_reason.as_str(), reason.attempts),
        ("exit 65", vec![failed(1)])
    );
    assert_eq!(
        operate::retry(&case.spool, case.id).unwrap(),
        Operated::Done
    );
    assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(case.claim().attempt(), 1);
}

#[test]
fn what_is_held_is_not_claimed_until_it_is_released() {
    let case = case();
    assert_eq!(operate::hold(&case.spool, case.id).unwrap(), Operated::Done);
    assert_eq!(case.names(), ["completed/ID.meta", "held/ID"]);
    assert_eq!(case.state(), State::Held);
    assert_eq!(
        operate::retry(&case.spool, case.id).unwrap(),
        Operated::NotThere
    );
    assert_eq!(
        operate::release(&case.spool, case.id).unwrap(),
        Operated::Done
    );
    drop(case.claim());
    assert_eq!(
        operate::hold(&case.spool, UploadId::generate()).unwrap(),
        Operated::Missing
    );
}

#[test]
fn a_torn_upload_goes_to_failed_with_that_reason() {
    for damage in ["short", "garbage", "receiving"] {
        let case = case();
        let layout = case.spool.layout();
        match damage {
            "short" => std::fs::write(layout.data(case.id, DataAt::Completed), "hel").unwrap(),
            "garbage" => {
                std::fs::write(layout.record(case.id, RecordAt::Completed), "{").unwrap();
            }
            _ => {
                let path = layout.record(case.id, RecordAt::Completed);
                let (file, mut record) = RecordFile::open(path).unwrap();
                record.offset = Offset(3);
                file.write_head(&record).unwrap();
            }
        }
        let torn = try_claim(&case.spool, case.id, DataAt::Completed, now(3)).unwrap();
        assert!(matches!(torn, TryClaim::Torn(_)), "{damage}: {torn:?}");
        assert_eq!(
            case.names(),
            ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
        );
    }
}

#[test]
fn short_data_whose_record_stayed_in_uploads_goes_to_failed_with_that_reason() {
    let case = case();
    let layout = case.spool.layout();
    std::fs::write(layout.data(case.id, DataAt::Completed), "hel").unwrap();
    durable::rename(
        &layout.record(case.id, RecordAt::Completed),
        &layout.record(case.id, RecordAt::Uploads),
    )
    .unwrap();
    let claim = || try_claim(&case.spool, case.id, DataAt::Completed, now(3)).unwrap();
    assert!(matches!(claim(), TryClaim::Busy), "the record comes first");
    let torn = claim();
    assert!(
        matches!(&torn, TryClaim::Torn(why) if why == "3 bytes of 5"),
        "{torn:?}"
    );
    assert_eq!(
        case.names(),
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
}

#[test]
fn a_consumer_that_dies_costs_an_attempt_and_the_last_one_makes_a_dead_letter() {
    let case = case();
    for attempt in 1..=2 {
        assert_eq!(case.claim().attempt(), attempt);
        assert!(matches!(case.recover()[..], [Orphan::Requeued]));
        assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
    }
    assert_eq!(case.claim().attempt(), 3);
    assert!(matches!(case.recover()[..], [Orphan::Dead]));
    assert_eq!(
        case.names(),
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
    assert_eq!(case.record().rest.history.len(), 3);
}

#[test]
fn a_crash_at_any_step_is_put_right_by_whoever_comes_next() {
    type Act = fn(&Case) -> Result<Settled, DiskError>;
    let acts: [(&str, Act, &[&str]); 5] = [
        (
            "claim",
            |case| match try_claim(&case.spool, case.id, DataAt::Completed, now(3))? {
                TryClaim::Claimed(claim) => claim.put_back(),
                other => panic!("{other:?}"),
            },
            &["claim.locked", "claim.renamed", "claim.state_written"],
        ),
        (
            "delivered in place",
            |case| case.claim().delivered(None, None, now(4)),
            &[
                "settle.delivered",
                "settle.receipt_written",
                "settle.data_removed",
            ],
        ),
        (
            "delivered with a destination",
            |case| case.claim().delivered(Some("/d".into()), None, now(4)),
            &[
                "settle.delivered",
                "settle.receipt_written",
                "settle.data_removed",
            ],
        ),
        (
            "retry",
            |case| case.claim().retry(failed(1), 5),
            &["settle.retry_recorded"],
        ),
        (
            "dead",
            |case| case.claim().dead(Some(failed(1)), "no", now(4)),
            &["settle.reason_written", "settle.data_failed"],
        ),
    ];
    for (what, act, stops) in acts {
        for stop in stops {
            let case = case();
            {
                let _scope = failpoint::scoped(&format!("{stop}=error:EIO")).unwrap();
                assert!(
                    act(&case).is_err(),
                    "{what} {stop}: the step was not reached"
                );
            }
            case.recover();
            let names = case.names();
            let state = case.state();
            let expected: &[&str] = match state {
                State::Queued => &["completed/ID", "completed/ID.meta"],
                State::Deferred => &["completed/ID.meta", "deferred/0000000005-ID"],
                State::Delivered => &["receipts/ID.meta"],
                State::Failed => &["failed/ID", "failed/ID.meta", "failed/ID.reason.json"],
                other => panic!("{what} {stop}: {other:?}"),
            };
            assert_eq!(names, expected, "{what} {stop}");
            let attempts = case.record().attempts;
            assert_eq!(
                attempts,
                u32::from(*stop != "claim.locked"),
                "{what} {stop}"
            );
            let delivered_before = ["settle.receipt_written", "settle.data_removed"].contains(stop);
            assert_eq!(state == State::Delivered, delivered_before, "{what} {stop}");
        }
    }
}

#[test]
fn what_an_ending_has_not_removed_yet_is_not_claimed_and_becomes_no_dead_letter() {
    for stop in ["end.recorded", "end.receipt_moved", "end.data_cut"] {
        let case = case();
        {
            let _scope = failpoint::scoped(&format!("{stop}=error:EIO")).unwrap();
            ending::end(&case.spool, case.id, Place::Terminated, now(4)).unwrap_err();
        }
        let tried = try_claim(&case.spool, case.id, DataAt::Completed, now(5)).unwrap();
        assert!(matches!(tried, TryClaim::Gone), "{stop}: {tried:?}");
        assert_eq!(case.names(), ["receipts/ID.meta"], "{stop}");
    }
}

#[test]
fn the_second_name_of_a_delivered_upload_is_not_delivered_again() {
    let case = case();
    let layout = case.spool.layout();
    let (data, deferred) = (
        layout.data(case.id, DataAt::Completed),
        layout.data(case.id, DataAt::Deferred(5)),
    );
    durable::link(&data, &deferred).unwrap();
    case.claim().delivered(None, None, now(4)).unwrap();
    let tried = try_claim(&case.spool, case.id, DataAt::Deferred(5), now(5)).unwrap();
    assert!(matches!(tried, TryClaim::Gone), "{tried:?}");
    assert_eq!(case.names(), ["receipts/ID.meta"]);
}

#[test]
fn an_upload_whose_record_a_later_version_wrote_is_left_to_a_consumer_that_knows_it() {
    let case = case();
    let path = case.spool.layout().record(case.id, RecordAt::Completed);
    let json = std::fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["format"] = 99.into();
    std::fs::write(&path, json.to_string()).unwrap();
    let before = case.names();
    let tried = try_claim(&case.spool, case.id, DataAt::Completed, now(5)).unwrap();
    assert!(matches!(tried, TryClaim::Busy), "{tried:?}");
    assert_eq!(case.names(), before);
}

#[test]
fn data_without_a_record_is_left_alone_as_long_as_the_stamps_of_the_filesystem_call_it_young() {
    let case = case();
    let record = case.spool.layout().record(case.id, RecordAt::Completed);
    durable::unlink(&record).unwrap();
    // Whatever the caller thinks that it is: an hour ago, or in a year.
    for local in [0, 3600 * 24 * 365 * 100] {
        let tried = try_claim(&case.spool, case.id, DataAt::Completed, now(local)).unwrap();
        assert!(matches!(tried, TryClaim::Busy), "{tried:?}");
    }
}
