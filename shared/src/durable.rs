//! The only renames, links, unlinks and syncs of the project.
//!
//! What makes bytes survive a power cut is `fdatasync` on the descriptor that wrote them; what
//! makes a name survive is `fsync` of its directory. A sync that failed is never tried again:
//! the kernel reports a lost page once and then answers 0 over lost data (ext4 and xfs).

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags};
use nix::libc::{
    SYNC_FILE_RANGE_WAIT_AFTER, SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, sync_file_range,
};

mod dir_sync;

pub use dir_sync::{DirSync, Synced};

/// A file operation that failed: which, on what, and why. Never shown to a client.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried: "rename", "sync", …
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// An operation on `path` that failed with `source`.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self {
            operation,
            path: path.into(),
            source,
        }
    }

    /// The kind of the system's answer.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the file was not there. `ESTALE` is how network filesystems say so late.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        is_missing(&self.source)
    }

    /// Whether space or quota ran out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Whether an error says that the file was not there.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle
    )
}

/// Whether an error says that space or quota ran out.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Adds operation and path to an I/O error.
pub trait OnPath<T> {
    /// Names what failed.
    ///
    /// # Errors
    /// The same error, with its operation and path.
    fn on(self, operation: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T> OnPath<T> for io::Result<T> {
    fn on(self, operation: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|source| DiskError::new(operation, path, source))
    }
}

impl<T> OnPath<T> for nix::Result<T> {
    fn on(self, operation: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|errno| DiskError::new(operation, path, errno.into()))
    }
}

/// What a positive answer promises (`--durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every answered byte and offset survives a power cut.
    EveryPatch,
    /// A finished upload survives a power cut; an unfinished one may fall back, even to nothing.
    OnFinish,
    /// Nothing is synced: only crashes of the programs are survived, not of the machine.
    None,
}

impl Durability {
    /// Whether what happens before the end of an upload is synced.
    #[must_use]
    pub fn syncs_patches(self) -> bool {
        self == Self::EveryPatch
    }

    /// Whether the hand-over and everything after it is synced.
    #[must_use]
    pub fn syncs_finish(self) -> bool {
        self != Self::None
    }
}

/// Opens an existing regular file without following a link, for reading and, if asked,
/// writing (`flock` over NFS needs a descriptor open for writing).
///
/// # Errors
/// As open(2); `InvalidInput` if the name is not a regular file.
pub fn open(path: &Path, write: bool) -> Result<File, DiskError> {
    let file = open_any(path, write)?;
    if file.metadata().on("stat", path)?.is_file() {
        return Ok(file);
    }
    let what = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    Err(DiskError::new("open", path, what))
}

/// As [`open`], for who finds out by itself what kind of file it is, or fails to read it.
///
/// # Errors
/// As open(2).
pub fn open_any(path: &Path, write: bool) -> Result<File, DiskError> {
    open_as(OpenOptions::new().write(write), OFlag::empty(), path).on("open", path)
}

/// Opens an existing file for writing past the page cache, whole blocks at a time, from memory that
/// begins at one.
///
/// # Errors
/// As open(2) with `O_DIRECT`: `EINVAL` where the filesystem does not do that.
pub fn open_direct(path: &Path) -> Result<File, DiskError> {
    open_as(OpenOptions::new().write(true), OFlag::O_DIRECT, path).on("open", path)
}

/// Opens a file only to read it, and leaves its time of access alone: to keep that, the filesystem
/// would write the inode of every file that is looked at. Only a file's owner may ask for this; who
/// has been refused once asks no more. What is no regular file may be opened; to read it fails.
///
/// # Errors
/// As open(2).
pub fn open_unmarked(path: &Path) -> Result<File, DiskError> {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) {
        match open_as(&mut OpenOptions::new(), OFlag::O_NOATIME, path) {
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
                REFUSED.store(true, Ordering::Relaxed);
            }
            opened => return opened.on("open", path),
        }
    }
    open_any(path, false)
}

/// Opens an existing file for reading and whatever else is asked for, without following a link.
fn open_as(options: &mut OpenOptions, flags: OFlag, path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a fifo that somebody put there must not block the scan.
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    options.read(true).custom_flags(flags.bits()).open(path)
}

/// Creates a file that must not exist yet, for reading and writing.
///
/// # Errors
/// As open(2) with `O_CREAT | O_EXCL`.
pub fn create_new(path: &Path, mode: u32) -> Result<File, DiskError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(mode);
    options
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .on("create", path)
}

/// Renames, replacing what is at `to`.
///
/// # Errors
/// As rename(2).
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    std::fs::rename(from, to).on("rename", from)
}

