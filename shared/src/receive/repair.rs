//! What an upload is in need of before it is written to, and after a sync that failed.

use super::Receiving;
use crate::durable::{DiskError, OnPath};
use crate::handover;
use crate::host::BootId;
use crate::layout::Dir;

impl Receiving {
    /// A name in `completed/` is believed to speak of synced bytes. Where none are synced, it must
    /// not be.
    pub(super) fn take_the_word_of_the_name(&mut self) -> Result<(), DiskError> {
        if !self.record.rest.sealed_by_name || self.spool.durability().syncs_finish() {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.rest.sealed_by_name = false;
        let path = self.file.path().to_owned();
        let (spool, id) = (&self.spool, self.id);
        self.file = spool.replace_record(path, Dir::Uploads, id, &record, false)?;
        self.record = record;
        Ok(())
    }

    /// Whoever moved the watermark may have died before the new one was shown, or what was shown
    /// was in memory only, and the file system has been mounted anew since. The data below it is
    /// synced; whether the record is, nobody knows.
    pub(super) fn show_what_is_synced(&mut self) -> Result<(), DiskError> {
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
    pub(super) fn bring_to_the_watermark(&mut self) -> Result<(), DiskError> {
        let path = self.data_path();
        let size = self.data().metadata().on("stat", &path)?.len();
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
    pub(super) fn give_back_unsynced(&mut self) -> Result<(), DiskError> {
        if self.spool.durability().syncs_patches() {
            return Ok(());
        }
        self.change(handover::forget_bytes)
    }
}
