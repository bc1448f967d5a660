//! How an upload becomes a dead letter: the reason, then the data, then the record, into `failed/`.
//!
//! Before that the record, if there is one, is marked `failed`; nothing is deleted. A burial that a
//! crash cut short is recognized by where the data lies: while it still has its claimed name,
//! [`crate::orphan::recover`] buries it again; once it is in `failed/`,
//! [`crate::operate::settle_backward`] moves the record there too.

use std::io;

use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError, OnPath};
use crate::ending;
use crate::failpoint::{self, Failpoint};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::locked::Locked;
use crate::record::{Attempt, Record, RecordError};
use crate::spool::{Purpose, Spool};
use crate::time::UnixTime;

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

/// Moves an upload that cannot be processed as it is to `failed/`, and gives up its lock.
///
/// # Errors
/// As the steps.
pub fn bury(locked: Locked<'_>, reason: &str, now: UnixTime) -> Result<(), DiskError> {
    bury_if(locked, reason, now, |_| true).map(drop)
}

/// As [`bury`], if the record satisfies a condition; `None` is one that is missing or cannot be
/// read. Whether it was done.
///
/// # Errors
/// As the steps.
pub fn bury_if(
    locked: Locked<'_>,
    reason: &str,
    now: UnixTime,
    condition: impl FnOnce(Option<&Record>) -> bool,
) -> Result<bool, DiskError> {
    let Locked {
        spool,
        id,
        at,
        lock,
    } = locked;
    let layout = spool.layout();
    let record_at = match at {
        DataAt::Uploads => RecordAt::Uploads,
        _ => RecordAt::Completed,
    };
    let record_path = layout.record(id, record_at);
    let temp_dir = ending::temp_dir(record_at);
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
    move_to_failed(locked, record.as_ref(), reason, now)?;
    if record_at == RecordAt::Uploads {
        durable::rename_if_there(&record_path, &layout.record(id, RecordAt::Failed))?;
    }
    lock.unlock(&layout.data(id, DataAt::Failed))?;
    Ok(true)
}

/// Reason, then data, then record, into `failed/`; all durable at the end.
pub(crate) fn move_to_failed(
    locked: Locked<'_>,
    record: Option<&Record>,
    reason: &str,
    now: UnixTime,
) -> Result<(), DiskError> {
    let Locked { spool, id, .. } = locked;
    let layout = spool.layout();
    let path = locked.path();
    write_reason(spool, id, record, reason, now)?;
    failpoint::hit(Failpoint::SettleReasonWritten).on("bury", &path)?;
    durable::rename_noreplace(&path, &layout.data(id, DataAt::Failed))?;
    failpoint::hit(Failpoint::SettleDataFailed).on("bury", &path)?;
    durable::rename_if_there(
        &layout.record(id, RecordAt::Completed),
        &layout.record(id, RecordAt::Failed),
    )?;
    if spool.durability().syncs_finish() {
        spool.sync_dir(Dir::Failed)?;
    }
    Ok(())
}

/// Writes why an upload lies, or is about to lie, in `failed/`.
pub(crate) fn write_reason(
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
    match spool.create_whole(&path, &bytes, durably, Purpose::GoOn) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            spool.replace_file(&path, id, &bytes, durably)
        }
        written => written,
    }
    .map(drop)
}
