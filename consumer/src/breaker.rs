//! A circuit breaker: when not to try anything for a while. Pure: time comes in.

use std::time::Duration;

use shared::id::UploadId;

/// Temporary failures in a row, each of another upload, after which claiming pauses.
pub const FAILURES_DEFAULT: u32 = 10;

/// Pauses claiming while what the command depends on is down, so that one dead backend does not
/// walk the whole backlog through its attempts and into `failed/`.
#[derive(Debug, Clone)]
pub struct Breaker {
    threshold: u32,
    pause_min: Duration,
    pause_max: Duration,
    state: BreakerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BreakerState {
    /// All is well, or not yet bad enough.
    Closed {
        failures: u32,
        last: Option<UploadId>,
    },
    /// No claims until then. `pauses` counts those in this series.
    Open { until: Duration, pauses: u32 },
    /// One upload is being tried to see.
    Probing { pauses: u32 },
}

/// What the breaker says to a consumer that would like to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Go on.
    Claim,
    /// One claim, whose outcome decides.
    Probe,
    /// Not before then (same clock as `now`).
    Wait(Duration),
    /// A probe is running; its outcome decides.
    WaitForProbe,
}

/// What an attempt says about the things that the command depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The command did its work, or knew that it never could: it is alive.
    Works,
    /// It failed in a way that may pass.
    Fails,
    /// There was no space in the spool: it would be the same with any other upload.
    NoSpace,
    /// Nothing was learnt (shutdown, lost claim).
    Nothing,
}

impl Breaker {
    /// Shortest pause; doubles while probes fail.
    pub const PAUSE_MIN: Duration = Duration::from_secs(5);
    /// Longest pause.
    pub const PAUSE_MAX: Duration = Duration::from_secs(300);
    /// Longest pause for want of space: to look costs little, and somebody may have made some.
    pub const NO_SPACE_MAX: Duration = Duration::from_secs(30);

    /// A breaker that opens after `threshold` failures in a row, with 0 after none; and at once for
    /// want of space.
    #[must_use]
    pub fn new(threshold: u32) -> Self {
        Self {
            threshold,
            pause_min: Self::PAUSE_MIN,
            pause_max: Self::PAUSE_MAX,
            state: BreakerState::Closed {
                failures: 0,
                last: None,
            },
        }
    }

    /// Whether a claim may be made at `now` (any clock that does not jump).
    #[must_use]
    pub fn permit(&self, now: Duration) -> Permit {
        match self.state {
            BreakerState::Closed { .. } => Permit::Claim,
            BreakerState::Open { until, .. } if now < until => Permit::Wait(until),
            BreakerState::Open { .. } => Permit::Probe,
            BreakerState::Probing { .. } => Permit::WaitForProbe,
        }
    }

    /// The probe that [`Permit::Probe`] allowed has been claimed.
    pub fn probe_started(&mut self) {
        if let BreakerState::Open { pauses, .. } = self.state {
            self.state = BreakerState::Probing { pauses };
        }
    }

    /// Takes note of the end of an attempt at `now`; the pause if one begins. Attempts that were
    /// running when it opened say nothing while it is open.
    pub fn note(&mut self, id: UploadId, sign: Sign, now: Duration) -> Option<Duration> {
        match (self.state, sign) {
            (BreakerState::Closed { .. }, Sign::Works) => {
                self.state = BreakerState::Closed {
                    failures: 0,
                    last: None,
                };
                None
            }
            (BreakerState::Closed { failures, last }, Sign::Fails) => {
                // One bad upload, tried again and again, is no dead backend.
                let failures = failures + u32::from(last != Some(id));
                self.state = BreakerState::Closed {
                    failures,
                    last: Some(id),
                };
                let opens = self.threshold != 0 && self.threshold <= failures;
                opens.then(|| self.open(now, 0, self.pause_max))
            }
            (BreakerState::Closed { .. }, Sign::NoSpace) => {
                Some(self.open(now, 0, Self::NO_SPACE_MAX))
            }
            (BreakerState::Probing { .. } | BreakerState::Open { .. }, Sign::Works) => {
                self.state = BreakerState::Closed {
                    failures: 0,
                    last: None,
                };
                None
            }
            (BreakerState::Probing { pauses }, Sign::Fails) => {
                Some(self.open(now, pauses + 1, self.pause_max))
            }
            (BreakerState::Probing { pauses }, Sign::NoSpace) => {
                Some(self.open(now, pauses + 1, Self::NO_SPACE_MAX))
            }
            (BreakerState::Probing { pauses }, Sign::Nothing) => {
                self.state = BreakerState::Open { until: now, pauses };
                None
            }
            (BreakerState::Open { .. }, Sign::Fails | Sign::NoSpace)
            | (BreakerState::Closed { .. } | BreakerState::Open { .. }, Sign::Nothing) => None,
        }
    }

