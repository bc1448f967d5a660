//! What the filesystem below a spool can do, tried out before a program starts to work on it.
//!
//! The pipeline stands on three promises: `flock` excludes, `rename` between the spool's
//! directories is one step, and a synced directory stays. Where one of them is missing, uploads
//! would be processed twice or lost without a word, so that a program refuses to start there and
//! says why. What a single process cannot try, exclusion across hosts, is known by the
//! filesystem's name ([`filesystem`]).

mod error;
pub mod filesystem;

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags};

use crate::durable::{self, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::id::{ClaimId, UploadId};
use crate::layout::{Dir, Layout};
pub use error::ProbeError;
use filesystem::{Filesystem, Reach};

/// How the spool is used, as far as it decides what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectations {
    /// Permissions of files made in the spool.
    pub file_mode: u32,
    /// Accept overlayfs, where only the processes of one container exclude each other.
    pub allow_overlay: bool,
}

/// What was found out about a spool that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The filesystem that it lies on.
    pub filesystem: Filesystem,
    /// Whether `RENAME_NOREPLACE` works; otherwise `link` and `unlink` stand in for it.
    pub rename_noreplace: bool,
    /// Whether space can be reserved by `fallocate` without writing or taking memory.
    pub fallocate: bool,
    /// Whether a directory can be synced; if not, a power cut can undo renames.
    pub directory_sync: bool,
    /// Whether there was no space for a file to try things with, so that nothing was tried.
    pub full: bool,
}

impl Probe {
    /// Whether other hosts may work on the spool too. Then no event tells of their changes, and a
    /// lock that is free does not prove that its holder is dead.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.filesystem.reach == Reach::Network
    }

    /// How often the spool should be looked at although no event came.
    #[must_use]
    pub fn poll(&self) -> Duration {
        if self.is_network() {
            Duration::from_millis(1500)
        } else {
            Duration::from_secs(30)
        }
    }

    /// What an operator should know, one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let name = &self.filesystem.name;
        let mut warnings: Vec<_> = self
            .filesystem
            .caution
            .into_iter()
            .map(str::to_owned)
            .collect();
        if self.full {
            warnings.push("no space left to try locks and renames with".to_owned());
        } else if !self.directory_sync {
            warnings.push(format!(
                "{name} does not sync directories: a power cut can undo renames"
            ));
        }
        warnings
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without = [
            (self.rename_noreplace, "RENAME_NOREPLACE"),
            (self.fallocate, "fallocate"),
            (self.directory_sync, "directory sync"),
        ];
        let without: Vec<_> = without
            .iter()
            .filter(|(has, _)| !has)
            .map(|(_, what)| *what)
            .collect();
        f.write_str(&self.filesystem.name)?;
        if self.is_network() {
            f.write_str(" (shared between hosts)")?;
        }
        match without.is_empty() || self.full {
            true => Ok(()),
            false => write!(f, " without {}", without.join(", ")),
        }
    }
}

/// Tries out the spool at `layout`, whose directories exist.
///
/// Leaves nothing behind; safe beside all other programs. The probe file has the name of a
/// temporary file, so that the janitor tidies it away if the program is killed in between, in
/// whichever directory it was then.
///
/// # Errors
///
/// Why the directory cannot be a spool.
pub fn probe(layout: &Layout, expect: Expectations) -> Result<Probe, ProbeError> {
    let filesystem = fit_filesystem(layout, expect)?;
    for dir in Dir::ALL {
        one_mount(&layout.dir(Dir::Uploads), &layout.dir(dir))?;
    }
    let path = layout.temp(Dir::Uploads, UploadId::generate(), ClaimId::generate());
    let file = match durable::create_new(&path, expect.file_mode) {
        Err(error) if error.is_full() => return Ok(untried(filesystem)),
        file => file?,
    };
    let tried = try_out(layout, expect, filesystem, &file, &path);
    durable::unlink(&path)?;
    tried
}

/// What is assumed when there is no space for a probe file: a full disk must not keep a program
/// from answering and from freeing space.
fn untried(filesystem: Filesystem) -> Probe {
    Probe {
        filesystem,
        rename_noreplace: false,
        fallocate: false,
        directory_sync: true,
        full: true,
    }
}

fn try_out(
    layout: &Layout,
    expect: Expectations,
    filesystem: Filesystem,
    file: &File,
    path: &Path,
) -> Result<Probe, ProbeError> {
    readable_by_all(layout, expect, file)?;
    locks_exclude(file, path)?;
    hard_links(layout, path)?;
    for dir in Dir::ALL {
        renames(path, &layout.dir(dir))?;
    }
    let uploads = layout.dir(Dir::Uploads);
    Ok(Probe {
        rename_noreplace: has_rename_noreplace(layout, path)?,
        fallocate: filesystem.name != "tmpfs" && has_fallocate(file),
        directory_sync: File::open(&uploads)
            .on("open", &uploads)?
            .sync_all()
            .is_ok(),
        filesystem,
        full: false,
    })
}