/// Renames, replacing what is at `to`, unless somebody has done it before: nothing is at `from`.
///
/// # Errors
/// As rename(2), but for the absence of `from`.
pub fn rename_if_there(from: &Path, to: &Path) -> Result<(), DiskError> {
    match rename(from, to) {
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    }
}

/// Renames without replacing: `AlreadyExists` if `to` is there. Where the filesystem lacks
/// `RENAME_NOREPLACE` (gluster answers `EINVAL`), a link and an unlink do the same, and for a
/// moment the file has both names. If it has both already, because somebody died in that moment,
/// the first is taken.
///
/// # Errors
/// As renameat2(2), link(2), unlink(2).
pub fn rename_noreplace(from: &Path, to: &Path) -> Result<(), DiskError> {
    if from == to {
        // One name, not two of one file: there is none to take.
        return Ok(());
    }
    let flags = RenameFlags::RENAME_NOREPLACE;
    let moved = match nix::fcntl::renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            link(from, to).and_then(|()| unlink(from)).map(|_| ())
        }
        result => result.on("rename", from),
    };
    match moved {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same(from, to)? => {
            unlink(from).map(|_| ())
        }
        moved => moved,
    }
}

/// Whether two names are of one file.
fn is_same(a: &Path, b: &Path) -> Result<bool, DiskError> {
    Ok(match (stat(a)?, stat(b)?) {
        (Some(a), Some(b)) => identity(&a) == identity(&b),
        _ => false,
    })
}

/// Gives a file a second name; `AlreadyExists` if it is taken.
///
/// # Errors
/// As link(2).
pub fn link(from: &Path, to: &Path) -> Result<(), DiskError> {
    std::fs::hard_link(from, to).on("link", from)
}

/// Removes a name; whether it was there.
///
/// # Errors
/// As unlink(2), but for the name's absence.
pub fn unlink(path: &Path) -> Result<bool, DiskError> {
    match std::fs::remove_file(path) {
        Err(error) if is_missing(&error) => Ok(false),
        result => result.on("unlink", path).map(|()| true),
    }
}

/// Whether two handles or paths name one inode: device and inode number.
#[must_use]
pub fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// `stat` without following links; `None` if the name is not there.
///
/// # Errors
/// As lstat(2), but for the name's absence.
pub fn stat(path: &Path) -> Result<Option<std::fs::Metadata>, DiskError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if is_missing(&error) => Ok(None),
        result => result.on("stat", path).map(Some),
    }
}

/// Flushes a file's bytes and size.
///
/// # Errors
/// As fdatasync(2). The caller must treat what was written since the last success as lost.
pub fn sync_data(file: &File, path: &Path) -> Result<(), DiskError> {
    observed(|| file.sync_data()).on("sync", path)
}

/// Flushes two new files, neither of which means anything without the other, so that it does not
/// matter which of them is durable first.
///
/// If nobody else is syncing, the second one's bytes are on their way while the first is synced:
/// then one commit of the filesystem's journal takes the blocks of both, and one client alone
/// waits a quarter less (ext4: five flushes in place of six). Among many the commits are shared
/// anyway, and a file that misses one that it could have shared costs a flush of its own.
///
/// # Errors
/// As [`sync_data`].
pub fn sync_both(first: (&File, &Path), second: (&File, &Path)) -> Result<(), DiskError> {
    if SYNCS_RUNNING.load(Ordering::Relaxed) == 0 {
        start_writing_out(second.0).on("write out", second.1)?;
    }
    sync_data(first.0, first.1)?;
    sync_data(second.0, second.1)
}

