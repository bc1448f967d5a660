//! An upload whose data the caller holds locked.
//!
//! Whoever moves, ends or buries an upload must hold the lock of its data file and know under which
//! name that file lies. The steps of these moves ask for a [`Locked`] instead of four arguments that
//! could belong to different uploads.

use std::path::PathBuf;

use crate::id::UploadId;
use crate::layout::DataAt;
use crate::lock::DataLock;
use crate::spool::Spool;

/// One upload of a spool, where its data lies, and the held lock of that data.
#[derive(Clone, Copy, Debug)]
pub struct Locked<'a> {
    /// The spool.
    pub spool: &'a Spool,
    /// The upload.
    pub id: UploadId,
    /// Where its data lies.
    pub at: DataAt,
    /// The lock of that data.
    pub lock: &'a DataLock,
}

impl Locked<'_> {
    /// The data file under the name that it has now.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.spool.layout().data(self.id, self.at)
    }
}
