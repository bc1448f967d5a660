//! What an operator does to uploads that nobody works on: retry, hold, release. Safe while
//! everything runs, because it takes the same lock.
//!
//! Moves backward (to where earlier lookups have passed already) put the record first and then
//! give the data its second name before they take the first: it never has none.

use std::sync::Arc;

use crate::durable::{self, DiskError, OnPath};
use crate::failpoint::{self, Failpoint};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::lookup;
use crate::record::{Record, RecordError};
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
    with_locked(spool, id, from, |at, lock, record_at| {
        let layout = spool.layout();
        write_place(spool, id, record_at, DataAt::Held, &|_| ())?;
        let held = layout.data(id, DataAt::Held);
        durable::rename_noreplace(&layout.data(id, at), &held)?;
        lock.unlock(&held)
    })
}

fn requeue(
    spool: &Arc<Spool>,
    id: UploadId,
    from: impl Fn(DataAt) -> bool,
    change: impl Fn(&mut Record),
) -> Result<Operated, DiskError> {
    with_locked(spool, id, from, |at, lock, record_at| {
        let layout = spool.layout();
        write_place(spool, id, record_at, DataAt::Completed, &change)?;
        if record_at == RecordAt::Failed {
            let to = layout.record(id, RecordAt::Completed);
            durable::rename(&layout.record(id, record_at), &to)?;
        }
        link_back(spool, id, at)?;
        lock.unlock(&layout.data(id, DataAt::Completed))
    })
}

/// Gives the data its name in `completed/`, then takes the old one.
fn link_back(spool: &Spool, id: UploadId, from: DataAt) -> Result<(), DiskError> {
    let layout = spool.layout();
    let (old, new) = (layout.data(id, from), layout.data(id, DataAt::Completed));
    durable::link(&old, &new)?;
    failpoint::hit(Failpoint::BackLinked).on("requeue", &old)?;
    durable::unlink(&old)?;
    if from == DataAt::Failed {
        durable::unlink(&layout.reason(id))?;
    }
    if spool.durability().syncs_finish() {
        spool.sync_dir(Dir::Completed)?;
    }
    Ok(())
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
    let record_path = layout.record(id, RecordAt::Completed);
    let record = match crate::record::read(&record_path) {
        Ok(record) => record,
        Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
        Err(_) => return receipt_of(spool, id, &lock),
    };
    match record.data_at() {
        Some(DataAt::Failed) => {
            durable::rename(&record_path, &layout.record(id, RecordAt::Failed))?;
        }
        Some(_) => {
            let linked = layout.data(id, DataAt::Completed);
            if lock.is_at(&linked)? || record.data_at() != Some(DataAt::Completed) {
                durable::unlink(&path)?;
                durable::unlink(&layout.reason(id))?;
            } else {
                link_back(spool, id, DataAt::Failed)?;
            }
        }
        None => {
            crate::ending::finish(spool, id, &lock, DataAt::Failed, RecordAt::Completed)?;
            durable::unlink(&layout.reason(id))?;
        }
    }
    Ok(Operated::Done)
}

/// The second name of an upload that was claimed and delivered before a retry took the first.
fn receipt_of(spool: &Spool, id: UploadId, _lock: &DataLock) -> Result<Operated, DiskError> {
    let layout = spool.layout();
    let receipt = crate::record::read(&layout.record(id, RecordAt::Receipts));
    if !receipt.is_ok_and(|record| record.place.is_ending()) {
        return Ok(Operated::NotThere);
    }
    durable::unlink(&layout.data(id, DataAt::Failed))?;
    durable::unlink(&layout.reason(id))?;
    Ok(Operated::Done)
}

fn write_place(
    spool: &Spool,
    id: UploadId,
    record_at: RecordAt,
    at: DataAt,
    change: &impl Fn(&mut Record),
) -> Result<(), DiskError> {
    let path = spool.layout().record(id, record_at);
    let (file, mut record) = match spool.open_record(path.clone(), Dir::Claimed, id) {
        Ok(opened) => opened,
        Err(RecordError::Disk(error)) => return Err(error),
        Err(error @ RecordError::Unreadable { .. }) => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string());
            return Err(DiskError::new("read", path, source));
        }
    };
    record.set_place(at);
    change(&mut record);
    file.write_head(&record)?;
    if spool.durability().syncs_finish() {
        file.sync()?;
    }
    Ok(())
}

fn with_locked(
    spool: &Arc<Spool>,
    id: UploadId,
    from: impl Fn(DataAt) -> bool,
    act: impl FnOnce(DataAt, &DataLock, RecordAt) -> Result<(), DiskError>,
) -> Result<Operated, DiskError> {
    let Some(found) = lookup::find(spool, id)? else {
        return Ok(Operated::Missing);
    };
    for at in lookup::data_candidates(&found)
        .into_iter()
        .filter(|&at| from(at))
    {
        match DataLock::try_lock(&spool.layout().data(id, at))? {
            TryLock::Held(lock) => return act(at, &lock, found.at).map(|()| Operated::Done),
            TryLock::Busy => return Ok(Operated::Busy),
            TryLock::Missing => {}
        }
    }
    Ok(Operated::NotThere)
}
