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
use crate::locked::Locked;
use crate::operate;
use crate::record::{self, Attempt, Place, Record, RecordError};
use crate::spool::{Spool, changed_at};
use crate::time::UnixTime;

/// Attempts after which an upload is a dead letter, unless a flag says otherwise. Shared, because the
/// consumers and the janitor must agree on it: any of them may find the claim of a consumer that died
/// in its last attempt. By the consumers' delays the last comes about an hour after the first.
pub const MAX_ATTEMPTS: u32 = 10;

/// How long a heartbeat may be silent on a network filesystem, unless a flag says otherwise. Shared
/// for the same reason: who had a shorter one would take uploads from consumers that live.
pub const LEASE: Duration = Duration::from_secs(60);

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
    let locked = Locked {
        spool,
        id,
        at: DataAt::Claimed(claim),
        lock: &lock,
    };
    let orphaned = Orphaned {
        locked,
        claim,
        state,
    };
    orphaned.take_next_step(rules.max_attempts, now)
}

/// A claim whose holder is gone, with its data locked.
struct Orphaned<'a> {
    locked: Locked<'a>,
    claim: ClaimId,
    state: Option<ClaimState>,
}

impl Orphaned<'_> {
    fn take_next_step(self, max_attempts: u32, now: UnixTime) -> Result<Orphan, DiskError> {
        let Locked { spool, id, .. } = self.locked;
        let layout = spool.layout();
        let receipt = record::read(&layout.record(id, RecordAt::Receipts));
        if receipt.is_ok_and(|record| record.place.is_ending()) {
            durable::unlink(&self.locked.path())?;
            durable::unlink(&layout.record(id, RecordAt::Completed))?;
            self.remove_state()?;
            return Ok(Orphan::Cleared);
        }
        let record_path = layout.record(id, RecordAt::Completed);
        let record = match spool.open_record(record_path, Dir::Claimed, id) {
            Ok((_, record)) => record,
            Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
            Err(error) => return self.bury(&error.to_string(), now),
        };
        if record.place.is_ending() {
            ending::finish(self.locked, RecordAt::Completed)?;
            self.remove_state()?;
            return Ok(Orphan::Cleared);
        }
        if record.place == Place::Failed {
            let error = record.rest.history.last().map(|last| last.error.as_str());
            return self.bury(error.unwrap_or("dead letter, found half buried"), now);
        }
        if self.has_told_outcome(&record) {
            return self.carry_out_outcome(&record);
        }
        self.count_attempt(record, max_attempts, now)
    }

    /// Whether a settling was cut short after it had told its outcome: the attempt counts already.
    fn has_told_outcome(&self, record: &Record) -> bool {
        match record.place {
            Place::Deferred | Place::Held => true,
            Place::Completed => self.state.is_some(),
            _ => false,
        }
    }

    /// Gives the data the name that the record tells.
    fn carry_out_outcome(&self, record: &Record) -> Result<Orphan, DiskError> {
        let Locked { spool, id, .. } = self.locked;
        let to = record.data_at().unwrap_or(DataAt::Completed);
        let to = spool.layout().data(id, to);
        durable::rename_noreplace(&self.locked.path(), &to)?;
        self.remove_state()?;
        self.locked.lock.unlock(&to)?;
        Ok(Orphan::Requeued)
    }

    /// Counts the attempt as failed: back to the queue, or to `failed/` if it was the last.
    fn count_attempt(
        mut self,
        mut record: Record,
        max_attempts: u32,
        now: UnixTime,
    ) -> Result<Orphan, DiskError> {
        let Locked { spool, id, .. } = self.locked;
        let layout = spool.layout();
        if record.claim != Some(self.claim) {
            record.attempts = record.attempts.saturating_add(1);
        }
        record.remember(lost_attempt(&record, self.state.as_ref(), now));
        if let Some(state) = self.state.take() {
            record.rest.destination = state.destination;
            record.rest.destination_inode = state.destination_inode;
        }
        let used_up = max_attempts <= record.attempts;
        record.set_place(match used_up {
            true => DataAt::Failed,
            false => DataAt::Completed,
        });
        let record_path = layout.record(id, RecordAt::Completed);
        spool.replace_record(record_path, Dir::Claimed, id, &record)?;
        if used_up {
            let attempts = record.attempts;
            let reason = format!("all {attempts} attempts are used up; the last consumer died");
            return self.bury(&reason, now);
        }
        let to = layout.data(id, DataAt::Completed);
        durable::rename_noreplace(&self.locked.path(), &to)?;
        self.locked.lock.unlock(&to)?;
        self.remove_state()?;
        Ok(Orphan::Requeued)
    }

    fn bury(&self, reason: &str, now: UnixTime) -> Result<Orphan, DiskError> {
        burial::bury(self.locked, reason, now)?;
        self.remove_state()?;
        Ok(Orphan::Dead)
    }

    /// Last of all: a state without data means a settling that was cut short.
    fn remove_state(&self) -> Result<(), DiskError> {
        let Locked { spool, id, .. } = self.locked;
        durable::unlink(&spool.layout().state(id, self.claim)).map(drop)
    }
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
