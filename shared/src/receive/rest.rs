//! An upload whose client is silent: without its lock, and without its files.

use std::sync::Arc;

use super::Receiving;
use crate::durable::DiskError;
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::record::{Record, RecordError};
use crate::spool::Spool;

/// An upload that nobody writes to for the moment. It has no descriptors: where there are many
/// slow clients, these would run out first.
#[derive(Debug)]
pub struct Resting {
    spool: Arc<Spool>,
    id: UploadId,
    /// Device and inode of the data file.
    identity: (u64, u64),
    record: Record,
}

impl Receiving {
    /// Lets other processes take the upload over while nothing arrives. The caller has moved the
    /// watermark over every byte that did.
    ///
    /// # Errors
    /// As flock(2).
    pub fn pause(&self) -> Result<(), DiskError> {
        self.lock.unlock(&self.data_path())
    }

    /// Goes on after [`Self::pause`]: `false` if another process has taken the upload over or
    /// moved it on, and this one must give up.
    ///
    /// # Errors
    /// As flock(2) and read(2).
    pub fn resume(&mut self) -> Result<bool, DiskError> {
        if !self.lock.relock(&self.data_path())? {
            return Ok(false);
        }
        let path = self.file.path().to_owned();
        match self.spool.open_record(path, Dir::Uploads, self.id) {
            Ok((_, record)) if record == self.record => Ok(true),
            Err(RecordError::Disk(error)) if !error.is_missing() => Err(error),
            _ => {
                self.pause()?;
                Ok(false)
            }
        }
    }

    /// Unlocks and closes the files while nothing arrives. Right only if every byte that did is
    /// below the watermark, and synced if it ever must be: the kernel tells of a write-back that
    /// failed to who had the file open at that time.
    ///
    /// # Errors
    /// Gives itself back if the kernel does not unlock.
    pub fn rest(self: Box<Self>) -> Result<Resting, Box<Self>> {
        if let Err(error) = self.pause() {
            tracing::debug!(%error, "kept while silent");
            return Err(self);
        }
        Ok(Resting {
            identity: self.lock.identity(),
            spool: self.spool,
            id: self.id,
            record: self.record,
        })
    }
}

impl Resting {
    /// The record as it was left.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Opens and locks the upload again: `None` if another process has taken it over or moved it
    /// on, and this one must give up.
    ///
    /// # Errors
    /// As open(2), flock(2) and read(2).
    pub fn resume(&self) -> Result<Option<Receiving>, DiskError> {
        let layout = self.spool.layout();
        let lock = match DataLock::try_lock(&layout.data(self.id, DataAt::Uploads))? {
            // Of another length if somebody has been here who moved no watermark: were one of those
            // bytes lost, it must not be written again before the file is cut.
            TryLock::Held(lock)
                if lock.identity() == self.identity
                    && lock.size_when_locked() == self.record.offset.0 =>
            {
                lock
            }
            TryLock::Held(_) | TryLock::Busy | TryLock::Missing => return Ok(None),
        };
        let path = layout.record(self.id, RecordAt::Uploads);
        match self.spool.open_record(path, Dir::Uploads, self.id) {
            Ok((file, record)) if record == self.record => Ok(Some(Receiving {
                spool: Arc::clone(&self.spool),
                id: self.id,
                lock,
                file,
                record,
                was_cut: false,
            })),
            Err(RecordError::Disk(error)) if !error.is_missing() => Err(error),
            _ => Ok(None),
        }
    }
}
