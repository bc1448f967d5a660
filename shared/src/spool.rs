//! One opened spool: its paths, modes, promises and directory syncs. Creates it where needed.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::durable::{self, DirSync, DiskError, Durability, OnPath};
use crate::id::{ClaimId, UploadId};
use crate::layout::{Dir, Entry, FORMAT_FILE, Layout, classify};
use crate::record::{Record, RecordError, RecordFile};
use crate::time::UnixTime;

/// Content of `FORMAT`: the name and the major version of the layout.
pub const FORMAT_LINE: &str = "tuspool 1\n";

/// How a program uses the spool.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What a positive answer promises.
    pub durability: Durability,
    /// Mode of directories that are created.
    pub directory_mode: u32,
    /// Mode of files that are created.
    pub file_mode: u32,
}

impl Default for Options {
    /// Synced, and for one user only.
    fn default() -> Self {
        Self {
            durability: Durability::EveryPatch,
            directory_mode: 0o750,
            file_mode: 0o640,
        }
    }
}

/// Why a directory cannot be used as a spool. One line each, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another layout.
    #[error("{} holds a spool of format {found:?}, this program knows {:?}", path.display(), FORMAT_LINE.trim())]
    Format {
        /// The spool.
        path: PathBuf,
        /// First line of its `FORMAT`.
        found: String,
    },
    /// There is none, and none was to be made.
    #[error("{} is no spool", .0.display())]
    NoSpool(PathBuf),
    /// Renames between its directories would fail.
    #[error("{} is on another filesystem than {}: one spool needs one mount", path.display(), root.display())]
    TwoMounts {
        /// The directory.
        path: PathBuf,
        /// The spool.
        root: PathBuf,
    },
}

/// An opened spool. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Spool {
    layout: Layout,
    options: Options,
    /// Whether the umask takes bits from `file_mode`, so that files need a chmod.
    chmod: bool,
    dirs: Vec<DirSync>,
}

impl Spool {
    /// Opens the spool at `root`, creating what is missing below an existing parent.
    ///
    /// # Errors
    /// One line that says why this cannot be a spool.
    pub fn open(root: &Path, options: Options) -> Result<Self, SpoolError> {
        let layout = Layout::new(root.to_owned());
        make_dir(root, options.directory_mode)?;
        check_format(&layout, options.file_mode)?;
        let device = std::fs::metadata(root).on("stat", root)?.dev();
        let mut dirs = Vec::with_capacity(Dir::ALL.len());
        for dir in Dir::ALL {
            let path = layout.dir(dir);
            make_dir(&path, options.directory_mode)?;
            if std::fs::metadata(&path).on("stat", &path)?.dev() != device {
                return Err(SpoolError::TwoMounts {
                    path,
                    root: root.to_owned(),
                });
            }
            dirs.push(DirSync::open(path)?);
        }
        let chmod = options.file_mode & umask() != 0;
        Ok(Self {
            layout,
            options,
            chmod,
            dirs,
        })
    }

    /// Opens the spool at `root` for who only looks, and must not make one of a mistyped directory.
    ///
    /// # Errors
    /// That there is none, and as [`Self::open`].
    pub fn open_existing(root: &Path, options: Options) -> Result<Self, SpoolError> {
        if !Layout::new(root.to_owned()).format_file().is_file() {
            return Err(SpoolError::NoSpool(root.to_owned()));
        }
        Self::open(root, options)
    }

    /// Opens the same spool again: its directories may have been replaced since, and a sync of
    /// those that were opened before would not reach the new ones. Never makes a new spool: where
    /// there is none any more, its filesystem was unmounted, and one below the mount point would
    /// hide what is put there until it is mounted again.
    ///
    /// # Errors
    /// That there is no spool any more, and as [`Self::open`].
    pub fn reopen(&self) -> Result<Self, SpoolError> {
        let format = self.layout.format_file();
        std::fs::metadata(&format).on("find", &format)?;
        Self::open(self.layout.root(), self.options)
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What a positive answer promises.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    /// Mode of the files that are created.
    #[must_use]
    pub fn file_mode(&self) -> u32 {
        self.options.file_mode
    }

    /// Makes the names in a directory durable, sharing the sync with all who wait.
    ///
    /// # Errors
    /// As fsync(2), now and for ever after: see [`DirSync`].
    pub fn sync_dir(&self, dir: Dir) -> Result<(), DiskError> {
        self.dir_sync(dir).sync()
    }

    /// Makes the names in `uploads/` durable before a hand-over, if creations do not. Without it
    /// btrfs was seen to replay, from its log, the record's old name over the new names of record
    /// and data, and the upload was gone.
    ///
    /// # Errors
    /// As [`Self::sync_dir`].
    pub fn sync_creation_late(&self) -> Result<(), DiskError> {
        match self.options.durability.syncs_patches() {
            true => Ok(()),
            false => self.sync_dir(Dir::Uploads),
        }
    }

    /// The shared sync of a directory.
    #[must_use]
    pub fn dir_sync(&self, dir: Dir) -> &DirSync {
        let index = Dir::ALL.iter().position(|&d| d == dir).unwrap_or_default();
        &self.dirs[index]
    }

    /// Whether a directory sync has failed, after which nothing can be promised any more.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.dirs.iter().any(DirSync::is_poisoned)
    }