    fn open(&mut self, now: Duration, pauses: u32, longest: Duration) -> Duration {
        let pause = self
            .pause_min
            .saturating_mul(1 << pauses.min(16))
            .min(longest);
        self.state = BreakerState::Open {
            until: now + pause,
            pauses,
        };
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn failures_of_different_uploads_in_a_row_open_the_breaker() {
        let mut breaker = Breaker::new(3);
        let one = UploadId::generate();
        for _ in 0..10 {
            assert_eq!(
                breaker.note(one, Sign::Fails, seconds(0)),
                None,
                "one upload counts once"
            );
        }
        assert_eq!(
            breaker.note(UploadId::generate(), Sign::Fails, seconds(1)),
            None
        );
        assert_eq!(breaker.permit(seconds(1)), Permit::Claim);
        let pause = breaker.note(UploadId::generate(), Sign::Fails, seconds(2));
        assert_eq!(pause, Some(Breaker::PAUSE_MIN));
        assert_eq!(breaker.permit(seconds(3)), Permit::Wait(seconds(7)));
        assert_eq!(breaker.permit(seconds(7)), Permit::Probe);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let mut breaker = Breaker::new(2);
        for _ in 0..10 {
            assert_eq!(
                breaker.note(UploadId::generate(), Sign::Fails, seconds(0)),
                None
            );
            assert_eq!(
                breaker.note(UploadId::generate(), Sign::Nothing, seconds(0)),
                None
            );
            assert_eq!(
                breaker.note(UploadId::generate(), Sign::Works, seconds(0)),
                None
            );
        }
        assert_eq!(breaker.permit(seconds(0)), Permit::Claim);
    }

    #[test]
    fn one_probe_decides_and_pauses_grow_to_their_bound() {
        let mut breaker = Breaker::new(1);
        let mut now = seconds(0);
        let mut pause = breaker
            .note(UploadId::generate(), Sign::Fails, now)
            .unwrap();
        let mut pauses = vec![pause.as_secs()];
        for _ in 0..8 {
            now += pause;
            assert_eq!(breaker.permit(now), Permit::Probe);
            breaker.probe_started();
            assert_eq!(breaker.permit(now), Permit::WaitForProbe, "one at a time");
            pause = breaker
                .note(UploadId::generate(), Sign::Fails, now)
                .unwrap();
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        breaker.probe_started();
        assert_eq!(breaker.note(UploadId::generate(), Sign::Works, now), None);
        assert_eq!(breaker.permit(now), Permit::Claim);
    }

    #[test]
    fn a_probe_that_learnt_nothing_is_repeated() {
        let mut breaker = Breaker::new(1);
        breaker.note(UploadId::generate(), Sign::Fails, seconds(0));
        assert_eq!(breaker.permit(seconds(5)), Permit::Probe);
        breaker.probe_started();
        breaker.note(UploadId::generate(), Sign::Nothing, seconds(6));
        assert_eq!(breaker.permit(seconds(6)), Permit::Probe);
    }

    #[test]
    fn stragglers_do_not_prolong_a_pause_but_a_success_ends_it() {
        let mut breaker = Breaker::new(1);
        breaker.note(UploadId::generate(), Sign::Fails, seconds(0));
        assert_eq!(
            breaker.note(UploadId::generate(), Sign::Fails, seconds(4)),
            None
        );
        assert_eq!(breaker.permit(seconds(4)), Permit::Wait(seconds(5)));
        breaker.note(UploadId::generate(), Sign::Works, seconds(4));
        assert_eq!(breaker.permit(seconds(4)), Permit::Claim);
    }

    #[test]
    fn want_of_space_opens_it_at_once_whatever_the_threshold_and_not_for_long() {
        for threshold in [0, 10] {
            let mut breaker = Breaker::new(threshold);
            let (one, mut now) = (UploadId::generate(), seconds(0));
            let mut pauses = Vec::new();
            for _ in 0..5 {
                let pause = breaker.note(one, Sign::NoSpace, now).unwrap();
                pauses.push(pause.as_secs());
                now += pause;
                breaker.probe_started();
            }
            assert_eq!(pauses, [5, 10, 20, 30, 30]);
            breaker.note(one, Sign::Works, now);
            assert_eq!(breaker.permit(now), Permit::Claim);
        }
    }

    #[test]
    fn a_threshold_of_zero_never_opens() {
        let mut breaker = Breaker::new(0);
        for _ in 0..100 {
            assert_eq!(
                breaker.note(UploadId::generate(), Sign::Fails, seconds(0)),
                None
            );
        }
    }
}
