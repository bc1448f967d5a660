//! What ingest does, as `shared::receive`, `shared::handover` and `shared::ending` do it.

use shared::handover::{DataSeen, Next, RecordSeen, next};
use shared::layout::RecordAt;
use shared::record::Place;

use super::consume;
use super::disk::{LENGTH, Lock, Name, Rec};
use super::steps::{Run, Slip, Steps, TryLock};

/// POST without a body.
pub(crate) fn create(s: &mut Steps) -> Run<()> {
    make_data(s)?;
    s.act(|disk, slot| disk.put_record(slot, RecordAt::Uploads, Rec::new(0, Place::Uploads)))?;
    s.note(|past| past.created = true);
    Ok(())
}

/// POST with everything.
pub(crate) fn create_whole(s: &mut Steps) -> Run<()> {
    make_data(s)?;
    s.act(|disk, _| {
        disk.size = LENGTH;
        disk.young.data = true;
    })?;
    // The record has a temporary name until then, which nobody reads.
    let record = Rec::new(LENGTH, Place::Completed);
    if s.has_slip(Slip::DataBeforeRecord) {
        s.rename(Name::Uploads, Name::Completed)?;
        s.act(|disk, slot| disk.put_record(slot, RecordAt::Completed, record))?;
    } else {
        s.act(|disk, slot| disk.put_record(slot, RecordAt::Completed, record))?;
        s.rename(Name::Uploads, Name::Completed)?;
    }
    told_complete(s);
    Ok(())
}

fn make_data(s: &mut Steps) -> Run<()> {
    s.act(|disk, slot| {
        disk.add(Name::Uploads);
        disk.lock = Lock::Process(slot);
        disk.young.data = true;
        disk.past.begun = true;
    })
}

fn told_complete(s: &mut Steps) {
    s.note(|past| {
        past.created = true;
        past.complete = true;
    });
}

