//! What an operator does to uploads that nobody works on: retry, hold, release. Safe while
//! everything runs, because it takes the same lock.
//!
//! A retry or a release moves an upload backward, to a directory that a concurrent lookup may have
//! passed already. It moves the record first, then the data, each by one rename: with a link and an
//! unlink instead, a crash between the two left a second name that outlived the upload's delivery.
//! After a crash, [`settle_backward`] and [`settle_held`] complete the move.

use std::sync::Arc;

use crate::durable::{self, DiskError, OnPath};
use crate::ending;
use crate::failpoint::{self, Failpoint};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::locked::Locked;
use crate::lookup;
use crate::record::{self, Place, Record, RecordError};
use crate::spool::Spool;

/// What came of an operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operated {
    /// It is done.
    Done,
    /// Somebody works on it.
    Busy,
    /// It is not in a state in which this makes sense.
    NotThere,
    /// There is no such upload.
    Missing,
}

/// Puts a dead letter, or an upload that waits for its next attempt, back into the queue with its
/// attempts forgotten.
///
/// # Errors
/// As the steps; [`settle_backward`] goes on from there.
pub fn retry(spool: &Arc<Spool>, id: UploadId) -> Result<Operated, DiskError> {
    requeue(
        spool,
        id,
        |at| matches!(at, DataAt::Failed | DataAt::Deferred(_)),
        |record| {
            record.attempts = 0;
        },
    )
}

/// Puts an upload that was taken aside back into the queue.
///
/// # Errors
/// As [`retry`].
pub fn release(spool: &Arc<Spool>, id: UploadId) -> Result<Operated, DiskError> {
    requeue(spool, id, |at| at == DataAt::Held, |_| ())
}

/// Takes an upload that is queued or deferred aside; nothing claims it there.
///
/// # Errors
/// As the steps.
pub fn hold(spool: &Arc<Spool>, id: UploadId) -> Result<Operated, DiskError> {
    let from = |at| matches!(at, DataAt::Completed | DataAt::Deferred(_));
    with_locked(spool, id, from, |locked, record_at| {
        let told = tell(locked, record_at, DataAt::Held, &|_| ())?;
        if told == Operated::Done {
            let held = spool.layout().data(id, DataAt::Held);
            durable::rename_noreplace(&locked.path(), &held)?;
            locked.lock.unlock(&held)?;
        }
        Ok(told)
    })
}

fn requeue(
    spool: &Arc<Spool>,
    id: UploadId,
    from: impl Fn(DataAt) -> bool,
    change: impl Fn(&mut Record),
) -> Result<Operated, DiskError> {
    with_locked(spool, id, from, |locked, record_at| {
        let told = tell(locked, record_at, DataAt::Completed, &change)?;
        if told == Operated::Done {
            move_back(locked)?;
        }
        Ok(told)
    })
}

/// Gives the data its name in `completed/`; the record is there already and says so.
fn move_back(locked: Locked<'_>) -> Result<(), DiskError> {
    let Locked {
        spool,
        id,
        at,
        lock,
    } = locked;
    let layout = spool.layout();
    let (old, new) = (locked.path(), layout.data(id, DataAt::Completed));
    failpoint::hit(Failpoint::BackRecorded).on("requeue", &old)?;
    durable::rename_noreplace(&old, &new)?;
    failpoint::hit(Failpoint::BackMoved).on("requeue", &old)?;
    if at == DataAt::Failed {
        durable::unlink(&layout.reason(id))?;
    }
    if spool.durability().syncs_finish() {
        spool.sync_dir(Dir::Completed)?;
    }
    lock.unlock(&new)
}

/// Finishes what a crash left of data in `failed/` whose record is elsewhere: a burial (the record
/// still has to come) or a retry (the data still has to go). The caller knows that the record is
/// not in `failed/`.
///
/// # Errors
/// As the steps.
pub fn settle_backward(spool: &Arc<Spool>, id: UploadId) -> Result<Operated, DiskError> {
    let layout = spool.layout();
    let path = layout.data(id, DataAt::Failed);
    let lock = match DataLock::try_lock(&path)? {
        TryLock::Held(lock) => lock,
        TryLock::Busy => return Ok(Operated::Busy),
        TryLock::Missing => return Ok(Operated::Missing),
    };
    let locked = Locked {
        spool,
        id,
        at: DataAt::Failed,
        lock: &lock,
    };
    let record_path = layout.record(id, RecordAt::Completed);
    let record = match record::read(&record_path) {
        Ok(record) => record,
        Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
        Err(_) => return receipt_of(locked),
    };
    let told = record.data_at();
    let has_told_name = match told {
        Some(told) if told != DataAt::Failed => lock.is_at(&layout.data(id, told))?,
        _ => false,
    };
    match told {
        None if record.place.is_ending() => {
            ending::finish(locked, RecordAt::Completed)?;
        }
        // A second name, on a file system that cannot rename without replacing in one step.
        Some(_) if has_told_name => drop(durable::unlink(&path)?),
        Some(DataAt::Completed) => {
            return move_back(locked).map(|()| Operated::Done);
        }
        // Also if it tells of a claim and not of which: that is no ending.
        Some(_) | None => return bury_record(spool, id),
    }
    durable::unlink(&layout.reason(id))?;
    Ok(Operated::Done)
}

