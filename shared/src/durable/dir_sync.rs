//! One sync of a directory for all who wait for it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use super::{DiskError, OnPath, is_full, observed};

/// Makes the names of one directory durable, with one `fsync` for all who wait at a time.
///
/// A caller is served by a sync that *began* after it asked: it either becomes the leader of the
/// next one or waits for it. So n concurrent hand-overs cost about two syncs, not n.
///
/// A failed sync poisons the directory for good: every later call fails with the same error,
/// because a second fsync would answer 0 over lost names. Not so where there was no space (or
/// quota) for it: names are the journal's, which keeps them for the next sync or stops the whole
/// file system; it does not drop them as the page cache drops data. Then only those fail who asked
/// before it began.
#[derive(Debug)]
pub struct DirSync {
    dir: File,
    path: PathBuf,
    rounds: Mutex<Rounds>,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    begun: u64,
    ended: u64,
    /// The last one that succeeded.
    succeeded: u64,
    /// Why the last one that did not has failed.
    error: Option<i32>,
    poisoned: bool,
}

impl Rounds {
    fn end(&mut self, result: io::Result<()>) {
        self.ended = self.begun;
        match result {
            Ok(()) => self.succeeded = self.begun,
            Err(error) => {
                self.error = Some(error.raw_os_error().unwrap_or(nix::libc::EIO));
                self.poisoned = !is_full(&error);
            }
        }
    }
}

impl DirSync {
    /// Opens a directory for syncing.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: PathBuf) -> Result<Self, DiskError> {
        let dir = File::open(&path).on("open", &path)?;
        Ok(Self {
            dir,
            path,
            rounds: Mutex::default(),
            finished: Condvar::new(),
        })
    }

    /// Returns once every change made to the directory before this call is durable.
    ///
    /// # Errors
    /// As fsync(2); unless there was no space, now and for ever after.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.sync_by(|| observed(|| self.dir.sync_all()))
    }

    fn sync_by(&self, fsync: impl FnOnce() -> io::Result<()>) -> Result<(), DiskError> {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = rounds.begun + 1;
        while rounds.ended < wanted && rounds.begun > rounds.ended && !rounds.poisoned {
            rounds = self
                .finished
                .wait(rounds)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if rounds.ended < wanted && !rounds.poisoned {
            rounds.begun += 1;
            drop(rounds);
            let result = fsync();
            rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            rounds.end(result);
            self.finished.notify_all();
        }
        if wanted <= rounds.succeeded {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(rounds.error.unwrap_or(nix::libc::EIO));
        Err(DiskError::new("sync", &self.path, source))
    }

    /// How many `fsync` calls were made: for metrics and tests.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ended
    }

    /// Whether a sync has failed, after which none can succeed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.rounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .poisoned
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nix::libc::{EDQUOT, EIO, ENOSPC, EROFS};

    use super::*;

    #[test]
    fn waiters_share_one_sync_and_each_is_served_by_one_that_began_after_it_asked() {
        let dir = tempfile::tempdir().unwrap();
        let sync = Arc::new(DirSync::open(dir.path().to_owned()).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        let before = sync.rounds();
                        sync.sync().unwrap();
                        assert!(sync.rounds() > before);
                    }
                });
            }
        });
        assert!(sync.rounds() <= 32 * 8);
    }

    #[test]
    fn a_failed_directory_sync_is_never_forgotten() {
        // /proc is a directory that cannot be synced: EINVAL.
        let sync = DirSync::open("/proc".into()).unwrap();
        assert!(sync.sync().is_err());
        let rounds = sync.rounds();
        assert!(sync.sync().is_err());
        assert_eq!(sync.rounds(), rounds, "it was tried again");
        assert!(sync.is_poisoned());
    }

    #[test]
    fn a_sync_without_space_fails_those_who_asked_before_it_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        for (errno, is_for_ever) in [(ENOSPC, false), (EDQUOT, false), (EIO, true), (EROFS, true)] {
            let sync = DirSync::open(dir.path().to_owned()).unwrap();
            let failed = sync.sync_by(|| Err(io::Error::from_raw_os_error(errno)));
            assert_eq!(failed.unwrap_err().source.raw_os_error(), Some(errno));
            assert_eq!(sync.is_poisoned(), is_for_ever, "{errno}");
            assert_eq!(sync.sync().is_err(), is_for_ever, "{errno}");
            assert_eq!(sync.rounds(), if is_for_ever { 1 } else { 2 }, "{errno}");
        }
    }

    #[test]
    fn who_was_served_before_a_sync_failed_is_told_so() {
        let mut rounds = Rounds::default();
        for (result, succeeded) in [(Ok(()), 1), (Err(ENOSPC), 1), (Ok(()), 3), (Err(EIO), 3)] {
            rounds.begun += 1;
            rounds.end(result.map_err(io::Error::from_raw_os_error));
            assert_eq!((rounds.ended, rounds.succeeded), (rounds.begun, succeeded));
        }
        assert!(rounds.poisoned);
    }
}
