//! The record of an upload: the JSON object beside its data.
//!
//! A record is one JSON object in two parts. What changes during an upload's life stands in a
//! *head* of exactly [`HEAD_LEN`] bytes, every value padded with blanks to a fixed width; the rest
//! follows and is fixed when the upload is created. To any JSON reader (tussi's workers among
//! them) it is an ordinary object.
//!
//! The head is overwritten in place by one `pwrite`. It lies within the first sector, so a power
//! cut leaves the old head or the new one; it never needs new space, so the offset can be kept on
//! a full disk; and it costs no inode (replacing the record by rename costs ten times as much and
//! makes ext4 creates slow where many inodes were freed). Only the holder of the data file's lock
//! writes. A reader without it can see half of a write, twice in a row even (a writer that is
//! preempted in the middle of its copy), so the head ends in a CRC-32 of itself, and the reader
//! reads again until it fits.
//!
//! What is written in place need not be on the disk yet, or may be there before the data that it
//! tells of. While it matters, the head says so: see [`Unsettled`].
//!
//! A record without `format` is tussi's and means what tussi means by it. Fields that we do not
//! know are kept.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{ClaimId, UploadId};
use crate::layout::DataAt;
use crate::size::{Length, Offset};
use crate::time::UnixTime;

mod file;
mod head;
mod place;
mod unsettled;

pub use file::{RecordError, RecordFile, read};
use head::Start;
pub use place::{Finish, Place};
pub use unsettled::Unsettled;
use unsettled::unsettled;

/// Version of the record's format that this code writes.
pub const FORMAT: u32 = 1;

/// Bytes of a record that are overwritten in place: one sector.
pub const HEAD_LEN: usize = 512;

/// Largest record that is read, in bytes; whatever is larger is not a record.
pub const RECORD_MAX: u64 = 4 << 20;

/// One attempt to process an upload, kept for the dead letter's reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which attempt, from 1.
    pub n: u32,
    /// When it began.
    pub started_at: UnixTime,
    /// When it ended.
    pub ended_at: UnixTime,
    /// Host that made it.
    pub host: String,
    /// Process that made it.
    pub pid: u32,
    /// What ran: "check", "move" or "hook".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Exit code of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// Signal that ended the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its time ran out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timeout: bool,
    /// Why it failed, in one line.
    pub error: String,
    /// The end of its standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr_tail: String,
}

/// The record of one upload, in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Version of the format; `None` is tussi's.
    pub format: Option<u32>,
    /// The watermark: every byte below it has been received, verified and (in `every-patch`
    /// mode) synced.
    pub offset: Offset,
    /// What a power cut makes of the watermark, if not what it says.
    pub unsettled: Option<Unsettled>,
    /// `None` while the client has not said it (`Upload-Defer-Length`).
    pub length: Option<Length>,
    /// When the offset last moved.
    pub last_write: UnixTime,
    /// Whether the client has said that this is all (IETF draft); durable before the hand-over.
    pub flagged: bool,
    /// Where the data is, or what became of it.
    pub place: Place,
    /// The claim that holds it, if `place` says so.
    pub claim: Option<ClaimId>,
    /// Attempts begun to process it.
    pub attempts: u32,
    /// Earliest next attempt, Unix seconds, if `place` is `deferred`.
    pub not_before: Option<u64>,
    /// When it was received in full.
    pub finished_at: Option<UnixTime>,
    /// Digest of the whole content, `sha256:…` in hexadecimal.
    pub digest: Option<String>,
    /// For a part: the final upload that was last made of it.
    pub joined_into: Option<UploadId>,
    /// When it ended, if `place` is an ending.
    pub ended_at: Option<UnixTime>,
    /// What never changes after creation, and what is only written with the whole record.
    pub rest: Rest,
}

