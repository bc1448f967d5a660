//! Claiming an upload: one consumer's hold on it.
//!
//! Claim = open, lock, check that the path still names the locked inode, check that record and
//! size agree, rename to `claimed/{id}~{claim}`. The rename to a name that only this claimer uses
//! is the commit: on a filesystem with stale caches the lock alone let two consumers in, and so
//! did a rename to a name that both used. Only the owner writes the record after it.
//!
//! Then the attempt is counted in the record and the claim's state is written beside the data,
//! before anything is done with the upload. The state's mtime is the heartbeat. On a full disk the
//! state is made of a spare ([`Spool::keep_spares`]); where neither can be done the upload goes back,
//! the attempt not counted.
//!
//! The data keeps its claimed name until the claim is settled (see [`crate::settle`]): a delivery
//! into a directory of the same filesystem is a second *link*, not a rename, so that a crash in
//! between leaves an upload that can be claimed again. `ENOENT` on the own claimed name means that
//! the claim was lost: touch nothing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::time::TimeSpec;

use crate::burial;
use crate::durable::{self, DiskError, OnPath};
use crate::ending;
use crate::failpoint::{self, Failpoint};
use crate::handover;
use crate::host;
use crate::id::{ClaimId, UploadId};
use crate::layout::{DataAt, Dir, RecordAt};
use crate::lock::{DataLock, TryLock};
use crate::locked::Locked;
use crate::record::{self, Record, RecordError, RecordFile};
use crate::spool::{Spool, changed_at};
use crate::time::UnixTime;

mod state;

use state::StateFile;
pub use state::{ClaimState, ProcessGroup};

/// How long a record may be missing beside its data before the upload counts as torn: network
/// filesystems show a directory's entries with a delay.
pub const RECORD_GRACE: Duration = Duration::from_secs(10);

/// One consumer's hold on one upload. Dropping it without settling is what a crash does: the
/// attempt is counted and the upload goes back to the queue.
#[derive(Debug)]
pub struct Claim {
    pub(crate) spool: Arc<Spool>,
    pub(crate) id: UploadId,
    pub(crate) claim: ClaimId,
    pub(crate) lock: DataLock,
    pub(crate) file: RecordFile,
    pub(crate) record: Record,
    pub(crate) state: ClaimState,
    state_file: StateFile,
}

/// What came of trying to claim an upload.
#[derive(Debug)]
pub enum TryClaim {
    /// It is ours.
    Claimed(Box<Claim>),
    /// Somebody else is at it, or it is not ready to be looked at yet: try again shortly.
    Busy,
    /// It is no longer there.
    Gone,
    /// It does not fit its record; it lies in `failed/` now.
    Torn(String),
}

/// Whether data of a size is what its record says of an upload that is received in full.
///
/// # Errors
/// Why not.
pub fn fits(record: &Record, size: u64) -> Result<(), String> {
    if !record.is_received() && record.format.is_some() {
        return Err("its record says that more is to come".to_owned());
    }
    match record.length {
        Some(length) if length.0 == size => Ok(()),
        Some(length) => Err(format!("{size} bytes of {length}")),
        None => Err("its record has no length".to_owned()),
    }
}

/// Tries to claim the upload whose data is at `from` (`completed/` or `deferred/`). Never waits.
///
/// # Errors
/// As the steps; `ENOLCK` and the like mean a filesystem without locks.
pub fn try_claim(
    spool: &Arc<Spool>,
    id: UploadId,
    from: DataAt,
    now: UnixTime,
) -> Result<TryClaim, DiskError> {
    spool.refill_spares();
    let layout = spool.layout();
    let path = layout.data(id, from);
    let lock = match DataLock::try_lock(&path)? {
        TryLock::Held(lock) => lock,
        TryLock::Busy => return Ok(TryClaim::Busy),
        TryLock::Missing => return Ok(TryClaim::Gone),
    };
    let locked = Locked {
        spool,
        id,
        at: from,
        lock: &lock,
    };
    if let Some(unclaimed) = look(locked, now)? {
        return Ok(unclaimed);
    }
    failpoint::hit(Failpoint::ClaimLocked).on("claim", &path)?;
    let claim = ClaimId::generate();
    match durable::rename(&path, &layout.data(id, DataAt::Claimed(claim))) {
        Err(error) if error.is_missing() => return Ok(TryClaim::Gone),
        result => result?,
    }
    begin(spool, id, claim, lock, &path, now)
}