/// Has the kernel begin to write out a whole file, and does not wait for it. What fails at once may
/// be told only here, and not by the next sync.
fn start_writing_out(file: &File) -> io::Result<()> {
    match range_to_disk(file, 0..0, SYNC_FILE_RANGE_WRITE) {
        // The sync does all of it then.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

/// Makes the names in a directory outside the spool durable; [`DirSync`] is for those within.
///
/// # Errors
/// As open(2) and fsync(2).
pub fn sync_directory(path: &Path) -> Result<(), DiskError> {
    let directory = File::open(path).on("open", path)?;
    directory.sync_all().on("sync", path)
}

/// Has the kernel write out a range of a file, and waits for it; sync_file_range(2). Nothing is
/// durable then: it leaves less to the next [`sync_data`], which also tells if it failed. But only
/// through another opening: the kernel tells each of lost bytes once, and this asks it.
pub fn write_out(file: &File, range: Range<u64>) {
    // With all three the kernel knows that somebody waits. Without the first it takes this for its
    // own write-back, and puts the caller to sleep for every few requests in the device's queue:
    // a quarter of the CPU time of a body that is written out so.
    let flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    range_to_disk(file, range, flags).ok();
}

/// sync_file_range(2); an empty range goes to the end of the file.
fn range_to_disk(file: &File, range: Range<u64>, flags: u32) -> io::Result<()> {
    let length = range.end.saturating_sub(range.start);
    let (from, length) = (range.start.cast_signed(), length.cast_signed());
    #[expect(unsafe_code, reason = "a system call that nix does not wrap")]
    // SAFETY: no memory is passed, and the descriptor is open until the call returns.
    let result = unsafe { sync_file_range(file.as_raw_fd(), from, length, flags) };
    Ok(Errno::result(result).map(drop)?)
}

/// Told of every sync of files and of [`DirSync`]: how long it took, and the error if it failed.
type SyncObserver = Box<dyn Fn(Duration, Option<&io::Error>) + Send + Sync>;

static SYNC_OBSERVER: OnceLock<SyncObserver> = OnceLock::new();

/// Has `observer` told, from now on, of every sync of a file and of a directory of the spool; for
/// metrics. The first observer stays. It is called where the sync was made, and must not block.
pub fn observe_syncs(observer: impl Fn(Duration, Option<&io::Error>) + Send + Sync + 'static) {
    SYNC_OBSERVER.set(Box::new(observer)).ok();
}

/// Syncs of this process that are going on.
static SYNCS_RUNNING: AtomicUsize = AtomicUsize::new(0);

fn observed(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let began = Instant::now();
    SYNCS_RUNNING.fetch_add(1, Ordering::Relaxed);
    let result = sync();
    SYNCS_RUNNING.fetch_sub(1, Ordering::Relaxed);
    if let Some(observer) = SYNC_OBSERVER.get() {
        observer(began.elapsed(), result.as_ref().err());
    }
    result
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_rename_without_replace_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "a").unwrap();
        std::fs::write(&b, "b").unwrap();
        let refused = rename_noreplace(&a, &b).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&b).unwrap(), "b");
        assert!(unlink(&b).unwrap());
        assert!(!unlink(&b).unwrap());
        rename_noreplace(&a, &b).unwrap();
        assert_eq!(std::fs::read_to_string(&b).unwrap(), "a");
        assert!(stat(&a).unwrap().is_none());
        link(&b, &a).unwrap();
        rename_noreplace(&a, &b).unwrap();
        assert_eq!(std::fs::read_to_string(&b).unwrap(), "a");
        assert!(stat(&a).unwrap().is_none(), "one file under two names");
        rename_noreplace(&b, &b).unwrap();
        assert_eq!(std::fs::read_to_string(&b).unwrap(), "a");
    }

    #[test]
    fn neither_links_nor_fifos_nor_directories_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, fifo) = (
            dir.path().join("file"),
            dir.path().join("link"),
            dir.path().join("fifo"),
        );
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&file, true).is_ok());
        for path in [&link, &fifo] {
            assert!(open(path, true).is_err(), "{path:?}");
        }
        assert!(open(dir.path(), false).is_err());
        assert!(
            open(&dir.path().join("none"), true)
                .unwrap_err()
                .is_missing()
        );
    }

    #[test]
    fn the_second_of_two_files_is_on_its_way_before_the_first_is_synced_and_both_must_succeed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = File::from(std::os::fd::OwnedFd::from(end));
        let (good, bad) = (
            (file.as_file(), file.path()),
            (&socket, Path::new("socket")),
        );
        sync_both(good, good).unwrap();
        assert!(sync_both(bad, good).is_err());
        // Not while other tests of this process sync.
        let first_failure = || sync_both(good, bad).unwrap_err().operation;
        let failed_early = (0..1000).any(|_| first_failure() == "write out");
        assert!(failed_early, "it was only synced, after the first");
    }

    #[test]
    fn every_sync_is_told_of() {
        let told = Arc::new(Mutex::new((0, 0)));
        let telling = Arc::clone(&told);
        observe_syncs(move |_, error| {
            let mut told = telling.lock().unwrap();
            match error {
                None => told.0 += 1,
                Some(_) => told.1 += 1,
            }
        });
        observe_syncs(|_, _| panic!("the first observer stays"));
        let file = tempfile::NamedTempFile::new().unwrap();
        sync_data(file.as_file(), file.path()).unwrap();
        let null = File::open("/dev/null").unwrap();
        assert!(sync_data(&null, Path::new("/dev/null")).is_err());
        // Other tests of this process sync, too.
        let told = told.lock().unwrap();
        assert!(1 <= told.0 && 1 <= told.1, "{told:?}");
    }
}
