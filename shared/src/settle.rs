//! How a claim ends. Each ending is an order of steps, chosen so that a crash between two of them
//! leaves something that the next consumer can tell apart and finish:
//!
//! - *delivered*: the receipt is made durable, then the data's claimed name goes, then the record
//!   leaves `completed/`. Data beside a record that says "delivered" can always be removed.
//! - *retried*, *put back*, *held*: the record tells where the data goes and when it may be tried
//!   again, then the data gets its new name.
//! - *dead*: the record says so, then the upload is buried (see [`crate::burial`]).
//!
//! The claim's state goes last of all: a state without data means a settling that was cut short.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::burial;
use crate::claim::Claim;
use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::layout::{DataAt, Dir, NOT_BEFORE_MAX, RecordAt};
use crate::record::{self, Attempt, Place};
use crate::spool::Purpose;
use crate::time::UnixTime;

/// What came of settling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is done.
    Done,
    /// The claim had been taken away: nothing was touched.
    Lost,
    /// The command had moved the data out of the spool and then failed. There is nothing to try
    /// again with; the record lies in `failed/` with the reason, and without data.
    DataTaken,
}

impl Claim {
    /// The upload has been delivered, durably. `destination` and `result` go into the receipt.
    ///
    /// # Errors
    /// As the steps. The upload is delivered again then, with the same id and a higher attempt.
    pub fn delivered(
        self,
        destination: Option<String>,
        result: Option<Value>,
        now: UnixTime,
    ) -> Result<Settled, DiskError> {
        if !self.is_ours()? && !self.is_still_told() {
            return Ok(Settled::Lost);
        }
        self.tell_delivered(destination, result, now)
    }

    /// The steps of [`Self::delivered`] after the look whether the claim is still ours. Where the
    /// filesystem has lost the lock it may be taken away between any two of them.
    pub(crate) fn tell_delivered(
        mut self,
        destination: Option<String>,
        result: Option<Value>,
        now: UnixTime,
    ) -> Result<Settled, DiskError> {
        let path = self.path();
        failpoint::hit(Failpoint::SettleDelivered).on("settle", &path)?;
        self.record.set_ending(Place::Delivered, now);
        let receipt = self.spool.layout().record(self.id, RecordAt::Receipts);
        let durably = self.spool.durability().syncs_finish();
        let more = destination.is_some() || result.is_some();
        let told = &mut self.record.rest;
        let tells_more = more || !told.history.is_empty() || told.destination.is_some();
        told.destination = destination;
        told.destination_inode = None;
        told.result = result;
        if tells_more && self.write_receipt(&receipt)? {
            if durably {
                self.spool.sync_dir(Dir::Receipts)?;
            }
            failpoint::hit(Failpoint::SettleReceiptWritten).on("settle", &path)?;
            durable::unlink(&path)?;
            failpoint::hit(Failpoint::SettleDataRemoved).on("settle", &path)?;
            durable::unlink(&self.record_path())?;
        } else {
            self.rewrite_head(durably)?;
            failpoint::hit(Failpoint::SettleReceiptWritten).on("settle", &path)?;
            let removed = durable::unlink(&path)?;
            failpoint::hit(Failpoint::SettleDataRemoved).on("settle", &path)?;
            if !self.keep_receipt(&receipt, removed)? {
                return Ok(Settled::Lost);
            }
            // There was no space for what it tells more; now there may be some.
            if tells_more && !self.write_receipt(&receipt)? {
                tracing::warn!("the receipt lacks destination and result: no space");
            }
        }
        self.remove_state()?;
        self.release(&path)
    }

    /// The attempt failed; the next one may begin at `not_before` (Unix seconds).
    ///
    /// # Errors
    /// As the steps. The upload goes back to the queue without its delay then.
    pub fn retry(self, attempt: Attempt, not_before: u64) -> Result<Settled, DiskError> {
        let at = DataAt::Deferred(not_before.min(NOT_BEFORE_MAX));
        self.go_to(at, Some(attempt))
    }

    /// Nothing was tried, or not to the end: back to the queue, the attempt not counted.
    ///
    /// # Errors
    /// As the steps.
    pub fn put_back(self) -> Result<Settled, DiskError> {
        self.go_to(DataAt::Completed, None)
    }

    /// Takes the upload aside for an operator, the attempt not counted.
    ///
    /// # Errors
    /// As the steps.
    pub fn hold(self) -> Result<Settled, DiskError> {
        self.go_to(DataAt::Held, None)
    }

    /// Moves the data on. Without a failed attempt to remember, the one that was begun counts for
    /// nothing.
    fn go_to(mut self, at: DataAt, attempt: Option<Attempt>) -> Result<Settled, DiskError> {
        if !self.is_ours()? {
            return self.without_data(attempt, "not finished");
        }
        let path = self.path();
        self.record.set_place(at);
        let chose_name = self.keep_destination();
        let failed = attempt.is_some();
        match attempt {
            Some(attempt) => self.record.remember(attempt),
            None => self.record.attempts = self.record.attempts.saturating_sub(1),
        }
        if chose_name {
            self.replace_record(Purpose::GoOn)?;
        } else if !failed || !self.tell_more()? {
            // Data in `held/` whose record says otherwise is about to be released.
            let durably = at == DataAt::Held && self.spool.durability().syncs_finish();
            self.rewrite_head(durably)?;
        }
        failpoint::hit(Failpoint::SettleRetryRecorded).on("settle", &path)?;
        durable::rename_noreplace(&path, &self.spool.layout().data(self.id, at))?;
        self.remove_state()?;
        self.release(&path)
    }

