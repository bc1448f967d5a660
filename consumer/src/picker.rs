//! Which upload is tried next. Pure: listings, time and chance come in.
//!
//! Sources of fresh uploads, in this order: those found busy a moment ago (ingest still holds the
//! lock while it syncs), the last scan of `completed/`, and names heard of from the watch. Fresh
//! and deferred uploads take turns. Nothing here is needed for correctness: what an event did not
//! tell is found by the next scan, and what a scan remembers is checked by the claim.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use shared::id::UploadId;
use shared::layout::DataAt;

use crate::backlog::Backlog;
use crate::deferred::Deferred;
use crate::retry::{Backoff, Turn};

/// Names heard of and not yet tried, at most; beyond, a scan will find them.
const HEARD_MAX: usize = 1024;

/// First wait before a busy upload is tried again; doubles up to [`BUSY_LAST`].
const BUSY_FIRST: Duration = Duration::from_millis(1);
/// Last wait: who holds it longer works on it.
const BUSY_LAST: Duration = Duration::from_millis(256);

/// `deferred/` is listed no more often than this: its names tell whole seconds.
const DEFERRED_EVERY: Duration = Duration::from_secs(1);

/// The two clocks: one that does not jump, for waiting, and the one that is written into names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; does not jump.
    pub steady: Duration,
    /// Unix seconds; may jump.
    pub unix: u64,
}

/// One upload to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: UploadId,
    /// Where it was seen.
    pub at: DataAt,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// By the walk over a listing.
    Walk,
    /// By an event, or set free by a limit.
    Heard,
    /// Found busy before; the last wait.
    Busy(Duration),
}

impl Candidate {
    /// Whether it came from a listing of `completed/`.
    #[must_use]
    pub fn was_listed(&self) -> bool {
        self.how == How::Walk && self.turn() == Turn::Fresh
    }

    /// Whose turn it was.
    #[must_use]
    pub fn turn(&self) -> Turn {
        match self.at {
            DataAt::Deferred(_) => Turn::Deferred,
            _ => Turn::Fresh,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Try to claim this.
    Try(Candidate),
    /// List `completed/`, call [`Picker::listed_fresh`], ask again.
    ListFresh,
    /// List `deferred/`, call [`Picker::listed_deferred`], ask again.
    ListDeferred,
    /// Nothing is there; ask again at that time on the steady clock, or when told of something.
    Wait(Duration),
}

/// Why a candidate was not claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// It is no longer there.
    Gone,
    /// Somebody holds its lock.
    Busy,
}

/// Finds the next upload to try.
#[derive(Debug)]
pub struct Picker {
    backoff: Backoff,
    poll: Duration,
    next_poll: Duration,
    turn: Turn,
    fresh: Backlog<UploadId>,
    fresh_stale: bool,
    /// When `completed/` may be listed again, on the steady clock.
    fresh_from: Duration,
    /// How long that was put off after listings of which others had claimed everything.
    put_off: Duration,
    heard: VecDeque<UploadId>,
    busy: BinaryHeap<Reverse<(Duration, UploadId, Duration)>>,
    deferred: Deferred,
    deferred_stale: bool,
    /// When `deferred/` may be listed again, on the steady clock.
    deferred_from: Duration,
}

impl Picker {
    /// Knows nothing yet, and so begins by listing. `poll`: how often to list although nothing
    /// was heard of.
    #[must_use]
    pub fn new(backoff: Backoff, poll: Duration, now: Duration) -> Self {
        Self {
            backoff,
            poll,
            next_poll: now + poll,
            turn: Turn::Fresh,
            fresh: Backlog::default(),
            fresh_stale: true,
            fresh_from: now,
            put_off: Duration::ZERO,
            heard: VecDeque::new(),
            busy: BinaryHeap::new(),
            deferred: Deferred::default(),
            deferred_stale: true,
            deferred_from: now,
        }
    }

    /// What to do at `now`. `chance` spreads the polls of many consumers.
    pub fn pick(&mut self, now: Now, chance: f64) -> Pick {
        if self.next_poll <= now.steady {
            self.next_poll = now.steady + self.poll.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
            self.look_everywhere();
        }
        for turn in [self.turn, self.turn.other()] {
            let pick = match turn {
                Turn::Fresh => self.pick_fresh(now),
                Turn::Deferred => self.pick_deferred(now),
            };
            if let Some(pick) = pick {
                if matches!(pick, Pick::Try(_)) {
                    self.turn = turn.other();
                }
                return pick;
            }
        }
        Pick::Wait(self.wait(now))
    }

    fn pick_fresh(&mut self, now: Now) -> Option<Pick> {
        let candidate = |id, how| {
            let at = DataAt::Completed;
            Some(Pick::Try(Candidate { id, at, how }))
        };
        if let Some(&Reverse((at, id, wait))) = self.busy.peek()
            && at <= now.steady
        {
            self.busy.pop();
            return candidate(id, How::Busy(wait));
        }
        if let Some(id) = self.fresh.take() {
            return candidate(id, How::Walk);
        }
        if let Some(id) = self.heard.pop_front() {
            return candidate(id, How::Heard);
        }
        if !self.fresh_stale || now.steady < self.fresh_from {
            return None;
        }
        self.fresh_stale = false;
        Some(Pick::ListFresh)
    }

