//! `GET {upload}`: what became of an upload, as JSON.
//!
//! From the disk alone, so that every ingest process on the spool can answer, before and after the
//! delivery. It takes no lock, asks no writer for anything and never serves contents. Whoever knows
//! the URL may ask, as with `HEAD`; so nothing is told that `HEAD` would not tell, beside where the
//! upload stands in the pipeline and the short result that a hook wrote for the client. Why
//! processing failed may be the operator's secret and is told only if the operator says so.

use std::collections::BTreeMap;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::id::UploadId;
use shared::lookup::{Found, State};
use shared::record::Attempt;
use shared::size::{Length, Offset};
use shared::time::UnixTime;
use warp::reply::Response;

use super::stored::{last_write, stored};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::capabilities::Capabilities;
use crate::tus::expires;

/// The answer's body.
#[derive(Debug, Serialize)]
struct Told<'a> {
    id: UploadId,
    state: &'static str,
    offset: Offset,
    length: Option<Length>,
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata_base64: &'a BTreeMap<String, String>,
    created_at: String,
    last_write: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
}

/// The last attempt that failed, without what the command printed.
#[derive(Debug, Serialize)]
struct Failure<'a> {
    at: String,
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    timeout: bool,
    error: &'a str,
}

pub(super) async fn state(ingest: &Ingest, id: UploadId) -> Result<Response, IngestError> {
    let found = ingest.uploads.peek(id).await?;
    let state = state_of(&found, &ingest.capabilities);
    let mut told = tell(id, &found, state, ingest.show_failures);
    if state == State::Receiving {
        let expires = expires::at(last_write(&found.record), &ingest.capabilities);
        told.expires_at = expires.map(|at| UnixTime::from(at).iso8601());
    }
    let mut body = serde_json::to_vec(&told).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(body.into());
    *response.status_mut() = status(state);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// As the record says; but an upload that nobody has swept away yet has expired all the same.
fn state_of(found: &Found, capabilities: &Capabilities) -> State {
    match found.state() {
        State::Receiving if stored(found, capabilities).is_err() => State::Expired,
        state => state,
    }
}

/// An upload that ended without a delivery is gone, for every method (tus asks for it); what is
/// left is to say why.
fn status(state: State) -> StatusCode {
    match state {
        State::Terminated | State::Expired => StatusCode::GONE,
        State::Receiving
        | State::Queued
        | State::Processing
        | State::Deferred
        | State::Held
        | State::Delivered
        | State::Failed
        | State::Joined => StatusCode::OK,
    }
}

fn tell(id: UploadId, found: &Found, state: State, show_failures: bool) -> Told<'_> {
    let record = &found.record;
    let waits = matches!(state, State::Deferred);
    let troubled = waits || matches!(state, State::Failed);
    let last_failure = record.rest.history.last();
    Told {
        id,
        state: state.name(),
        offset: record.offset,
        length: record.length,
        metadata: &record.rest.metadata,
        metadata_base64: &record.rest.metadata_base64,
        created_at: record.rest.created_at.iso8601(),
        last_write: record.last_write.iso8601(),
        finished_at: record.finished_at.map(UnixTime::iso8601),
        expires_at: None,
        ended_at: record.ended_at.map(UnixTime::iso8601),
        attempts: record.attempts,
        next_attempt_at: record
            .not_before
            .filter(|_| waits)
            .map(|seconds| UnixTime::from_secs(seconds).iso8601()),
        digest: record.digest.as_deref(),
        result: record.rest.result.as_ref(),
        failure: last_failure
            .filter(|_| show_failures && troubled)
            .map(failure),
    }
}

fn failure(attempt: &Attempt) -> Failure<'_> {
    Failure {
        at: attempt.ended_at.iso8601(),
        stage: &attempt.stage,
        exit: attempt.exit,
        signal: attempt.signal,
        timeout: attempt.timeout,
        error: &attempt.error,
    }
}

#[cfg(test)]
mod tests {
    use shared::layout::RecordAt;
    use shared::record::{Place, Record};

    use super::*;

    fn found(at: RecordAt, place: Place) -> Found {
        let mut record = Record::new(Some(Length(11)), UnixTime::from_secs(1_700_000_000));
        record.offset = Offset(5);
        record.place = place;
        record.not_before = Some(1_700_000_060);
        record.rest.metadata.insert("filename".into(), "a".into());
        record
            .rest
            .server_metadata
            .insert("user".into(), "secret".into());
        record.rest.destination = Some("/srv/secret".into());
        record.rest.history.push(Attempt {
            n: 1,
            exit: Some(7),
            stage: "hook".into(),
            error: "exit code 7".into(),
            stderr_tail: "secret".into(),
            ..Attempt::default()
        });
        Found { at, record }
    }

    fn json(found: &Found, show_failures: bool) -> serde_json::Value {
        let id = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b".parse().unwrap();
        serde_json::to_value(tell(id, found, found.state(), show_failures)).unwrap()
    }

    #[test]
    fn every_state_has_its_name_and_only_the_gone_ones_are_410() {
        let cases = [
            (RecordAt::Uploads, Place::Uploads, "receiving", 200),
            (RecordAt::Completed, Place::Completed, "queued", 200),
            (RecordAt::Completed, Place::Claimed, "processing", 200),
            (RecordAt::Completed, Place::Deferred, "deferred", 200),
            (RecordAt::Completed, Place::Held, "held", 200),
            (RecordAt::Failed, Place::Failed, "failed", 200),
            (RecordAt::Receipts, Place::Delivered, "delivered", 200),
            (RecordAt::Receipts, Place::Joined, "joined", 200),
            (RecordAt::Receipts, Place::Terminated, "terminated", 410),
            (RecordAt::Receipts, Place::Expired, "expired", 410),
        ];
        for (at, place, name, code) in cases {
            let found = found(at, place);
            assert_eq!(json(&found, false)["state"], name);
            assert_eq!(status(found.state()).as_u16(), code, "{name}");
        }
    }

    #[test]
    fn times_are_iso_8601_and_the_next_attempt_is_told_while_it_waits() {
        let deferred = json(&found(RecordAt::Completed, Place::Deferred), false);
        assert_eq!(deferred["created_at"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(deferred["next_attempt_at"], "2023-11-14T22:14:20.000000Z");
        assert_eq!(
            (&deferred["offset"], &deferred["length"]),
            (&5.into(), &11.into())
        );
        let queued = json(&found(RecordAt::Completed, Place::Completed), false);
        assert!(queued.get("next_attempt_at").is_none(), "{queued}");
    }

    #[test]
    fn nothing_of_the_operators_is_told_and_failures_only_on_request() {
        for at in RecordAt::ALL {
            for place in Place::ALL {
                let found = found(at, place);
                for show in [false, true] {
                    let told = json(&found, show);
                    assert!(!told.to_string().contains("secret"), "{told}");
                    let troubled = told["state"] == "failed" || told["state"] == "deferred";
                    assert_eq!(told.get("failure").is_some(), show && troubled, "{told}");
                }
            }
        }
    }
}
