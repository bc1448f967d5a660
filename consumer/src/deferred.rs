//! Which deferred uploads are due. Pure: the time comes in.
//!
//! Names in `deferred/` begin with the time of the next attempt, so that a listing tells all. What
//! is due is walked like any backlog; of what is not, only the earliest are kept in memory, up to
//! a *horizon* beyond which a later listing must be asked.

use std::collections::BinaryHeap;

use shared::id::UploadId;

use crate::backlog::Backlog;
use crate::retry::Backoff;

/// Uploads that are not due yet held in memory at most, at 24 bytes each.
const SOON_MAX: usize = 1 << 16;

/// Due uploads taken from one listing at most.
const DUE_MAX: usize = 1 << 18;

/// What one listing of `deferred/` told, and has not been tried yet.
#[derive(Debug, Default)]
pub struct Deferred {
    due: Backlog<(u64, UploadId)>,
    /// Earliest last.
    soon: Vec<(u64, UploadId)>,
    /// Whether all that is due before this time (Unix seconds) is known. `None`: everything is.
    horizon: Option<u64>,
}

impl Deferred {
    /// Takes in a new listing made at `now`, forgetting the last one.
    pub fn refill(
        &mut self,
        entries: impl IntoIterator<Item = (u64, UploadId)>,
        backoff: &Backoff,
        now: u64,
        chance: f64,
    ) {
        let mut due = Vec::new();
        let mut soon = BinaryHeap::new();
        self.horizon = None;
        for (not_before, id) in entries {
            if backoff.is_due(not_before, now) {
                if due.len() < DUE_MAX {
                    due.push((not_before, id));
                } else {
                    self.horizon = Some(now);
                }
                continue;
            }
            soon.push((not_before, id));
            if SOON_MAX < soon.len()
                && let Some((latest, _)) = soon.pop()
            {
                self.horizon = Some(self.horizon.map_or(latest, |horizon| horizon.min(latest)));
            }
        }
        self.due.refill(due, chance);
        self.soon = soon.into_sorted_vec();
        self.soon.reverse();
    }

    /// Adds one that this process has deferred itself.
    pub fn push(&mut self, not_before: u64, id: UploadId) {
        if self.horizon.is_some_and(|horizon| horizon <= not_before) || SOON_MAX <= self.soon.len()
        {
            self.horizon = Some(self.horizon.map_or(not_before, |at| at.min(not_before)));
            return;
        }
        let at = self.soon.partition_point(|entry| (not_before, id) < *entry);
        self.soon.insert(at, (not_before, id));
    }

    /// The next upload to try that is due at `now`, each once, with the time in its name.
    pub fn take(&mut self, backoff: &Backoff, now: u64) -> Option<(u64, UploadId)> {
        while let Some(&(not_before, id)) = self.soon.last() {
            if !backoff.is_due(not_before, now) {
                break;
            }
            self.soon.pop();
            self.due.push((not_before, id));
        }
        self.due.take()
    }

    /// The last one could be claimed.
    pub fn hit(&mut self) {
        self.due.hit();
    }

    /// The last one was gone or busy. True if others that are due are no longer known.
    pub fn miss(&mut self, chance: f64) -> bool {
        self.due.miss(chance)
    }

    /// Whether something that is due is left to try.
    #[must_use]
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// When to look again without being told to (Unix seconds): something becomes due, or what is
    /// due is no longer known.
    #[must_use]
    pub fn look_at(&self) -> Option<u64> {
        let soon = self.soon.last().map(|(not_before, _)| *not_before);
        match (soon, self.horizon) {
            (Some(soon), Some(horizon)) => Some(soon.min(horizon)),
            (one, other) => one.or(other),
        }
    }

    /// Whether the directory must be listed to know what is due at `now`.
    #[must_use]
    pub fn is_stale(&self, now: u64) -> bool {
        self.due.is_empty() && self.horizon.is_some_and(|horizon| horizon <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_secs(5),
        cap: Duration::from_secs(900),
        attempts_max: 10,
    };

    fn entries(times: &[u64]) -> Vec<(u64, UploadId)> {
        times.iter().map(|&at| (at, UploadId::generate())).collect()
    }

    #[test]
    fn what_is_due_is_given_out_and_the_rest_when_its_time_comes() {
        let list = entries(&[990, 1000, 1001, 1005, 1500]);
        let mut deferred = Deferred::default();
        deferred.refill(list.clone(), &BACKOFF, 1000, 0.0);
        let take = |deferred: &mut Deferred, now| {
            std::iter::from_fn(|| deferred.take(&BACKOFF, now)).collect::<Vec<_>>()
        };
        assert_eq!(take(&mut deferred, 1000), [list[0], list[1]]);
        assert_eq!(deferred.look_at(), Some(1001));
        assert_eq!(take(&mut deferred, 1004), [list[2]]);
        assert_eq!(take(&mut deferred, 2000), [list[3], list[4]]);
        assert_eq!(deferred.look_at(), None);
    }

    #[test]
    fn a_clock_set_back_makes_what_lies_too_far_ahead_due() {
        let list = entries(&[5000]);
        let mut deferred = Deferred::default();
        deferred.refill(list.clone(), &BACKOFF, 4990, 0.0);
        assert_eq!(deferred.take(&BACKOFF, 4990), None);
        assert_eq!(deferred.take(&BACKOFF, 1390), Some(list[0]), "an hour back");
    }

    #[test]
    fn own_deferrals_are_known_without_a_listing() {
        let mut deferred = Deferred::default();
        let (late, early) = (UploadId::generate(), UploadId::generate());
        deferred.push(1020, late);
        deferred.push(1010, early);
        assert_eq!(deferred.look_at(), Some(1010));
        assert_eq!(deferred.take(&BACKOFF, 1009), None);
        assert_eq!(deferred.take(&BACKOFF, 1010), Some((1010, early)));
        assert_eq!(deferred.take(&BACKOFF, 1020), Some((1020, late)));
        assert!(
            !deferred.is_stale(2000),
            "nothing else was ever listed away"
        );
    }

    #[test]
    fn beyond_the_horizon_the_directory_is_asked_again() {
        let n = SOON_MAX as u64 + 10;
        let mut deferred = Deferred::default();
        // All within the cap of a wide backoff, latest first.
        let wide = Backoff {
            cap: Duration::from_secs(1 << 30),
            ..BACKOFF
        };
        let list = (0..n).rev().map(|i| (1001 + i, UploadId::generate()));
        deferred.refill(list, &wide, 1000, 0.0);
        let horizon = 1001 + SOON_MAX as u64;
        assert_eq!(deferred.look_at(), Some(1001));
        assert!(!deferred.is_stale(horizon - 1));
        let mut given = 0;
        while deferred.take(&wide, horizon + 100).is_some() {
            given += 1;
        }
        assert_eq!(given, SOON_MAX);
        assert!(deferred.is_stale(horizon));
        assert_eq!(deferred.look_at(), Some(horizon));
        deferred.push(horizon + 5, UploadId::generate());
        assert_eq!(deferred.look_at(), Some(horizon), "it will be listed");
    }
}
