//! What a slow body may cost: how often its bytes are made durable, and how slow it may be.

use std::time::Duration;

use tokio::time::Instant;

/// So many bytes are worth their syncs whenever there is a pause.
const WORTH_A_SAVE: u64 = 64 << 10;
/// Fewer are saved in the first pause, then ever more seldom: a client that sends one byte a
/// second would otherwise have two syncs a second, and ten thousand of them the whole disk.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(32);

/// Over how long the rate of a body is measured: a phone may be in a tunnel for a while.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// When what has arrived is saved.
#[derive(Debug)]
pub(super) struct Saves {
    last: Instant,
    rest: Duration,
}

impl Saves {
    pub(super) fn new(now: Instant) -> Self {
        let rest = Duration::ZERO;
        Self { last: now, rest }
    }

    /// From when on `bytes` may be saved.
    pub(super) fn due(&self, bytes: u64) -> Instant {
        match WORTH_A_SAVE <= bytes {
            true => self.last,
            false => self.last + self.rest,
        }
    }

    /// Notes that `bytes` are being saved.
    pub(super) fn began(&mut self, bytes: u64, now: Instant) {
        self.last = now;
        self.rest = match WORTH_A_SAVE <= bytes {
            true => Duration::ZERO,
            false => (self.rest * 2).clamp(REST_MIN, REST_MAX),
        };
    }
}

/// Whether a body comes fast enough to be worth its connection.
#[derive(Debug)]
pub(super) struct Pace {
    floor: u64,
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// With at least `floor` bytes per second; 0 for however slowly.
    pub(super) fn new(floor: u64, now: Instant) -> Self {
        Self {
            floor,
            since: now,
            bytes: 0,
        }
    }

    pub(super) fn came(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Whether it came too slowly throughout the last window; begins the next one.
    pub(super) fn is_too_slow(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.since);
        if elapsed < RATE_WINDOW {
            return false;
        }
        let wanted = self.floor.saturating_mul(elapsed.as_secs());
        let is_too_slow = self.bytes < wanted;
        self.restart(now);
        is_too_slow
    }

    /// Begins another window.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.since, self.bytes) = (now, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Saves made in `seconds` for a client that sends `bytes` every `period`.
    fn saves(bytes: u64, period: Duration, seconds: u64) -> u64 {
        let begin = Instant::now();
        let (mut saves, mut made, mut unsaved) = (Saves::new(begin), 0, 0);
        let mut now = begin;
        while now < begin + Duration::from_secs(seconds) {
            now += period;
            unsaved += bytes;
            if saves.due(unsaved) <= now {
                saves.began(unsaved, now);
                (made, unsaved) = (made + 1, 0);
            }
        }
        made
    }

    #[test]
    fn a_trickle_is_saved_at_once_and_then_ever_more_seldom() {
        let second = Duration::from_secs(1);
        assert_eq!(saves(1, second, 1), 1);
        assert_eq!(saves(1, second, 2), 2);
        // After 1, 2, 4, 8, 16 and then every 32 seconds.
        assert_eq!(saves(1, second, 32), 6);
        assert_eq!(saves(1, second, 32 + 320), 16);
        assert_eq!(saves(WORTH_A_SAVE, second, 320), 320);
        // Twice for each so many: when they have come, and in the pause behind them.
        assert_eq!(saves(WORTH_A_SAVE / 4, second, 320), 320 / 2);
    }

    #[test]
    fn a_body_is_too_slow_if_a_whole_window_was() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut pace = Pace::new(10, begin);
        assert!(!pace.is_too_slow(at(59)));
        pace.came(600);
        assert!(!pace.is_too_slow(at(60)));
        pace.came(599);
        assert!(!pace.is_too_slow(at(119)));
        assert!(pace.is_too_slow(at(120)));
        let mut any = Pace::new(0, begin);
        assert!(!any.is_too_slow(at(3600)));
    }
}
