//! Whether there is space for an upload, asked when its length becomes known.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use shared::durable::{DiskError, OnPath as _};
use shared::size::Length;

use crate::tus::refusal::Refusal;

/// Shorter uploads are not reserved: the call would cost more than it saves.
const RESERVE_BYTES_MIN: u64 = 1 << 20;

/// Free space of the spool's filesystem.
#[derive(Debug)]
pub(crate) struct Space {
    dir: File,
    free_bytes_min: u64,
    /// Whether the filesystem can set blocks aside without writing them.
    reserves: bool,
}

impl Space {
    pub(crate) fn new(dir: File, free_bytes_min: u64, reserves: bool) -> Self {
        Self {
            dir,
            free_bytes_min,
            reserves,
        }
    }

    /// Refuses `bytes` more if they would leave less free than must stay.
    ///
    /// # Errors
    /// [`Refusal::InsufficientStorage`]. A filesystem that cannot say how full it is refuses
    /// nothing: the write will tell.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        match self.free_bytes() {
            Ok(free) if free.saturating_sub(self.free_bytes_min) < bytes => {
                Err(Refusal::InsufficientStorage)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Sets blocks aside for the whole upload, so that it cannot meet a full disk. The file's size
    /// stays as it is.
    ///
    /// # Errors
    /// `ENOSPC` and `EDQUOT`. Everything else is a filesystem that cannot, which is no reason to
    /// refuse the upload.
    pub(crate) fn reserve(
        &self,
        data: &File,
        path: &Path,
        length: Option<Length>,
    ) -> Result<(), DiskError> {
        let Some(length) = length.filter(|length| RESERVE_BYTES_MIN <= length.0) else {
            return Ok(());
        };
        if !self.reserves {
            return Ok(());
        }
        let bytes = i64::try_from(length.0).unwrap_or(i64::MAX);
        let reserved = fallocate(data.as_fd(), FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes);
        match reserved {
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(errno).on("reserve", path),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = fstatvfs(&self.dir)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free_bytes_min: u64) -> Space {
        Space::new(File::open("/").unwrap(), free_bytes_min, true)
    }

    #[test]
    fn what_would_leave_too_little_is_refused() {
        assert_eq!(space(0).admit(1), Ok(()));
        assert_eq!(space(u64::MAX).admit(0), Ok(()));
        assert_eq!(space(u64::MAX).admit(1), Err(Refusal::InsufficientStorage));
        assert_eq!(space(0).admit(u64::MAX), Err(Refusal::InsufficientStorage));
    }

    #[test]
    fn reserving_takes_blocks_and_leaves_the_size() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile().unwrap();
        let path = Path::new("file");
        space(0)
            .reserve(&file, path, Some(Length(RESERVE_BYTES_MIN - 1)))
            .unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        space(0)
            .reserve(&file, path, Some(Length(2 << 20)))
            .unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        let far = space(0).reserve(&file, path, Some(Length::MAX));
        assert!(far.is_ok() || far.unwrap_err().is_full());
    }
}
