//! In which order the uploads found by a scan are tried. Pure: chance comes in.
//!
//! Many consumers walk over one directory and must not get into each other's way: if each walks
//! over everything that it saw, n of them make n − 1 failed attempts for every upload, whatever
//! the order (7.0 per claim with 8, measured). So each starts at a random place, walks on while
//! it succeeds, and *jumps* to another random place when an upload turns out to be gone: it has
//! run into somebody's trail. Sixteen misses in a row mean that the snapshot is out of date and a
//! new scan is cheaper than guessing (0.004 failed attempts per claim with 8).

/// Misses in a row after which a snapshot is given up.
const MISSES_MAX: u32 = 16;

/// Uploads held in memory at most (an id has 16 bytes). What is beyond is found by a later scan.
pub const ENTRIES_MAX: usize = 1 << 20;

/// What one scan found and has not been tried yet.
#[derive(Debug)]
pub struct Backlog<T> {
    entries: Vec<T>,
    /// One bit for each id: it has been given out.
    tried: Vec<u64>,
    left: usize,
    at: usize,
    misses: u32,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            tried: Vec::new(),
            left: 0,
            at: 0,
            misses: 0,
        }
    }
}

impl<T: Copy> Backlog<T> {
    /// Takes in a new scan, forgetting the last one; `chance` lies in `0.0..1.0`. Returns whether
    /// all of it fitted into [`ENTRIES_MAX`].
    pub fn refill(&mut self, entries: impl IntoIterator<Item = T>, chance: f64) -> bool {
        self.clear();
        let mut entries = entries.into_iter();
        self.entries.extend(entries.by_ref().take(ENTRIES_MAX));
        let all = entries.next().is_none();
        self.left = self.entries.len();
        self.tried.resize(self.entries.len().div_ceil(64), 0);
        self.jump(chance);
        all
    }

    /// Adds one upload to what is there; false if there is no room.
    pub fn push(&mut self, entry: T) -> bool {
        if self.left == 0 {
            self.clear();
        }
        if ENTRIES_MAX <= self.entries.len() {
            return false;
        }
        self.entries.push(entry);
        self.tried.resize(self.entries.len().div_ceil(64), 0);
        self.left += 1;
        true
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.tried.clear();
        (self.left, self.at, self.misses) = (0, 0, 0);
    }

    /// The next upload to try, each once.
    pub fn take(&mut self) -> Option<T> {
        if self.left == 0 {
            return None;
        }
        let index = self
            .untried_from(self.at)
            .or_else(|| self.untried_from(0))?;
        if let Some(word) = self.tried.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
        self.left -= 1;
        self.at = index + 1;
        self.entries.get(index).copied()
    }

    /// The last one could be claimed: the walk goes on here.
    pub fn hit(&mut self) {
        self.misses = 0;
    }

    /// The last one was gone or busy: the walk goes on elsewhere, or ends. True if it ends before
    /// all were given out, so that what is left has to be found by another scan.
    pub fn miss(&mut self, chance: f64) -> bool {
        self.misses += 1;
        if self.misses < MISSES_MAX {
            self.jump(chance);
            return false;
        }
        let gives_up = self.left != 0;
        self.clear();
        gives_up
    }

