//! What becomes of a thing that was found in the spool: a pure function of what it is and how
//! long nothing happened to it. No clock, no I/O.
//!
//! Ages guard what is in order, the grace guards what is not: a half-finished step may be one
//! that somebody is taking at this moment.

use std::time::Duration;

/// The rules of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Idle time after which an unfinished upload is removed.
    pub stale_upload: Duration,
    /// Time after which a finished upload that nobody has claimed expires.
    pub completed: Duration,
    /// Time for which receipts are kept.
    pub receipt: Duration,
    /// Time for which dead letters are kept; `None` is for ever.
    pub failed: Option<Duration>,
    /// Time for which whatever looks half done is left alone.
    pub grace: Duration,
    /// What to do with uploads received in full but not handed over.
    pub zombies: Zombies,
    /// What to do with finished uploads that nobody has claimed.
    pub expired: Expired,
}

/// What to do with uploads received in full but not handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Zombies {
    /// Hand them over: the client was told, or will believe, that they have arrived
    #[default]
    Finish,
    /// Remove them, as tussi's janitor does
    Delete,
}

/// What to do with finished uploads that nobody has claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Expired {
    /// Move them to failed/: nobody has processed them, and deleting them is a loss
    #[default]
    Move,
    /// Remove them, as tussi's janitor does
    Delete,
}

/// What was found, once everything that belongs to it has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// `uploads/`: the client may go on.
    Receiving,
    /// `uploads/`: a part of a concatenation that bears the name of no unfinished final.
    Part,
    /// `uploads/`: a part of a final whose joining is not over.
    NamedPart,
    /// `uploads/`: a final whose parts are being joined.
    Assembling,
    /// `uploads/`: received in full, but not handed over.
    Received,
    /// `completed/`: free to be claimed.
    Completed,
    /// `claimed/` or `deferred/`: a consumer's.
    Waiting,
    /// `failed/`: a dead letter.
    Failed,
    /// `receipts/`: of an upload of which nothing else is left.
    Receipt,
    /// Data and record are in different steps of a hand-over or a settlement.
    HalfMoved,
    /// Data or record of an upload that has its receipt.
    Ended,
    /// `uploads/`: data without a record anywhere.
    DataAlone,
    /// Data without a record anywhere, and not in `uploads/`: it was received in full.
    RecordLost,
    /// Data whose record cannot be read, or does not fit it.
    Torn,
    /// Data whose record a newer version wrote.
    Newer,
    /// A name of data whose record tells another name, which the same data has too.
    SecondName,
    /// `uploads/`: a record without data anywhere.
    RecordAlone,
    /// `completed/` or `failed/`: a record without data anywhere. A foreign worker may have taken
    /// it: then this is all that tells of the upload, as a receipt does. And data that was moved
    /// while it was looked for may have been missed.
    DataTaken,
    /// `claimed/`: data that a consumer claimed and whose lock is free.
    Abandoned,
    /// A temporary file, a state or a reason whose data is not beside it.
    Leftover,
    /// `held/`, or a name that is not ours.
    NotOurs,
}

impl Found {
    /// Everything that can be found.
    pub const ALL: [Self; 21] = [
        Self::Receiving,
        Self::Part,
        Self::NamedPart,
        Self::Assembling,
        Self::Received,
        Self::Completed,
        Self::Waiting,
        Self::Failed,
        Self::Receipt,
        Self::HalfMoved,
        Self::Ended,
        Self::DataAlone,
        Self::RecordLost,
        Self::Torn,
        Self::Newer,
        Self::SecondName,
        Self::RecordAlone,
        Self::DataTaken,
        Self::Abandoned,
        Self::Leftover,
        Self::NotOurs,
    ];
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Take the remaining steps of what was begun.
    Finish,
    /// Remove an upload and leave a receipt, so that its client is told 410.
    Expire,
    /// Move it to `failed/` with a reason.
    Fail,
    /// Give it back to the consumers, the attempt counted.
    Requeue,
    /// Remove what belongs to nothing.
    Remove,
}

impl Policy {
    /// The shortest time after which anything but a claim or a receipt can be due.
    #[must_use]
    pub fn soonest(&self) -> Duration {
        let ages = [
            self.stale_upload,
            self.completed,
            self.failed.unwrap_or(Duration::MAX),
        ];
        ages.into_iter().fold(self.grace, Duration::min)
    }
}

