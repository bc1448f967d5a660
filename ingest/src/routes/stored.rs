//! Between the record on disk and what the protocol's decisions know of an upload.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use shared::lookup::{Found, State};
use shared::record::{self, Record};
use shared::time::UnixTime;

use crate::tus::capabilities::Capabilities;
use crate::tus::create;
use crate::tus::expires;
use crate::tus::metadata;
use crate::tus::refusal::Refusal;
use crate::tus::stored::{Finish, Kind, Stored};

/// What a decision needs to know.
///
/// # Errors
/// [`Refusal::Gone`] for an upload that was ended before it was delivered, or will be as soon as
/// the janitor comes by.
pub(super) fn stored(found: &Found, capabilities: &Capabilities) -> Result<Stored, Refusal> {
    let stored = of_record(&found.record);
    let has_expired =
        || expires::is_over(last_write(&found.record), SystemTime::now(), capabilities);
    match found.state() {
        State::Terminated | State::Expired => Err(Refusal::Gone),
        // A part waits for its final upload, a final upload for its parts.
        State::Receiving if stored.kind == Kind::Whole && has_expired() => Err(Refusal::Gone),
        State::Receiving => Ok(stored),
        State::Queued
        | State::Processing
        | State::Deferred
        | State::Held
        | State::Delivered
        | State::Failed
        | State::Joined => Ok(Stored {
            complete: true,
            ..stored
        }),
    }
}

/// The same for a record in `uploads/`.
pub(super) fn of_record(record: &Record) -> Stored {
    let is_full = record
        .length
        .is_some_and(|length| record.offset.reaches(length));
    let kind = match () {
        () if record.is_partial() => Kind::Partial,
        () if record.is_final() => Kind::Final {
            assembled: record.is_received(),
        },
        () => Kind::Whole,
    };
    let finish = match record.rest.finish {
        record::Finish::AtLength => Finish::AtLength,
        record::Finish::AtFlag => Finish::AtFlag,
        record::Finish::Never => Finish::Never,
    };
    let complete = record.is_received() || (kind == Kind::Partial && is_full);
    Stored {
        offset: record.offset,
        length: record.length,
        complete,
        kind,
        finish,
    }
}

/// What completes an upload, as the record says it.
fn finish_on_disk(finish: Finish) -> record::Finish {
    match finish {
        Finish::AtLength => record::Finish::AtLength,
        Finish::AtFlag => record::Finish::AtFlag,
        Finish::Never => record::Finish::Never,
    }
}

/// The record of a new upload.
pub(super) fn new_record(plan: &create::Plan, now: UnixTime) -> Record {
    let metadata = &plan.metadata;
    let mut record = Record::new(plan.length, now);
    record.rest.finish = finish_on_disk(plan.finish);
    record.rest.parts.clone_from(&plan.parts);
    for (key, value) in metadata.iter() {
        match std::str::from_utf8(value) {
            Ok(text) => record.rest.metadata.insert(key.to_owned(), text.to_owned()),
            Err(_) => record
                .rest
                .metadata_base64
                .insert(key.to_owned(), STANDARD.encode(value)),
        };
    }
    let verbatim = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    record.rest.upload_metadata = metadata.verbatim().and_then(verbatim);
    record.rest.upload_concat = plan.concat.as_ref().and_then(verbatim);
    record
}

/// The client's own header fields, byte for byte where they were kept.
pub(super) fn echo(record: &Record) -> (Option<HeaderValue>, Option<HeaderValue>) {
    let rest = &record.rest;
    let kept = |text: &Option<String>| {
        text.as_deref()
            .and_then(|text| HeaderValue::from_str(text).ok())
    };
    let metadata = kept(&rest.upload_metadata).or_else(|| {
        // tussi keeps the values only.
        let pairs = rest.metadata.iter();
        metadata::serialize(pairs.map(|(key, value)| (key.as_str(), value.as_bytes())))
    });
    (metadata, kept(&rest.upload_concat))
}

/// Adds `Upload-Expires` where the upload will expire.
pub(super) fn announce_expiry(
    fields: &mut HeaderMap,
    record: &Record,
    complete: bool,
    capabilities: &Capabilities,
) {
    expires::announce(fields, last_write(record), complete, capabilities);
}

/// When the last byte came.
pub(super) fn last_write(record: &Record) -> SystemTime {
    let micros = u64::try_from(record.last_write.as_micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}
