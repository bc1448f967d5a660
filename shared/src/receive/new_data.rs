//! A new upload: its data file first, its record when there is something to record.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Moved, Receiving};
use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::handover;
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::record::Record;
use crate::spool::Spool;
use crate::time::UnixTime;

/// A data file that was just created, locked, without a record. Dropped as it is, it is an orphan
/// that the janitor removes; [`NewData::discard`] removes it at once.
#[derive(Debug)]
pub struct NewData {
    spool: Arc<Spool>,
    id: UploadId,
    lock: DataLock,
}

impl NewData {
    /// Creates the data file of a new upload under a fresh id, and locks it.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn create(spool: &Arc<Spool>) -> Result<Self, DiskError> {
        loop {
            if let Some(new) = Self::create_as(spool, UploadId::generate())? {
                return Ok(new);
            }
        }
    }

    /// Creates and locks the data file of a new upload whose id was generated before. `None` if
    /// the name is taken, or was taken away at once by a janitor with no patience.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn create_as(spool: &Arc<Spool>, id: UploadId) -> Result<Option<Self>, DiskError> {
        let path = spool.layout().data(id, DataAt::Uploads);
        let file = match spool.create_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            result => result?,
        };
        let TryLock::Held(lock) = DataLock::try_lock_file(file, &path)? else {
            return Ok(None);
        };
        let new = Self {
            spool: Arc::clone(spool),
            id,
            lock,
        };
        if let Err(error) = failpoint::hit(Failpoint::CreateDataMade).on("create", &path) {
            new.discard()?;
            return Err(error);
        }
        Ok(Some(new))
    }

    /// The new upload's id.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// The data file, for writing at known offsets.
    #[must_use]
    pub fn data(&self) -> &File {
        self.lock.file()
    }

    /// The data file for who writes while another thread has this. It keeps the lock.
    #[must_use]
    pub fn share_data(&self) -> Arc<File> {
        self.lock.share()
    }

    /// Path of the data file, for error messages.
    #[must_use]
    pub fn data_path(&self) -> PathBuf {
        self.spool.layout().data(self.id, DataAt::Uploads)
    }

    /// Removes the data file again.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn discard(self) -> Result<(), DiskError> {
        durable::unlink(&self.data_path()).map(|_| ())
    }

    /// Puts the record beside the data: from now on the upload can be found. Nothing is synced
    /// yet: see [`Receiving::sync_creation`]. On an error the data file is removed.
    ///
    /// # Errors
    /// As open(2) and write(2).
    pub fn into_receiving(self, record: Record) -> Result<Receiving, DiskError> {
        let path = self.spool.layout().record(self.id, RecordAt::Uploads);
        let file = match self.spool.create_record(path.clone(), &record) {
            Ok(file) => file,
            Err(error) => {
                self.discard()?;
                return Err(error);
            }
        };
        let Self { spool, id, lock } = self;
        let receiving = Receiving {
            spool,
            id,
            lock,
            file,
            record,
            was_cut: false,
        };
        if let Err(error) = failpoint::hit(Failpoint::CreateRecordMade).on("create", &path) {
            receiving.undo_creation();
            return Err(error);
        }
        Ok(receiving)
    }

    /// Hands over an upload that came whole in the request that created it, with three syncs:
    /// data, record, directory. The record is written under a temporary name, which no recovery
    /// reads, and gets its real one only once the data is durable: a record that said "received"
    /// beside data that a power cut took would be handed over.
    ///
    /// # Errors
    /// As the steps. The caller must not answer 2xx then. Until the record has its name nothing is
    /// left behind; from then on the upload is received, whatever the client was told, and whoever
    /// looks at it next hands it over.
    pub fn into_completed(self, record: Record, now: UnixTime) -> Result<Record, DiskError> {
        self.move_over(record, now)?.settle()
    }

    /// The same but for the sync of the directory.
    ///
    /// # Errors
    /// As [`Self::into_completed`].
    pub fn move_over(self, mut record: Record, now: UnixTime) -> Result<Moved, DiskError> {
        let Self { spool, id, lock } = self;
        let data_path = spool.layout().data(id, DataAt::Uploads);
        handover::complete(&mut record, now);
        let temp = spool.temp(Dir::Uploads, id);
        let made = (|| {
            if let Some(length) = record.length {
                handover::cut_to_length(&lock, length, &data_path)?;
            }
            let mut file = spool.create_record(temp.clone(), &record)?;
            if spool.durability().syncs_finish() {
                durable::sync_both((lock.file(), &data_path), (file.file(), &temp))?;
            }
            file.moved(spool.layout().record(id, RecordAt::Completed));
            Ok(())
        })();
        if let Err(error) = made {
            durable::unlink(&temp)?;
            durable::unlink(&data_path)?;
            return Err(error);
        }
        if let Err(error) = handover::move_over(&spool, id, &temp, record.rest.announce) {
            // While the record has no name that anybody reads, there is no upload. Afterwards there
            // is one, and whoever looks at it next goes on.
            if durable::unlink(&temp)? {
                durable::unlink(&data_path)?;
            }
            return Err(error);
        }
        Ok(Moved::new(spool, lock, record))
    }
}