/// Whether locked data may be claimed: `None`. Otherwise what came of it: what has ended is taken
/// away, and what does not fit its record is buried.
fn look(locked: Locked<'_>, now: UnixTime) -> Result<Option<TryClaim>, DiskError> {
    let Locked {
        spool, id, lock, ..
    } = locked;
    let unfit = match record::read(&spool.layout().record(id, RecordAt::Completed)) {
        Ok(record) if record.place.is_ending() => {
            ending::finish(locked, RecordAt::Completed)?;
            return Ok(Some(TryClaim::Gone));
        }
        Ok(record) => {
            let size = lock.file().metadata().on("stat", &locked.path())?.len();
            match fits(&record, size) {
                Ok(()) => return Ok(None),
                Err(unfit) => unfit,
            }
        }
        Err(RecordError::Disk(error)) if error.is_missing() => {
            return without_record(locked, now).map(Some);
        }
        Err(RecordError::Disk(error)) => return Err(error),
        // A later version's, met during an upgrade: for a consumer that knows it.
        Err(error) if error.is_newer() => return Ok(Some(TryClaim::Busy)),
        Err(RecordError::Unreadable { reason, .. }) => format!("record: {reason}"),
    };
    burial::bury(locked, &unfit, now)?;
    Ok(Some(TryClaim::Torn(unfit)))
}

/// Data without a record in `completed/`: a hand-over that a power cut left half done, a delayed
/// listing, or nobody's.
fn without_record(locked: Locked<'_>, now: UnixTime) -> Result<TryClaim, DiskError> {
    let completed = Locked {
        at: DataAt::Completed,
        ..locked
    };
    match handover::recover_locked(completed, now)? {
        handover::Recovered::Completed { by_us: true } => return Ok(TryClaim::Busy),
        // Or a second name of one that has ended.
        handover::Recovered::Ended(_) => {
            durable::unlink(&locked.path())?;
            return Ok(TryClaim::Gone);
        }
        _ => {}
    }
    if is_young(locked)? {
        return Ok(TryClaim::Busy);
    }
    let reason = "data without a record";
    burial::bury(locked, reason, now)?;
    Ok(TryClaim::Torn(reason.to_owned()))
}

/// Counts the attempt, once the upload is ours.
fn count_attempt(
    spool: &Spool,
    id: UploadId,
    claim: ClaimId,
) -> Result<(RecordFile, Record), RecordError> {
    let path = spool.layout().record(id, RecordAt::Completed);
    failpoint::hit(Failpoint::ClaimRenamed).on("claim", &path)?;
    let (mut file, mut record) = spool.open_record(path, Dir::Claimed, id)?;
    record.set_place(DataAt::Claimed(claim));
    record.attempts = record.attempts.saturating_add(1);
    record.finished_at = record.finished_at.or(Some(record.last_write));
    let durably = spool.durability().syncs_finish();
    spool.rewrite_head(&mut file, id, &record, durably)?;
    Ok((file, record))
}

/// Counts the attempt and writes the claim's state, once the upload, which was at `from`, is ours.
fn begin(
    spool: &Arc<Spool>,
    id: UploadId,
    claim: ClaimId,
    lock: DataLock,
    from: &Path,
    now: UnixTime,
) -> Result<TryClaim, DiskError> {
    let locked = Locked {
        spool,
        id,
        at: DataAt::Claimed(claim),
        lock: &lock,
    };
    let (file, record) = match count_attempt(spool, id, claim) {
        Ok(counted) => counted,
        Err(RecordError::Disk(error)) => {
            if error.is_full() {
                // What cannot be counted is not tried: as if it had never been claimed.
                durable::rename_noreplace(&locked.path(), from)?;
            }
            return Err(error);
        }
        Err(RecordError::Unreadable { reason, .. }) => {
            burial::bury(locked, &reason, now)?;
            return Ok(TryClaim::Torn(reason));
        }
    };
    let mut claim = Claim {
        spool: Arc::clone(spool),
        id,
        claim,
        lock,
        file,
        state: ClaimState::of_this_process(&record, now),
        record,
        state_file: StateFile::default(),
    };
    if let Err(error) = claim.write_state(false) {
        // A full disk without spares must not use up the attempts of a whole backlog.
        claim.put_back()?;
        return Err(error);
    }
    failpoint::hit(Failpoint::ClaimStateWritten).on("claim", &claim.path())?;
    Ok(TryClaim::Claimed(Box::new(claim)))
}

