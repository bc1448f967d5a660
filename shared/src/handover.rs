//! The hand-over from `uploads/` to `completed/`, and its recovery.
//!
//! Order: the data synced, the final record synced, the record renamed, the data renamed (the
//! commit: consumers start from data files), `completed/` synced. Recovery is the same path: look
//! at what is there, take the next step, look again. [`next`] decides and is pure; [`recover`]
//! looks and acts under the upload's lock, in whichever program comes by first.

use std::path::Path;

use crate::durable::{self, DiskError, OnPath};
use crate::ending;
use crate::failpoint::{self, Failpoint};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::locked::Locked;
use crate::record::{self, Place, Record, RecordError};
use crate::size::{Length, Offset};
use crate::spool::Spool;
use crate::time::UnixTime;

/// Where the data file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSeen {
    /// In `uploads/`.
    Uploads,
    /// In `completed/`.
    Completed,
    /// In neither.
    Neither,
}

/// What a record says, as far as the hand-over is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSeen {
    /// There is none.
    None,
    /// More is to come.
    Receiving,
    /// Received in full by its own rule.
    Received,
    /// It has ended: terminated, expired, joined or delivered.
    Ended,
    /// Empty, torn or foreign.
    Unreadable,
}

/// The next step for an upload, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Step: rename the record from `uploads/` to `completed/`.
    MoveRecord,
    /// Step: rename the data from `uploads/` to `completed/`.
    MoveData,
    /// Step: remove the record in `uploads/`; the one in `completed/` is the final one.
    DropUploadsRecord,
    /// Step: remove the record in `completed/`; the upload is still being received.
    DropCompletedRecord,
    /// Step: rename the record from `completed/` back to `uploads/`.
    ReturnRecord,
    /// Step: finish the ending that the record tells: data away, record to `receipts/`.
    End,
    /// More bytes are to come.
    Receiving,
    /// Handed over.
    Done,
    /// Data without a record in `uploads/`: a creation that was never answered.
    Orphan,
    /// A record without data in `uploads/`.
    OrphanRecord,
    /// Data that no record explains: for `failed/`.
    Torn,
    /// The record is in `completed/`, the data claimed, deferred or held.
    InMotion,
    /// There is nothing here.
    Nothing,
}

/// Decides the next step from what is where.
#[must_use]
pub fn next(data: DataSeen, uploads: RecordSeen, completed: RecordSeen) -> Next {
    use RecordSeen as R;
    if uploads == R::Ended || completed == R::Ended {
        return Next::End;
    }
    match data {
        DataSeen::Uploads => match (uploads, completed) {
            (R::None, R::None) => Next::Orphan,
            (R::Received, R::Received) | (R::Unreadable, R::Received) => Next::DropUploadsRecord,
            (R::Received, _) => Next::MoveRecord,
            (R::None, R::Received) => Next::MoveData,
            (R::None | R::Unreadable, R::Receiving) => Next::ReturnRecord,
            (R::Receiving, R::None) => Next::Receiving,
            (R::Receiving, _) => Next::DropCompletedRecord,
            (R::None | R::Unreadable | R::Ended, _) => Next::Torn,
        },
        DataSeen::Completed => match (uploads, completed) {
            (R::None, R::Received) => Next::Done,
            (_, R::Received) => Next::DropUploadsRecord,
            (R::Received, _) => Next::MoveRecord,
            _ => Next::Torn,
        },
        DataSeen::Neither => match (uploads, completed) {
            (R::None, R::None) => Next::Nothing,
            (R::None, _) => Next::InMotion,
            (_, R::None) => Next::OrphanRecord,
            (_, _) => Next::DropUploadsRecord,
        },
    }
}

/// Moves a record that is received in full, and its data, which is durable, into `completed/`. The
/// caller holds the lock, and makes sure of the names.
///
/// # Errors
/// As rename(2). What is left behind then is put right by [`recover`].
pub fn move_over(
    spool: &Spool,
    id: UploadId,
    record_path: &Path,
    announce: bool,
) -> Result<(), DiskError> {
    let layout = spool.layout();
    if announce {
        leave_marker(spool, id, record_path)?;
        if spool.durability().syncs_finish() {
            spool.sync_dir(Dir::Outbox)?;
        }
    }
    failpoint::hit(Failpoint::HandoverRecordSynced).on("hand over", record_path)?;
    durable::rename(record_path, &layout.record(id, RecordAt::Completed))?;
    failpoint::hit(Failpoint::HandoverRecordMoved).on("hand over", record_path)?;
    let data = layout.data(id, DataAt::Uploads);
    durable::rename(&data, &layout.data(id, DataAt::Completed))?;
    failpoint::hit(Failpoint::HandoverDataMoved).on("hand over", record_path)
}

