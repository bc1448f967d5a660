//! Looks after the claims of others: those whose consumer is gone go back to the queue, commands
//! that outlived their consumer and their deadline are ended.
//!
//! Any consumer does this for all; nothing depends on a particular one being alive.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use shared::claim::ClaimState;
use shared::durable::DiskError;
use shared::host::{self, Host};
use shared::id::{ClaimId, UploadId};
use shared::layout::{DataAt, Dir, Entry};
use shared::orphan::{self, Orphan, Rules};
use shared::spool::Spool;
use shared::time::UnixTime;

use crate::hook;

/// Looks through `claimed/` again and again.
#[derive(Debug)]
pub struct Recovery {
    rules: Rules,
    /// How long a claim may be held whose command was not written down.
    allowed: Duration,
    /// Claims past their deadline on other hosts that have been reported.
    reported: HashSet<ClaimId>,
}

/// Both clocks: the one that processes of one boot agree on, and the one that jumps.
#[derive(Debug, Clone, Copy)]
struct Now {
    unix: UnixTime,
    steady: Duration,
}

/// What to do about a claim whose lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// Its time is not over, or it has no command.
    No,
    /// End this process group.
    End(u32),
    /// Its consumer died, and what holds the lock was not written down: a command that had only just
    /// started, or what one left behind. End whatever has the claim in its environment.
    Search,
    /// Its processes are out of reach: another host or boot.
    Elsewhere,
}

impl Recovery {
    /// By these rules. `allowed`: how long a command may take in all.
    #[must_use]
    pub fn new(rules: Rules, allowed: Duration) -> Self {
        Self {
            rules,
            allowed,
            reported: HashSet::new(),
        }
    }

    /// Looks once at every claim. Returns the uploads that are in the queue again.
    ///
    /// # Errors
    /// `claimed/` cannot be listed. What is wrong with single claims is logged.
    pub fn look(&mut self, spool: &Arc<Spool>, now: UnixTime) -> Result<Vec<UploadId>, DiskError> {
        let mut requeued = Vec::new();
        let mut seen = HashSet::new();
        for entry in spool.entries(Dir::Claimed)? {
            match entry? {
                Entry::Data(id, DataAt::Claimed(claim)) => {
                    seen.insert(claim);
                    requeued.extend(self.look_at(spool, id, claim, now));
                }
                Entry::State(id, claim) => finish_settled(spool, id, claim, now),
                _ => {}
            }
        }
        self.reported.retain(|claim| seen.contains(claim));
        tracing::debug!(claims = seen.len(), "looked after claims");
        Ok(requeued)
    }

    fn look_at(
        &mut self,
        spool: &Arc<Spool>,
        id: UploadId,
        claim: ClaimId,
        now: UnixTime,
    ) -> Option<UploadId> {
        let span = tracing::info_span!("recover", upload_id = %id);
        let _entered = span.enter();
        match orphan::recover(spool, id, claim, self.rules, now) {
            Ok(Orphan::Requeued) => {
                tracing::warn!("its consumer is gone; back in the queue");
                return Some(id);
            }
            Ok(Orphan::Dead) => tracing::error!("its consumer is gone, and so are its attempts"),
            Ok(Orphan::Cleared) => tracing::info!("it had been settled; cleared what was left"),
            Ok(Orphan::Gone | Orphan::Alive(None)) => {}
            Ok(Orphan::Alive(Some(state))) => self.look_at_deadline(claim, &state, now),
            Err(error) => tracing::error!(%error, "cannot look after a claim"),
        }
        None
    }

    fn look_at_deadline(&mut self, claim: ClaimId, state: &ClaimState, now: UnixTime) {
        let now = Now {
            unix: now,
            steady: host::steady(),
        };
        match overdue(state, now, self.allowed, Host::this(), host::started_ticks) {
            Overdue::No => {}
            Overdue::End(group) => {
                tracing::error!(
                    group,
                    "a command outlived its consumer and its time; ending it"
                );
                let group = i32::try_from(group).map(Pid::from_raw);
                if let Ok(group) = group {
                    killpg(group, Signal::SIGKILL).ok();
                }
            }
            Overdue::Search => {
                let ended = hook::end_by_claim(claim);
                tracing::error!(
                    ended,
                    "a command outlived its consumer and its time; ending it"
                );
            }
            Overdue::Elsewhere if self.reported.insert(claim) => tracing::error!(
                host = state.host,
                pid = state.pid,
                "a claim is past its deadline on another host; `release --force` frees it"
            ),
            Overdue::Elsewhere => {}
        }
    }
}

/// Decides about a claim whose lock is held. `started_ticks` tells when a process of this host
/// started.
fn overdue(
    state: &ClaimState,
    now: Now,
    allowed: Duration,
    here: &Host,
    started_ticks: impl Fn(u32) -> Option<u64>,
) -> Overdue {
    let is_here = state.host == here.name && state.boot == here.boot;
    // A wall clock that is set forward must end no command that is within its time.
    let is_over = |unix: UnixTime, steady: Option<Duration>| match steady {
        Some(steady) if is_here => steady < now.steady,
        _ => unix < now.unix,
    };
    let Some(deadline) = state.deadline else {
        let orphaned = is_here && started_ticks(state.pid).is_none();
        let steady = state.claimed_steady.map(|claimed| claimed + allowed);
        return if orphaned && is_over(state.claimed_at.plus(allowed), steady) {
            Overdue::Search
        } else {
            Overdue::No
        };
    };
    if !is_over(deadline, state.deadline_steady) {
        return Overdue::No;
    }
    if !is_here {
        return Overdue::Elsewhere;
    }
    match state.group {
        // The start tells this process from a later one that got the same number.
        Some(group) if started_ticks(group.id) == Some(group.started_ticks) => {
            Overdue::End(group.id)
        }
        // What holds the lock is what the command has left behind.
        _ if started_ticks(state.pid).is_none() => Overdue::Search,
        // The command is over; its consumer still works on the upload.
        _ => Overdue::No,
    }
}

