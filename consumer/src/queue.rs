//! Gives uploads to the jobs of this process and keeps what they share: the picker, the gate, the
//! breaker, the watch. Jobs wait here for work.

mod desk;
mod inbox;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shared::durable::{self, DiskError};
use shared::id::UploadId;
use shared::layout::{Dir, RecordAt};
use shared::record;
use shared::spool::Spool;
use shared::time::UnixTime;

use crate::breaker::{Breaker, Permit, Sign};
use crate::gate::{Entry, Gate, Pass};
use crate::outcome::{End, Suspicion};
use crate::picker::{Candidate, Miss, Now, Picker};
use crate::watch::{Heard, Watch};
use desk::{Desk, Next};
use inbox::Inbox;

/// So many uploads left of a listing of which some could be claimed are a backlog: until it is
/// worked through nobody need listen.
const BACKLOG: usize = 256;

/// How jobs share a process.
#[derive(Debug)]
pub struct Queue {
    /// Replaced when the spool's directories are.
    spool: RwLock<Arc<Spool>>,
    begun: Instant,
    desk: Mutex<Desk>,
    inbox: Arc<Inbox>,
}

/// An upload to be claimed by the job that got it.
#[derive(Debug)]
pub struct Task {
    /// Which, and where it was seen.
    pub candidate: Candidate,
    /// The spool to claim it from.
    pub spool: Arc<Spool>,
    pass: Pass,
    probes: bool,
}

/// How the jobs of a queue behave.
#[derive(Debug)]
pub struct Rules {
    /// End when nothing is left: neither waiting, deferred nor being worked on by anybody.
    pub drains: bool,
    /// Take at most so many.
    pub allowance: Option<u32>,
    /// Listen for events.
    pub watches: bool,
}

impl Queue {
    /// A queue over one spool.
    #[must_use]
    pub fn new(
        spool: Arc<Spool>,
        rules: &Rules,
        gate: Gate,
        breaker: Breaker,
        picker: impl FnOnce(Duration) -> Picker,
    ) -> Self {
        let inbox = Arc::new(Inbox::default());
        let watch = rules.watches.then(|| {
            let inbox = Arc::clone(&inbox);
            Watch::new(spool.layout().dir(Dir::Completed), move |news| {
                inbox.tell(news)
            })
        });
        let desk = Desk {
            picker: picker(Duration::ZERO),
            gate,
            breaker,
            suspicion: Suspicion::default(),
            watch,
            listed: None,
            drains: rules.drains,
            gave_up: false,
            allowance: rules.allowance,
        };
        Self {
            spool: RwLock::new(spool),
            begun: Instant::now(),
            desk: Mutex::new(desk),
            inbox,
        }
    }

    /// The next upload to claim. Waits for one as long as the rules allow; `None` when the job
    /// should end.
    pub fn take(&self) -> Option<Task> {
        loop {
            let seen = self.read_news()?;
            let next = self.desk().next(self, &self.now());
            match next {
                Next::Claim(candidate, probes) => {
                    if let Some(task) = self.admit(candidate, probes) {
                        return Some(task);
                    }
                }
                Next::Again => {}
                Next::End => return None,
                Next::Wait(until) => self
                    .inbox
                    .wait(seen, until.saturating_sub(self.begun.elapsed())),
            }
        }
    }

    /// Lets the candidate through the gate, or not.
    fn admit(&self, candidate: Candidate, probes: bool) -> Option<Task> {
        let spool = self.spool();
        let mut desk = self.desk();
        let entry = if desk.gate.is_open() {
            Entry::Pass(Pass::default())
        } else if desk.gate.has_declined(candidate.id) {
            Entry::NotOurs
        } else {
            drop(desk);
            let path = spool.layout().record(candidate.id, RecordAt::Completed);
            // Whatever is wrong with a record, the claim deals with it.
            let record = record::read(&path).ok();
            desk = self.desk();
            desk.gate.enter(candidate.id, record.as_ref())
        };
        if desk.picker.has_more() {
            // One news wakes one job; each that gets something wakes the next.
            self.inbox.ring_one();
        }
        match entry {
            Entry::Pass(pass) => Some(Task {
                candidate,
                spool,
                pass,
                probes,
            }),
            Entry::NotOurs | Entry::Full => {
                if probes {
                    let now = self.now().steady;
                    desk.breaker.note(candidate.id, Sign::Nothing, now);
                }
                None
            }
        }
    }