    fn pick_deferred(&mut self, now: Now) -> Option<Pick> {
        if let Some((not_before, id)) = self.deferred.take(&self.backoff, now.unix) {
            let (at, how) = (DataAt::Deferred(not_before), How::Walk);
            return Some(Pick::Try(Candidate { id, at, how }));
        }
        let stale = self.deferred_stale || self.deferred.is_stale(now.unix);
        if !stale || now.steady < self.deferred_from {
            return None;
        }
        self.deferred_stale = false;
        self.deferred_from = now.steady + DEFERRED_EVERY;
        Some(Pick::ListDeferred)
    }

    fn wait(&self, now: Now) -> Duration {
        let busy = self.busy.peek().map(|Reverse((at, ..))| *at);
        let fresh = self.fresh_stale.then_some(self.fresh_from);
        let listing = self.deferred_stale.then_some(self.deferred_from);
        let due = self.deferred.look_at().map(|unix| {
            let wait = Duration::from_secs(unix.saturating_sub(now.unix));
            // The wall clock may jump; a second's delay costs nothing, a whirl costs a core.
            (now.steady + wait).max(now.steady + Duration::from_millis(100))
        });
        [busy, fresh, listing, due]
            .into_iter()
            .flatten()
            .fold(self.next_poll, Duration::min)
    }

    /// `completed/` was listed.
    pub fn listed_fresh(&mut self, ids: impl IntoIterator<Item = UploadId>, chance: f64) {
        let all = self.fresh.refill(ids, chance);
        // What did not fit is looked for once this has been worked through.
        self.fresh_stale |= !all;
    }

    /// `deferred/` was listed.
    pub fn listed_deferred(
        &mut self,
        entries: impl IntoIterator<Item = (u64, UploadId)>,
        now: Now,
        chance: f64,
    ) {
        self.deferred
            .refill(entries, &self.backoff, now.unix, chance);
    }

    /// Looks again after `most` at the latest.
    pub fn poll_within(&mut self, most: Duration, now: Duration) {
        self.next_poll = self.next_poll.min(now + most);
    }

    /// Whether fresh uploads are known, or about to be listed.
    #[must_use]
    pub fn knows_of_fresh(&self) -> bool {
        self.fresh_stale || !self.fresh.is_empty()
    }

    /// Everything must be looked at anew: events were lost, or none are to be had.
    pub fn look_everywhere(&mut self) {
        self.fresh_stale = true;
        self.deferred_stale = true;
    }

    /// Something may have come into `completed/` unheard.
    pub fn look_at_fresh(&mut self) {
        self.fresh_stale = true;
    }

    /// An upload has come into `completed/`, or may be tried again.
    pub fn heard(&mut self, id: UploadId) {
        if self.heard.len() < HEARD_MAX {
            self.heard.push_back(id);
        } else {
            self.fresh_stale = true;
        }
    }

    /// This process has deferred an upload.
    pub fn deferred(&mut self, not_before: u64, id: UploadId) {
        self.deferred.push(not_before, id);
    }

    /// The candidate could be claimed.
    pub fn claimed(&mut self, candidate: Candidate) {
        match (candidate.how, candidate.turn()) {
            (How::Walk, Turn::Fresh) => {
                self.fresh.hit();
                self.put_off = Duration::ZERO;
            }
            (How::Walk, Turn::Deferred) => self.deferred.hit(),
            (How::Heard | How::Busy(_), _) => {}
        }
    }

    /// The candidate could not be claimed.
    pub fn missed(&mut self, candidate: Candidate, miss: Miss, now: Duration, chance: f64) {
        match (candidate.how, candidate.turn()) {
            (How::Walk, Turn::Fresh) if self.fresh.miss(chance) => {
                self.fresh_stale = true;
                // Whoever holds what we found busy needs the processor and the directory to go on.
                self.fresh_from = now + self.put_off.mul_f64(0.5 + chance / 2.0);
                self.put_off = (self.put_off * 2).clamp(BUSY_FIRST, BUSY_LAST);
            }
            (How::Walk, Turn::Deferred) => self.deferred_stale |= self.deferred.miss(chance),
            (How::Walk | How::Heard | How::Busy(_), _) => {}
        }
        let wait = match candidate.how {
            How::Busy(last) => last * 2,
            How::Walk | How::Heard => BUSY_FIRST,
        };
        let again = miss == Miss::Busy && candidate.turn() == Turn::Fresh && wait <= BUSY_LAST;
        if again && self.busy.len() < HEARD_MAX {
            self.busy.push(Reverse((now + wait, candidate.id, wait)));
        }
    }

    /// Whether something could be tried at this moment by somebody else.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.fresh.is_empty() || !self.heard.is_empty() || self.deferred.has_due()
    }

    /// Whether nothing is left at all, as far as is known: nothing to try now or later.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let later = self.fresh_stale || self.deferred_stale || !self.busy.is_empty();
        !later && !self.has_more() && self.deferred.look_at().is_none()
    }

    /// How many fresh uploads are known to be waiting.
    #[must_use]
    pub fn fresh_left(&self) -> usize {
        self.fresh.len()
    }
}

#[cfg(test)]
mod tests;
