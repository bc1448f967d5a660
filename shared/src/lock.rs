//! The lock of an upload: flock(2) on its data file.
//!
//! On the data file, never on the record: a file that is replaced by rename guards nothing, since
//! the next opener locks the new inode. The kernel releases it when its holder dies, so there is no
//! stale lock to clean up. It follows the inode through renames; that is why, once it is held, the
//! path must still name the inode that was opened.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use crate::durable::{self, DiskError, OnPath};

/// The held lock of one upload. Released when the last descriptor of the open file is closed or
/// by [`DataLock::unlock`]; a child that inherited the descriptor keeps it held.
#[derive(Debug)]
pub struct DataLock {
    file: Arc<File>,
    /// Device and inode of the file, which it keeps for life.
    identity: (u64, u64),
    /// Bytes that it had when it was locked.
    size: u64,
}

/// What came of trying to lock.
#[derive(Debug)]
pub enum TryLock {
    /// Held, and the path names the locked inode.
    Held(DataLock),
    /// Somebody else holds it.
    Busy,
    /// There is no such file, or not any more.
    Missing,
}

impl DataLock {
    /// Opens the data file at `path` and tries to lock it. Never waits.
    ///
    /// # Errors
    /// As open(2) and flock(2); `ENOLCK`, `EOPNOTSUPP` and the like mean a filesystem without locks.
    pub fn try_lock(path: &Path) -> Result<TryLock, DiskError> {
        let file = match durable::open_any(path, true) {
            Ok(file) => file,
            Err(error) if error.is_missing() || is_no_data(&error) => return Ok(TryLock::Missing),
            Err(error) => return Err(error),
        };
        Self::try_lock_file(file, path)
    }

    /// Tries to lock a file that was just created or opened at `path`.
    ///
    /// # Errors
    /// As flock(2).
    pub fn try_lock_file(file: File, path: &Path) -> Result<TryLock, DiskError> {
        match flock_now(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(TryLock::Busy),
            // Network filesystems open lazily and report the absence only here.
            Err(TryLockError::Error(error)) if durable::is_missing(&error) => {
                return Ok(TryLock::Missing);
            }
            Err(TryLockError::Error(error)) => return Err(DiskError::new("lock", path, error)),
        }
        let stat = file.metadata().on("stat", path)?;
        let lock = Self {
            file: Arc::new(file),
            identity: durable::identity(&stat),
            size: stat.len(),
        };
        Ok(if stat.is_file() && lock.is_at(path)? {
            TryLock::Held(lock)
        } else {
            TryLock::Missing
        })
    }

    /// Whether `path` names the locked inode: it has not been moved, removed or replaced.
    ///
    /// # Errors
    /// As stat(2).
    pub fn is_at(&self, path: &Path) -> Result<bool, DiskError> {
        let there = durable::stat(path)?;
        Ok(there.is_some_and(|there| durable::identity(&there) == self.identity))
    }

    /// Device and inode of the locked file.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Bytes that the file had when it was locked: what only the holder changes.
    #[must_use]
    pub fn size_when_locked(&self) -> u64 {
        self.size
    }

    /// The locked data file, open for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The same, for who writes while another thread has the lock's holder. As long as it is kept,
    /// so is the lock, unless it is given up by [`Self::unlock`].
    #[must_use]
    pub fn share(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Lets others lock, keeping the file open.
    ///
    /// # Errors
    /// As flock(2).
    pub fn unlock(&self, path: &Path) -> Result<(), DiskError> {
        self.file.unlock().on("unlock", path)
    }

    /// Locks again after [`Self::unlock`]; `false` if another holds it or the file is no longer at
    /// `path`. The caller must read the record again.
    ///
    /// # Errors
    /// As flock(2) and stat(2).
    pub fn relock(&self, path: &Path) -> Result<bool, DiskError> {
        match self.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(DiskError::new("lock", path, error)),
        }
        let same = self.is_at(path)?;
        if !same {
            self.unlock(path)?;
        }
        Ok(same)
    }
}

/// Whether something else has the name: a directory, a link, a fifo. It is not ours, whatever it
/// is called, and must not stop who looks for uploads.
fn is_no_data(error: &DiskError) -> bool {
    use nix::libc::{EISDIR, ELOOP};
    matches!(error.source.raw_os_error(), Some(EISDIR | ELOOP))
}

#[cfg(not(test))]
fn flock_now(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// The tests of this crate run beside each other in one process, and one that starts a command
/// (mount) holds every lock of the others between its fork and its exec: not busy, only for now.
#[cfg(test)]
fn flock_now(file: &File) -> Result<(), TryLockError> {
    for _ in 0..20 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            result => return result,
        }
    }
    file.try_lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &Path) -> DataLock {
        match DataLock::try_lock(path).unwrap() {
            TryLock::Held(lock) => lock,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_holds_and_the_other_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        assert!(matches!(
            DataLock::try_lock(&path).unwrap(),
            TryLock::Missing
        ));
        std::fs::write(&path, "x").unwrap();
        let first = held(&path);
        assert!(matches!(DataLock::try_lock(&path).unwrap(), TryLock::Busy));
        first.unlock(&path).unwrap();
        let second = held(&path);
        assert!(!first.relock(&path).unwrap());
        drop(second);
        assert!(first.relock(&path).unwrap());
    }

    #[test]
    fn a_lock_on_a_replaced_or_removed_file_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("data"), dir.path().join("other"));
        std::fs::write(&path, "x").unwrap();
        let stale = durable::open(&path, true).unwrap();
        std::fs::write(&other, "y").unwrap();
        durable::rename(&other, &path).unwrap();
        assert!(matches!(
            DataLock::try_lock_file(stale, &path).unwrap(),
            TryLock::Missing
        ));
        let lock = held(&path);
        lock.unlock(&path).unwrap();
        durable::unlink(&path).unwrap();
        assert!(!lock.relock(&path).unwrap());
    }

    #[test]
    fn the_lock_follows_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("data"), dir.path().join("moved"));
        std::fs::write(&path, "x").unwrap();
        let lock = held(&path);
        durable::rename(&path, &moved).unwrap();
        assert!(matches!(DataLock::try_lock(&moved).unwrap(), TryLock::Busy));
        assert!(lock.is_at(&moved).unwrap() && !lock.is_at(&path).unwrap());
    }

    #[test]
    fn what_is_no_file_is_nobodys_data_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        std::fs::create_dir(path("directory")).unwrap();
        std::fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["directory", "link", "fifo"] {
            let found = DataLock::try_lock(&path(name)).unwrap();
            assert!(matches!(found, TryLock::Missing), "{name}: {found:?}");
        }
    }
}
