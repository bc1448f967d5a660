//! Carries out what was decided: under the lock, after another look.

use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;

use shared::burial;
use shared::durable::{self, DiskError, OnPath};
use shared::ending::{self, End};
use shared::failpoint::{self, Failpoint};
use shared::handover::{self, Recovered};
use shared::id::UploadId;
use shared::layout::{DataAt, RecordAt};
use shared::lock::{DataLock, TryLock};
use shared::locked::Locked;
use shared::operate::{self, Operated};
use shared::orphan::{self, Orphan};
use shared::record::{self, Place, Record};
use shared::spool::Spool;

use crate::look::{Look, last_trace, record_home};
use crate::policy::{Found, Verdict, judge};

/// What came of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It is done.
    Yes,
    /// Somebody is at work on the upload.
    Busy,
    /// With the lock held, it was not what it had looked like.
    Changed,
}

/// What deeds need.
pub(super) struct Deeds<'a> {
    pub(super) spool: &'a Arc<Spool>,
    /// For what expires: see [`super::Spools`].
    pub(super) quick: &'a Spool,
    pub(super) look: Look<'a>,
    pub(super) orphans: orphan::Rules,
}

fn done(operated: Operated) -> Done {
    match operated {
        Operated::Done => Done::Yes,
        Operated::Busy => Done::Busy,
        Operated::NotThere | Operated::Missing => Done::Changed,
    }
}

/// The lock of data that was judged, and what the data is like with the lock held; or what came of
/// the deed if there is no lock to have.
fn hold(path: &Path) -> Result<Result<(DataLock, Metadata), Done>, DiskError> {
    Ok(match DataLock::try_lock(path)? {
        TryLock::Held(lock) => {
            let data = lock.file().metadata().on("stat", path)?;
            Ok((lock, data))
        }
        TryLock::Busy => Err(Done::Busy),
        TryLock::Missing => Err(Done::Changed),
    })
}

