//! Who takes what: decided by one job at a time, which holds the lock of the desk.

use std::time::Duration;

use shared::durable::DiskError;
use shared::layout::{DataAt, Dir, Entry as Name, RecordAt};
use shared::record;
use shared::spool::Spool;

use super::Queue;
use crate::breaker::{Breaker, Permit};
use crate::gate::{Gate, Pass};
use crate::outcome::Suspicion;
use crate::picker::{Candidate, Now, Pick, Picker};
use crate::watch::Watch;

/// While the end of a drain depends on others, how often to look whether they are done.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often to look where the kernel refuses to tell of events because its limits are used up: as
/// often as on a network filesystem, where there are none.
const DEAF_POLL: Duration = Duration::from_millis(1500);

/// Who takes what, decided by one job at a time.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) picker: Picker,
    pub(super) gate: Gate,
    pub(super) breaker: Breaker,
    pub(super) suspicion: Suspicion,
    /// `None` on network filesystems, where no event tells of other hosts.
    pub(super) watch: Option<Watch>,
    /// Identity of the listed directory, to notice when it is replaced.
    pub(super) listed: Option<(u64, u64)>,
    /// Whether jobs end when nothing is left.
    pub(super) drains: bool,
    /// Whether a drain was given up because uploads failed one after the other.
    pub(super) gave_up: bool,
    /// How many uploads may still be taken.
    pub(super) allowance: Option<u32>,
}

/// What a job should do.
pub(super) enum Next {
    /// Claim this one; whether it is the one by which the breaker probes.
    Claim(Candidate, bool),
    Again,
    Wait(Duration),
    End,
}

impl Desk {
    pub(super) fn next(&mut self, queue: &Queue, now: &Now) -> Next {
        if self.allowance == Some(0) {
            return Next::End;
        }
        let probes = match self.breaker.permit(now.steady) {
            Permit::Claim => false,
            Permit::Probe => true,
            Permit::Wait(_) | Permit::WaitForProbe if self.drains => {
                self.gave_up = true;
                return Next::End;
            }
            Permit::Wait(until) => return Next::Wait(until),
            Permit::WaitForProbe => return Next::Wait(now.steady + Duration::from_secs(60)),
        };
        self.stay_informed(now.steady);
        match self.picker.pick(*now, fastrand::f64()) {
            Pick::Try(candidate) => {
                if probes {
                    self.breaker.probe_started();
                }
                Next::Claim(candidate, probes)
            }
            Pick::ListFresh => self.list(queue, now, Self::list_fresh),
            Pick::ListDeferred => self.list(queue, now, Self::list_deferred),
            Pick::Wait(until) if self.drains => {
                if self.picker.is_drained() && !self.anybody_works(&queue.spool()) {
                    return Next::End;
                }
                Next::Wait(until.min(now.steady + LOOK_AGAIN))
            }
            Pick::Wait(until) => Next::Wait(until),
        }
    }

    /// Sees to it that fresh uploads are heard of, or looked for, once those of the last listing
    /// have been given out: deferred ones may keep us busy for hours.
    fn stay_informed(&mut self, now: Duration) {
        if self.picker.knows_of_fresh() {
            return;
        }
        if self.listen() {
            // None is left; but is that still so now that we listen?
            self.picker.look_at_fresh();
        }
        if self.watch.as_ref().is_some_and(|watch| !watch.is_armed()) {
            self.picker.poll_within(DEAF_POLL, now);
        }
    }

    /// Whether an upload that might be ours is being worked on: it may come back.
    fn anybody_works(&self, spool: &Spool) -> bool {
        let Ok(names) = spool.entries(Dir::Claimed) else {
            return false;
        };
        let mut ids = names.filter_map(|name| match name {
            Ok(Name::Data(id, _)) => Some(id),
            _ => None,
        });
        ids.any(|id| {
            let record = record::read(&spool.layout().record(id, RecordAt::Completed));
            record.map_or(true, |record| self.gate.is_ours(&record))
        })
    }

    fn list(
        &mut self,
        queue: &Queue,
        now: &Now,
        list: impl FnOnce(&mut Self, &Spool, &Now) -> Result<(), DiskError>,
    ) -> Next {
        let listed = queue.follow(self).and_then(|spool| list(self, &spool, now));
        if let Err(error) = listed {
            // The next poll tries again; ending would not mend a directory.
            tracing::error!(%error, "the spool cannot be listed");
        }
        Next::Again
    }

    fn list_fresh(&mut self, spool: &Spool, _: &Now) -> Result<(), DiskError> {
        let names = spool.entries(Dir::Completed)?;
        let ids = names.filter_map(|name| match name {
            Ok(Name::Data(id, _)) => Some(id),
            _ => None,
        });
        self.picker.listed_fresh(ids, fastrand::f64());
        let found = self.picker.fresh_left();
        tracing::debug!(found, "listed completed/");
        Ok(())
    }

    fn list_deferred(&mut self, spool: &Spool, now: &Now) -> Result<(), DiskError> {
        let names = spool.entries(Dir::Deferred)?;
        let entries = names.filter_map(|name| match name {
            Ok(Name::Data(id, DataAt::Deferred(not_before))) => Some((not_before, id)),
            _ => None,
        });
        self.picker.listed_deferred(entries, *now, fastrand::f64());
        Ok(())
    }

    /// Listens for events; true if it has only begun now.
    pub(super) fn listen(&mut self) -> bool {
        self.watch.as_mut().is_some_and(Watch::arm)
    }

    pub(super) fn stop_listening(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.disarm();
        }
    }

    /// Gives a pass back; whether somebody else may go on now.
    pub(super) fn leave(&mut self, pass: Pass) -> bool {
        let (freed, others) = self.gate.leave(pass);
        if others {
            self.picker.look_at_fresh();
        }
        if let Some(id) = freed {
            self.picker.heard(id);
        }
        others || freed.is_some()
    }
}
