//! The copy that is made where the data itself cannot be linked into the destination.

use std::fs::{File, FileTimes};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use shared::durable::{self, DiskError, OnPath};
use shared::id::UploadId;

use super::{Claim, DeliverError, Parcel, cannot_link};

/// A complete copy under a temporary name.
pub(super) struct Part {
    path: PathBuf,
    file: File,
}

/// Bytes copied between two looks at whether to go on: a second's work or less.
const CHUNK: u64 = 256 << 20;

/// Removes the temporary name that an attempt left which died right after giving `name`.
pub(super) fn remove_leftover(name: &Path, id: UploadId) -> Result<(), DiskError> {
    let directory = name.parent().unwrap_or(name);
    durable::unlink(&part_path(directory, id)).map(drop)
}

/// Writes a small file under a name that must be free, whole or not at all.
pub(super) fn write_new(
    id: UploadId,
    to: &Path,
    bytes: &[u8],
    mode: Option<u32>,
    syncs: bool,
) -> Result<(), DiskError> {
    let directory = to.parent().unwrap_or(to);
    let path = directory.join(format!(".{id}.meta.part"));
    durable::unlink(&path)?;
    let mut file = durable::create_new(&path, mode.unwrap_or(0o600))?;
    io::Write::write_all(&mut file, bytes).on("write", &path)?;
    if syncs {
        durable::sync_data(&file, &path)?;
    }
    let part = Part { path, file };
    let published = part.publish(to);
    part.remove();
    published
}

fn part_path(directory: &Path, id: UploadId) -> PathBuf {
    directory.join(format!(".{id}.part"))
}

impl Part {
    /// Copies the data, in the kernel where it can (and shared, not copied, where the filesystem
    /// can do that), and makes the copy durable.
    pub(super) fn copy(
        parcel: &Parcel<'_>,
        directory: &Path,
        syncs: bool,
        claim: &mut impl Claim,
    ) -> Result<Self, DeliverError> {
        let path = part_path(directory, parcel.id);
        durable::unlink(&path)?; // of an attempt that died
        let file = durable::create_new(&path, 0o600)?;
        let part = Self { path, file };
        match part.fill(parcel, syncs, claim) {
            Ok(()) => Ok(part),
            Err(error) => {
                part.remove();
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        parcel: &Parcel<'_>,
        syncs: bool,
        claim: &mut impl Claim,
    ) -> Result<(), DeliverError> {
        // Opened again: a command shares the position of the descriptor that it inherited.
        let from = durable::open(parcel.path, false)?;
        let metadata = from.metadata().on("stat", parcel.path)?;
        let mut copied = 0;
        loop {
            let chunk = io::copy(&mut (&from).take(CHUNK), &mut &self.file);
            let chunk = chunk.on("copy to", &self.path)?;
            copied += chunk;
            if chunk == 0 {
                break;
            }
            claim.go_on()?;
        }
        if copied != metadata.len() {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the data changed its length");
            return Err(DiskError::new("copy to", &self.path, error).into());
        }
        let mode = nix::sys::stat::Mode::from_bits_truncate(metadata.permissions().mode());
        nix::sys::stat::fchmod(&self.file, mode).on("change the mode of", &self.path)?;
        if let Ok(modified) = metadata.modified() {
            // As a rename would keep it; some filesystems cannot, and nothing depends on it.
            self.file
                .set_times(FileTimes::new().set_modified(modified))
                .ok();
        }
        if syncs {
            durable::sync_data(&self.file, &self.path)?;
        }
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives this very file the name `to`; `AlreadyExists` if it is taken, `NotFound` if the
    /// temporary name no longer is this file's: then another consumer has taken over.
    pub(super) fn publish(&self, to: &Path) -> Result<(), DiskError> {
        let open_file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        match nix::unistd::linkat(AT_FDCWD, open_file.as_str(), AT_FDCWD, to, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(DiskError::new("link", to, Errno::EEXIST.into())),
            // No links here, or no /proc: by path, after a look at whose path it is.
            Err(_) if self.is_at_its_path()? => self.move_to(to),
            Err(_) => Err(DiskError::new("link", &self.path, Errno::ENOENT.into())),
        }
    }

    fn move_to(&self, to: &Path) -> Result<(), DiskError> {
        match durable::rename_noreplace(&self.path, to) {
            Err(error) if cannot_link(&error) => {
                // Neither links nor RENAME_NOREPLACE: reserve the name, then replace what
                // reserved it. For a moment an empty file has the name.
                durable::create_new(to, 0o600)?;
                durable::rename(&self.path, to)
            }
            result => result,
        }
    }

    /// Whether another consumer has replaced or removed the temporary name.
    pub(super) fn is_gone(&self) -> Result<bool, DiskError> {
        self.is_at_its_path().map(|there| !there)
    }

    fn is_at_its_path(&self) -> Result<bool, DiskError> {
        let open = self.file.metadata().on("stat", &self.path)?;
        let there = durable::stat(&self.path)?;
        Ok(there.is_some_and(|there| durable::identity(&there) == durable::identity(&open)))
    }

    /// Removes the temporary name if it is (still) this file's. A leftover harms nobody.
    pub(super) fn remove(self) {
        let removed = match self.is_at_its_path() {
            Ok(true) => durable::unlink(&self.path).map(drop),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "a temporary file stays in the destination");
        }
    }
}
