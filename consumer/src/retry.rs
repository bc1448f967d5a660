//! When to try again, and whose turn it is. Pure: time and chance come in.

use std::time::Duration;

/// First delay's upper bound. Long enough for a service to restart, short enough to go unnoticed.
pub const BASE_DEFAULT: Duration = Duration::from_secs(5);
/// Upper bound of every delay.
pub const CAP_DEFAULT: Duration = shared::wait::DELAY_MAX;

/// Exponential backoff with full jitter: uploads that failed together do not return together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound after the first attempt; doubles with each further one.
    pub base: Duration,
    /// Where the doubling ends.
    pub cap: Duration,
    /// Attempts in all.
    pub attempts_max: u32,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt after this delay.
    After(Duration),
    /// That was the last one.
    Exhausted,
}

impl Backoff {
    /// After attempt number `attempt` (from 1) has failed; `chance` lies in `0.0..1.0`.
    #[must_use]
    pub fn next(&self, attempt: u32, chance: f64) -> Next {
        if self.attempts_max <= attempt {
            return Next::Exhausted;
        }
        Next::After(self.bound(attempt).mul_f64(chance.clamp(0.0, 1.0)))
    }

    /// Longest delay after that attempt.
    fn bound(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// Whether an upload deferred until `not_before` is due (both Unix seconds).
    ///
    /// A time further ahead than the longest delay was not written by this clock: the clock has
    /// been set back since, and waiting for it could take years.
    #[must_use]
    pub fn is_due(&self, not_before: u64, now: u64) -> bool {
        // One second for rounding up when the time was written.
        not_before <= now || now + self.cap.as_secs() + 1 < not_before
    }
}

/// Fresh and deferred uploads take turns, so that neither a backlog of retries delays what has
/// just arrived nor a stream of arrivals starves the retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// What has not been tried.
    Fresh,
    /// What was tried and is due again.
    Deferred,
}

impl Turn {
    /// Whose turn it is next.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Fresh => Self::Deferred,
            Self::Deferred => Self::Fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: BASE_DEFAULT,
        cap: CAP_DEFAULT,
        attempts_max: shared::orphan::MAX_ATTEMPTS,
    };

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn delays_double_up_to_the_cap_and_end_after_the_last_attempt() {
        let longest: Vec<_> = (1..=10)
            .map(|attempt| match BACKOFF.next(attempt, 1.0) {
                Next::After(delay) => Some(delay.as_secs()),
                Next::Exhausted => None,
            })
            .collect();
        let expected = [5, 10, 20, 40, 80, 160, 320, 640, 900].map(Some);
        assert_eq!(longest[..9], expected);
        assert_eq!(longest[9], None);
        assert_eq!(BACKOFF.next(u32::MAX, 0.5), Next::Exhausted);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(BACKOFF.next(3, 0.0), Next::After(Duration::ZERO));
        assert_eq!(BACKOFF.next(3, 0.25), Next::After(seconds(5)));
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let huge = Backoff {
            base: Duration::MAX,
            cap: Duration::MAX,
            attempts_max: u32::MAX,
        };
        assert_eq!(huge.next(u32::MAX - 1, 0.0), Next::After(Duration::ZERO));
        let zero = Backoff {
            base: Duration::ZERO,
            cap: Duration::ZERO,
            attempts_max: 2,
        };
        assert_eq!(zero.next(1, 1.0), Next::After(Duration::ZERO));
    }

    #[test]
    fn a_time_beyond_the_longest_delay_is_due_now() {
        let now = 1_000_000;
        for (not_before, due) in [
            (0, true),
            (now, true),
            (now + 1, false),
            (now + 901, false),
            (now + 902, true),
            (9_999_999_999, true),
        ] {
            assert_eq!(BACKOFF.is_due(not_before, now), due, "{not_before}");
        }
    }

    #[test]
    fn fresh_and_deferred_alternate() {
        assert_eq!(Turn::Fresh.other(), Turn::Deferred);
        assert_eq!(Turn::Fresh.other().other(), Turn::Fresh);
    }
}