/// The part of a record behind its head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rest {
    /// When the upload was created.
    pub created_at: UnixTime,
    /// When the upload is complete.
    #[serde(default)]
    pub finish: Finish,
    /// The client's metadata whose values are UTF-8.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The client's metadata whose values are not UTF-8, in Base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata_base64: BTreeMap<String, String>,
    /// What the on-create hook added.
    #[serde(default)]
    pub server_metadata: BTreeMap<String, String>,
    /// The client's `Upload-Metadata`, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_metadata: Option<String>,
    /// The client's `Upload-Concat`, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_concat: Option<String>,
    /// For a final upload: its parts in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<UploadId>,
    /// A digest that the client declared for the whole, checked before the hand-over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_digest: Option<String>,
    /// Attempts that failed, oldest first, at most [`HISTORY_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Attempt>,
    /// The short result that a hook wrote for the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Where a delivered upload was moved to, as its consumer names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The inode that was given that name, while it is not yet certain that it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_inode: Option<u64>,
    /// Whether a `completed` or `expired` event must be told (a marker goes to `outbox/` at the
    /// hand-over or when it expires).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub announce: bool,
    /// Fields that we do not know, kept as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How many failed attempts a record remembers.
pub const HISTORY_MAX: usize = 20;

/// The fields of the head as JSON names them.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    format: Option<u32>,
    #[serde(default)]
    offset: Offset,
    length: Option<Length>,
    last_write: UnixTime,
    #[serde(default)]
    flagged: bool,
    #[serde(default)]
    place: Place,
    #[serde(default)]
    claim: Option<ClaimId>,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    not_before: Option<u64>,
    #[serde(default)]
    finished_at: Option<String>,
    #[serde(default, rename = "duration")]
    _duration: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    joined_into: Option<UploadId>,
    #[serde(default)]
    ended_at: Option<UnixTime>,
    #[serde(default)]
    synced: Option<Offset>,
    #[serde(default)]
    boot: Option<String>,
    #[serde(default, rename = "check")]
    _check: Option<String>,
}

/// A record that begins with no head of ours: a name may stand anywhere.
#[derive(Deserialize)]
struct Foreign {
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    rest: Rest,
}

/// Reads a record that begins with a head of ours: its two parts are objects by themselves but for
/// the comma between them. As one object it would have to be looked through for every name twice.
fn parts_of_ours(bytes: &[u8]) -> serde_json::Result<(Head, Rest)> {
    let mut bytes = bytes.to_vec();
    bytes[HEAD_LEN - 1] = b'}';
    let head = serde_json::from_slice(&bytes[..HEAD_LEN])?;
    bytes[HEAD_LEN - 1] = b'{';
    Ok((head, serde_json::from_slice(&bytes[HEAD_LEN - 1..])?))
}

/// How the reason begins if a record's format is unknown because it is newer.
const NEWER: &str = "newer format";

impl Record {
    /// The record of a new upload.
    #[must_use]
    pub fn new(length: Option<Length>, now: UnixTime) -> Self {
        Self {
            format: Some(FORMAT),
            offset: Offset(0),
            unsettled: None,
            length,
            last_write: now,
            flagged: false,
            place: Place::Uploads,
            claim: None,
            attempts: 0,
            not_before: None,
            finished_at: None,
            digest: None,
            joined_into: None,
            ended_at: None,
            rest: Rest {
                created_at: now,
                ..Rest::default()
            },
        }
    }

    /// Whether the upload has been received in full by its own rule, so that whoever finds it
    /// may hand it over.
    #[must_use]
    pub fn is_received(&self) -> bool {
        let at_length = self
            .length
            .is_some_and(|length| self.offset.reaches(length));
        match self.rest.finish {
            Finish::AtLength => at_length,
            Finish::AtFlag => at_length && self.flagged,
            Finish::Never => false,
        }
    }