    /// Creates a file that must not exist, with the spool's file mode.
    ///
    /// # Errors
    /// As open(2) and chmod(2).
    pub fn create_file(&self, path: &Path) -> Result<File, DiskError> {
        let file = durable::create_new(path, self.options.file_mode)?;
        self.fix_mode(&file, path)?;
        Ok(file)
    }

    fn fix_mode(&self, file: &File, path: &Path) -> Result<(), DiskError> {
        if self.chmod {
            let mode = std::fs::Permissions::from_mode(self.options.file_mode);
            file.set_permissions(mode).on("chmod", path)?;
        }
        Ok(())
    }

    /// What time it is by the clock that stamps the spool's files; on a network filesystem that is
    /// the server's. Ages of files are measured against it: the local clock may be another.
    ///
    /// # Errors
    /// As open(2): a file is made, and removed at once.
    pub fn stored_now(&self) -> Result<UnixTime, DiskError> {
        let path = self.temp(Dir::Claimed, UploadId::generate());
        let stat = self
            .create_file(&path)
            .and_then(|file| file.metadata().on("stat", &path));
        durable::unlink(&path)?;
        stat.map(|stat| changed_at(&stat))
    }

    /// Writes a record at a free name. Not yet durable.
    ///
    /// # Errors
    /// As open(2) and write(2); nothing is left behind then.
    pub fn create_record(&self, path: PathBuf, record: &Record) -> Result<RecordFile, DiskError> {
        let file = RecordFile::create(path, record, self.options.file_mode)?;
        self.fix_mode(file.file(), file.path())?;
        Ok(file)
    }

    /// A temporary name that nobody else uses, in `uploads/` or `claimed/`.
    #[must_use]
    pub fn temp(&self, dir: Dir, id: UploadId) -> PathBuf {
        self.layout.temp(dir, id, ClaimId::generate())
    }

    /// Writes a file that must not exist; its content durable on return if asked for.
    ///
    /// # Errors
    /// As open(2), write(2), fdatasync(2); nothing is left behind then, but for a file that was
    /// there before (`AlreadyExists`).
    pub(crate) fn create_whole(
        &self,
        path: &Path,
        bytes: &[u8],
        durably: bool,
    ) -> Result<(), DiskError> {
        let mut file = self.create_file(path)?;
        let mut written = file.write_all(bytes).on("write", path);
        if durably {
            written = written.and_then(|()| durable::sync_data(&file, path));
        }
        if written.is_err() {
            durable::unlink(path)?;
        }
        written
    }

    /// Writes a small file of an upload anew: temporary file in `claimed/`, its content durable if
    /// asked for, renamed. The rename itself is not synced.
    ///
    /// # Errors
    /// As write(2), fdatasync(2), rename(2); the old file is untouched then.
    pub(crate) fn replace_file(
        &self,
        path: &Path,
        id: UploadId,
        bytes: &[u8],
        durably: bool,
    ) -> Result<(), DiskError> {
        let temp = self.temp(Dir::Claimed, id);
        self.create_whole(&temp, bytes, durably)?;
        if let Err(error) = durable::rename(&temp, path) {
            durable::unlink(&temp)?;
            return Err(error);
        }
        Ok(())
    }

    /// Puts a whole new record in the place of `path`: temporary file in `temp_dir`, synced unless
    /// nothing is (`--durability none`), renamed. The rename itself is not synced.
    ///
    /// # Errors
    /// As write(2), fdatasync(2), rename(2); the old record is untouched then.
    pub fn replace_record(
        &self,
        path: PathBuf,
        temp_dir: Dir,
        id: UploadId,
        record: &Record,
    ) -> Result<RecordFile, DiskError> {
        let temp = self.temp(temp_dir, id);
        let mut file = self.create_record(temp.clone(), record)?;
        let synced = match self.options.durability.syncs_finish() {
            true => file.sync(),
            false => Ok(()),
        };
        if let Err(error) = synced.and_then(|()| durable::rename(&temp, &path)) {
            durable::unlink(&temp)?;
            return Err(error);
        }
        file.moved(path);
        Ok(file)
    }

    /// Opens a record of a locked upload for changing; one without our head (tussi's) is first
    /// replaced by ours.
    ///
    /// # Errors
    /// That it is missing, cannot be read or replaced, or is no record.
    pub fn open_record(
        &self,
        path: PathBuf,
        temp_dir: Dir,
        id: UploadId,
    ) -> Result<(RecordFile, Record), RecordError> {
        let (file, mut record) = RecordFile::open(path.clone())?;
        if file.has_head() {
            return Ok((file, record));
        }
        record.format = Some(crate::record::FORMAT);
        let file = self.replace_record(path, temp_dir, id, &record)?;
        Ok((file, record))
    }

