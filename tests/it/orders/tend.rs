//! What the janitor and an operator do, as `janitor::sweep` and `shared::operate` do it.

use shared::layout::RecordAt;
use shared::record::Place;

use super::disk::{LENGTH, Name, Rec};
use super::receive::{
    End, Recovered, bury, data_candidates, end, find, finish_ending, is_ended, recover,
    recover_locked,
};
use super::steps::{Run, Slip, Steps, Stop, TryLock};

/// What the janitor takes data for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Receiving,
    Received,
    Completed,
    Failed,
    HalfMoved,
    Ended,
    DataAlone,
    Damaged,
    Nothing,
}

/// The janitor looks at data that it found at `name`.
pub(crate) fn look_at_data(s: &mut Steps, name: Name) -> Run<()> {
    let found = judge_data(s, name)?;
    match found {
        Found::Nothing => Ok(()),
        Found::Receiving => expire(s, |record| !record.is_received()),
        Found::HalfMoved if name == Name::Failed => follow_record(s),
        Found::HalfMoved if name == Name::Held => settle_held(s),
        Found::Completed | Found::Failed => Ok(()),
        _ => under_lock(s, name, found),
    }
}

/// The janitor finds that nobody has claimed it in time.
pub(crate) fn expire_completed(s: &mut Steps, deletes: bool) -> Run<()> {
    if judge_data(s, Name::Completed)? != Found::Completed {
        return Ok(());
    }
    if deletes {
        return expire(s, Rec::is_received);
    }
    if s.try_lock(Name::Completed)? == TryLock::Held
        && judge_data(s, Name::Completed)? == Found::Completed
    {
        return bury(s, Name::Completed);
    }
    Ok(())
}

fn expire(s: &mut Steps, still_due: impl Fn(Rec) -> bool) -> Run<()> {
    let _: End = end(s, Place::Expired, still_due)?;
    Ok(())
}

fn judge_data(s: &mut Steps, name: Name) -> Run<Found> {
    let data_is_young = s.ask(|disk, _| disk.young.data)?;
    if data_is_young || !s.stat(name)? {
        return Ok(Found::Nothing);
    }
    let Some(record) = s.read(name.home())? else {
        return without_record(s, name);
    };
    if s.ask(|disk, _| disk.young.others)? {
        return Ok(Found::Nothing);
    }
    let fits = s.ask(|disk, _| disk.size == LENGTH)?;
    Ok(match name {
        _ if record.place.is_ending() => Found::Ended,
        Name::Uploads if record.is_received() => Found::Received,
        Name::Uploads => Found::Receiving,
        Name::Completed if fits => Found::Completed,
        Name::Completed => Found::Damaged,
        Name::Failed => Found::Failed,
        Name::Held if record.place != Place::Held && !s.has_slip(Slip::HeldIsLeft) => {
            Found::HalfMoved
        }
        Name::Deferred | Name::Held | Name::Claimed(_) => Found::Nothing,
    })
}

fn without_record(s: &mut Steps, name: Name) -> Run<Found> {
    for at in RecordAt::ALL {
        if s.has_record(at)? {
            return Ok(match at {
                RecordAt::Receipts => Found::Ended,
                at if at == name.home() => Found::Nothing,
                _ => Found::HalfMoved,
            });
        }
    }
    Ok(match name {
        Name::Uploads => Found::DataAlone,
        Name::Failed => Found::Failed,
        Name::Held => Found::Nothing,
        _ => Found::Damaged,
    })
}

