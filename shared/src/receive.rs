//! Receiving an upload: create, advance the watermark, hand over. What ingest does on disk.
//!
//! The watermark (`offset` in the record) moves only after the sync of the data that it covers.
//! It, not the file's size, is the upload's offset: after a power cut the size can cover zeros
//! that were never written. Bytes above it count for nothing; the file is cut to the watermark
//! before the next PATCH writes.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::handover;
use crate::host::BootId;
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::locked::Locked;
use crate::record::{Record, RecordError, RecordFile};
use crate::size::{Length, Offset};
use crate::spool::Spool;
use crate::time::UnixTime;

mod new_data;
mod rest;
mod settle;

pub use new_data::NewData;
pub use rest::Resting;
pub use settle::Moved;

/// An upload that this process may write to: the lock is held, the record is open.
#[derive(Debug)]
pub struct Receiving {
    spool: Arc<Spool>,
    id: UploadId,
    lock: DataLock,
    file: RecordFile,
    record: Record,
    was_cut: bool,
}

/// What came of opening an upload for writing.
#[derive(Debug)]
pub enum Open {
    /// Its lock is held.
    Held(Box<Receiving>),
    /// Somebody else holds it.
    Busy,
    /// It is not (or no longer) in `uploads/`: look it up.
    Missing,
}

impl Receiving {
    /// Opens and locks an upload in `uploads/`. A hand-over or ending that somebody left half
    /// done is finished on the way. Never waits.
    ///
    /// # Errors
    /// As open(2), flock(2), read(2). A record that cannot be read is `Missing`.
    pub fn open(spool: &Arc<Spool>, id: UploadId, now: UnixTime) -> Result<Open, DiskError> {
        let lock = match DataLock::try_lock(&spool.layout().data(id, DataAt::Uploads))? {
            TryLock::Held(lock) => lock,
            TryLock::Busy => return Ok(Open::Busy),
            TryLock::Missing => return Ok(Open::Missing),
        };
        let path = spool.layout().record(id, RecordAt::Uploads);
        match spool.open_record(path, Dir::Uploads, id) {
            Ok((file, record)) if !record.place.is_ending() && !record.is_received() => {
                let mut held = Self {
                    spool: Arc::clone(spool),
                    id,
                    lock,
                    file,
                    record,
                    was_cut: false,
                };
                held.show_what_is_synced()?;
                held.bring_to_the_watermark()?;
                if !held.record.is_received() {
                    return Ok(Open::Held(Box::new(held)));
                }
                handover::recover_locked(held.locked(), now)?;
                Ok(Open::Missing)
            }
            Err(RecordError::Disk(error)) if !error.is_missing() => Err(error),
            _ => {
                let locked = Locked {
                    spool,
                    id,
                    at: DataAt::Uploads,
                    lock: &lock,
                };
                handover::recover_locked(locked, now)?;
                Ok(Open::Missing)
            }
        }
    }