/// PATCH: everything that is left, or less, with or without silence in the middle.
pub(crate) fn patch(s: &mut Steps) -> Run<()> {
    if s.try_lock(Name::Uploads)? != TryLock::Held {
        return Ok(());
    }
    let mut record = match s.open_record(RecordAt::Uploads)? {
        Some(record) if !record.place.is_ending() && !record.is_received() => record,
        _ => return recover_locked(s, Name::Uploads).map(drop),
    };
    while record.offset < LENGTH {
        let to = record.offset + 1;
        s.act(|disk, _| {
            disk.size = disk.size.max(to);
            disk.young.data = true;
        })?;
        if to == LENGTH {
            return hand_over(s, record);
        }
        record.offset = to;
        s.write_head(record)?;
        match s.choose(3)? {
            0 => {}
            1 => return Ok(()),
            // Nothing comes for a while: others may have it.
            _ => {
                s.unlock()?;
                s.linger()?;
                if !s.relock(Name::Uploads)? || s.read(RecordAt::Uploads)? != Some(record) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn hand_over(s: &mut Steps, record: Rec) -> Run<()> {
    let done = Rec {
        offset: LENGTH,
        ..record.at(Name::Completed)
    };
    s.write_head(done)?;
    if s.has_slip(Slip::DataBeforeRecord) {
        s.rename(Name::Uploads, Name::Completed)?;
        s.rename_record(RecordAt::Uploads, RecordAt::Completed)?;
    } else {
        s.rename_record(RecordAt::Uploads, RecordAt::Completed)?;
        s.rename(Name::Uploads, Name::Completed)?;
    }
    told_complete(s);
    Ok(())
}

/// HEAD of an upload that has all its bytes, and the janitor's care for it.
pub(crate) fn recover(s: &mut Steps) -> Run<()> {
    for name in [Name::Uploads, Name::Completed] {
        match s.try_lock(name)? {
            TryLock::Held => {
                if let Recovered::Completed { .. } = recover_locked(s, name)? {
                    told_complete(s);
                }
                return Ok(());
            }
            TryLock::Busy => return Ok(()),
            TryLock::Missing => {}
        }
    }
    let (uploads, completed) = look(s)?;
    match next(DataSeen::Neither, seen(uploads), seen(completed)) {
        Next::End => s.rename_record(ended(uploads), RecordAt::Receipts),
        Next::InMotion if is_ended(s.read(RecordAt::Receipts)?) => {
            s.unlink_record(RecordAt::Completed)
        }
        _ => Ok(()),
    }
}

/// What a recovery came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    Completed { by_us: bool },
    Ended,
    Torn,
    Other,
}

/// Takes the steps of a hand-over that are left.
pub(crate) fn recover_locked(s: &mut Steps, mut name: Name) -> Run<Recovered> {
    let mut by_us = false;
    for _ in 0..8 {
        let (uploads, completed) = look(s)?;
        let data = if name == Name::Uploads {
            DataSeen::Uploads
        } else {
            DataSeen::Completed
        };
        match next(data, seen(uploads), seen(completed)) {
            Next::MoveRecord => {
                if let Some(record) = uploads {
                    s.open_record(RecordAt::Uploads)?;
                    s.write_head(record.at(Name::Completed))?;
                }
                s.rename_record(RecordAt::Uploads, RecordAt::Completed)?;
            }
            Next::MoveData => {
                s.rename(name, Name::Completed)?;
                name = Name::Completed;
            }
            Next::DropUploadsRecord => s.unlink_record(RecordAt::Uploads)?,
            Next::DropCompletedRecord => s.unlink_record(RecordAt::Completed)?,
            Next::ReturnRecord => s.rename_record(RecordAt::Completed, RecordAt::Uploads)?,
            Next::End => {
                let at = if is_ended(uploads) {
                    RecordAt::Uploads
                } else {
                    RecordAt::Completed
                };
                finish_ending(s, name, at)?;
                return Ok(Recovered::Ended);
            }
            Next::Done => return Ok(Recovered::Completed { by_us }),
            Next::Orphan | Next::Torn if is_ended(s.read(RecordAt::Receipts)?) => {
                finish_ending(s, name, RecordAt::Receipts)?;
                return Ok(Recovered::Ended);
            }
            Next::Torn => return Ok(Recovered::Torn),
            Next::Receiving
            | Next::Orphan
            | Next::OrphanRecord
            | Next::InMotion
            | Next::Nothing => return Ok(Recovered::Other),
        }
        by_us = true;
    }
    Ok(Recovered::Torn)
}

fn look(s: &mut Steps) -> Run<(Option<Rec>, Option<Rec>)> {
    Ok((s.read(RecordAt::Uploads)?, s.read(RecordAt::Completed)?))
}

fn seen(record: Option<Rec>) -> RecordSeen {
    match record {
        None => RecordSeen::None,
        Some(record) if record.place.is_ending() => RecordSeen::Ended,
        Some(record) if record.is_received() => RecordSeen::Received,
        Some(_) => RecordSeen::Receiving,
    }
}

pub(crate) fn is_ended(record: Option<Rec>) -> bool {
    record.is_some_and(|record| record.place.is_ending())
}

fn ended(uploads: Option<Rec>) -> RecordAt {
    if is_ended(uploads) {
        RecordAt::Uploads
    } else {
        RecordAt::Completed
    }
}

/// `shared::lookup::find_once`: two looks take nothing away from what one look can show.
pub(crate) fn find(s: &mut Steps) -> Run<Option<(RecordAt, Rec)>> {
    for at in RecordAt::ALL {
        if let Some(record) = s.read(at)? {
            return Ok(Some((at, record)));
        }
    }
    Ok(None)
}

/// `shared::lookup::data_candidates`
pub(crate) fn data_candidates(at: RecordAt, record: Rec) -> Vec<Name> {
    if record.place.is_ending() {
        return Vec::new();
    }
    let by_record: &[Name] = match at {
        RecordAt::Uploads => &[Name::Uploads, Name::Completed],
        RecordAt::Completed => &[Name::Completed, Name::Uploads, Name::Held],
        RecordAt::Failed => &[Name::Failed],
        RecordAt::Receipts => &[],
    };
    let likely = record.data_at();
    let others = by_record
        .iter()
        .copied()
        .filter(|&name| Some(name) != likely);
    likely.into_iter().chain(others).collect()
}

/// What came of ending an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ended,
    Already,
    Other,
}

/// DELETE, an operator's word, or the end of its time.
pub(crate) fn end(s: &mut Steps, how: Place, condition: impl Fn(Rec) -> bool) -> Run<End> {
    for _ in 0..2 {
        let Some((at, record)) = find(s)? else {
            return Ok(End::Other);
        };
        if record.place.is_ending() {
            return Ok(End::Already);
        }
        for name in data_candidates(at, record) {
            if matches!(name, Name::Claimed(_)) && !s.has_slip(Slip::DeleteWithoutLock) {
                if s.stat(name)? {
                    return Ok(End::Other);
                }
                continue;
            }
            if s.has_slip(Slip::DeleteWithoutLock) {
                if !s.stat(name)? {
                    continue;
                }
            } else {
                match s.try_lock(name)? {
                    TryLock::Held => {}
                    TryLock::Busy => return Ok(End::Other),
                    TryLock::Missing => continue,
                }
            }
            return end_locked(s, name, at, how, condition);
        }
    }
    Ok(End::Other)
}

fn end_locked(
    s: &mut Steps,
    name: Name,
    at: RecordAt,
    how: Place,
    condition: impl Fn(Rec) -> bool,
) -> Run<End> {
    let Some(record) = s.open_record(at)? else {
        return Ok(End::Other);
    };
    if record.place.is_ending() {
        finish_ending(s, name, at)?;
        return Ok(End::Already);
    }
    if !condition(record) {
        return Ok(End::Other);
    }
    s.write_head(record.ended(how))?;
    s.note(|past| past.over = true);
    finish_ending(s, name, at)?;
    Ok(End::Ended)
}

/// DELETE, answered.
pub(crate) fn delete(s: &mut Steps) -> Run<()> {
    match end(s, Place::Terminated, |_| true)? {
        End::Ended | End::Already => s.note(|past| past.end_told = true),
        End::Other => {}
    }
    Ok(())
}

/// `shared::ending::finish`
pub(crate) fn finish_ending(s: &mut Steps, name: Name, at: RecordAt) -> Run<()> {
    if at != RecordAt::Receipts {
        s.rename_record(at, RecordAt::Receipts)?;
    }
    s.act(|disk, _| {
        disk.size = 0;
        disk.young.data = true;
    })?;
    s.unlink(name)?;
    if at == RecordAt::Failed {
        s.act(|disk, _| disk.reason = false)?;
    }
    Ok(())
}

/// `shared::burial::bury`: the caller holds the lock.
pub(crate) fn bury(s: &mut Steps, from: Name) -> Run<()> {
    if s.has_slip(Slip::TornIsRemoved) {
        return s.unlink(from);
    }
    let at = if from == Name::Uploads {
        RecordAt::Uploads
    } else {
        RecordAt::Completed
    };
    if let Some(record) = s.open_record(at)? {
        s.write_head(record.at(Name::Failed))?;
    }
    consume::inter(s, from)?;
    if at == RecordAt::Uploads {
        s.rename_record_if_there(RecordAt::Uploads, RecordAt::Failed)?;
    }
    s.unlock()
}