fn under_lock(s: &mut Steps, name: Name, found: Found) -> Run<()> {
    if s.try_lock(name)? != TryLock::Held || judge_data(s, name)? != found {
        return Ok(());
    }
    match found {
        Found::DataAlone => s.unlink(name),
        Found::Damaged => bury(s, name),
        Found::Ended => {
            let home = name.home();
            let at = if is_ended(s.read(home)?) {
                home
            } else {
                RecordAt::Receipts
            };
            finish_ending(s, name, at)
        }
        _ if matches!(name, Name::Uploads | Name::Completed) => match recover_locked(s, name)? {
            Recovered::Torn => bury(s, name),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn follow_record(s: &mut Steps) -> Run<()> {
    if s.has_record(RecordAt::Uploads)? {
        if s.try_lock(Name::Failed)? == TryLock::Held {
            return s.rename_record(RecordAt::Uploads, RecordAt::Failed);
        }
        return Ok(());
    }
    settle_backward(s)
}

/// `shared::operate::settle_backward`
fn settle_backward(s: &mut Steps) -> Run<()> {
    if s.try_lock(Name::Failed)? != TryLock::Held {
        return Ok(());
    }
    let Some(record) = s.read(RecordAt::Completed)? else {
        if is_ended(s.read(RecordAt::Receipts)?) {
            s.unlink(Name::Failed)?;
            return s.act(|disk, _| disk.reason = false);
        }
        return Ok(());
    };
    match record.data_at() {
        None => finish_ending(s, Name::Failed, RecordAt::Completed)?,
        Some(Name::Completed) => return move_back(s, Name::Failed),
        Some(Name::Failed) => return s.rename_record(RecordAt::Completed, RecordAt::Failed),
        Some(_) => {
            s.open_record(RecordAt::Completed)?;
            s.write_head(record.at(Name::Failed))?;
            return s.rename_record(RecordAt::Completed, RecordAt::Failed);
        }
    }
    s.act(|disk, _| disk.reason = false)
}

/// `shared::operate::settle_held`: a release that was cut short.
fn settle_held(s: &mut Steps) -> Run<()> {
    if s.try_lock(Name::Held)? != TryLock::Held {
        return Ok(());
    }
    match s.read(RecordAt::Completed)? {
        Some(record) if record.place.is_ending() => {
            finish_ending(s, Name::Held, RecordAt::Completed)
        }
        Some(record) if record.place != Place::Held => s.rename(Name::Held, Name::Completed),
        _ => Ok(()),
    }
}

/// The janitor looks at a record that it found at `at`, without data beside it.
pub(crate) fn look_at_record(s: &mut Steps, at: RecordAt) -> Run<()> {
    let beside = match at {
        RecordAt::Uploads => Name::Uploads,
        RecordAt::Completed => Name::Completed,
        RecordAt::Failed => Name::Failed,
        RecordAt::Receipts => return Ok(()),
    };
    if s.stat(beside)? || judge_record(s, at)? == Found::Nothing {
        return Ok(());
    }
    // Data that is claimed or deferred is seen in a listing only.
    if at != RecordAt::Uploads {
        for _ in 0..2 {
            if s.ask(|disk, _| disk.claimed().next().is_some())? || s.stat(Name::Deferred)? {
                return Ok(());
            }
        }
    }
    match judge_record(s, at)? {
        Found::Ended => {
            if is_ended(s.read(at)?) && !s.has_record(RecordAt::Receipts)? {
                return s.rename_record(at, RecordAt::Receipts);
            }
            s.unlink_record(at)
        }
        // Elsewhere it tells of an upload that a foreign worker took: kept as long as a receipt.
        Found::DataAlone if at == RecordAt::Uploads || s.has_slip(Slip::StrayRecordIsRemoved) => {
            s.unlink_record(at)
        }
        Found::HalfMoved => recover(s),
        _ => Ok(()),
    }
}

fn judge_record(s: &mut Steps, at: RecordAt) -> Run<Found> {
    if s.ask(|disk, _| disk.young.others)? {
        return Ok(Found::Nothing);
    }
    let Some(record) = s.read(at)? else {
        return Ok(Found::Nothing);
    };
    let known = [Name::Uploads, Name::Completed, Name::Held, Name::Failed];
    for name in known.into_iter().chain(record.data_at()) {
        if s.stat(name)? {
            return Ok(if name.home() == at {
                Found::Nothing
            } else {
                Found::HalfMoved
            });
        }
    }
    if record.place.is_ending() || s.has_record(RecordAt::Receipts)? {
        return Ok(Found::Ended);
    }
    // `DataAlone` stands for the opposite too: a record alone.
    Ok(Found::DataAlone)
}

/// `shared::orphan::finish_settled`: a state without data tells of a settling that was cut short.
/// Data gets its claimed name before the state is written, and no claim's name comes back.
pub(crate) fn finish_settled(s: &mut Steps) -> Run<()> {
    if !s.ask(|disk, _| disk.has_states_without_data())? {
        return Ok(());
    }
    unless_missing(recover(s))?;
    unless_missing(settle_backward(s))?;
    s.act(|disk, _| disk.remove_states_without_data())
}

fn unless_missing(step: Run<()>) -> Run<()> {
    match step {
        Err(Stop::Missing) => Ok(()),
        step => step,
    }
}

/// The janitor removes a reason that belongs to nothing.
pub(crate) fn look_at_reason(s: &mut Steps) -> Run<()> {
    if s.stat(Name::Failed)?
        || s.has_record(RecordAt::Failed)?
        || is_being_buried(s, RecordAt::Uploads, Name::Uploads)?
        || is_being_buried(s, RecordAt::Completed, Name::Completed)?
        || s.ask(|disk, _| disk.young.others)?
    {
        return Ok(());
    }
    s.act(|disk, _| disk.reason = false)
}

fn is_being_buried(s: &mut Steps, at: RecordAt, beside: Name) -> Run<bool> {
    let told = s.read(at)?.map(|record| record.place);
    Ok(told == Some(Place::Failed) && !s.stat(beside)?)
}

/// An operator puts a dead letter or a deferred upload back into the queue.
pub(crate) fn retry(s: &mut Steps) -> Run<()> {
    requeue(
        s,
        |name| matches!(name, Name::Failed | Name::Deferred),
        true,
    )
}

/// An operator puts an upload back that was taken aside.
pub(crate) fn release(s: &mut Steps) -> Run<()> {
    requeue(s, |name| name == Name::Held, false)
}

/// An operator takes an upload aside.
pub(crate) fn hold(s: &mut Steps) -> Run<()> {
    let from = |name| matches!(name, Name::Completed | Name::Deferred);
    let Some((name, at)) = lock_where(s, from)? else {
        return Ok(());
    };
    if !write_place(s, name, at, Name::Held, false)? {
        return Ok(());
    }
    s.rename(name, Name::Held)?;
    s.unlock()
}

fn requeue(s: &mut Steps, from: impl Fn(Name) -> bool, forget: bool) -> Run<()> {
    let Some((name, at)) = lock_where(s, from)? else {
        return Ok(());
    };
    if !write_place(s, name, at, Name::Completed, forget)? {
        return Ok(());
    }
    move_back(s, name)?;
    s.unlock()
}

fn move_back(s: &mut Steps, from: Name) -> Run<()> {
    s.rename(from, Name::Completed)?;
    if from == Name::Failed {
        s.act(|disk, _| disk.reason = false)?;
    }
    Ok(())
}

/// Whether the record was changed; one that tells an ending is not, since it was read before the
/// lock was held.
fn write_place(s: &mut Steps, from: Name, at: RecordAt, to: Name, forget: bool) -> Run<bool> {
    let Some(mut record) = s.open_record(at)? else {
        return Ok(false);
    };
    if record.place.is_ending() && !s.has_slip(Slip::OperateUnseen) {
        finish_ending(s, from, at)?;
        return Ok(false);
    }
    let late = s.has_slip(Slip::RetryWhereItLies);
    if at == RecordAt::Failed && !late {
        s.rename_record(RecordAt::Failed, RecordAt::Completed)?;
    }
    record = record.at(to);
    if forget {
        record.attempts = 0;
    }
    s.write_head(record)?;
    if forget {
        s.note(|past| past.attempt = 0);
    }
    if at == RecordAt::Failed && late {
        s.rename_record(RecordAt::Failed, RecordAt::Completed)?;
    }
    Ok(true)
}

fn lock_where(s: &mut Steps, from: impl Fn(Name) -> bool) -> Run<Option<(Name, RecordAt)>> {
    let Some((at, record)) = find(s)? else {
        return Ok(None);
    };
    for name in data_candidates(at, record)
        .into_iter()
        .filter(|&name| from(name))
    {
        match s.try_lock(name)? {
            TryLock::Held => return Ok(Some((name, at))),
            TryLock::Busy => return Ok(None),
            TryLock::Missing => {}
        }
    }
    Ok(None)
}