/// Decides about something to which nothing has happened for `idle`.
#[must_use]
pub fn judge(policy: &Policy, found: Found, idle: Duration) -> Verdict {
    let after = |age: Duration, verdict| if age < idle { verdict } else { Verdict::Keep };
    match found {
        Found::Receiving | Found::Part => after(policy.stale_upload, Verdict::Expire),
        Found::Received => match policy.zombies {
            Zombies::Finish => after(policy.grace, Verdict::Finish),
            Zombies::Delete => after(policy.grace, Verdict::Expire),
        },
        Found::Completed => match policy.expired {
            Expired::Move => after(policy.completed, Verdict::Fail),
            Expired::Delete => after(policy.completed, Verdict::Expire),
        },
        Found::Failed => match policy.failed {
            Some(age) => after(age, Verdict::Expire),
            None => Verdict::Keep,
        },
        Found::Receipt => after(policy.receipt, Verdict::Remove),
        Found::DataTaken => after(policy.receipt.max(policy.grace), Verdict::Remove),
        Found::HalfMoved => after(policy.grace, Verdict::Finish),
        Found::Ended
        | Found::DataAlone
        | Found::SecondName
        | Found::RecordAlone
        | Found::Leftover => after(policy.grace, Verdict::Remove),
        // Received in full, so never simply removed.
        Found::RecordLost | Found::Torn => after(policy.grace, Verdict::Fail),
        // The lock tells that the claim's holder is gone, and the lease on network filesystems.
        Found::Abandoned => Verdict::Requeue,
        Found::NamedPart | Found::Assembling | Found::Waiting | Found::Newer | Found::NotOurs => {
            Verdict::Keep
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn policies() -> Vec<Policy> {
        let mut policies = Vec::new();
        for zombies in [Zombies::Finish, Zombies::Delete] {
            for expired in [Expired::Move, Expired::Delete] {
                for failed in [None, Some(9 * HOUR)] {
                    policies.push(Policy {
                        stale_upload: 3 * HOUR,
                        completed: 5 * HOUR,
                        receipt: 7 * HOUR,
                        failed,
                        grace: HOUR,
                        zombies,
                        expired,
                    });
                }
            }
        }
        policies
    }

    fn each(mut check: impl FnMut(&Policy, Found, Duration, Verdict)) {
        for policy in policies() {
            for found in Found::ALL {
                for half_hours in 0..24 {
                    let idle = HOUR / 2 * half_hours;
                    check(&policy, found, idle, judge(&policy, found, idle));
                }
            }
        }
    }

    #[test]
    fn within_the_grace_only_abandoned_claims_are_touched() {
        each(|policy, found, idle, verdict| {
            if idle <= policy.grace && found != Found::Abandoned {
                assert_eq!(verdict, Verdict::Keep, "{found:?}");
            }
        });
    }

    #[test]
    fn what_was_received_in_full_is_removed_only_if_a_flag_says_so() {
        each(|policy, found, _, verdict| {
            let removed = matches!(verdict, Verdict::Expire | Verdict::Remove);
            let allowed = match found {
                Found::Received => policy.zombies == Zombies::Delete,
                Found::Completed => policy.expired == Expired::Delete,
                Found::Failed => policy.failed.is_some(),
                Found::Assembling
                | Found::NamedPart
                | Found::Waiting
                | Found::HalfMoved
                | Found::RecordLost
                | Found::Torn
                | Found::Newer
                | Found::Abandoned
                | Found::NotOurs => false,
                Found::Receiving
                | Found::Part
                | Found::Receipt
                | Found::Ended
                | Found::DataAlone
                | Found::SecondName
                | Found::RecordAlone
                | Found::DataTaken
                | Found::Leftover => true,
            };
            assert!(!removed || allowed, "{found:?}: {verdict:?}");
        });
    }

    #[test]
    fn before_the_soonest_age_nothing_is_due() {
        each(|policy, found, idle, verdict| {
            if idle <= policy.soonest() && found != Found::Abandoned {
                assert_eq!(verdict, Verdict::Keep, "{found:?}");
            }
        });
        let eager = Policy {
            stale_upload: Duration::ZERO,
            ..policies()[0].clone()
        };
        assert_eq!(eager.soonest(), Duration::ZERO);
    }

    #[test]
    fn each_age_is_the_one_of_its_flag() {
        let due = |found: Found| {
            let due: HashSet<_> = policies()
                .iter()
                .map(|policy| {
                    let mut hours = 0..24;
                    hours.find(|&h| judge(policy, found, HOUR * h) != Verdict::Keep)
                })
                .collect();
            due
        };
        assert_eq!(due(Found::Receiving), HashSet::from([Some(4)]));
        assert_eq!(due(Found::Part), HashSet::from([Some(4)]));
        assert_eq!(due(Found::Completed), HashSet::from([Some(6)]));
        assert_eq!(due(Found::Receipt), HashSet::from([Some(8)]));
        assert_eq!(due(Found::Failed), HashSet::from([None, Some(10)]));
        for half_done in [
            Found::Received,
            Found::HalfMoved,
            Found::Ended,
            Found::Leftover,
        ] {
            assert_eq!(due(half_done), HashSet::from([Some(2)]), "{half_done:?}");
        }
        for kept in [
            Found::NamedPart,
            Found::Assembling,
            Found::Newer,
            Found::NotOurs,
        ] {
            assert_eq!(due(kept), HashSet::from([None]), "{kept:?}");
        }
    }

    #[test]
    fn a_verdict_does_not_change_with_more_time() {
        for policy in policies() {
            for found in Found::ALL {
                let verdicts: Vec<_> = (0..24).map(|h| judge(&policy, found, HOUR * h)).collect();
                let mut acts: Vec<_> = verdicts
                    .into_iter()
                    .skip_while(|v| *v == Verdict::Keep)
                    .collect();
                acts.dedup();
                assert!(acts.len() <= 1, "{found:?}: {acts:?}");
            }
        }
    }
}