    /// Streams the entries of a directory; foreign names are left out.
    ///
    /// # Errors
    /// As opendir(3); each item as readdir(3).
    pub fn entries(
        &self,
        dir: Dir,
    ) -> Result<impl Iterator<Item = Result<Entry, DiskError>> + use<>, DiskError> {
        let path = self.layout.dir(dir);
        let names = std::fs::read_dir(&path).on("list", &path)?;
        Ok(names.filter_map(move |name| match name.on("list", &path) {
            Ok(name) => match classify(dir, &name.file_name()) {
                Entry::Foreign => None,
                entry => Some(Ok(entry)),
            },
            Err(error) => Some(Err(error)),
        }))
    }
}

/// When a file was last changed, its name included (its ctime).
#[must_use]
pub fn changed_at(stat: &std::fs::Metadata) -> UnixTime {
    let micros = stat.ctime().saturating_mul(1_000_000);
    UnixTime::from_micros(micros.saturating_add(stat.ctime_nsec() / 1000))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), DiskError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // The umask and the parent's setgid bit have had their say: ask again for exactly this.
            let exactly = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, exactly).on("chmod", path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(path).on("stat", path)?.is_dir() {
                return Ok(());
            }
            let error = io::Error::from(io::ErrorKind::NotADirectory);
            Err(DiskError::new("use", path, error))
        }
        Err(error) => Err(DiskError::new("create", path, error)),
    }
}

fn check_format(layout: &Layout, mode: u32) -> Result<(), SpoolError> {
    let path = layout.format_file();
    match std::fs::read_to_string(&path) {
        Ok(found) if found == FORMAT_LINE => return Ok(()),
        Ok(found) => {
            let first = found
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(40)
                .collect();
            return Err(SpoolError::Format {
                path: layout.root().to_owned(),
                found: first,
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DiskError::new("read", path, error).into()),
    }
    // Under a name of its own first: a program that starts at the same moment must never read an
    // empty FORMAT. Whoever links first wins; both wrote the same.
    let temp = layout
        .root()
        .join(format!(".{FORMAT_FILE}-{}", ClaimId::generate()));
    let mut file = durable::create_new(&temp, mode)?;
    file.write_all(FORMAT_LINE.as_bytes()).on("write", &temp)?;
    durable::sync_data(&file, &temp)?;
    let linked = durable::link(&temp, &path);
    durable::unlink(&temp)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => Ok(result?),
    }
}

/// The process's umask, read without changing it (umask(2) can only swap, which races).
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_is_made_below_an_existing_parent_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        for _ in 0..2 {
            let spool = Spool::open(&root, Options::default()).unwrap();
            for dir in Dir::ALL {
                assert_eq!(spool.entries(dir).unwrap().count(), 0);
                spool.sync_dir(dir).unwrap();
            }
        }
        assert_eq!(
            std::fs::read_to_string(root.join("FORMAT")).unwrap(),
            FORMAT_LINE
        );
        assert!(Spool::open(&dir.path().join("a/b"), Options::default()).is_err());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(Spool::open(&dir.path().join("file"), Options::default()).is_err());
    }

    #[test]
    fn a_spool_is_opened_again_where_it_is_and_not_made_where_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        let spool = Spool::open(&root, Options::default()).unwrap();
        std::fs::remove_dir(root.join("completed")).unwrap();
        spool.reopen().unwrap().sync_dir(Dir::Completed).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        std::fs::create_dir(&root).unwrap();
        let error = spool.reopen().unwrap_err().to_string();
        assert!(error.contains("FORMAT"), "{error}");
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("FORMAT"), "tuspool 2\nnew\n").unwrap();
        let error = Spool::open(dir.path(), Options::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tuspool 2") && !error.contains('\n'),
            "{error}"
        );
        assert!(
            !dir.path().join("uploads").is_dir(),
            "touched before the check"
        );
    }

    #[test]
    fn modes_are_as_asked_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            directory_mode: 0o2770,
            file_mode: 0o666,
            ..Options::default()
        };
        let spool = Spool::open(&dir.path().join("s"), options).unwrap();
        let path = spool
            .layout()
            .data(UploadId::generate(), crate::layout::DataAt::Uploads);
        let file = spool.create_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o666);
        let uploads = std::fs::metadata(spool.layout().dir(Dir::Uploads)).unwrap();
        assert_eq!(uploads.mode() & 0o7777, 0o2770);
    }

    #[test]
    fn foreign_names_are_left_out_of_a_listing() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("s"), Options::default()).unwrap();
        let id = UploadId::generate();
        for name in ["README", ".hidden", "x.meta"] {
            std::fs::write(spool.layout().dir(Dir::Completed).join(name), "").unwrap();
        }
        let record = spool
            .layout()
            .record(id, crate::layout::RecordAt::Completed);
        std::fs::write(record, "").unwrap();
        let found: Vec<Entry> = spool
            .entries(Dir::Completed)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            found,
            [Entry::Record(id, crate::layout::RecordAt::Completed)]
        );
    }
}
