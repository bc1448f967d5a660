//! What consumers do, as `shared::claim`, `shared::settle`, `shared::burial` and `shared::orphan` do it.

use shared::layout::RecordAt;
use shared::record::Place;

use super::disk::{ATTEMPTS_MAX, CLAIMS, COUNTED_MAX, Hook, LENGTH, Name, Rec};
use super::receive::{Recovered, bury, finish_ending, is_ended, recover_locked};
use super::steps::{Run, Slip, Steps, TryLock};

/// Claims an upload that was found at `from` and processes it.
pub(crate) fn claim(s: &mut Steps, from: Name) -> Run<()> {
    if s.try_lock(from)? != TryLock::Held {
        return Ok(());
    }
    match s.read(RecordAt::Completed)? {
        Some(record) if record.place.is_ending() => {
            return finish_ending(s, from, RecordAt::Completed);
        }
        Some(record) => {
            let fits = s.ask(|disk, _| disk.size == LENGTH)?;
            if !fits || !record.is_received() {
                return bury(s, from);
            }
        }
        None => {
            match recover_locked(s, Name::Completed)? {
                Recovered::Completed { by_us: true } => return Ok(()),
                Recovered::Ended => return s.unlink(from),
                _ => {}
            }
            if s.ask(|disk, _| disk.young.names)? {
                return Ok(());
            }
            return bury(s, from);
        }
    }
    let claim = s.number(|disk, slot| {
        let free = disk.has(from).then(|| disk.new_claim(slot)).flatten();
        let Some(claim) = free else { return CLAIMS };
        disk.add(Name::Claimed(claim));
        disk.remove(from);
        claim
    })?;
    if claim == CLAIMS {
        return Ok(());
    }
    let Some(mut record) = s.open_record(RecordAt::Completed)? else {
        return Err(super::steps::Stop::Missing);
    };
    record = record.at(Name::Claimed(claim));
    if !s.has_slip(Slip::CountAfterHook) {
        record.attempts = (record.attempts + 1).min(COUNTED_MAX);
    }
    s.write_head(record)?;
    write_state(s, claim)?;
    process(s, claim, record)
}

fn write_state(s: &mut Steps, claim: u8) -> Run<()> {
    s.act(|disk, _| {
        disk.states[usize::from(claim)] = true;
        disk.young.others = true;
    })
}

/// Puts it back, moves it to the destination, or runs a hook.
fn process(s: &mut Steps, claim: u8, mut record: Rec) -> Run<()> {
    match s.choose(3)? {
        0 => {
            record.attempts = record.attempts.saturating_sub(1);
            go_to(s, claim, record.at(Name::Completed), Name::Completed, false)
        }
        1 => {
            // The chosen name goes into the state before the delivery.
            write_state(s, claim)?;
            delivered(s, claim, record, true)
        }
        _ => {
            run_hook(s, claim, &mut record)?;
            match s.choose(4)? {
                0 => delivered(s, claim, record, false),
                1 => delivered(s, claim, record, true),
                2 if record.attempts < ATTEMPTS_MAX => {
                    go_to(s, claim, record.at(Name::Deferred), Name::Deferred, true)
                }
                _ => dead(s, claim, record),
            }
        }
    }
}

fn run_hook(s: &mut Steps, claim: u8, record: &mut Rec) -> Run<()> {
    write_state(s, claim)?;
    let attempt = record.attempts;
    let hook = if s.has_slip(Slip::HookWithoutLock) {
        Hook::Lockless
    } else {
        Hook::Locking
    };
    s.act(|disk, slot| {
        disk.hooks[usize::from(slot)] = hook;
        if disk.past.end_told {
            disk.past.wrong = Some("a hook runs for an upload whose client was told of its end");
        }
        if attempt <= disk.past.attempt && attempt < COUNTED_MAX {
            disk.past.wrong = Some("a hook runs again with an attempt that is not higher");
        }
        disk.past.attempt = attempt;
    })?;
    s.linger()?;
    s.act(|disk, slot| disk.hooks[usize::from(slot)] = Hook::None)?;
    if s.has_slip(Slip::CountAfterHook) {
        record.attempts += 1;
        s.write_head(*record)?;
    }
    Ok(())
}