    /// The upload will never be processed: it goes to `failed/` with the reason.
    ///
    /// # Errors
    /// As the steps. Whoever finds the claim next goes on from there.
    pub fn dead(
        mut self,
        attempt: Option<Attempt>,
        reason: &str,
        now: UnixTime,
    ) -> Result<Settled, DiskError> {
        if !self.is_ours()? {
            return self.without_data(attempt, reason);
        }
        let path = self.path();
        if let Some(attempt) = attempt {
            self.record.remember(attempt);
        }
        self.keep_destination();
        self.record.set_place(DataAt::Failed);
        if !self.tell_more()? {
            self.rewrite_head(self.spool.durability().syncs_finish())?;
        }
        burial::move_to_failed(self.locked(), Some(&self.record), reason, now)?;
        self.remove_state()?;
        self.release(&path)
    }

    /// There is no data under the claimed name: the claim was lost, or the command has moved it
    /// away itself and failed after that.
    fn without_data(
        mut self,
        attempt: Option<Attempt>,
        reason: &str,
    ) -> Result<Settled, DiskError> {
        // Another file has the name if an operator takes the claim away.
        let is_taken = durable::stat(&self.path())?.is_some();
        if is_taken || !self.is_still_told() {
            return Ok(Settled::Lost);
        }
        let error = attempt.as_ref().map(|attempt| attempt.error.clone());
        let error = error.unwrap_or_else(|| reason.to_owned());
        if let Some(attempt) = attempt {
            self.record.remember(attempt);
        }
        self.record.set_place(DataAt::Failed);
        self.replace_record(Purpose::GoOn)?;
        let why = format!("the command moved the data out of the spool and failed: {error}");
        let (spool, id) = (&self.spool, self.id);
        burial::write_reason(spool, id, Some(&self.record), &why, UnixTime::now())?;
        durable::rename_if_there(
            &self.record_path(),
            &spool.layout().record(id, RecordAt::Failed),
        )?;
        if spool.durability().syncs_finish() {
            spool.sync_dir(Dir::Failed)?;
        }
        self.remove_state()?;
        self.lock.unlock(&self.path())?;
        Ok(Settled::DataTaken)
    }

    /// Notes in the record which name the delivery has chosen in the destination: the next attempt
    /// must find it again. Whether that is new to the record.
    fn keep_destination(&mut self) -> bool {
        let (chosen, known) = (&self.state, &mut self.record.rest);
        let is_known = known.destination == chosen.destination
            && known.destination_inode == chosen.destination_inode;
        known.destination.clone_from(&chosen.destination);
        known.destination_inode = chosen.destination_inode;
        !is_known
    }

    /// Writes the receipt as a record of its own; false if there is no space for one.
    fn write_receipt(&self, receipt: &Path) -> Result<bool, DiskError> {
        let (spool, id, record) = (&self.spool, self.id, &self.record);
        let (more, receipt) = (Purpose::TellMore, receipt.to_owned());
        match spool.replace_record_for(more, receipt, Dir::Claimed, id, record) {
            Err(error) if error.is_full() => Ok(false),
            written => written.map(|_| true),
        }
    }

    fn rewrite_head(&mut self, durably: bool) -> Result<(), DiskError> {
        let (file, record) = (&mut self.file, &self.record);
        self.spool.rewrite_head(file, self.id, record, durably)
    }

    /// Replaces the record by one that tells of the failed attempt too; false if there is no space
    /// for it, so that only the head can be told.
    fn tell_more(&mut self) -> Result<bool, DiskError> {
        match self.replace_record(Purpose::TellMore) {
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "the record does not tell of this attempt");
                Ok(false)
            }
            told => told.map(|()| true),
        }
    }

    fn replace_record(&mut self, purpose: Purpose) -> Result<(), DiskError> {
        let (path, spool, record) = (self.record_path(), &self.spool, &self.record);
        self.file = spool.replace_record_for(purpose, path, Dir::Claimed, self.id, record)?;
        Ok(())
    }

    /// Makes the record, which tells the delivery, the receipt. `removed`: whether the data was
    /// still ours to remove. False if the claim had been taken away at the last moment, which a
    /// lock prevents unless the filesystem has lost it.
    fn keep_receipt(&self, receipt: &Path, removed: bool) -> Result<bool, DiskError> {
        let record_path = self.record_path();
        let ours = self.file.file().metadata().on("stat", &record_path)?;
        match durable::stat(&record_path)? {
            Some(there) if durable::identity(&there) != durable::identity(&ours) => {
                // Who takes a claim away replaces the record first, then moves the data.
                if !removed {
                    return Ok(false);
                }
                let (id, record) = (self.id, &self.record);
                self.spool
                    .replace_record(receipt.to_owned(), Dir::Claimed, id, record)?;
                durable::unlink(&record_path)?;
            }
            // Somebody may have found the state without its data and finished this already.
            _ => durable::rename_if_there(&record_path, receipt)?,
        }
        Ok(true)
    }

    /// Whether the record still tells of this claim. Who takes a claim away rewrites the record
    /// before the data moves; so if it does and the data is gone, the hook has moved it itself
    /// (`mv "$UPLOAD_FILE" …`), and that it succeeded means delivered.
    fn is_still_told(&self) -> bool {
        let record = record::read(&self.record_path());
        record.is_ok_and(|record| record.data_at() == Some(DataAt::Claimed(self.claim)))
    }

    /// Unlocks by hand: a process that the hook left behind may hold the descriptor for ever.
    fn release(self, path: &Path) -> Result<Settled, DiskError> {
        self.lock.unlock(path)?;
        let spool = Arc::clone(&self.spool);
        // The space of what has been removed is free once nobody has it open.
        drop(self);
        spool.refill_spares();
        Ok(Settled::Done)
    }
}