/// Whether data has got its name only now, by the clock that has stamped it.
fn is_young(locked: Locked<'_>) -> Result<bool, DiskError> {
    let data = locked.lock.file().metadata();
    let changed = changed_at(&data.on("stat", &locked.path())?);
    match locked.spool.stored_now() {
        Ok(now) => Ok(now.since(changed) < RECORD_GRACE),
        // To be judged once there is room to tell the time.
        Err(error) if error.is_full() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Shows that a claim lives, without having it at hand: sets its state's mtime to the file
/// system's now.
///
/// # Errors
/// As utimensat(2); missing if the claim has been settled or lost.
pub fn beat(spool: &Spool, id: UploadId, claim: ClaimId) -> Result<(), DiskError> {
    let path = spool.layout().state(id, claim);
    let file = durable::open(&path, true)?;
    // "Now" of the filesystem's own clock, not of ours: on NFS the server's.
    let now = TimeSpec::UTIME_NOW;
    nix::sys::stat::futimens(&file, &now, &now).on("touch", &path)
}

impl Claim {
    /// The upload's id.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// The claim's own id.
    #[must_use]
    pub fn claim_id(&self) -> ClaimId {
        self.claim
    }

    /// The spool.
    #[must_use]
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// The upload's record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The claim's state.
    #[must_use]
    pub fn state(&self) -> &ClaimState {
        &self.state
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempts
    }

    /// The data file under its claimed name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.spool
            .layout()
            .data(self.id, DataAt::Claimed(self.claim))
    }

    /// The record's file.
    #[must_use]
    pub fn record_path(&self) -> PathBuf {
        self.spool.layout().record(self.id, RecordAt::Completed)
    }

    /// The locked data file. A hook inherits this descriptor, so that the lock outlives a consumer
    /// that is killed.
    #[must_use]
    pub fn data(&self) -> &File {
        self.lock.file()
    }

    /// The upload under its claimed name, for the steps that want its lock held.
    pub(crate) fn locked(&self) -> Locked<'_> {
        Locked {
            spool: &self.spool,
            id: self.id,
            at: DataAt::Claimed(self.claim),
            lock: &self.lock,
        }
    }

    /// Whether the claimed name is still there and still ours. If not, the claim was lost.
    ///
    /// # Errors
    /// As stat(2).
    pub fn is_ours(&self) -> Result<bool, DiskError> {
        self.lock.is_at(&self.path())
    }

    /// Shows that the claim lives: see [`beat`].
    ///
    /// # Errors
    /// As utimensat(2).
    pub fn beat(&self) -> Result<(), DiskError> {
        beat(&self.spool, self.id, self.claim)
    }

    /// Writes down the hook's process group and how long it may run from now on, so that another
    /// consumer of this host can end a hook that outlived its consumer.
    ///
    /// # Errors
    /// As write(2) and rename(2).
    pub fn set_group(
        &mut self,
        group: Option<ProcessGroup>,
        allowed: Option<Duration>,
    ) -> Result<(), DiskError> {
        self.state.group = group;
        self.state.deadline = allowed.map(|allowed| UnixTime::now().plus(allowed));
        self.state.deadline_steady = allowed.map(|allowed| host::steady() + allowed);
        self.write_state(false)
    }

    /// Writes down, durably, the name that the delivery will have, before it is made: the next
    /// attempt that finds that name finishes it instead of making another.
    ///
    /// # Errors
    /// As write(2), fdatasync(2), rename(2).
    pub fn set_destination(&mut self, destination: &str, inode: u64) -> Result<(), DiskError> {
        self.state.destination = Some(destination.to_owned());
        self.state.destination_inode = Some(inode);
        self.write_state(self.spool.durability().syncs_finish())
    }

    /// Takes that back, durably: no name was given.
    ///
    /// # Errors
    /// As [`Self::set_destination`].
    pub fn forget_destination(&mut self) -> Result<(), DiskError> {
        self.state.destination = None;
        self.state.destination_inode = None;
        self.write_state(self.spool.durability().syncs_finish())
    }

    /// Takes the state away, last of all: a state without data tells every consumer that a settling was
    /// cut short.
    pub(crate) fn remove_state(&self) -> Result<(), DiskError> {
        let path = self.spool.layout().state(self.id, self.claim);
        self.state_file.remove(&self.spool, &path)
    }

    fn write_state(&mut self, durably: bool) -> Result<(), DiskError> {
        let path = self.spool.layout().state(self.id, self.claim);
        let (spool, id, state) = (&self.spool, self.id, &self.state);
        self.state_file.write(spool, id, &path, state, durably)
    }
}

#[cfg(test)]
pub(crate) mod tests;