fn delivered(s: &mut Steps, claim: u8, record: Rec, anew: bool) -> Run<()> {
    if !s.stat(Name::Claimed(claim))? {
        return Ok(());
    }
    s.note(|past| past.over = true);
    let receipt = record.ended(Place::Delivered);
    if s.has_slip(Slip::RemoveBeforeReceipt) {
        s.note(|past| past.over = false);
        s.unlink(Name::Claimed(claim))?;
        s.write_head(receipt)?;
        s.note(|past| past.over = true);
        return s.rename_record(RecordAt::Completed, RecordAt::Receipts);
    }
    if anew {
        s.replace_record(RecordAt::Receipts, receipt)?;
        s.unlink(Name::Claimed(claim))?;
        s.unlink_record(RecordAt::Completed)?;
    } else {
        s.write_head(receipt)?;
        s.unlink(Name::Claimed(claim))?;
        s.rename_record_if_there(RecordAt::Completed, RecordAt::Receipts)?;
    }
    s.unlink_state(claim)?;
    s.unlock()
}

fn go_to(s: &mut Steps, claim: u8, record: Rec, to: Name, anew: bool) -> Run<()> {
    if !s.stat(Name::Claimed(claim))? {
        return Ok(());
    }
    if anew {
        s.replace_record(RecordAt::Completed, record)?;
    } else {
        s.write_head(record)?;
    }
    s.rename(Name::Claimed(claim), to)?;
    s.unlink_state(claim)?;
    s.unlock()
}

fn dead(s: &mut Steps, claim: u8, record: Rec) -> Run<()> {
    if !s.stat(Name::Claimed(claim))? {
        return Ok(());
    }
    s.replace_record(RecordAt::Completed, record.at(Name::Failed))?;
    inter(s, Name::Claimed(claim))?;
    s.unlink_state(claim)?;
    s.unlock()
}

/// Reason, then data, then record, into `failed/`.
pub(crate) fn inter(s: &mut Steps, from: Name) -> Run<()> {
    s.act(|disk, _| {
        disk.reason = true;
        disk.young.others = true;
    })?;
    s.rename(from, Name::Failed)?;
    s.rename_record_if_there(RecordAt::Completed, RecordAt::Failed)
}

/// Looks at a claim and, if its holder is gone, takes the next step for its upload.
pub(crate) fn recover(s: &mut Steps, claim: u8) -> Run<()> {
    let own = Name::Claimed(claim);
    if s.try_lock(own)? != TryLock::Held {
        return Ok(());
    }
    let state = s.ask(|disk, _| disk.states[usize::from(claim)])?;
    if is_ended(s.read(RecordAt::Receipts)?) {
        s.unlink(own)?;
        s.unlink_record(RecordAt::Completed)?;
        return s.unlink_state(claim);
    }
    let Some(record) = s.open_record(RecordAt::Completed)? else {
        bury(s, own)?;
        return s.unlink_state(claim);
    };
    if record.place.is_ending() {
        finish_ending(s, own, RecordAt::Completed)?;
        return s.unlink_state(claim);
    }
    requeue(s, claim, record, state)
}

fn requeue(s: &mut Steps, claim: u8, mut record: Rec, has_state: bool) -> Run<()> {
    let own = Name::Claimed(claim);
    let outcome_told = matches!(record.place, Place::Deferred | Place::Failed | Place::Held)
        || record.place == Place::Completed && has_state;
    if record.place == Place::Failed {
        bury(s, own)?;
        return s.unlink_state(claim);
    }
    if outcome_told {
        let to = record.data_at().unwrap_or(Name::Completed);
        s.rename(own, to)?;
        s.unlink_state(claim)?;
        return s.unlock();
    }
    if record.claim != Some(claim) {
        record.attempts = (record.attempts + 1).min(COUNTED_MAX);
    }
    if ATTEMPTS_MAX <= record.attempts {
        s.replace_record(RecordAt::Completed, record.at(Name::Failed))?;
        bury(s, own)?;
    } else {
        s.replace_record(RecordAt::Completed, record.at(Name::Completed))?;
        s.rename(own, Name::Completed)?;
        s.unlock()?;
    }
    s.unlink_state(claim)
}
