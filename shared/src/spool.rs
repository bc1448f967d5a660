//! One opened spool: its paths, modes, promises and directory syncs. Creates it where needed.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::durable::{self, DirSync, DiskError, Durability, OnPath};
use crate::id::ClaimId;
use crate::layout::{Dir, Entry, FORMAT_FILE, Layout, classify};

mod files;
mod spares;

pub use files::changed_at;
pub(crate) use spares::Purpose;
pub use spares::SPARES_PER_CLAIM;
use spares::Spares;

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
    spares: Spares,
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
            spares: Spares::default(),
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
        let again = Self::open(self.layout.root(), self.options)?;
        // As many as there is space for.
        again.keep_spares(self.spares_wanted()).ok();
        Ok(again)
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
mod tests;