fn finish_settled(spool: &Arc<Spool>, id: UploadId, claim: ClaimId, now: UnixTime) {
    match orphan::finish_settled(spool, id, claim, now) {
        Ok(true) => tracing::debug!(upload_id = %id, "took the last steps of a settling"),
        Ok(false) => {}
        Err(error) => tracing::error!(upload_id = %id, %error, "a settling stays unfinished"),
    }
}

#[cfg(test)]
mod tests {
    use shared::claim::ProcessGroup;

    use super::*;

    fn state() -> ClaimState {
        ClaimState {
            attempt: 1,
            host: "here".to_owned(),
            boot: "now".to_owned(),
            pid: 1,
            claimed_at: UnixTime::from_secs(100),
            claimed_steady: Some(Duration::from_secs(10)),
            group: Some(ProcessGroup {
                id: 7,
                started_ticks: 70,
            }),
            deadline: Some(UnixTime::from_secs(200)),
            deadline_steady: Some(Duration::from_secs(110)),
            destination: None,
            destination_inode: None,
            other: serde_json::Map::new(),
        }
    }

    /// On a machine whose wall clock has not been set since.
    fn judge(state: &ClaimState, now: u64) -> Overdue {
        judge_by(state, now, now - 90)
    }

    fn judge_by(state: &ClaimState, unix: u64, steady: u64) -> Overdue {
        let here = Host {
            name: "here".to_owned(),
            boot: "now".to_owned(),
        };
        let started = |pid| (pid == 7).then_some(70);
        let allowed = Duration::from_secs(50);
        let now = Now {
            unix: UnixTime::from_secs(unix),
            steady: Duration::from_secs(steady),
        };
        overdue(state, now, allowed, &here, started)
    }

    #[test]
    fn a_wall_clock_that_is_set_ends_no_command_early_and_none_late() {
        for unix in [1, 100, 201, 3800] {
            assert_eq!(judge_by(&state(), unix, 110), Overdue::No);
            assert_eq!(judge_by(&state(), unix, 111), Overdue::End(7));
            let unwritten = ClaimState {
                deadline: None,
                deadline_steady: None,
                group: None,
                ..state()
            };
            assert_eq!(judge_by(&unwritten, unix, 60), Overdue::No);
            assert_eq!(judge_by(&unwritten, unix, 61), Overdue::Search);
        }
    }

    #[test]
    fn what_tells_only_the_wall_clock_is_judged_by_it() {
        let old = ClaimState {
            claimed_steady: None,
            deadline_steady: None,
            ..state()
        };
        assert_eq!(judge_by(&old, 200, 10_000), Overdue::No);
        assert_eq!(judge_by(&old, 201, 0), Overdue::End(7));
    }

    #[test]
    fn only_the_recorded_processes_of_this_boot_are_ended_and_only_past_the_deadline() {
        assert_eq!(judge(&state(), 200), Overdue::No);
        assert_eq!(judge(&state(), 201), Overdue::End(7));
        let [later, gone] = [(7, 71), (8, 70)].map(|(id, started_ticks)| {
            let group = ProcessGroup { id, started_ticks };
            Some(group)
        });
        for group in [later, gone, None] {
            // Of a consumer that lives, and works on the upload, and of one that has left its
            // command's children with the lock.
            for (pid, expected) in [(7, Overdue::No), (1, Overdue::Search)] {
                let state = ClaimState {
                    group,
                    pid,
                    ..state()
                };
                assert_eq!(judge(&state, 200), Overdue::No);
                assert_eq!(judge(&state, 201), expected, "{group:?}");
            }
        }
    }

    #[test]
    fn what_was_not_written_down_is_searched_for_once_its_consumer_is_dead_and_its_time_over() {
        let without = |pid| ClaimState {
            deadline: None,
            deadline_steady: None,
            group: None,
            pid,
            ..state()
        };
        assert_eq!(judge(&without(1), 150), Overdue::No);
        assert_eq!(judge(&without(1), 151), Overdue::Search);
        assert_eq!(judge(&without(7), 151), Overdue::No, "its consumer lives");
        let there = ClaimState {
            host: "there".to_owned(),
            ..without(1)
        };
        assert_eq!(judge(&there, 151), Overdue::No);
    }

    #[test]
    fn other_hosts_and_boots_are_out_of_reach() {
        let other = ClaimState {
            host: "there".to_owned(),
            ..state()
        };
        assert_eq!(judge(&other, 201), Overdue::Elsewhere);
        let before = ClaimState {
            boot: "before".to_owned(),
            ..state()
        };
        assert_eq!(judge(&before, 201), Overdue::Elsewhere);
        assert_eq!(judge(&before, 200), Overdue::No);
    }
}