fn fit_filesystem(layout: &Layout, expect: Expectations) -> Result<Filesystem, ProbeError> {
    let path = layout.root();
    let filesystem = filesystem::of(path)?;
    match filesystem.reach {
        Reach::Unfit(_) if expect.allow_overlay && filesystem.name == "overlay" => Ok(Filesystem {
            reach: Reach::Local,
            ..filesystem
        }),
        Reach::Unfit(reason) => Err(ProbeError::Unfit {
            path: path.to_owned(),
            name: filesystem.name,
            reason,
        }),
        Reach::Local | Reach::Network => Ok(filesystem),
    }
}

/// Two directories of the spool must be on one mount; told without touching either.
///
/// Two bind mounts of one filesystem have one device number, and yet the kernel refuses renames
/// between them. It does so before it looks at the names, and refuses `.` after.
fn one_mount(from: &Path, to: &Path) -> Result<(), ProbeError> {
    let device = |path: &Path| path.metadata().map(|m| m.dev()).on("stat", path);
    let two = device(from)? != device(to)?
        || nix::fcntl::renameat(AT_FDCWD, &from.join("."), AT_FDCWD, &to.join("."))
            == Err(Errno::EXDEV);
    if two {
        Err(ProbeError::TwoMounts {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    } else {
        Ok(())
    }
}

/// Moves the probe file to `dir` and back: quotas and layered filesystems refuse that for reasons
/// that only show when it is done.
fn renames(path: &Path, dir: &Path) -> Result<(), ProbeError> {
    let home = path.parent().unwrap_or(dir);
    let Some(there) = path
        .file_name()
        .map(|name| dir.join(name))
        .filter(|there| there != path)
    else {
        return Ok(());
    };
    let crossed = durable::rename(path, &there)
        .and_then(|()| failpoint::hit(Failpoint::ProbeCarried).on("probe", &there))
        .and_then(|()| durable::rename(&there, path));
    match crossed {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(ProbeError::TwoMounts {
            from: home.to_owned(),
            to: dir.to_owned(),
        }),
        // A tussi worker unlinks what it does not know in `completed/`.
        Err(error) if error.is_missing() && durable::stat(path)?.is_none() => {
            durable::create_new(path, 0o600)
                .map(drop)
                .map_err(ProbeError::from)
        }
        crossed => crossed.map_err(ProbeError::from),
    }
}

/// A second descriptor must not get the lock that a first one has, but can read.
fn locks_exclude(file: &File, path: &Path) -> Result<(), ProbeError> {
    let mut other = durable::open(path, true)?;
    let locked = file.try_lock();
    let verdict = judge_locks(path, locked, || other.try_lock());
    if verdict.is_ok() && other.read(&mut [0; 1]).is_err() {
        return Err(ProbeError::MandatoryLocks { path: parent(path) });
    }
    file.unlock().on("unlock", path)?;
    verdict
}

fn judge_locks(
    path: &Path,
    first: Result<(), TryLockError>,
    second: impl FnOnce() -> Result<(), TryLockError>,
) -> Result<(), ProbeError> {
    match first.and_then(|()| second()) {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(errno)) => Err(ProbeError::NoLocks {
            path: parent(path),
            errno,
        }),
        Ok(()) => Err(ProbeError::LocksDoNotExclude { path: parent(path) }),
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn hard_links(layout: &Layout, path: &Path) -> Result<(), ProbeError> {
    let second = layout.temp(Dir::Claimed, UploadId::generate(), ClaimId::generate());
    match durable::link(path, &second) {
        Ok(()) => durable::unlink(&second).map(drop).map_err(ProbeError::from),
        Err(error) if error.is_full() => Ok(()),
        Err(error) => Err(ProbeError::NoHardLinks {
            path: parent(path),
            errno: error.source,
        }),
    }
}

fn has_rename_noreplace(layout: &Layout, path: &Path) -> Result<bool, ProbeError> {
    let second = layout.temp(Dir::Uploads, UploadId::generate(), ClaimId::generate());
    let flags = RenameFlags::RENAME_NOREPLACE;
    match nix::fcntl::renameat2(AT_FDCWD, path, AT_FDCWD, &second, flags) {
        Ok(()) => durable::rename(&second, path)
            .map(|()| true)
            .map_err(ProbeError::from),
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(false),
        failed => failed
            .on("rename", path)
            .map(|()| false)
            .map_err(ProbeError::from),
    }
}

fn has_fallocate(file: &File) -> bool {
    let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    // A disk too full for one block has it all the same.
    !matches!(
        nix::fcntl::fallocate(file, flags, 0, 4096),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL)
    )
}

/// If somebody else made a directory, files made here must be for the group as well.
fn readable_by_all(layout: &Layout, expect: Expectations, file: &File) -> Result<(), ProbeError> {
    let ours = file.metadata().on("stat", layout.root())?;
    for dir in Dir::ALL {
        let path = layout.dir(dir);
        let theirs = path.metadata().on("stat", &path)?;
        let group = expect.file_mode & 0o060 == 0o060 && theirs.mode() & 0o2070 == 0o2070;
        if theirs.uid() != ours.uid() && !group {
            return Err(ProbeError::NotShared {
                path,
                theirs: theirs.uid(),
                ours: ours.uid(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
