//! One sync of a directory for all who wait for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{DiskError, OnPath, identity, is_full, observed};

/// What is done with the outcome of a sync that was asked for without waiting.
pub type Synced = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// Makes the names of one directory durable, with one `fsync` for all who ask at a time.
///
/// A caller is served by a sync that *began* after it asked: it either becomes the leader of the
/// next one, waits for it, or leaves word what to do then. So n concurrent hand-overs cost about
/// two syncs, not n; and who leaves word costs no thread that sleeps and is woken.
///
/// A failed sync poisons the directory for good: every later call fails with the same error,
/// because a second fsync would answer 0 over lost names. Not so where there was no space (or
/// quota) for it: names are the journal's, which keeps them for the next sync or stops the whole
/// file system; it does not drop them as the page cache drops data. Then only those fail who asked
/// before it began.
#[derive(Debug)]
pub struct DirSync(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: File,
    path: PathBuf,
    rounds: Mutex<Rounds>,
    finished: Condvar,
}

#[derive(Default)]
struct Rounds {
    begun: u64,
    ended: u64,
    /// The last one that succeeded.
    succeeded: u64,
    /// Why the last one that did not has failed.
    error: Option<i32>,
    poisoned: bool,
    /// Those who left word, for the next round.
    asked: Vec<Synced>,
    /// Threads that wait.
    waiting: usize,
}

impl std::fmt::Debug for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (begun, ended, asked) = (self.begun, self.ended, self.asked.len());
        write!(f, "{ended} of {begun} rounds, {asked} asked")
    }
}

impl Rounds {
    fn is_running(&self) -> bool {
        self.ended < self.begun
    }

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
        Ok(Self(Arc::new(Inner {
            dir,
            path,
            rounds: Mutex::default(),
            finished: Condvar::new(),
        })))
    }

    /// Returns once every change made to the directory before this call is durable.
    ///
    /// # Errors
    /// As fsync(2); unless there was no space, now and for ever after.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.sync_by(|| self.0.fsync())
    }

    /// Has `synced` told once every change made to the directory before this call is durable, or
    /// cannot be made so. Blocks if nobody is syncing: for this sync, and for those of others who
    /// ask meanwhile. `synced` is called on whichever thread syncs, and must not block.
    pub fn sync_then(&self, synced: Synced) {
        let mut rounds = self.0.lock();
        rounds.asked.push(synced);
        self.0.serve(rounds);
    }

    /// The same if somebody is syncing: then it costs nothing here. Otherwise `synced` is given
    /// back, for a caller that has something else to do before it syncs.
    #[must_use]
    pub fn join(&self, synced: Synced) -> Option<Synced> {
        let mut rounds = self.0.lock();
        if !rounds.is_running() {
            return Some(synced);
        }
        rounds.asked.push(synced);
        None
    }

    fn sync_by(&self, fsync: impl FnOnce() -> io::Result<()>) -> Result<(), DiskError> {
        let inner = &*self.0;
        let mut rounds = inner.lock();
        let wanted = rounds.begun + 1;
        while rounds.ended < wanted && rounds.is_running() && !rounds.poisoned {
            rounds.waiting += 1;
            let woken = inner.finished.wait(rounds);
            rounds = woken.unwrap_or_else(PoisonError::into_inner);
            rounds.waiting -= 1;
        }
        if rounds.ended < wanted && !rounds.poisoned {
            rounds = inner.round(rounds, fsync);
            self.leave_the_rest(&rounds);
        }
        let outcome = match wanted <= rounds.succeeded {
            true => Ok(()),
            false => Err(rounds.error.unwrap_or(nix::libc::EIO)),
        };
        drop(rounds);
        inner.told(outcome)
    }

    /// Who waited for its own sync must not be kept by those who left word meanwhile.
    fn leave_the_rest(&self, rounds: &MutexGuard<'_, Rounds>) {
        if rounds.asked.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.0);
        std::thread::spawn(move || inner.serve(inner.lock()));
    }

    /// The device of the directory that is open.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn device(&self) -> Result<u64, DiskError> {
        let Inner { dir, path, .. } = &*self.0;
        Ok(dir.metadata().on("stat", path)?.dev())
    }

    /// Whether the path still names the directory that is open: not once another one was mounted
    /// over it or put in its place, or its own mount is gone.
    ///
    /// # Errors
    /// As stat(2).
    pub fn is_at_its_path(&self) -> Result<bool, DiskError> {
        let Inner { dir, path, .. } = &*self.0;
        let open = dir.metadata().on("stat", path)?;
        let there = std::fs::metadata(path).on("stat", path)?;
        Ok(identity(&there) == identity(&open))
    }

    /// How many `fsync` calls were made: for metrics and tests.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.0.lock().ended
    }

    /// Whether a sync has failed, after which none can succeed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.0.lock().poisoned
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fsync(&self) -> io::Result<()> {
        observed(|| self.dir.sync_all())
    }

    /// Syncs for those who left word, until there is none or somebody else does it.
    fn serve<'a>(&'a self, mut rounds: MutexGuard<'a, Rounds>) {
        while !rounds.asked.is_empty() && !rounds.is_running() {
            rounds = self.round(rounds, || self.fsync());
        }
    }

    /// One sync, and word to those who asked before it.
    fn round<'a>(
        &'a self,
        mut rounds: MutexGuard<'a, Rounds>,
        fsync: impl FnOnce() -> io::Result<()>,
    ) -> MutexGuard<'a, Rounds> {
        let asked = std::mem::take(&mut rounds.asked);
        if !rounds.poisoned {
            rounds.begun += 1;
            drop(rounds);
            let result = fsync();
            rounds = self.lock();
            rounds.end(result);
            if 0 < rounds.waiting {
                self.finished.notify_all();
            }
        }
        let outcome = match rounds.succeeded == rounds.ended && !rounds.poisoned {
            true => Ok(()),
            false => Err(rounds.error.unwrap_or(nix::libc::EIO)),
        };
        drop(rounds);
        asked
            .into_iter()
            .for_each(|synced| synced(self.told(outcome)));
        self.lock()
    }

    fn told(&self, outcome: Result<(), i32>) -> Result<(), DiskError> {
        outcome.map_err(|errno| {
            let source = io::Error::from_raw_os_error(errno);
            DiskError::new("sync", &self.path, source)
        })
    }
}