/// Leaves the marker of an event that is owed about an upload. On a full disk, where there may be no
/// inode for a file of its own, it is a second name of the record, of which nobody reads more than
/// the name; and if there is no room for that either, the upload goes on without: what is received
/// matters more than that somebody hears of it. Whoever hands it over tells it from memory then.
///
/// # Errors
/// As open(2) and link(2), but for a full disk.
pub fn leave_marker(spool: &Spool, id: UploadId, record_path: &Path) -> Result<(), DiskError> {
    let marker = spool.layout().event(id);
    let left = match spool.create_file(&marker) {
        Err(error) if error.is_full() => durable::link(record_path, &marker),
        created => created.map(drop),
    };
    match left {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.is_full() => {
            tracing::warn!(upload_id = %id, %error, "no room to note that an event is owed");
            Ok(())
        }
        left => left,
    }
}

/// Fills in what a record says once its upload is received in full.
pub fn complete(record: &mut Record, now: UnixTime) {
    record.finished_at = record.finished_at.or(Some(now));
    record.set_place(DataAt::Completed);
}

/// Makes the client begin anew: what the record says about the bytes is not true any more.
pub(crate) fn forget_bytes(record: &mut Record) {
    record.offset = Offset(0);
    record.unsettled = None;
    record.flagged = false;
    record.finished_at = None;
}

/// Cuts the data file to the upload's length: bytes above it are nobody's.
///
/// # Errors
/// As stat(2) and ftruncate(2); `UnexpectedEof` if the file is shorter than the length.
pub fn cut_to_length(lock: &DataLock, length: Length, path: &Path) -> Result<(), DiskError> {
    let size = lock.file().metadata().on("stat", path)?.len();
    if length.0 < size {
        lock.file().set_len(length.0).on("truncate", path)?;
    }
    if size < length.0 {
        let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        return Err(DiskError::new("hand over", path, error));
    }
    Ok(())
}

/// What [`recover`] found, after every step that it could take.
#[derive(Debug)]
pub enum Recovered {
    /// More bytes are to come; nothing was changed.
    Receiving(Box<Record>),
    /// It lies in `completed/`; whether this call brought it there.
    Completed {
        /// Whether anything was done.
        by_us: bool,
    },
    /// It had ended; what was left of it is gone now.
    Ended(Place),
    /// Data without record in `uploads/`; still there.
    Orphan,
    /// A record without data in `uploads/`; still there.
    OrphanRecord,
    /// Data that no record explains; still there.
    Torn {
        /// Which data.
        at: DataAt,
        /// Why.
        reason: String,
    },
    /// Somebody is at work on it.
    Busy,
    /// Neither in `uploads/` nor in `completed/` (or claimed, deferred, held).
    Elsewhere,
}

/// Looks at an upload in `uploads/` and `completed/` and takes steps until there is none left.
///
/// # Errors
/// As the steps. Whoever comes next can go on from there.
pub fn recover(spool: &Spool, id: UploadId, now: UnixTime) -> Result<Recovered, DiskError> {
    let layout = spool.layout();
    for at in [DataAt::Uploads, DataAt::Completed] {
        match DataLock::try_lock(&layout.data(id, at))? {
            TryLock::Held(lock) => {
                let lock = &lock;
                return recover_locked(
                    Locked {
                        spool,
                        id,
                        at,
                        lock,
                    },
                    now,
                );
            }
            TryLock::Busy => return Ok(Recovered::Busy),
            TryLock::Missing => {}
        }
    }
    recover_data_less(spool, id)
}

/// A record whose data is in neither directory: only an ending can be finished here. Should the
/// data still lie in `claimed/`, its recovery finds the receipt and removes it.
fn recover_data_less(spool: &Spool, id: UploadId) -> Result<Recovered, DiskError> {
    let (uploads, completed) = look(spool, id)?;
    match next(DataSeen::Neither, uploads.seen(), completed.seen()) {
        Next::End => {
            let (at, ended) = ended(uploads, completed);
            let layout = spool.layout();
            durable::rename(
                &layout.record(id, at),
                &layout.record(id, RecordAt::Receipts),
            )?;
            Ok(Recovered::Ended(ended.place))
        }
        Next::OrphanRecord => Ok(Recovered::OrphanRecord),
        Next::InMotion => drop_settled_record(spool, id),
        _ => Ok(Recovered::Elsewhere),
    }
}

