//! How an upload ends before or instead of its delivery: DELETE, expiry, an operator's word.
//!
//! The steps, in this order:
//!
//! 1. The ending is written into the record, in place (so a full disk does not matter), and synced.
//!    From here on the upload has ended; after a crash, any program that finds it does the rest.
//! 2. The record is renamed into `receipts/`.
//! 3. The data is cut to length 0. That frees its space even while another process has it open.
//! 4. The data's name is removed.
//!
//! If step 2 finds no space for the new name, the data is cut first. Otherwise step 2 comes before
//! step 3, so that even without a sync no power cut leaves a record that promises bytes which its
//! data has lost: the filesystem keeps the order of changes to names.
//!
//! A marker in `outbox/` is left alone: the `completed` event is owed even after the upload ended.

use std::os::unix::fs::MetadataExt;

use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::locked::Locked;
use crate::lookup;
use crate::record::{Place, Record, RecordError, RecordFile};
use crate::spool::Spool;
use crate::time::UnixTime;

/// What came of ending an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has ended now.
    Ended,
    /// Somebody holds it: a PATCH, a consumer.
    Busy,
    /// It had ended before, and how.
    Already(Place),
    /// There is no such upload.
    Missing,
    /// The caller's condition did not hold once the lock was held.
    Spared,
}

/// Ends an upload wherever it is, unless it is being worked on.
///
/// # Errors
/// As the steps; a step that is left is finished by whoever looks at the upload next.
pub fn end(spool: &Spool, id: UploadId, how: Place, now: UnixTime) -> Result<End, DiskError> {
    end_if(spool, id, how, now, |_| true)
}

/// Ends an upload if, with the lock held, its record satisfies a condition.
///
/// # Errors
/// As [`end`].
pub fn end_if(
    spool: &Spool,
    id: UploadId,
    how: Place,
    now: UnixTime,
    condition: impl Fn(&Record) -> bool,
) -> Result<End, DiskError> {
    // A second look, for an upload that moved on between the look and the lock.
    for _ in 0..2 {
        let Some(found) = lookup::find(spool, id)? else {
            return Ok(End::Missing);
        };
        if found.record.place.is_ending() {
            return Ok(End::Already(found.record.place));
        }
        for at in lookup::data_candidates(&found) {
            // Its consumer's, whether or not the lock is free: a network filesystem may have lost
            // it while the consumer lives. Recovery, which knows of leases, gives it back.
            if matches!(at, DataAt::Claimed(_)) {
                if durable::stat(&spool.layout().data(id, at))?.is_some() {
                    return Ok(End::Busy);
                }
                continue;
            }
            let lock = match DataLock::try_lock(&spool.layout().data(id, at))? {
                TryLock::Held(lock) => lock,
                TryLock::Busy => return Ok(End::Busy),
                TryLock::Missing => continue,
            };
            let lock = &lock;
            let locked = Locked {
                spool,
                id,
                at,
                lock,
            };
            return end_locked(locked, found.at, now, |record| {
                condition(record).then_some(how)
            });
        }
    }
    end_without_data(spool, id, how, now, &condition)
}

/// There is a record, but its data is on its way from one name to another; unless the record lies
/// in `failed/`, where the data comes before it and goes after it: then a command has taken it.
fn end_without_data(
    spool: &Spool,
    id: UploadId,
    how: Place,
    now: UnixTime,
    condition: &impl Fn(&Record) -> bool,
) -> Result<End, DiskError> {
    let path = spool.layout().record(id, RecordAt::Failed);
    let (file, mut record) = match spool.open_record(path.clone(), Dir::Claimed, id) {
        Ok(opened) => opened,
        Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
        Err(_) => return Ok(End::Busy),
    };
    if durable::stat(&spool.layout().data(id, DataAt::Failed))?.is_some() {
        return Ok(End::Busy);
    }
    if !condition(&record) {
        return Ok(End::Spared);
    }
    record.set_ending(how, now);
    file.write_head(&record)?;
    if spool.durability().syncs_finish() {
        file.sync()?;
    }
    durable::rename(&path, &spool.layout().record(id, RecordAt::Receipts))?;
    durable::unlink(&spool.layout().reason(id))?;
    Ok(End::Ended)
}