#[cfg(test)]
mod tests {
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
    fn who_leaves_word_is_told_after_a_sync_that_began_after_it_asked() {
        let dir = tempfile::tempdir().unwrap();
        let sync = Arc::new(DirSync::open(dir.path().to_owned()).unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for n in 0..32 {
                let (sync, tell) = (&sync, tell.clone());
                scope.spawn(move || {
                    for _ in 0..8 {
                        let (before, after) = (sync.rounds(), Arc::clone(sync));
                        let tell = tell.clone();
                        let word: Synced = Box::new(move |synced| {
                            tell.send(synced.is_ok() && before < after.rounds())
                                .unwrap();
                        });
                        match n % 3 {
                            0 => sync.sync_then(word),
                            1 => sync
                                .join(word)
                                .into_iter()
                                .for_each(|word| sync.sync_then(word)),
                            // Who waits leads a round, too, and is not kept by the others.
                            _ => word(sync.sync()),
                        }
                    }
                });
            }
        });
        drop(tell);
        let told: Vec<bool> = told.iter().collect();
        assert_eq!(told, [true; 32 * 8]);
    }

    #[test]
    fn who_leaves_word_is_told_of_a_failure_and_of_one_long_ago() {
        let (tell, told) = std::sync::mpsc::channel();
        let sync = DirSync::open("/proc".into()).unwrap();
        for _ in 0..2 {
            let tell = tell.clone();
            sync.sync_then(Box::new(move |synced| tell.send(synced.is_err()).unwrap()));
        }
        assert_eq!(sync.rounds(), 1, "it was tried again");
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [true; 2]);
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
