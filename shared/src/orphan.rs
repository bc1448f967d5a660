//! What becomes of a claim whose consumer is gone.
//!
//! The lock shows liveness: the kernel releases it when the last holder (consumer or hook) dies.
//! On a network filesystem a lock can be lost while its holder lives, so the heartbeat must have
//! stopped for longer than the lease too, measured against a file just touched there and not
//! against the local clock.

use std::sync::Arc;
use std::time::Duration;

use crate::burial;
use crate::claim::ClaimState;
use crate::durable::{self, DiskError, OnPath};
use crate::ending;
use crate::failpoint::{self, Failpoint};
use crate::handover;
use crate::id::{ClaimId, UploadId};
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::operate;
use crate::record::{self, Attempt, Place, Record, RecordError};
use crate::spool::{Spool, changed_at};
use crate::time::UnixTime;

/// By which rules orphaned claims go back to the queue.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a heartbeat may be silent; `None` on local filesystems, where the lock is enough.
    pub lease: Option<Duration>,
    /// Attempts after which an upload is a dead letter.
    pub max_attempts: u32,
}

/// What came of looking at a claim.
#[derive(Debug)]
pub enum Orphan {
    /// Its lock is held, or its heartbeat is young. The state, if it could be read.
    Alive(Option<ClaimState>),
    /// It is back in the queue; the attempt counted.
    Requeued,
    /// Its attempts are used up: it lies in `failed/`.
    Dead,
    /// It had been settled; what was left of it is gone.
    Cleared,
    /// There is no such claim any more.
    Gone,
}

/// Reads a claim's state; `None` if it is missing or torn.
///
/// # Errors
/// As open(2) and read(2), but for absence.
pub fn read_state(
    spool: &Spool,
    id: UploadId,
    claim: ClaimId,
) -> Result<Option<ClaimState>, DiskError> {
    let path = spool.layout().state(id, claim);
    match std::fs::read(&path) {
        Err(error) if durable::is_missing(&error) => Ok(None),
        result => Ok(serde_json::from_slice(&result.on("read", &path)?).ok()),
    }
}

/// Whether a claim's holder is gone. Changes nothing.
///
/// # Errors
/// As open(2), flock(2) and stat(2).
pub fn is_abandoned(
    spool: &Spool,
    id: UploadId,
    claim: ClaimId,
    lease: Option<Duration>,
) -> Result<bool, DiskError> {
    let path = spool.layout().data(id, DataAt::Claimed(claim));
    match DataLock::try_lock(&path)? {
        TryLock::Held(_) => lease.map_or(Ok(true), |l| heartbeat_expired(spool, id, claim, l)),
        TryLock::Busy | TryLock::Missing => Ok(false),
    }
}

/// Looks at a claim and, if its holder is gone, takes the next step for its upload.
///
/// # Errors
/// As the steps. Whoever looks next goes on from there.
pub fn recover(
    spool: &Arc<Spool>,
    id: UploadId,
    claim: ClaimId,
    rules: Rules,
    now: UnixTime,
) -> Result<Orphan, DiskError> {
    let layout = spool.layout();
    let path = layout.data(id, DataAt::Claimed(claim));
    let lock = match DataLock::try_lock(&path)? {
        TryLock::Held(lock) => lock,
        TryLock::Busy => return Ok(Orphan::Alive(read_state(spool, id, claim)?)),
        TryLock::Missing => return Ok(Orphan::Gone),
    };
    let state = read_state(spool, id, claim)?;
    if let Some(lease) = rules.lease
        && !heartbeat_expired(spool, id, claim, lease)?
    {
        return Ok(Orphan::Alive(state));
    }
    failpoint::hit(Failpoint::OrphanLocked).on("recover", &path)?;
    let receipt = record::read(&layout.record(id, RecordAt::Receipts));
    if receipt.is_ok_and(|record| record.place.is_ending()) {
        durable::unlink(&path)?;
        durable::unlink(&layout.record(id, RecordAt::Completed))?;
        durable::unlink(&layout.state(id, claim))?;
        return Ok(Orphan::Cleared);
    }
    let record_path = layout.record(id, RecordAt::Completed);
    let record = match spool.open_record(record_path, Dir::Claimed, id) {
        Ok((_, record)) => record,
        Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
        Err(error) => {
            burial::bury(
                spool,
                id,
                &lock,
                DataAt::Claimed(claim),
                &error.to_string(),
                now,
            )?;
            durable::unlink(&layout.state(id, claim))?;
            return Ok(Orphan::Dead);
        }
    };
    if record.place.is_ending() {
        ending::finish(
            spool,
            id,
            &lock,
            DataAt::Claimed(claim),
            RecordAt::Completed,
        )?;
        durable::unlink(&layout.state(id, claim))?;
        return Ok(Orphan::Cleared);
    }
    requeue(spool, (id, claim), &lock, record, state, rules, now)
}