    /// Whether this is a part of a concatenation.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.rest.finish == Finish::Never
    }

    /// Whether this is a final upload of a concatenation.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !self.rest.parts.is_empty()
    }

    /// Whether this is a final upload whose parts are still being joined.
    #[must_use]
    pub fn is_assembling(&self) -> bool {
        self.is_final() && self.place == Place::Uploads && !self.is_received()
    }

    /// Writes down where the data is.
    pub fn set_place(&mut self, at: DataAt) {
        self.unsettled = None;
        self.claim = None;
        self.not_before = None;
        self.place = match at {
            DataAt::Uploads => Place::Uploads,
            DataAt::Completed => Place::Completed,
            DataAt::Claimed(claim) => {
                self.claim = Some(claim);
                Place::Claimed
            }
            DataAt::Deferred(not_before) => {
                self.not_before = Some(not_before);
                Place::Deferred
            }
            DataAt::Held => Place::Held,
            DataAt::Failed => Place::Failed,
        };
    }

    /// Writes down that the upload has ended.
    pub fn set_ending(&mut self, ending: Place, now: UnixTime) {
        debug_assert!(ending.is_ending());
        self.unsettled = None;
        self.claim = None;
        self.not_before = None;
        self.place = ending;
        self.ended_at = Some(now);
    }

    /// Where the record says that the data is; `None` if it has ended.
    #[must_use]
    pub fn data_at(&self) -> Option<DataAt> {
        match self.place {
            Place::Uploads => Some(DataAt::Uploads),
            Place::Completed => Some(DataAt::Completed),
            Place::Claimed => self.claim.map(DataAt::Claimed),
            Place::Deferred => self.not_before.map(DataAt::Deferred),
            Place::Held => Some(DataAt::Held),
            Place::Failed => Some(DataAt::Failed),
            Place::Delivered | Place::Terminated | Place::Expired | Place::Joined => None,
        }
    }

    /// Adds a failed attempt, forgetting the oldest beyond [`HISTORY_MAX`].
    pub fn remember(&mut self, attempt: Attempt) {
        let history = &mut self.rest.history;
        history.push(attempt);
        let excess = history.len().saturating_sub(HISTORY_MAX);
        history.drain(..excess);
    }

    /// Time from creation to completion.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.finished_at.map(|end| end.since(self.rest.created_at))
    }

    /// The whole record as it lies on disk, in our format whatever it was read from.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head().to_vec();
        let start = bytes.len();
        // A map of strings to JSON values always serializes.
        serde_json::to_writer(&mut bytes, &self.rest).unwrap_or_default();
        bytes.remove(start); // the `{` of the rest: the head has opened the object
        bytes.push(b'\n');
        bytes
    }

    /// Reads a record of any version.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (disk, rest) = match head::start(bytes) {
            Start::Torn => return Err("its head is torn".to_owned()),
            Start::Ours => parts_of_ours(bytes),
            Start::Other => {
                serde_json::from_slice(bytes).map(|Foreign { head, rest }| (head, rest))
            }
        }
        .map_err(|error| error.to_string())?;
        if let Some(format) = disk.format.filter(|&format| FORMAT < format) {
            return Err(format!("{NEWER} {format}, known is {FORMAT}"));
        }
        if disk.length.is_some_and(|length| length.0 < disk.offset.0) {
            return Err("offset past the length".to_owned());
        }
        let finished_at = disk
            .finished_at
            .as_deref()
            .and_then(UnixTime::parse_iso8601);
        Ok(Self {
            format: disk.format,
            offset: disk.offset,
            unsettled: unsettled(disk.synced, disk.boot)?,
            length: disk.length,
            last_write: disk.last_write,
            flagged: disk.flagged,
            place: disk.place,
            claim: disk.claim,
            attempts: disk.attempts,
            not_before: disk.not_before,
            finished_at,
            digest: disk.digest,
            joined_into: disk.joined_into,
            ended_at: disk.ended_at,
            rest,
        })
    }
}

#[cfg(test)]
mod tests;