impl Deeds<'_> {
    /// Obeys a verdict on data at a place.
    pub(super) fn to_data(
        &self,
        id: UploadId,
        at: DataAt,
        found: Found,
        verdict: Verdict,
    ) -> Result<Done, DiskError> {
        match (verdict, at) {
            (Verdict::Keep, _) => Ok(Done::Changed),
            (Verdict::Requeue, DataAt::Claimed(claim)) => {
                let now = self.look.now;
                Ok(
                    match orphan::recover(self.spool, id, claim, self.orphans, now)? {
                        Orphan::Alive(_) => Done::Busy,
                        Orphan::Requeued | Orphan::Dead | Orphan::Cleared => Done::Yes,
                        Orphan::Gone => Done::Changed,
                    },
                )
            }
            (Verdict::Requeue, _) => Ok(Done::Changed),
            (Verdict::Expire, _) => self.expire(id, at, verdict),
            (Verdict::Finish, DataAt::Failed) => self.follow_record(id),
            (Verdict::Finish, DataAt::Held) => {
                let data = self.look.layout.data(id, at);
                failpoint::hit(Failpoint::JanitorJudged).on("judge", &data)?;
                operate::settle_held(self.spool, id).map(done)
            }
            (Verdict::Fail, _) if found == Found::Completed => self.give_up(id, at),
            (Verdict::Finish | Verdict::Fail | Verdict::Remove, _) => {
                self.locked(id, at, found, verdict)
            }
        }
    }

    /// Ends an upload if its record, read again under the lock, is still due.
    fn expire(&self, id: UploadId, at: DataAt, verdict: Verdict) -> Result<Done, DiskError> {
        let path = self.look.layout.data(id, at);
        failpoint::hit(Failpoint::JanitorJudged).on("judge", &path)?;
        let (lock, data) = match hold(&path)? {
            Ok(held) => held,
            Err(done) => return Ok(done),
        };
        let how = |record: &Record| {
            let traces = self.look.now.since(last_trace(record));
            let idle = self.look.age(&data).min(traces);
            let found = self.look.with_record(at, data.len(), record).ok()?;
            let is_due = judge(self.look.policy, found, idle) == verdict;
            is_due.then_some(match record.joined_into {
                Some(_) => Place::Joined,
                None => Place::Expired,
            })
        };
        let locked = Locked {
            spool: self.quick,
            id,
            at,
            lock: &lock,
        };
        let ended = ending::end_locked(locked, record_home(at), self.look.now, how)?;
        Ok(match ended {
            End::Ended => Done::Yes,
            // With the lock held, busy is an upload whose record has left.
            End::Busy | End::Already(_) | End::Missing | End::Spared => Done::Changed,
        })
    }

    /// Makes a dead letter of an upload that nobody has claimed, if its record, read again under the
    /// lock, is still due.
    fn give_up(&self, id: UploadId, at: DataAt) -> Result<Done, DiskError> {
        let path = self.look.layout.data(id, at);
        failpoint::hit(Failpoint::JanitorJudged).on("judge", &path)?;
        let (lock, data) = match hold(&path)? {
            Ok(held) => held,
            Err(done) => return Ok(done),
        };
        // Before it is opened: one of tussi's is replaced then, and would look young.
        let Some(file) = durable::stat(&self.look.layout.record(id, record_home(at)))? else {
            return Ok(Done::Changed);
        };
        let untouched = self.look.age(&data).min(self.look.age(&file));
        let is_due = |record: Option<&Record>| {
            let Some(record) = record else { return false };
            let idle = untouched.min(self.look.now.since(last_trace(record)));
            let found = self.look.with_record(at, data.len(), record);
            judge(self.look.policy, Found::Completed, idle) == Verdict::Fail
                && matches!(found, Ok(Found::Completed))
                && matches!(self.look.has_told_name(id, at, &data, record), Ok(false))
        };
        let locked = Locked {
            spool: self.quick,
            id,
            at,
            lock: &lock,
        };
        let why = "nobody claimed it in time";
        let buried = burial::bury_if(locked, why, self.look.now, is_due)?;
        Ok(if buried { Done::Yes } else { Done::Changed })
    }

    /// Takes the lock, looks again, and acts if nothing has changed.
    fn locked(
        &self,
        id: UploadId,
        at: DataAt,
        found: Found,
        verdict: Verdict,
    ) -> Result<Done, DiskError> {
        let path = self.look.layout.data(id, at);
        let (lock, data) = match hold(&path)? {
            Ok(held) => held,
            Err(done) => return Ok(done),
        };
        let again = self.look.at_data(id, at, &data, None)?;
        if again.found != found || judge(self.look.policy, found, again.idle) != verdict {
            return Ok(Done::Changed);
        }
        failpoint::hit(Failpoint::JanitorJudged).on("judge", &path)?;
        let locked = Locked {
            spool: self.spool,
            id,
            at,
            lock: &lock,
        };
        match (verdict, found) {
            (Verdict::Fail, _) => self.bury(locked, &self.damage(id, at)),
            (Verdict::Remove, Found::DataAlone | Found::SecondName) => {
                durable::unlink(&path).map(|_| Done::Yes)
            }
            (Verdict::Remove, _) => self.clear(locked),
            (_, _) if matches!(at, DataAt::Uploads | DataAt::Completed) => self.hand_over(locked),
            _ => Ok(Done::Changed),
        }
    }

    /// Takes the steps of a hand-over that are left.
    fn hand_over(&self, locked: Locked<'_>) -> Result<Done, DiskError> {
        Ok(match handover::recover_locked(locked, self.look.now)? {
            Recovered::Completed { .. } | Recovered::Ended(_) => Done::Yes,
            Recovered::Busy => Done::Busy,
            Recovered::Torn { at, reason } => return self.bury(Locked { at, ..locked }, &reason),
            Recovered::Receiving(_)
            | Recovered::Orphan
            | Recovered::OrphanRecord
            | Recovered::Elsewhere => Done::Changed,
        })
    }

    /// Removes what is left of an upload that has ended.
    fn clear(&self, locked: Locked<'_>) -> Result<Done, DiskError> {
        let Locked { id, at, .. } = locked;
        let home = record_home(at);
        let here = record::read(&self.look.layout.record(id, home));
        let record_at = match here {
            Ok(record) if record.place.is_ending() => home,
            _ => RecordAt::Receipts,
        };
        ending::finish(locked, record_at)?;
        if at == DataAt::Failed {
            durable::unlink(&self.look.layout.reason(id))?;
        }
        Ok(Done::Yes)
    }

    fn bury(&self, locked: Locked<'_>, reason: &str) -> Result<Done, DiskError> {
        burial::bury(locked, reason, self.look.now).map(|()| Done::Yes)
    }

    /// Why data cannot be processed as it is.
    fn damage(&self, id: UploadId, at: DataAt) -> String {
        match record::read(&self.look.layout.record(id, record_home(at))) {
            Ok(record) => {
                let length = record
                    .length
                    .map_or("unknown".to_owned(), |length| length.to_string());
                format!("its size is not its length, {length}")
            }
            Err(error) if error.is_missing() => "data without a record".to_owned(),
            Err(_) => "its record cannot be read".to_owned(),
        }
    }

    /// Data in `failed/` whose record is elsewhere: a burial, or an operator's retry, that was cut
    /// short.
    fn follow_record(&self, id: UploadId) -> Result<Done, DiskError> {
        let layout = self.look.layout;
        let data = layout.data(id, DataAt::Failed);
        failpoint::hit(Failpoint::JanitorJudged).on("judge", &data)?;
        let uploads = layout.record(id, RecordAt::Uploads);
        if durable::stat(&uploads)?.is_some() {
            // Buried from `uploads/`: only the record is still to come.
            return Ok(match DataLock::try_lock(&data)? {
                TryLock::Held(_lock) => {
                    durable::rename(&uploads, &layout.record(id, RecordAt::Failed))?;
                    Done::Yes
                }
                TryLock::Busy => Done::Busy,
                TryLock::Missing => Done::Changed,
            });
        }
        operate::settle_backward(self.spool, id).map(done)
    }

    /// Deals with a record that has no data anywhere: an ending becomes a receipt, the rest goes.
    pub(super) fn to_record(&self, id: UploadId, at: RecordAt) -> Result<Done, DiskError> {
        let layout = self.look.layout;
        let path = layout.record(id, at);
        failpoint::hit(Failpoint::JanitorJudged).on("judge", &path)?;
        let Some(sight) = self.look.at_record(id, at)? else {
            return Ok(Done::Changed);
        };
        match (
            sight.found,
            judge(self.look.policy, sight.found, sight.idle),
        ) {
            (Found::Ended, Verdict::Remove) => self.keep_receipt(id, at),
            (Found::RecordAlone | Found::DataTaken, Verdict::Remove) => {
                durable::unlink(&path).map(|_| Done::Yes)
            }
            (Found::HalfMoved, Verdict::Finish) => {
                Ok(match handover::recover(self.spool, id, self.look.now)? {
                    Recovered::Completed { by_us: true } | Recovered::Ended(_) => Done::Yes,
                    Recovered::Busy => Done::Busy,
                    Recovered::Completed { by_us: false }
                    | Recovered::Receiving(_)
                    | Recovered::Orphan
                    | Recovered::OrphanRecord
                    | Recovered::Torn { .. }
                    | Recovered::Elsewhere => Done::Changed,
                })
            }
            _ => Ok(Done::Changed),
        }
    }

    fn keep_receipt(&self, id: UploadId, at: RecordAt) -> Result<Done, DiskError> {
        let layout = self.look.layout;
        let (path, receipt) = (layout.record(id, at), layout.record(id, RecordAt::Receipts));
        let ended = record::read(&path).is_ok_and(|record| record.place.is_ending());
        if ended && durable::stat(&receipt)?.is_none() {
            return durable::rename(&path, &receipt).map(|()| Done::Yes);
        }
        durable::unlink(&path).map(|_| Done::Yes)
    }

    /// Removes a file that belongs to no data: there is nothing to lock.
    pub(super) fn to_file(&self, path: &Path) -> Result<Done, DiskError> {
        failpoint::hit(Failpoint::JanitorJudged).on("judge", path)?;
        durable::unlink(path).map(|there| if there { Done::Yes } else { Done::Changed })
    }
}