/// Takes the steps that are left of a settling that was cut short after the data had moved on, and
/// then removes the claim's state. The data gets its claimed name before the state is written, and
/// the state goes last, so that a state without data always means this. Whether it was so.
///
/// # Errors
/// As the steps.
pub fn finish_settled(
    spool: &Arc<Spool>,
    id: UploadId,
    claim: ClaimId,
    now: UnixTime,
) -> Result<bool, DiskError> {
    let layout = spool.layout();
    if durable::stat(&layout.data(id, DataAt::Claimed(claim)))?.is_some() {
        return Ok(false);
    }
    // Delivered: the record, or a second one, still lies in `completed/`.
    unless_done(handover::recover(spool, id, now).map(drop))?;
    // Dead: the same.
    unless_done(operate::settle_backward(spool, id).map(drop))?;
    durable::unlink(&layout.state(id, claim))
}

/// The settling consumer may be alive and a step ahead.
fn unless_done(step: Result<(), DiskError>) -> Result<(), DiskError> {
    match step {
        Err(error) if error.is_missing() => Ok(()),
        step => step,
    }
}

fn requeue(
    spool: &Arc<Spool>,
    (id, claim): (UploadId, ClaimId),
    lock: &DataLock,
    mut record: Record,
    state: Option<ClaimState>,
    rules: Rules,
    now: UnixTime,
) -> Result<Orphan, DiskError> {
    let layout = spool.layout();
    let from = DataAt::Claimed(claim);
    // A settling that was cut short has told its outcome already: do not count it again.
    let outcome_told = matches!(record.place, Place::Deferred | Place::Failed | Place::Held)
        || record.place == Place::Completed && state.is_some();
    if record.place == Place::Failed {
        let reason = "dead letter, found half buried";
        burial::bury(spool, id, lock, from, &last_error(&record, reason), now)?;
        durable::unlink(&layout.state(id, claim))?;
        return Ok(Orphan::Dead);
    }
    if outcome_told {
        let to = record.data_at().unwrap_or(DataAt::Completed);
        durable::rename_noreplace(&layout.data(id, from), &layout.data(id, to))?;
        durable::unlink(&layout.state(id, claim))?;
        lock.unlock(&layout.data(id, to))?;
        return Ok(Orphan::Requeued);
    }
    if record.claim != Some(claim) {
        record.attempts = record.attempts.saturating_add(1);
    }
    record.remember(lost_attempt(&record, state.as_ref(), now));
    if let Some(state) = state
        && state.destination.is_some()
    {
        record.rest.destination = state.destination;
        record.rest.destination_inode = state.destination_inode;
    }
    let used_up = rules.max_attempts <= record.attempts;
    record.set_place(if used_up {
        DataAt::Failed
    } else {
        DataAt::Completed
    });
    let record_path = layout.record(id, RecordAt::Completed);
    spool.replace_record(record_path, Dir::Claimed, id, &record)?;
    if used_up {
        let reason = format!(
            "all {} attempts are used up; the last consumer died",
            record.attempts
        );
        burial::bury(spool, id, lock, from, &reason, now)?;
    } else {
        let to = layout.data(id, DataAt::Completed);
        durable::rename_noreplace(&layout.data(id, from), &to)?;
        lock.unlock(&to)?;
    }
    durable::unlink(&layout.state(id, claim))?;
    Ok(if used_up {
        Orphan::Dead
    } else {
        Orphan::Requeued
    })
}

fn last_error(record: &Record, otherwise: &str) -> String {
    record
        .rest
        .history
        .last()
        .map_or(otherwise.to_owned(), |attempt| attempt.error.clone())
}

fn lost_attempt(record: &Record, state: Option<&ClaimState>, now: UnixTime) -> Attempt {
    Attempt {
        n: record.attempts,
        started_at: state.map_or(record.last_write, |state| state.claimed_at),
        ended_at: now,
        host: state.map(|state| state.host.clone()).unwrap_or_default(),
        pid: state.map_or(0, |state| state.pid),
        error: "the consumer ended before it settled".to_owned(),
        ..Attempt::default()
    }
}

/// Whether the claim's heartbeat is older than the lease by the filesystem's own clock.
fn heartbeat_expired(
    spool: &Spool,
    id: UploadId,
    claim: ClaimId,
    lease: Duration,
) -> Result<bool, DiskError> {
    let (layout, now) = (spool.layout(), spool.stored_now()?);
    // The rename that made the claim changed the data's ctime: it stands in for a state that was
    // never written.
    let beats = [
        layout.state(id, claim),
        layout.data(id, DataAt::Claimed(claim)),
    ];
    for path in beats {
        if let Some(metadata) = durable::stat(&path)? {
            return Ok(lease < now.since(changed_at(&metadata)));
        }
    }
    Ok(true)
}