    /// How many are left to try.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether nothing is left to try.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    fn jump(&mut self, chance: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a random place below 2^20; any place will do"
        )]
        let place = (chance.clamp(0.0, 1.0) * self.entries.len() as f64) as usize;
        self.at = place;
    }

    /// The first index at or after `from` that has not been given out.
    fn untried_from(&self, from: usize) -> Option<usize> {
        let first = self.tried.get(from / 64)?;
        let masked = !first & (u64::MAX << (from % 64));
        let rest = self.tried.iter().skip(from / 64 + 1).map(|word| !word);
        std::iter::once(masked)
            .chain(rest)
            .position(|untried| untried != 0)
            .map(|words| {
                let word = from / 64 + words;
                let bits = if words == 0 {
                    masked
                } else {
                    !self.tried[word]
                };
                word * 64 + bits.trailing_zeros() as usize
            })
            .filter(|&index| index < self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use shared::id::UploadId;

    use super::*;

    fn ids(n: usize) -> Vec<UploadId> {
        (0..n).map(|_| UploadId::generate()).collect()
    }

    #[test]
    fn a_walk_goes_on_from_its_random_start_and_wraps_around() {
        let ids = ids(5);
        let mut backlog = Backlog::default();
        assert!(backlog.refill(ids.clone(), 0.6));
        let order: Vec<_> = std::iter::from_fn(|| backlog.take()).collect();
        assert_eq!(order, [ids[3], ids[4], ids[0], ids[1], ids[2]]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_miss_jumps_and_sixteen_in_a_row_give_the_snapshot_up() {
        let ids = ids(100);
        let mut backlog = Backlog::default();
        backlog.refill(ids.clone(), 0.0);
        assert_eq!(backlog.take(), Some(ids[0]));
        backlog.miss(0.5);
        assert_eq!(backlog.take(), Some(ids[50]));
        backlog.hit();
        assert_eq!(backlog.take(), Some(ids[51]));
        for _ in 0..MISSES_MAX - 1 {
            backlog.miss(0.1);
            assert!(backlog.take().is_some());
        }
        backlog.miss(0.1);
        assert_eq!(backlog.take(), None);
    }

    #[test]
    fn a_hit_starts_the_row_of_misses_anew() {
        let mut backlog = Backlog::default();
        backlog.refill(ids(200), 0.0);
        for _ in 0..5 {
            for _ in 0..MISSES_MAX - 1 {
                assert!(backlog.take().is_some());
                backlog.miss(0.3);
            }
            assert!(backlog.take().is_some());
            backlog.hit();
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let one = UploadId::generate();
        let mut backlog = Backlog::default();
        assert!(!backlog.refill(std::iter::repeat_n(one, ENTRIES_MAX + 1), 0.0));
        assert_eq!(backlog.len(), ENTRIES_MAX);
        assert!(!backlog.push(one));
        assert!(backlog.refill([], 0.9));
        assert!(backlog.push(one));
    }

    #[test]
    fn eight_walkers_hardly_ever_meet() {
        let all = ids(20_000);
        let mut gone = HashSet::new();
        let mut random = fastrand::Rng::with_seed(7);
        let mut walkers: Vec<Backlog<UploadId>> = (0..8).map(|_| Backlog::default()).collect();
        let (mut claims, mut misses) = (0, 0);
        while claims < all.len() {
            for walker in &mut walkers {
                let next = walker.take().or_else(|| {
                    let left = all.iter().filter(|id| !gone.contains(*id)).copied();
                    walker.refill(left, random.f64());
                    walker.take()
                });
                match next {
                    Some(id) if gone.insert(id) => {
                        walker.hit();
                        claims += 1;
                    }
                    Some(_) => {
                        walker.miss(random.f64());
                        misses += 1;
                    }
                    None => {}
                }
            }
        }
        assert!(misses * 20 < claims, "{misses} misses for {claims} claims");
    }

    proptest! {
        #[test]
        fn each_is_given_out_at_most_once_and_all_are_without_misses(
            n in 0..300usize,
            start in 0.0..1.0f64,
            jumps in proptest::collection::vec(proptest::option::of(0.0..1.0f64), 0..300),
        ) {
            let ids = ids(n);
            let mut backlog = Backlog::default();
            backlog.refill(ids.clone(), start);
            let mut seen = HashSet::new();
            let mut jumps = jumps.into_iter();
            let mut gave_up = false;
            let mut row = 0;
            while let Some(id) = backlog.take() {
                prop_assert!(seen.insert(id));
                match jumps.next().flatten() {
                    Some(chance) => {
                        row += 1;
                        gave_up |= row == MISSES_MAX;
                        backlog.miss(chance);
                    }
                    None => {
                        row = 0;
                        backlog.hit();
                    }
                }
            }
            prop_assert!(gave_up || seen.len() == n);
        }
    }
}