/// A delivery whose receipt is written removes the data and then the record in `completed/`; if
/// only the last step is missing, it is taken here.
fn drop_settled_record(spool: &Spool, id: UploadId) -> Result<Recovered, DiskError> {
    let layout = spool.layout();
    match record::read(&layout.record(id, RecordAt::Receipts)) {
        Ok(receipt) if receipt.place.is_ending() => {
            durable::unlink(&layout.record(id, RecordAt::Completed))?;
            Ok(Recovered::Ended(receipt.place))
        }
        _ => Ok(Recovered::Elsewhere),
    }
}

/// [`recover`] for who holds the lock of data in `uploads/` or `completed/`.
///
/// # Errors
/// As the steps.
pub fn recover_locked(mut locked: Locked<'_>, now: UnixTime) -> Result<Recovered, DiskError> {
    let Locked { spool, id, .. } = locked;
    let layout = spool.layout();
    let (in_uploads, in_completed) = (
        layout.record(id, RecordAt::Uploads),
        layout.record(id, RecordAt::Completed),
    );
    let mut by_us = false;
    // Each step brings the upload nearer to an end; the bound is for a directory gone mad.
    for _ in 0..8 {
        let (uploads, completed) = look(spool, id)?;
        let data = match locked.at {
            DataAt::Uploads => DataSeen::Uploads,
            _ => DataSeen::Completed,
        };
        match next(data, uploads.seen(), completed.seen()) {
            Next::MoveRecord => {
                let whole = match uploads {
                    Looked::Record(record) => finish_record(locked, *record, now)?,
                    Looked::None | Looked::Unreadable(_) => true,
                };
                if whole {
                    durable::rename(&in_uploads, &in_completed)?;
                }
            }
            Next::MoveData => {
                // Never over another file, whoever put it there.
                let to = layout.data(id, DataAt::Completed);
                durable::rename_noreplace(&locked.path(), &to)?;
                locked.at = DataAt::Completed;
            }
            Next::DropUploadsRecord => drop(durable::unlink(&in_uploads)?),
            Next::DropCompletedRecord => drop(durable::unlink(&in_completed)?),
            Next::ReturnRecord => durable::rename(&in_completed, &in_uploads)?,
            Next::End => {
                let (record_at, record) = ended(uploads, completed);
                ending::finish(locked, record_at)?;
                return Ok(Recovered::Ended(record.place));
            }
            Next::Receiving => {
                return Ok(match uploads {
                    Looked::Record(record) => Recovered::Receiving(record),
                    Looked::None | Looked::Unreadable(_) => Recovered::Elsewhere,
                });
            }
            Next::Done => {
                if by_us && spool.durability().syncs_finish() {
                    spool.sync_dir(Dir::Completed)?;
                }
                return Ok(Recovered::Completed { by_us });
            }
            Next::Orphan => return without_record(locked, Recovered::Orphan),
            Next::OrphanRecord | Next::InMotion | Next::Nothing => return Ok(Recovered::Elsewhere),
            Next::Torn => {
                let reason = [uploads, completed].iter().find_map(Looked::reason);
                let reason = reason.unwrap_or_else(|| "data without a record".to_owned());
                let at = locked.at;
                return without_record(locked, Recovered::Torn { at, reason });
            }
        }
        by_us = true;
    }
    Ok(Recovered::Torn {
        at: locked.at,
        reason: "its files keep changing".to_owned(),
    })
}

/// Data that no record explains may be what an ending has not removed yet: its record is a
/// receipt by then.
fn without_record(locked: Locked<'_>, otherwise: Recovered) -> Result<Recovered, DiskError> {
    let receipt = locked.spool.layout().record(locked.id, RecordAt::Receipts);
    match record::read(&receipt) {
        Ok(receipt) if receipt.place.is_ending() => {
            ending::finish(locked, RecordAt::Receipts)?;
            Ok(Recovered::Ended(receipt.place))
        }
        _ => Ok(otherwise),
    }
}

