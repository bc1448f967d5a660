use std::io;
use std::path::PathBuf;

use crate::durable::DiskError;

/// Why a directory cannot be a spool. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Something that must work on any filesystem failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The filesystem is known to break a promise that cannot be tried out here.
    #[error("the spool {} lies on {name}: {reason}", path.display())]
    Unfit {
        /// The spool.
        path: PathBuf,
        /// The filesystem.
        name: String,
        /// What it cannot do, and what to do instead.
        reason: &'static str,
    },
    /// The spool's directories are not on one mount.
    #[error(
        "the spool must be one mount, but {} and {} are two: files cannot be renamed between them",
        from.display(), to.display()
    )]
    TwoMounts {
        /// A directory of the spool.
        from: PathBuf,
        /// Another.
        to: PathBuf,
    },
    /// `flock` fails.
    #[error("files in {} cannot be locked ({errno}): uploads would be processed twice", path.display())]
    NoLocks {
        /// Where it was tried.
        path: PathBuf,
        /// What flock(2) answered.
        errno: io::Error,
    },
    /// `flock` succeeds for everybody.
    #[error("locks in {} do not exclude: uploads would be processed twice", path.display())]
    LocksDoNotExclude {
        /// Where it was tried.
        path: PathBuf,
    },
    /// Who does not hold the lock cannot even read, as a hook must.
    #[error("a locked file in {} cannot be read: locks are mandatory there", path.display())]
    MandatoryLocks {
        /// Where it was tried.
        path: PathBuf,
    },
    /// The filesystem has no hard links.
    #[error("{} has no hard links ({errno}), which putting an upload back needs", path.display())]
    NoHardLinks {
        /// Where it was tried.
        path: PathBuf,
        /// What link(2) answered.
        errno: io::Error,
    },
    /// Several users share the spool, but cannot read each other's files.
    #[error(
        "{} belongs to uid {theirs} and this program writes as uid {ours}: run all programs as one \
         user, or with --directory-mode 2770 --file-mode 0660 and one group",
        path.display()
    )]
    NotShared {
        /// The directory that somebody else made.
        path: PathBuf,
        /// Owner of the directory.
        theirs: u32,
        /// Owner of a file that this program makes there.
        ours: u32,
    },
}
