//! Whether there is space for an upload, asked when its length becomes known.
//!
//! Where the filesystem can set blocks aside, that is the whole answer: an upload that was let in
//! cannot meet a full disk. Elsewhere (tmpfs, network filesystems) what the open uploads still
//! have to come is summed up, so that together they are not promised more than there is.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use shared::durable::{DiskError, OnPath as _};
use shared::id::UploadId;
use shared::probe::Probe;
use shared::size::{Length, Offset};

use crate::tus::refusal::Refusal;
pub(crate) use promises::Promise;
use promises::Promises;

mod promises;

/// Shorter uploads are not reserved: the call would cost more than it saves.
const RESERVE_BYTES_MIN: u64 = 1 << 20;

/// Free space of the spool's filesystem, and what of it is promised.
#[derive(Debug)]
pub(crate) struct Space {
    dir: File,
    free_bytes_min: u64,
    /// To uploads for which nothing is set aside; `None` where it is.
    promises: Option<Arc<Promises>>,
}

impl Space {
    /// The space of the filesystem that `dir` lies on, as it was probed. What is written to one that
    /// other hosts share lies in the page cache first, and its free space follows later.
    pub(crate) fn new(dir: File, free_bytes_min: u64, probe: &Probe) -> Self {
        let promises = || Arc::new(Promises::new(!probe.is_network()));
        Self {
            dir,
            free_bytes_min,
            promises: (!probe.fallocate).then(promises),
        }
    }

    /// Refuses `bytes` more if they would leave less free than must stay.
    ///
    /// # Errors
    /// [`Refusal::InsufficientStorage`]. A filesystem that cannot say how full it is refuses
    /// nothing: the write will tell.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        // Before the free space is asked for: see `promises`.
        let promised = self.promises.as_ref().map_or(0, |promises| promises.sum());
        let kept = self.free_bytes_min.saturating_add(promised);
        match self.free_bytes() {
            Ok(free) if free.saturating_sub(kept) < bytes => Err(Refusal::InsufficientStorage),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Sets blocks aside for the whole upload. The file's size stays as it is.
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
        if self.promises.is_some() {
            return Ok(());
        }
        let bytes = i64::try_from(length.0).unwrap_or(i64::MAX);
        let reserved = fallocate(data.as_fd(), FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes);
        match reserved {
            Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(errno).on("reserve", path),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Notes how much of an upload is still to come; nothing to note where blocks are set aside.
    pub(crate) fn promise(&self, id: UploadId, bytes: u64) {
        if let Some(promises) = &self.promises {
            promises.note(id, bytes);
        }
    }

    /// What is promised to an upload that stands at `from`, for who writes it.
    pub(crate) fn promise_to_writer(
        &self,
        id: UploadId,
        from: Offset,
        length: Option<Length>,
    ) -> Option<Promise> {
        let promises = self.promises.as_ref()?;
        Some(Promise::new(promises, id, from, length))
    }

    /// The spool is about to be scanned for uploads whose bytes are still to come.
    pub(crate) fn begin_scan(&self) {
        if let Some(promises) = &self.promises {
            promises.begin_round();
        }
    }

    /// Replaces what was promised before the scan by what it found. `false` if nobody needs to know.
    pub(crate) fn end_scan(&self, found: HashMap<UploadId, u64>) -> bool {
        if let Some(promises) = &self.promises {
            promises.end_round(found);
        }
        self.promises.is_some()
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
        Space {
            dir: File::open("/").unwrap(),
            free_bytes_min,
            promises: None,
        }
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

    #[test]
    fn where_nothing_is_set_aside_open_uploads_are_not_promised_more_than_there_is() {
        let space = Space {
            promises: Some(Arc::new(Promises::new(true))),
            ..space(0)
        };
        let free = space.free_bytes().unwrap();
        let (one, two) = (UploadId::generate(), UploadId::generate());
        // Two thirds, so that other writers on this disk do not matter.
        space.admit(free / 3 * 2).unwrap();
        space.promise(one, free / 3 * 2);
        assert_eq!(space.admit(free / 3 * 2), Err(Refusal::InsufficientStorage));
        space.promise(one, 0);
        space.admit(free / 3 * 2).unwrap();
        space.begin_scan();
        assert!(space.end_scan(HashMap::from([(two, free / 3 * 2)])));
        assert_eq!(space.admit(free / 3 * 2), Err(Refusal::InsufficientStorage));
    }
}