    fn locked(&self) -> Locked<'_> {
        Locked {
            spool: &self.spool,
            id: self.id,
            at: DataAt::Uploads,
            lock: &self.lock,
        }
    }

    /// The upload's id.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// The record as it stands.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The data file, for writing at known offsets. A clone of it shares the lock.
    #[must_use]
    pub fn data(&self) -> &File {
        self.lock.file()
    }

    /// Whether the data file was cut when it was opened: space that was set aside for it is not
    /// any more.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.was_cut
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

    /// Moves the watermark to `to`. In `every-patch` mode: data synced, the new watermark written
    /// beside the old one and synced, and only then shown as the offset; so whoever reads it, in
    /// whichever process, reads what a power cut leaves. After an error nobody reads the new one.
    ///
    /// # Errors
    /// As fdatasync(2) and pwrite(2). A failed sync must not be tried again.
    pub fn advance(&mut self, to: Offset, now: UnixTime) -> Result<(), DiskError> {
        let durably = self.spool.durability().syncs_patches();
        if durably {
            durable::sync_data(self.data(), &self.data_path())?;
            failpoint::hit(Failpoint::AdvanceDataSynced).on("advance", self.file.path())?;
        }
        if durably {
            self.move_durably(to, now)
        } else {
            self.mark(to, self.record.synced().min(to), now)
        }
    }

    /// Moves the watermark over data that is synced.
    fn move_durably(&mut self, to: Offset, now: UnixTime) -> Result<(), DiskError> {
        // Backward it is shown at once.
        let shown = self.record.offset.min(to);
        self.mark(shown, to, now)?;
        self.file.sync()?;
        failpoint::hit(Failpoint::AdvanceRecordSynced).on("advance", self.file.path())?;
        if shown == to {
            return Ok(());
        }
        self.change(|record| record.set_offset(to, to, BootId::this()))
    }

    /// Writes the watermark, and which one a power cut leaves. Not durable.
    fn mark(&mut self, shown: Offset, synced: Offset, now: UnixTime) -> Result<(), DiskError> {
        self.change(|record| {
            record.set_offset(shown, synced, BootId::this());
            record.last_write = now;
        })?;
        failpoint::hit(Failpoint::AdvanceMarked).on("advance", self.file.path())
    }

    /// Declares the length of an upload that was created without one. Durable with the next
    /// [`Self::advance`] or hand-over.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn set_length(&mut self, length: Length) -> Result<(), DiskError> {
        self.change(|record| record.length = Some(length))
    }

    /// Writes down that the client has said that this is all (IETF draft), or takes it back.
    /// Durable as [`Self::set_length`].
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn set_flagged(&mut self, flagged: bool) -> Result<(), DiskError> {
        self.change(|record| record.flagged = flagged)
    }

    /// Writes down the digest of the whole content. Durable as [`Self::set_length`].
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn set_digest(&mut self, digest: String) -> Result<(), DiskError> {
        self.change(|record| record.digest = Some(digest))
    }

    /// Writes down into which final upload this part goes. Durable as [`Self::set_length`].
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn set_joined_into(&mut self, final_upload: UploadId) -> Result<(), DiskError> {
        self.change(|record| record.joined_into = Some(final_upload))
    }

    fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), DiskError> {
        let mut record = self.record.clone();
        change(&mut record);
        self.file.write_head(&record)?;
        self.record = record;
        Ok(())
    }

    /// Hands over an upload of which everything up to `to`, its length, has been written: data
    /// synced, final record written and synced, both renamed, directory synced. 2xx is right only
    /// after this.
    ///
    /// # Errors
    /// As the steps. Whoever looks at the upload next goes on from there.
    pub fn hand_over(self, to: Offset, now: UnixTime) -> Result<Record, DiskError> {
        self.move_over(to, now)?.settle()
    }

    /// The same but for the sync of the directory.
    ///
    /// # Errors
    /// As [`Self::hand_over`].
    pub fn move_over(mut self, to: Offset, now: UnixTime) -> Result<Moved, DiskError> {
        let durably = self.spool.durability().syncs_finish();
        let data_path = self.data_path();
        if let Some(length) = self.record.length {
            handover::cut_to_length(&self.lock, length, &data_path)?;
        }
        if durably && let Err(error) = durable::sync_data(self.data(), &data_path) {
            self.give_back_unsynced()?;
            return Err(error);
        }
        let before = self.record.clone();
        let mut record = before.clone();
        record.offset = to;
        if to != self.record.offset {
            record.last_write = now;
        }
        handover::complete(&mut record, now);
        let recorded = self.record.is_received() && self.record.unsettled.is_none();
        match self.file.write_head(&record) {
            // A full disk: what the record says already is enough to go on.
            Err(error) if error.is_full() && recorded => {}
            result => {
                result?;
                self.record = record;
            }
        }
        if durably && let Err(error) = self.file.sync() {
            self.put_back(before, to);
            return Err(error);
        }
        if durably {
            self.spool.sync_creation_late()?;
        }
        let announce = self.record.rest.announce;
        handover::move_over(&self.spool, self.id, self.file.path(), announce)?;
        Ok(Moved::new(self.spool, self.lock, self.record))
    }

    /// After a sync of the final record that failed. What it says would be read, durable or not;
    /// and a power cut may find either.
    fn put_back(&mut self, before: Record, to: Offset) {
        let mut before = before;
        before.set_offset(before.offset, to, BootId::this());
        match self.file.write_head(&before) {
            Ok(()) => self.record = before,
            // A disk that takes nothing any more. The bytes up to the newer offset are synced.
            Err(error) => tracing::error!(upload_id = %self.id, %error, "the record stays ahead"),
        }
    }

    /// Whoever moved the watermark may have died before the new one was shown, or what was shown
    /// was in memory only, and the file system has been mounted anew since. The data below it is
    /// synced; whether the record is, nobody knows.
    fn show_what_is_synced(&mut self) -> Result<(), DiskError> {
        let synced = self.record.synced();
        if synced <= self.record.offset {
            return Ok(());
        }
        // Written again, because a sync alone would answer 0 if the one before it had failed.
        self.file.write_head(&self.record)?;
        self.file.sync()?;
        self.change(|record| record.set_offset(synced, synced, BootId::this()))
    }

    /// Brings the data file to the watermark.
    ///
    /// It is shorter if a power cut took bytes that were not synced and left the record that tells
    /// of them: what is written behind them would complete an upload with a hole.
    ///
    /// It is longer if a writer died, or if a sync failed. Bytes whose sync failed must not be
    /// written again where they are: ext4 then has their blocks on the disk, answers 0 to the next
    /// sync, and reads zeros after a reboot (their extents stay marked as unwritten). A file that is
    /// cut gets new blocks.
    fn bring_to_the_watermark(&mut self) -> Result<(), DiskError> {
        let (path, size) = (self.data_path(), self.lock.size_when_locked());
        if size < self.record.offset.0 {
            tracing::error!(upload_id = %self.id, "bytes are missing; the client is asked for all");
            self.change(handover::forget_bytes)?;
        }
        let watermark = self.record.offset.0;
        if watermark < size {
            self.data().set_len(watermark).on("truncate", &path)?;
            self.was_cut = true;
        }
        Ok(())
    }

    /// After a sync of the data that failed: takes the watermark back over what it covered without
    /// a sync of its own. Whoever found the upload received in full would sync once more, be
    /// answered 0 over lost bytes, and hand them over. The client sends them again.
    fn give_back_unsynced(&mut self) -> Result<(), DiskError> {
        if self.spool.durability().syncs_patches() {
            return Ok(());
        }
        self.change(handover::forget_bytes)
    }
}

#[cfg(test)]
mod tests;
