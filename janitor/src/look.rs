//! Looks at one thing in the spool and at everything that belongs to it. Changes nothing.
//!
//! Where the data is decides; its record is looked for in the order in which records flow, so
//! that one on its way forward is not missed. What is destructive is looked at once more under
//! the lock before it is done.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use shared::durable::{self, DiskError};
use shared::id::UploadId;
use shared::layout::{DataAt, Layout, RecordAt};
use shared::record::{self, Place, Record, RecordError};
use shared::time::UnixTime;

use crate::policy::{Found, Policy, Verdict, judge};

/// What was found, and how long nothing has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What it is.
    pub found: Found,
    /// Time since the latest trace of life.
    pub idle: Duration,
}

/// What `receipts/` says of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receipt {
    Missing,
    Ended,
    Damaged,
}

/// A spool as seen at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Where everything lies.
    pub layout: &'a Layout,
    /// Which traces matter.
    pub policy: &'a Policy,
    /// The moment.
    pub now: UnixTime,
}

impl Look<'_> {
    /// Time since a file changed.
    #[must_use]
    pub fn age(&self, file: &Metadata) -> Duration {
        file.modified()
            .map_or(Duration::ZERO, |time| self.now.since(time.into()))
    }

    /// Time since the latest trace that the record of data in `uploads/` knows of, if the record alone
    /// tells that nothing is due: a trace that only the data shows would be a later one, and what an
    /// unfinished upload is does not depend on how long its data is.
    ///
    /// # Errors
    ///
    /// As read(2), on the record of the final upload that a part belongs to.
    pub fn idle_if_kept(&self, record: &Record) -> Result<Option<Duration>, DiskError> {
        if record.data_at() != Some(DataAt::Uploads) {
            return Ok(None);
        }
        let idle = self.now.since(last_trace(record));
        let found = self.unfinished(record)?;
        Ok((judge(self.policy, found, idle) == Verdict::Keep).then_some(idle))
    }

    /// Data at a place, of which `data` is the stat, and `read` what came of reading its record, if
    /// that has been done.
    ///
    /// # Errors
    ///
    /// What cannot be read for another reason than being absent or damaged.
    pub fn at_data(
        &self,
        id: UploadId,
        at: DataAt,
        data: &Metadata,
        read: Option<Result<Record, RecordError>>,
    ) -> Result<Sight, DiskError> {
        let home = record_home(at);
        let idle = self.age(data);
        let seen = |found, idle| Ok(Sight { found, idle });
        match at {
            // Whether a claim lives is told by its lock, not by its age.
            DataAt::Claimed(_) => return seen(Found::Abandoned, idle),
            DataAt::Uploads
            | DataAt::Completed
            | DataAt::Deferred(_)
            | DataAt::Held
            | DataAt::Failed => {}
        }
        let path = self.layout.record(id, home);
        match read.unwrap_or_else(|| record::read(&path)) {
            Ok(record) => {
                let idle = idle.min(self.now.since(last_trace(&record)));
                if self.has_told_name(id, at, data, &record)? {
                    return seen(Found::SecondName, idle);
                }
                let found = self.with_record(at, data.len(), &record)?;
                seen(found, self.record_idle(found, idle, &path)?)
            }
            Err(RecordError::Disk(error)) if error.is_missing() => {
                seen(self.without_record(id, at)?, idle)
            }
            Err(RecordError::Disk(error)) => Err(error),
            Err(error) if error.is_newer() => seen(Found::Newer, idle),
            Err(RecordError::Unreadable { .. }) => {
                seen(Found::Torn, self.record_idle(Found::Torn, idle, &path)?)
            }
        }
    }

    /// What data is whose record can be read.
    ///
    /// # Errors
    ///
    /// As read(2), on the record of the final upload that a part belongs to.
    pub fn with_record(&self, at: DataAt, size: u64, record: &Record) -> Result<Found, DiskError> {
        if record.place.is_ending() {
            return Ok(Found::Ended);
        }
        let fits = record.length.is_some_and(|length| length.0 == size);
        Ok(match at {
            DataAt::Uploads => return self.unfinished(record),
            DataAt::Completed if fits => Found::Completed,
            DataAt::Completed => Found::Torn,
            DataAt::Failed => Found::Failed,
            DataAt::Deferred(_) | DataAt::Claimed(_) => Found::Waiting,
            DataAt::Held if record.place == Place::Held => Found::NotOurs,
            // A release writes the record first.
            DataAt::Held => Found::HalfMoved,
        })
    }

    /// `idle`, unless the record has changed since: it was put back into the queue, say. Only
    /// looked at if that makes a difference; there can be a million of them.
    fn record_idle(
        &self,
        found: Found,
        idle: Duration,
        path: &Path,
    ) -> Result<Duration, DiskError> {
        if judge(self.policy, found, idle) == Verdict::Keep {
            return Ok(idle);
        }
        Ok(durable::stat(path)?.map_or(idle, |record| idle.min(self.age(&record))))
    }

    /// Whether the record tells another place, and the same data is there: a move backward gives
    /// data its new name before it takes the old one.
    ///
    /// # Errors
    ///
    /// As stat(2).
    pub fn has_told_name(
        &self,
        id: UploadId,
        at: DataAt,
        data: &Metadata,
        record: &Record,
    ) -> Result<bool, DiskError> {
        let told = record
            .data_at()
            .filter(|&told| told != at && 1 < data.nlink());
        let Some(told) = told else { return Ok(false) };
        let there = durable::stat(&self.layout.data(id, told))?;
        Ok(there.is_some_and(|there| durable::identity(&there) == durable::identity(data)))
    }

    fn unfinished(&self, record: &Record) -> Result<Found, DiskError> {
        Ok(match record.joined_into {
            _ if record.is_assembling() && self.is_abandoned(record)? => Found::Receiving,
            _ if record.is_assembling() => Found::Assembling,
            Some(whole) if record.is_partial() && self.is_assembling(whole)? => Found::NamedPart,
            _ if record.is_partial() => Found::Part,
            _ if record.is_received() => Found::Received,
            _ => Found::Receiving,
        })
    }

    /// Whether a part of a final upload is open and nobody has gone on with it for as long as any
    /// upload may be idle: then the final waits for ever, and its parts for it.
    fn is_abandoned(&self, whole: &Record) -> Result<bool, DiskError> {
        for part in &whole.rest.parts {
            match record::read(&self.layout.record(*part, RecordAt::Uploads)) {
                Ok(part) => {
                    let full = part
                        .length
                        .is_some_and(|length| part.offset.reaches(length));
                    let idle = self.now.since(last_trace(&part));
                    if !full && self.policy.stale_upload < idle {
                        return Ok(true);
                    }
                }
                Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Whether a final upload may still need its parts. One that cannot be read may.
    fn is_assembling(&self, whole: UploadId) -> Result<bool, DiskError> {
        match record::read(&self.layout.record(whole, RecordAt::Uploads)) {
            Ok(record) => Ok(record.is_assembling()),
            Err(RecordError::Disk(error)) if error.is_missing() => Ok(false),
            Err(RecordError::Disk(error)) => Err(error),
            Err(RecordError::Unreadable { .. }) => Ok(true),
        }
    }

    /// Data whose record is not where it should be.
    fn without_record(&self, id: UploadId, at: DataAt) -> Result<Found, DiskError> {
        for elsewhere in [RecordAt::Uploads, RecordAt::Completed, RecordAt::Failed] {
            if durable::stat(&self.layout.record(id, elsewhere))?.is_some() {
                // If it is where it should be after all, it has come back in the meantime.
                let back = elsewhere == record_home(at);
                return Ok(if back {
                    Found::Waiting
                } else {
                    Found::HalfMoved
                });
            }
        }
        Ok(match (self.receipt(id)?, at) {
            (Receipt::Ended, _) => Found::Ended,
            (_, DataAt::Held) => Found::NotOurs,
            (_, DataAt::Failed) => Found::Failed,
            (Receipt::Damaged, _) => Found::Torn,
            (Receipt::Missing, DataAt::Uploads) => Found::DataAlone,
            (Receipt::Missing, _) => Found::RecordLost,
        })
    }

    fn receipt(&self, id: UploadId) -> Result<Receipt, DiskError> {
        match record::read(&self.layout.record(id, RecordAt::Receipts)) {
            Ok(record) if record.place.is_ending() => Ok(Receipt::Ended),
            Err(RecordError::Disk(error)) if error.is_missing() => Ok(Receipt::Missing),
            Err(RecordError::Disk(error)) => Err(error),
            Ok(_) | Err(RecordError::Unreadable { .. }) => Ok(Receipt::Damaged),
        }
    }

    /// A record whose data is not where it should be. Data in `claimed/` and `deferred/` has
    /// names that cannot be told from here: [`Found::DataTaken`] is a suspicion until those
    /// directories have been listed.
    ///
    /// # Errors
    ///
    /// As stat(2) and read(2).
    pub fn at_record(&self, id: UploadId, at: RecordAt) -> Result<Option<Sight>, DiskError> {
        let path = self.layout.record(id, at);
        let Some(file) = durable::stat(&path)? else {
            return Ok(None);
        };
        let idle = self.age(&file);
        if idle <= self.policy.grace {
            return Ok(None);
        }
        let record = match record::read(&path) {
            Err(RecordError::Disk(error)) if error.is_missing() => return Ok(None),
            Err(RecordError::Disk(error)) => return Err(error),
            read => read.ok(),
        };
        let hinted = record.as_ref().and_then(Record::data_at);
        let known = [
            DataAt::Uploads,
            DataAt::Completed,
            DataAt::Held,
            DataAt::Failed,
        ];
        for place in known.into_iter().chain(hinted) {
            if durable::stat(&self.layout.data(id, place))?.is_some() {
                let found = if record_home(place) == at {
                    Found::Waiting
                } else {
                    Found::HalfMoved
                };
                return Ok(Some(Sight { found, idle }));
            }
        }
        let ended = record.is_some_and(|record| record.place.is_ending())
            || self.receipt(id)? == Receipt::Ended;
        let found = match at {
            _ if ended => Found::Ended,
            RecordAt::Uploads => Found::RecordAlone,
            _ => Found::DataTaken,
        };
        Ok(Some(Sight { found, idle }))
    }
}

impl Look<'_> {
    /// How long ago an upload ended, by its receipt, of which `file` is the stat; `None` if something
    /// else of the upload is still there, which needs the receipt to be understood.
    ///
    /// # Errors
    ///
    /// As stat(2) and read(2).
    pub fn at_receipt(&self, id: UploadId, file: &Metadata) -> Result<Option<Duration>, DiskError> {
        let path = self.layout.record(id, RecordAt::Receipts);
        let mut idle = self.age(file);
        if idle <= self.policy.receipt {
            return Ok(Some(idle));
        }
        for at in [RecordAt::Uploads, RecordAt::Completed, RecordAt::Failed] {
            if durable::stat(&self.layout.record(id, at))?.is_some() {
                return Ok(None);
            }
        }
        if let Ok(record) = record::read(&path) {
            idle = idle.min(self.now.since(last_trace(&record)));
        }
        Ok(Some(idle))
    }
}

/// Where the record of data at a place lies.
#[must_use]
pub fn record_home(at: DataAt) -> RecordAt {
    match at {
        DataAt::Uploads => RecordAt::Uploads,
        DataAt::Completed | DataAt::Claimed(_) | DataAt::Deferred(_) | DataAt::Held => {
            RecordAt::Completed
        }
        DataAt::Failed => RecordAt::Failed,
    }
}

/// The latest thing that a record knows to have happened.
pub(crate) fn last_trace(record: &Record) -> UnixTime {
    let times = [Some(record.last_write), record.finished_at, record.ended_at];
    times.into_iter().flatten().max().unwrap_or_default()
}
