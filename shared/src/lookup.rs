//! Looks an upload up by its id, in the order in which it flows, without listing a directory and
//! without a lock.

use std::time::Duration;

use crate::durable::DiskError;
use crate::id::UploadId;
use crate::layout::{DataAt, RecordAt};
use crate::record::{self, Place, Record, RecordError};
use crate::spool::Spool;

/// How long to wait before the second of two complete misses counts as absence. Records flow
/// forward while somebody looks; those that move backward (an operator's retry) do so at once.
pub const SECOND_LOOK_AFTER: Duration = Duration::from_millis(20);

/// A record and where it lies.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where the record lies.
    pub at: RecordAt,
    /// What it says.
    pub record: Record,
}

/// One look. `None` is no proof of absence: see [`find`]. A record that cannot be read is passed
/// over and logged.
///
/// # Errors
/// As open(2) and read(2), but for absence.
pub fn find_once(spool: &Spool, id: UploadId) -> Result<Option<Found>, DiskError> {
    for at in RecordAt::ALL {
        match record::read(&spool.layout().record(id, at)) {
            Ok(mut record) => {
                // Expiry is not synced: a power cut can keep the name and lose the word.
                if at == RecordAt::Receipts && !record.place.is_ending() {
                    record.set_ending(Place::Expired, record.last_write);
                }
                return Ok(Some(Found { at, record }));
            }
            Err(RecordError::Disk(error)) if error.is_missing() => {}
            Err(RecordError::Disk(error)) => return Err(error),
            Err(error @ RecordError::Unreadable { .. }) => {
                tracing::warn!(upload_id = %id, "{error}");
            }
        }
    }
    Ok(None)
}

/// Two looks, [`SECOND_LOOK_AFTER`] apart, before an upload counts as absent. Blocks.
///
/// # Errors
/// As [`find_once`].
pub fn find(spool: &Spool, id: UploadId) -> Result<Option<Found>, DiskError> {
    if let Some(found) = find_once(spool, id)? {
        return Ok(Some(found));
    }
    std::thread::sleep(SECOND_LOOK_AFTER);
    find_once(spool, id)
}

/// The names under which the data may be, likeliest first; empty if it has left the spool.
#[must_use]
pub fn data_candidates(found: &Found) -> Vec<DataAt> {
    if found.record.place.is_ending() {
        return Vec::new();
    }
    let likely = found.record.data_at();
    let by_record = match found.at {
        RecordAt::Uploads => &[DataAt::Uploads, DataAt::Completed][..],
        RecordAt::Completed => &[DataAt::Completed, DataAt::Uploads, DataAt::Held],
        RecordAt::Failed => &[DataAt::Failed],
        RecordAt::Receipts => &[],
    };
    let others = by_record.iter().copied().filter(|&at| Some(at) != likely);
    likely.into_iter().chain(others).collect()
}

/// What a client or an operator may be told of an upload, by its record alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Bytes are still to come.
    Receiving,
    /// Waits for a consumer.
    Queued,
    /// A consumer works on it.
    Processing,
    /// Waits for its next attempt.
    Deferred,
    /// Taken aside by an operator.
    Held,
    /// Delivered.
    Delivered,
    /// A dead letter.
    Failed,
    /// Removed by the client or an operator.
    Terminated,
    /// Idle or unclaimed for too long.
    Expired,
    /// A part that has been joined into its final upload.
    Joined,
}

impl State {
    /// Its name in JSON, `ls` and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Deferred => "deferred",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
            Self::Joined => "joined",
        }
    }
}

impl Found {
    /// The upload's state.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.at, self.record.place) {
            (_, Place::Delivered) => State::Delivered,
            (_, Place::Terminated) => State::Terminated,
            (_, Place::Expired) => State::Expired,
            (_, Place::Joined) => State::Joined,
            (RecordAt::Uploads, _) => State::Receiving,
            (RecordAt::Failed, _) => State::Failed,
            (_, Place::Claimed) => State::Processing,
            (_, Place::Deferred) => State::Deferred,
            (_, Place::Held) => State::Held,
            (_, Place::Uploads | Place::Completed | Place::Failed) => State::Queued,
        }
    }
}
