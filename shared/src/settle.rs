//! How a claim ends: delivered, retried, dead or put back. And how a dead letter is buried.
//!
//! Delivered: the receipt durable, own claimed name unlinked, record moved. "Data and a record
//! that says delivered" is always safe to remove. Retry: the record tells the next time, then the
//! data moves. Dead: the record says so, the reason is written, then data, then record.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claim::Claim;
use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, NOT_BEFORE_MAX, RecordAt};
use crate::lock::DataLock;
use crate::record::{self, Attempt, Place, Record, RecordError};
use crate::spool::Spool;
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

/// Why an upload lies in `failed/`: the content of `{id}.reason.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The upload.
    pub id: UploadId,
    /// Why it is here, in one line.
    pub final_reason: String,
    /// Since when.
    pub failed_at: UnixTime,
    /// Attempts begun.
    pub attempts_begun: u32,
    /// The attempts that failed, oldest first.
    pub attempts: Vec<Attempt>,
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
        if more || !self.record.rest.history.is_empty() || self.record.rest.destination.is_some() {
            self.record.rest.destination = destination;
            self.record.rest.destination_inode = None;
            self.record.rest.result = result;
            let (id, record) = (self.id, &self.record);
            self.spool
                .replace_record(receipt, Dir::Claimed, id, record, durably)?;
            if durably {
                self.spool.sync_dir(Dir::Receipts)?;
            }
            failpoint::hit(Failpoint::SettleReceiptWritten).on("settle", &path)?;
            durable::unlink(&path)?;
            failpoint::hit(Failpoint::SettleDataRemoved).on("settle", &path)?;
            durable::unlink(&self.record_path())?;
        } else {
            self.file.write_head(&self.record)?;
            if durably {
                self.file.sync()?;
            }
            failpoint::hit(Failpoint::SettleReceiptWritten).on("settle", &path)?;
            let removed = durable::unlink(&path)?;
            failpoint::hit(Failpoint::SettleDataRemoved).on("settle", &path)?;
            if !self.keep_receipt(receipt, removed)? {
                return Ok(Settled::Lost);
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
        self.go_to(at, Some(attempt), false)
    }

    /// Nothing was tried, or not to the end: back to the queue, the attempt not counted.
    ///
    /// # Errors
    /// As the steps.
    pub fn put_back(self) -> Result<Settled, DiskError> {
        self.go_to(DataAt::Completed, None, true)
    }

    /// Takes the upload aside for an operator, the attempt not counted.
    ///
    /// # Errors
    /// As the steps.
    pub fn hold(self) -> Result<Settled, DiskError> {
        self.go_to(DataAt::Held, None, true)
    }

    fn go_to(
        mut self,
        at: DataAt,
        attempt: Option<Attempt>,
        uncount: bool,
    ) -> Result<Settled, DiskError> {
        if !self.is_ours()? {
            return self.without_data(attempt, "not finished");
        }
        let path = self.path();
        self.record.set_place(at);
        if uncount {
            self.record.attempts = self.record.attempts.saturating_sub(1);
        }
        // The name chosen in the destination must be found again by the next attempt.
        let chosen = (&self.state.destination, self.state.destination_inode);
        let known = (
            &self.record.rest.destination,
            self.record.rest.destination_inode,
        );
        let more = attempt.is_some() || chosen != known;
        self.record
            .rest
            .destination
            .clone_from(&self.state.destination);
        self.record.rest.destination_inode = self.state.destination_inode;
        if let Some(attempt) = attempt {
            self.record.remember(attempt);
        }
        if more {
            self.replace_record()?;
        } else {
            self.file.write_head(&self.record)?;
            // Data in `held/` whose record says otherwise is about to be released.
            if at == DataAt::Held && self.spool.durability().syncs_finish() {
                self.file.sync()?;
            }
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
        self.record
            .rest
            .destination
            .clone_from(&self.state.destination);
        self.record.rest.destination_inode = self.state.destination_inode;
        self.record.set_place(DataAt::Failed);
        self.replace_record()?;
        let from = DataAt::Claimed(self.claim);
        inter(&self.spool, self.id, from, Some(&self.record), reason, now)?;
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
        if !self.is_still_told() {
            return Ok(Settled::Lost);
        }
        let error = attempt.as_ref().map(|attempt| attempt.error.clone());
        let error = error.unwrap_or_else(|| reason.to_owned());
        if let Some(attempt) = attempt {
            self.record.remember(attempt);
        }
        self.record.set_place(DataAt::Failed);
        self.replace_record()?;
        let why = format!("the command moved the data out of the spool and failed: {error}");
        let (spool, id) = (&self.spool, self.id);
        write_reason(spool, id, Some(&self.record), &why, UnixTime::now())?;
        move_if_there(
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

    fn replace_record(&mut self) -> Result<(), DiskError> {
        let durably = self.spool.durability().syncs_finish();
        let path = self.record_path();
        self.file =
            self.spool
                .replace_record(path, Dir::Claimed, self.id, &self.record, durably)?;
        Ok(())
    }

    /// Makes the record, which tells the delivery, the receipt. `removed`: whether the data was
    /// still ours to remove. False if the claim had been taken away at the last moment, which a
    /// lock prevents unless the filesystem has lost it.
    fn keep_receipt(&self, receipt: PathBuf, removed: bool) -> Result<bool, DiskError> {
        let record_path = self.record_path();
        let ours = self.file.file().metadata().on("stat", &record_path)?;
        match durable::stat(&record_path)? {
            Some(there) if durable::identity(&there) != durable::identity(&ours) => {
                // Who takes a claim away replaces the record first, then moves the data.
                if !removed {
                    return Ok(false);
                }
                let durably = self.spool.durability().syncs_finish();
                let (id, record) = (self.id, &self.record);
                self.spool
                    .replace_record(receipt, Dir::Claimed, id, record, durably)?;
                durable::unlink(&record_path)?;
            }
            // Somebody may have found the state without its data and finished this already.
            _ => move_if_there(&record_path, &receipt)?,
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

    /// Last of all: a state without data tells every consumer that a settling was cut short.
    fn remove_state(&self) -> Result<(), DiskError> {
        durable::unlink(&self.spool.layout().state(self.id, self.claim)).map(|_| ())
    }

    /// Unlocks by hand: a process that the hook left behind may hold the descriptor for ever.
    fn release(self, path: &Path) -> Result<Settled, DiskError> {
        self.lock.unlock(path)?;
        Ok(Settled::Done)
    }
}

/// Moves an upload that cannot be processed as it is to `failed/`. The caller holds the lock.
///
/// # Errors
/// As the steps.
pub fn bury(
    spool: &Spool,
    id: UploadId,
    lock: &DataLock,
    from: DataAt,
    reason: &str,
    now: UnixTime,
) -> Result<(), DiskError> {
    bury_if(spool, id, lock, from, reason, now, |_| true).map(|_| ())
}

/// As [`bury`], if the record satisfies a condition; `None` is one that is missing or cannot be
/// read. Whether it was done.
///
/// # Errors
/// As the steps.
pub fn bury_if(
    spool: &Spool,
    id: UploadId,
    lock: &DataLock,
    from: DataAt,
    reason: &str,
    now: UnixTime,
    condition: impl FnOnce(Option<&Record>) -> bool,
) -> Result<bool, DiskError> {
    let layout = spool.layout();
    let record_at = if from == DataAt::Uploads {
        RecordAt::Uploads
    } else {
        RecordAt::Completed
    };
    let record_path = layout.record(id, record_at);
    let temp_dir = crate::ending::temp_dir(record_at);
    let opened = match spool.open_record(record_path.clone(), temp_dir, id) {
        Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
        opened => opened.ok(),
    };
    if !condition(opened.as_ref().map(|(_, record)| record)) {
        return Ok(false);
    }
    let mut record = None;
    if let Some((file, mut told)) = opened {
        told.set_place(DataAt::Failed);
        file.write_head(&told)?;
        if spool.durability().syncs_finish() {
            file.sync()?;
        }
        record = Some(told);
    }
    inter(spool, id, from, record.as_ref(), reason, now)?;
    if record_at == RecordAt::Uploads {
        move_if_there(&record_path, &layout.record(id, RecordAt::Failed))?;
    }
    lock.unlock(&layout.data(id, DataAt::Failed))?;
    Ok(true)
}

/// Reason, then data, then record, into `failed/`; all durable at the end.
fn inter(
    spool: &Spool,
    id: UploadId,
    from: DataAt,
    record: Option<&Record>,
    reason: &str,
    now: UnixTime,
) -> Result<(), DiskError> {
    let layout = spool.layout();
    let durably = spool.durability().syncs_finish();
    let path = layout.data(id, from);
    write_reason(spool, id, record, reason, now)?;
    failpoint::hit(Failpoint::SettleReasonWritten).on("bury", &path)?;
    durable::rename_noreplace(&path, &layout.data(id, DataAt::Failed))?;
    failpoint::hit(Failpoint::SettleDataFailed).on("bury", &path)?;
    move_if_there(
        &layout.record(id, RecordAt::Completed),
        &layout.record(id, RecordAt::Failed),
    )?;
    if durably {
        spool.sync_dir(Dir::Failed)?;
    }
    Ok(())
}

fn write_reason(
    spool: &Spool,
    id: UploadId,
    record: Option<&Record>,
    reason: &str,
    now: UnixTime,
) -> Result<(), DiskError> {
    let reason = Reason {
        id,
        final_reason: reason.to_owned(),
        failed_at: now,
        attempts_begun: record.map_or(0, |record| record.attempts),
        attempts: record
            .map(|record| record.rest.history.clone())
            .unwrap_or_default(),
    };
    let bytes = serde_json::to_vec_pretty(&reason).unwrap_or_default();
    let durably = spool.durability().syncs_finish();
    let path = spool.layout().reason(id);
    // Nobody asks for a reason before the data lies beside it: it may be written under its own name,
    // which saves a rename. One that is there was left by a burial that was cut short.
    match spool.create_file(&path) {
        Ok(file) => write_whole(file, &path, &bytes, durably),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            replace_file(spool, &path, id, &bytes, durably)
        }
        Err(error) => Err(error),
    }
}

fn move_if_there(from: &Path, to: &Path) -> Result<(), DiskError> {
    match durable::rename(from, to) {
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    }
}

/// Writes a small file of an upload anew: temporary file in `claimed/`, renamed.
///
/// # Errors
/// As write(2), fdatasync(2), rename(2); the old file is untouched then.
pub(crate) fn replace_file(
    spool: &Spool,
    path: &Path,
    id: UploadId,
    bytes: &[u8],
    durably: bool,
) -> Result<(), DiskError> {
    let temp = spool.temp(Dir::Claimed, id);
    write_whole(spool.create_file(&temp)?, &temp, bytes, durably)?;
    if let Err(error) = durable::rename(&temp, path) {
        durable::unlink(&temp)?;
        return Err(error);
    }
    Ok(())
}

/// Writes a new file; nothing is left of it if that fails.
fn write_whole(mut file: File, path: &Path, bytes: &[u8], durably: bool) -> Result<(), DiskError> {
    let mut written = file.write_all(bytes).on("write", path);
    if durably {
        written = written.and_then(|()| durable::sync_data(&file, path));
    }
    if written.is_err() {
        durable::unlink(path)?;
    }
    written
}