/// Makes a record that was found in `uploads/` final, with data and record synced: the promise
/// of the hand-over does not depend on who makes it. `false` if bytes are missing after all (what
/// is not synced can be lost in a power cut) and can still be sent: then the record says so, and the
/// client goes on.
fn finish_record(locked: Locked<'_>, mut record: Record, now: UnixTime) -> Result<bool, DiskError> {
    let Locked {
        spool,
        id,
        at,
        lock,
    } = locked;
    let path = locked.path();
    match record.length {
        Some(length) if at == DataAt::Uploads => match cut_to_length(lock, length, &path) {
            Err(error) if is_short(&error) => {
                tracing::error!(upload_id = %id, "bytes are missing; the client is asked for all");
                give_back(spool, id)?;
                return Ok(false);
            }
            cut => cut?,
        },
        // Here nobody can send them again, and what was handed over is not to be cut any more. The
        // record follows the data as it is: who takes up two that do not fit buries them.
        Some(length) if lock.file().metadata().on("stat", &path)?.len() != length.0 => {
            return Ok(true);
        }
        _ => {}
    }
    if spool.durability().syncs_finish()
        && let Err(error) = durable::sync_data(lock.file(), &path)
    {
        // The watermark is ahead of the syncs only where PATCHes are not synced.
        if !spool.durability().syncs_patches() && at == DataAt::Uploads {
            give_back(spool, id)?;
        }
        return Err(error);
    }
    // On a full disk the record goes as it is and `finished_at` is filled in later, unless a later
    // boot would read something else in it.
    let may_stay = record.unsettled.is_none();
    complete(&mut record, now);
    let record_path = spool.layout().record(id, RecordAt::Uploads);
    let file = match spool.open_record(record_path, Dir::Uploads, id) {
        Ok((file, _)) => file,
        Err(RecordError::Disk(error)) if !(error.is_full() && may_stay) => return Err(error),
        Err(_) => return Ok(true),
    };
    match file.write_head(&record) {
        Err(error) if !(error.is_full() && may_stay) => return Err(error),
        _ => {}
    }
    if spool.durability().syncs_finish() {
        file.sync()?;
        spool.sync_creation_late()?;
    }
    if record.rest.announce {
        leave_marker(spool, id, file.path())?;
    }
    Ok(true)
}

fn is_short(error: &DiskError) -> bool {
    error.kind() == std::io::ErrorKind::UnexpectedEof
}

/// Takes the watermark back to the start. The caller holds the lock.
fn give_back(spool: &Spool, id: UploadId) -> Result<(), DiskError> {
    let path = spool.layout().record(id, RecordAt::Uploads);
    let (file, mut record) = match spool.open_record(path.clone(), Dir::Uploads, id) {
        Ok(opened) => opened,
        Err(RecordError::Disk(error)) => return Err(error),
        Err(RecordError::Unreadable { reason, .. }) => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
            return Err(DiskError::new("read", path, source));
        }
    };
    forget_bytes(&mut record);
    file.write_head(&record)?;
    if spool.durability().syncs_finish() {
        file.sync()?;
    }
    Ok(())
}

/// A record as it was found.
enum Looked {
    None,
    Record(Box<Record>),
    Unreadable(String),
}

impl Looked {
    fn seen(&self) -> RecordSeen {
        match self {
            Self::None => RecordSeen::None,
            Self::Unreadable(_) => RecordSeen::Unreadable,
            Self::Record(record) if record.place.is_ending() => RecordSeen::Ended,
            Self::Record(record) if record.is_received() => RecordSeen::Received,
            Self::Record(_) => RecordSeen::Receiving,
        }
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self::Unreadable(reason) => Some(reason.clone()),
            Self::None | Self::Record(_) => None,
        }
    }
}

fn look(spool: &Spool, id: UploadId) -> Result<(Looked, Looked), DiskError> {
    let read = |at| match record::read(&spool.layout().record(id, at)) {
        Ok(record) => Ok(Looked::Record(Box::new(record))),
        Err(RecordError::Disk(error)) if error.is_missing() => Ok(Looked::None),
        Err(RecordError::Disk(error)) => Err(error),
        Err(RecordError::Unreadable { reason, .. }) => Ok(Looked::Unreadable(reason)),
    };
    Ok((read(RecordAt::Uploads)?, read(RecordAt::Completed)?))
}

fn ended(uploads: Looked, completed: Looked) -> (RecordAt, Box<Record>) {
    match (uploads, completed) {
        (Looked::Record(record), _) if record.place.is_ending() => (RecordAt::Uploads, record),
        (_, Looked::Record(record)) => (RecordAt::Completed, record),
        _ => (
            RecordAt::Completed,
            Box::new(Record::new(None, UnixTime::default())),
        ),
    }
}

#[cfg(test)]
mod tests;
