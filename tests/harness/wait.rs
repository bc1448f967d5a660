//! Waiting for a condition. The only sleep of the tests is in here.

use std::fmt::Debug;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a condition that should come true soon is waited for. Generous: it is only ever
/// used up by a failing test, and CI machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` returns something and returns that.
///
/// # Panics
/// When [`PATIENCE`] is over, naming `what` did not happen.
pub fn wait_until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_up_to(PATIENCE, what, probe)
}

/// Waits until `probe` returns something, at most for `limit`.
///
/// # Panics
/// When `limit` is over, naming `what` did not happen.
pub fn wait_up_to<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "after {limit:?}: {what} did not happen"
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether `probe` comes true within `limit`.
pub fn happens(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if probe() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until two looks agree: until `probe` returns `wanted`.
///
/// # Panics
/// When [`PATIENCE`] is over, with what was seen last.
pub fn wait_for<T: PartialEq + Debug>(what: &str, wanted: &T, mut probe: impl FnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = probe();
        if seen == *wanted {
            return;
        }
        if Instant::now() > deadline {
            assert_eq!(seen, *wanted, "{what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets a random time go by: not to wait for anything, but to do something at any moment.
pub fn random_moment(random: &mut fastrand::Rng, within: Range<Duration>) {
    let span = within
        .end
        .saturating_sub(within.start)
        .mul_f64(random.f64());
    std::thread::sleep(within.start + span);
}
