//! The last step before an answer: the sync of a directory, which is shared by all who wait for it.
//!
//! Who answers many requests at once does not wait in a thread of its own for each: it leaves word
//! what to do then.

use std::sync::{Arc, Mutex, PoisonError};

use super::Receiving;
use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::layout::Dir;
use crate::lock::DataLock;
use crate::record::Record;
use crate::spool::Spool;

/// What is told of an upload once it is settled, or could not be. It is called on whichever thread
/// syncs, and must not block.
type Settled = Box<dyn FnOnce(Result<Record, DiskError>) + Send>;

/// An upload whose data and record lie in `completed/`; whether the names are durable, nobody knows
/// yet. Keeps the lock.
#[derive(Debug)]
#[must_use = "2xx is right only once it is settled"]
pub struct Moved {
    spool: Arc<Spool>,
    lock: DataLock,
    record: Record,
}

impl Moved {
    pub(super) fn new(spool: Arc<Spool>, lock: DataLock, record: Record) -> Self {
        Self {
            spool,
            lock,
            record,
        }
    }

    /// Makes the names durable.
    ///
    /// # Errors
    /// As fsync(2). Whoever looks at the upload next goes on from there.
    pub fn settle(self) -> Result<Record, DiskError> {
        if self.spool.durability().syncs_finish() {
            self.spool.sync_dir(Dir::Completed)?;
        }
        Ok(self.record)
    }

    /// The same, without waiting for a sync that others wait for too. `settled` is called on
    /// whichever thread syncs, and must not block.
    pub fn settle_then(self, settled: impl FnOnce(Result<Record, DiskError>) + Send + 'static) {
        if !self.spool.durability().syncs_finish() {
            return settled(Ok(self.record));
        }
        let spool = Arc::clone(&self.spool);
        let word = Box::new(move |synced: Result<(), DiskError>| {
            let Self { lock, record, .. } = self;
            settled(synced.map(|()| record));
            drop(lock);
        });
        spool.dir_sync(Dir::Completed).sync_then(word);
    }
}

impl Receiving {
    /// Makes a creation durable: its record and both names.
    ///
    /// # Errors
    /// As fdatasync(2) and fsync(2): the caller must not answer 2xx then.
    pub fn sync_creation(&self) -> Result<(), DiskError> {
        if self.spool.durability().syncs_patches() {
            self.file.sync()?;
            self.spool.sync_dir(Dir::Uploads)?;
        }
        self.has_synced_creation()
    }

    /// The same, without waiting for a sync that others wait for too. If one is going on, the
    /// record is synced beside it: which of the two is durable first does not matter, because
    /// nobody is told of the upload before both are. `settled` is called on whichever thread
    /// syncs, and must not block.
    pub fn sync_creation_then(
        self,
        settled: impl FnOnce(Result<Record, DiskError>) + Send + 'static,
    ) {
        if !self.spool.durability().syncs_patches() {
            let hit = self.has_synced_creation();
            if hit.is_err() {
                self.undo_creation();
            }
            return settled(hit.map(|()| self.record));
        }
        let spool = Arc::clone(&self.spool);
        let creating = Arc::new(Creating::new(self, Box::new(settled)));
        let named = Arc::clone(&creating);
        let uploads = spool.dir_sync(Dir::Uploads);
        let word = uploads.join(Box::new(move |synced| named.part_is_synced(synced)));
        creating.part_is_synced(creating.receiving.file.sync());
        if let Some(word) = word {
            uploads.sync_then(word);
        }
    }

    /// Removes an upload whose creation has failed: nobody was told of it, so nobody would end it,
    /// and clients that try again would fill the disk with the space that was set aside for each.
    /// The record goes first: data alone is what any creation leaves that was cut short. Best
    /// effort: what stays expires.
    pub fn undo_creation(&self) {
        let undone =
            durable::unlink(self.file.path()).and_then(|_| durable::unlink(&self.data_path()));
        if let Err(error) = undone {
            tracing::warn!(upload_id = %self.id, %error, "a creation that failed is left behind");
        }
    }

    fn has_synced_creation(&self) -> Result<(), DiskError> {
        failpoint::hit(Failpoint::CreateSynced).on("create", self.file.path())
    }
}

/// A creation of which record and names are being synced side by side. Keeps the lock.
struct Creating {
    receiving: Receiving,
    left: Mutex<Left>,
}

struct Left {
    parts: u8,
    error: Option<DiskError>,
    settled: Option<Settled>,
}

impl Creating {
    fn new(receiving: Receiving, settled: Settled) -> Self {
        let left = Left {
            parts: 2,
            error: None,
            settled: Some(settled),
        };
        Self {
            receiving,
            left: Mutex::new(left),
        }
    }

    /// The record or the names are durable; whoever comes last tells it.
    fn part_is_synced(&self, synced: Result<(), DiskError>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.parts -= 1;
        left.error = left.error.take().or(synced.err());
        if 0 < left.parts {
            return;
        }
        let (settled, error) = (left.settled.take(), left.error.take());
        drop(left);
        let result = error.map_or_else(|| self.receiving.has_synced_creation(), Err);
        if result.is_err() {
            self.receiving.undo_creation();
        }
        if let Some(settled) = settled {
            settled(result.map(|()| self.receiving.record.clone()));
        }
    }
}