/// Ends an upload whose record lies at `record_at`, in the way that `decide` names for the record;
/// not at all if it names none.
///
/// # Errors
/// As [`end`].
pub fn end_locked(
    locked: Locked<'_>,
    record_at: RecordAt,
    now: UnixTime,
    decide: impl FnOnce(&Record) -> Option<Place>,
) -> Result<End, DiskError> {
    let Locked { spool, id, .. } = locked;
    let path = spool.layout().record(id, record_at);
    let (file, mut record) = match open_record(locked, record_at) {
        Ok(opened) => opened,
        Err(RecordError::Disk(error)) if error.is_missing() => return Ok(End::Busy),
        Err(RecordError::Disk(error)) => return Err(error),
        Err(RecordError::Unreadable { .. }) => return Ok(End::Missing),
    };
    if record.place.is_ending() {
        finish(locked, record_at)?;
        return Ok(End::Already(record.place));
    }
    let Some(how) = decide(&record) else {
        return Ok(End::Spared);
    };
    record.set_ending(how, now);
    match file.write_head(&record) {
        // A filesystem that overwrites nothing in place (btrfs) needs room even for this, and has
        // it only once the freed blocks are known to be free.
        Err(error) if error.is_full() => {
            cut(locked)?;
            durable::sync_data(locked.lock.file(), &locked.path())?;
            file.write_head(&record)?;
        }
        written => written?,
    }
    if spool.durability().syncs_finish() {
        file.sync()?;
    }
    if how == Place::Expired && record.rest.announce {
        // Best effort: the ending matters more than that somebody hears of it.
        drop(spool.create_file(&spool.layout().event(id)));
    }
    failpoint::hit(Failpoint::EndRecorded).on("end", &path)?;
    finish(locked, record_at)?;
    Ok(End::Ended)
}

/// Opens the record for writing; one of tussi's must be replaced first, for which a full disk has
/// no room until the data has made some.
fn open_record(
    locked: Locked<'_>,
    record_at: RecordAt,
) -> Result<(RecordFile, Record), RecordError> {
    let Locked { spool, id, .. } = locked;
    let path = spool.layout().record(id, record_at);
    let temp_dir = temp_dir(record_at);
    match spool.open_record(path.clone(), temp_dir, id) {
        Err(RecordError::Disk(error)) if error.is_full() => {
            cut(locked)?;
            spool.open_record(path, temp_dir, id)
        }
        result => result,
    }
}

/// Takes the steps that are left once the record, which lies at `record_at`, tells an ending.
///
/// # Errors
/// As ftruncate(2), rename(2), unlink(2).
pub fn finish(locked: Locked<'_>, record_at: RecordAt) -> Result<(), DiskError> {
    let id = locked.id;
    let layout = locked.spool.layout();
    let data = locked.path();
    if record_at != RecordAt::Receipts {
        let (from, to) = (
            layout.record(id, record_at),
            layout.record(id, RecordAt::Receipts),
        );
        match durable::rename(&from, &to) {
            Err(error) if error.is_full() => {
                cut(locked)?;
                durable::rename(&from, &to)?;
            }
            moved => moved?,
        }
    }
    failpoint::hit(Failpoint::EndReceiptMoved).on("end", &data)?;
    cut(locked)?;
    failpoint::hit(Failpoint::EndDataCut).on("end", &data)?;
    durable::unlink(&data)?;
    if record_at == RecordAt::Failed {
        durable::unlink(&layout.reason(id))?;
    }
    Ok(())
}

/// Makes room at once; unless a consumer's delivery has given the same file a second name, outside
/// the spool: then the bytes are no longer only ours.
fn cut(locked: Locked<'_>) -> Result<(), DiskError> {
    let (file, path) = (locked.lock.file(), locked.path());
    let data = file.metadata().on("stat", &path)?;
    // Space that was set aside does not count as length.
    let holds_nothing = data.len() == 0 && data.blocks() == 0;
    if 1 < data.nlink() || holds_nothing {
        return Ok(());
    }
    file.set_len(0).on("truncate", &path)
}

/// Where a temporary record may be written on its way to a place.
#[must_use]
pub fn temp_dir(at: RecordAt) -> Dir {
    match at {
        RecordAt::Uploads => Dir::Uploads,
        RecordAt::Completed | RecordAt::Failed | RecordAt::Receipts => Dir::Claimed,
    }
}
