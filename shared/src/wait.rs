//! A consumer as a library: wait for a finished upload, hold it, save it, drop it.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc, time::Duration};
//! use shared::spool::{Options, Spool};
//! use shared::wait::Waiter;
//!
//! let spool = Arc::new(Spool::open(Path::new("/var/spool/tuspool"), Options::default())?);
//! let waiter = Waiter::new(spool);
//! while let Some(mut upload) = waiter.wait(Duration::from_secs(3600))? {
//!     let name = upload.id().to_string();
//!     upload.save(&Path::new("/srv/inbox").join(name))?;
//!     upload.finish()?; // a saved upload that is dropped is finished too, but tells no error
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any number of such programs and of `consumer` workers may share a spool: each upload is held by
//! one of them. An upload that is dropped unsaved (a panic, an early return) goes back to the
//! queue with its attempt counted, and to `failed/` once its attempts are used up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::claim::{TryClaim, try_claim};
use crate::durable::DiskError;
use crate::layout::{DataAt, Dir, Entry};
use crate::orphan::{self, Rules};
use crate::spool::Spool;
use crate::time::UnixTime;

mod held;

pub use held::{Held, SaveError};

/// How often the spool is looked at while nothing is there.
pub const POLL: Duration = Duration::from_secs(1);

/// Longest delay before another attempt, unless said otherwise: the consumers' `--backoff-cap`.
pub const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// Waits for finished uploads.
#[derive(Debug, Clone)]
pub struct Waiter {
    spool: Arc<Spool>,
    /// By which rules claims of dead consumers go back to the queue.
    pub rules: Rules,
    /// How often the spool is looked at while nothing is there.
    pub poll: Duration,
    /// Longest delay that any consumer of the spool gives a failed upload. A time further ahead
    /// was not written by this clock: it has been set back since.
    pub delay_max: Duration,
}

impl Waiter {
    /// A waiter on a local spool; on a network filesystem set `rules.lease`, and call
    /// [`Held::beat`] while an upload is held.
    #[must_use]
    pub fn new(spool: Arc<Spool>) -> Self {
        let rules = Rules {
            lease: None,
            max_attempts: orphan::MAX_ATTEMPTS,
        };
        Self {
            spool,
            rules,
            poll: POLL,
            delay_max: DELAY_MAX,
        }
    }

    /// Blocks until an upload could be claimed, or `timeout` has passed.
    ///
    /// # Errors
    /// As listing, locking and renaming.
    pub fn wait(&self, timeout: Duration) -> Result<Option<Held>, DiskError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(held) = self.try_next()? {
                return Ok(Some(held));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(self.poll.min(left));
        }
    }

    /// Claims an upload if there is one. Claims of dead consumers go back to the queue on the way.
    ///
    /// # Errors
    /// As [`Self::wait`]. What is wrong with one upload is told only if no other could be claimed.
    pub fn try_next(&self) -> Result<Option<Held>, DiskError> {
        let now = UnixTime::now();
        let mut wrong = self.recover(now)?;
        for dir in [Dir::Completed, Dir::Deferred] {
            for entry in self.spool.entries(dir)? {
                let Entry::Data(id, at) = entry? else {
                    continue;
                };
                if !self.is_due(at, now) {
                    continue;
                }
                match try_claim(&self.spool, id, at, now) {
                    Ok(TryClaim::Claimed(claim)) => {
                        return Ok(Some(Held::new(*claim, self.rules.max_attempts)));
                    }
                    Ok(TryClaim::Busy | TryClaim::Gone | TryClaim::Torn(_)) => {}
                    Err(error) => wrong = wrong.or(Some(error)),
                }
            }
        }
        wrong.map_or(Ok(None), Err)
    }

    /// Gives claims of dead consumers back. The first thing that was wrong with one of them.
    fn recover(&self, now: UnixTime) -> Result<Option<DiskError>, DiskError> {
        let mut wrong = None;
        for entry in self.spool.entries(Dir::Claimed)? {
            let looked = match entry? {
                Entry::Data(id, DataAt::Claimed(claim)) => {
                    orphan::recover(&self.spool, id, claim, self.rules, now).map(drop)
                }
                Entry::State(id, claim) => {
                    orphan::finish_settled(&self.spool, id, claim, now).map(drop)
                }
                _ => Ok(()),
            };
            wrong = wrong.or(looked.err());
        }
        Ok(wrong)
    }

    fn is_due(&self, at: DataAt, now: UnixTime) -> bool {
        match at {
            DataAt::Deferred(not_before) => {
                let now = now.as_secs();
                not_before <= now || now + self.delay_max.as_secs() + 1 < not_before
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;