    /// Whether nothing is claimed at the moment because uploads fail one after the other, or for want
    /// of space.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let permit = self.desk().breaker.permit(self.begun.elapsed());
        matches!(permit, Permit::Wait(_) | Permit::WaitForProbe)
    }

    /// Whether a drain was given up because uploads failed one after the other.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        self.desk().gave_up
    }

    /// The task could not be claimed.
    pub fn missed(&self, task: Task, miss: Miss) {
        let now = self.now();
        let mut desk = self.desk();
        desk.picker
            .missed(task.candidate, miss, now.steady, fastrand::f64());
        if task.probes {
            desk.breaker
                .note(task.candidate.id, Sign::Nothing, now.steady);
        }
        desk.leave(task.pass);
    }

    /// The task was claimed.
    pub fn claimed(&self, task: &Task) {
        let mut desk = self.desk();
        desk.picker.claimed(task.candidate);
        // Not before that: those of others, which stay, would have us list them over and over.
        if task.candidate.was_listed() && BACKLOG <= desk.picker.fresh_left() {
            desk.stop_listening();
        }
        if let Some(allowance) = &mut desk.allowance {
            *allowance = allowance.saturating_sub(1);
        }
    }

    /// The work on the task is over. Returns whether its command looks as if it could not run at
    /// all.
    pub fn finished(&self, task: Task, sign: Sign, end: Option<End>) -> bool {
        let (id, now) = (task.candidate.id, self.now().steady);
        let mut desk = self.desk();
        if let Some(pause) = desk.breaker.note(id, sign, now) {
            let pause_s = pause.as_secs_f64();
            match sign {
                Sign::NoSpace => tracing::warn!(pause_s, "no space in the spool; claiming pauses"),
                _ => {
                    tracing::warn!(pause_s, "uploads fail one after the other; claiming pauses");
                }
            }
        }
        let suspicious = end.is_some_and(|end| desk.suspicion.note(id, end));
        let ring = desk.leave(task.pass) || task.probes;
        drop(desk);
        if ring {
            self.inbox.ring();
        }
        suspicious
    }

    /// This process has deferred an upload.
    pub fn deferred(&self, not_before: u64, id: UploadId) {
        self.desk().picker.deferred(not_before, id);
        // Who waits does not know of this time yet.
        self.inbox.ring();
    }

    /// An upload is in `completed/` again.
    pub fn arrived(&self, id: UploadId) {
        self.inbox.tell(Heard::Arrived(id));
    }

    /// Has the spool opened anew, before the next poll would, if its directory is another one now, and
    /// listens to the right one. No event tells of a directory further up that is moved away, nor of a
    /// removal.
    ///
    /// # Errors
    /// As stat(2).
    pub fn notice_replacement(&self) -> Result<(), DiskError> {
        let path = self.spool().layout().dir(Dir::Completed);
        let found = durable::stat(&path)?.map(|dir| durable::identity(&dir));
        let desk = self.desk();
        let listed_another = desk.listed.is_some() && desk.listed != found;
        // One that took its place for a while, perhaps.
        let hears_another = desk
            .watch
            .as_ref()
            .is_some_and(|watch| watch.is_deaf_to(found));
        drop(desk);
        if listed_another || hears_another {
            self.inbox.tell(Heard::Replaced);
        }
        Ok(())
    }

    /// No job takes anything any more.
    pub fn close(&self) {
        self.inbox.close();
    }

    /// The spool as it is now.
    #[must_use]
    pub fn spool(&self) -> Arc<Spool> {
        Arc::clone(&self.spool.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Both clocks.
    fn now(&self) -> Now {
        Now {
            steady: self.begun.elapsed(),
            unix: UnixTime::now().as_secs(),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what was heard to the picker. Returns the state of the bell, or `None` if closed.
    fn read_news(&self) -> Option<u64> {
        let (heard, rung) = self.inbox.read()?;
        if !heard.is_empty() {
            let mut desk = self.desk();
            for news in heard {
                match news {
                    Heard::Arrived(id) => desk.picker.heard(id),
                    Heard::Lost => desk.picker.look_everywhere(),
                    Heard::Replaced => {
                        desk.stop_listening();
                        desk.picker.look_everywhere();
                    }
                }
            }
        }
        Some(rung)
    }

    /// Opens the spool anew if its directory is another one now.
    fn follow(&self, desk: &mut Desk) -> Result<Arc<Spool>, DiskError> {
        let spool = self.spool();
        let path = spool.layout().dir(Dir::Completed);
        let found = durable::stat(&path)?.map(|dir| durable::identity(&dir));
        if desk.listed.is_none() || desk.listed == found {
            desk.listed = found;
            return Ok(spool);
        }
        tracing::error!(path = %path.display(), "the directory was replaced; opening the spool anew");
        let error = |error| DiskError::new("open", &path, std::io::Error::other(error));
        let opened = Arc::new(spool.reopen().map_err(error)?);
        *self.spool.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&opened);
        desk.listed = durable::stat(&path)?.map(|dir| durable::identity(&dir));
        desk.stop_listening();
        Ok(opened)
    }
}

#[cfg(test)]
mod tests;