/// Lets the record follow its data. Where it does not say `failed`, a power cut has kept the data's
/// new name and lost the word: this is the data's only name all the same.
fn bury_record(spool: &Spool, id: UploadId) -> Result<Operated, DiskError> {
    let layout = spool.layout();
    let path = layout.record(id, RecordAt::Completed);
    match spool.open_record(path.clone(), Dir::Claimed, id) {
        Ok((file, mut record)) if record.data_at() != Some(DataAt::Failed) => {
            record.set_place(DataAt::Failed);
            file.write_head(&record)?;
        }
        Err(RecordError::Disk(error)) => return Err(error),
        Ok(_) | Err(RecordError::Unreadable { .. }) => {}
    }
    durable::rename(&path, &layout.record(id, RecordAt::Failed))?;
    Ok(Operated::Done)
}

/// Finishes what a crash left of data in `held/`: a release (the data still has to go) or an
/// ending. The caller has seen no life in it for longer than its grace.
///
/// # Errors
/// As the steps.
pub fn settle_held(spool: &Arc<Spool>, id: UploadId) -> Result<Operated, DiskError> {
    let layout = spool.layout();
    let lock = match DataLock::try_lock(&layout.data(id, DataAt::Held))? {
        TryLock::Held(lock) => lock,
        TryLock::Busy => return Ok(Operated::Busy),
        TryLock::Missing => return Ok(Operated::Missing),
    };
    let locked = Locked {
        spool,
        id,
        at: DataAt::Held,
        lock: &lock,
    };
    let ended = |record_at| ending::finish(locked, record_at).map(|()| Operated::Done);
    match record::read(&layout.record(id, RecordAt::Completed)) {
        Ok(record) if record.place.is_ending() => ended(RecordAt::Completed),
        Ok(record) if record.place == Place::Held => Ok(Operated::NotThere),
        Ok(_) => move_back(locked).map(|()| Operated::Done),
        Err(RecordError::Disk(error)) if !error.is_missing() => Err(error),
        Err(RecordError::Unreadable { .. }) => Ok(Operated::NotThere),
        Err(_) => match record::read(&layout.record(id, RecordAt::Receipts)) {
            Ok(receipt) if receipt.place.is_ending() => ended(RecordAt::Receipts),
            _ => Ok(Operated::NotThere),
        },
    }
}

/// The second name of an upload that was claimed and delivered before a retry took the first.
fn receipt_of(locked: Locked<'_>) -> Result<Operated, DiskError> {
    let (id, layout) = (locked.id, locked.spool.layout());
    let receipt = record::read(&layout.record(id, RecordAt::Receipts));
    if !receipt.is_ok_and(|record| record.place.is_ending()) {
        return Ok(Operated::NotThere);
    }
    durable::unlink(&locked.path())?;
    durable::unlink(&layout.reason(id))?;
    Ok(Operated::Done)
}

/// Writes an operator's word into the record, which lay at `record_at` before the lock was held. One
/// that has come to tell an ending since is finished instead: nothing brings an ended upload back.
fn tell(
    locked: Locked<'_>,
    record_at: RecordAt,
    to: DataAt,
    change: &impl Fn(&mut Record),
) -> Result<Operated, DiskError> {
    let Locked { spool, id, .. } = locked;
    let layout = spool.layout();
    let path = layout.record(id, record_at);
    let (file, mut record) = match spool.open_record(path.clone(), Dir::Claimed, id) {
        Ok(opened) => opened,
        Err(RecordError::Disk(error)) if error.is_missing() => return Ok(Operated::Busy),
        Err(RecordError::Disk(error)) => return Err(error),
        Err(error @ RecordError::Unreadable { .. }) => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string());
            return Err(DiskError::new("read", path, source));
        }
    };
    if record.place.is_ending() {
        ending::finish(locked, record_at)?;
        return Ok(Operated::NotThere);
    }
    if record_at == RecordAt::Failed {
        // As long as it says `failed`, there it is a burial cut short: it goes back to where it was.
        durable::rename(&path, &layout.record(id, RecordAt::Completed))?;
    }
    record.set_place(to);
    change(&mut record);
    file.write_head(&record)?;
    if spool.durability().syncs_finish() {
        file.sync()?;
    }
    Ok(Operated::Done)
}

fn with_locked(
    spool: &Arc<Spool>,
    id: UploadId,
    from: impl Fn(DataAt) -> bool,
    act: impl FnOnce(Locked<'_>, RecordAt) -> Result<Operated, DiskError>,
) -> Result<Operated, DiskError> {
    let Some(found) = lookup::find(spool, id)? else {
        return Ok(Operated::Missing);
    };
    for at in lookup::data_candidates(&found)
        .into_iter()
        .filter(|&at| from(at))
    {
        match DataLock::try_lock(&spool.layout().data(id, at))? {
            TryLock::Held(lock) => {
                let lock = &lock;
                return act(
                    Locked {
                        spool,
                        id,
                        at,
                        lock,
                    },
                    found.at,
                );
            }
            TryLock::Busy => return Ok(Operated::Busy),
            TryLock::Missing => {}
        }
    }
    Ok(Operated::NotThere)
}

#[cfg(test)]
mod tests;
