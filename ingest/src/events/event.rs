//! What is told of an upload, and how it is written down.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value, json};
use shared::id::UploadId;
use shared::record::Record;
use shared::time::{UnixTime, iso8601_duration};

/// Something that happens to an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// It exists.
    Created,
    /// Bytes have arrived and count; at most once a second.
    Progress,
    /// It was received in full and handed over.
    Completed,
    /// Its bytes could not be written, kept or handed over.
    Failed,
    /// Its client ended it.
    Terminated,
    /// Nothing came for too long.
    Expired,
}

/// A name that no event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events are created, progress, completed, failed, terminated and expired")]
pub(crate) struct UnknownEvent;

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Created,
        Self::Progress,
        Self::Completed,
        Self::Failed,
        Self::Terminated,
        Self::Expired,
    ];

    /// Its name, which is the message's `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Progress => "progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownEvent;

    fn from_str(name: &str) -> Result<Self, UnknownEvent> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or(UnknownEvent)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) upload: UploadId,
    /// The same for every attempt to tell this event, in whichever process: receivers know by it
    /// what they have been told before.
    pub(crate) id: String,
    /// The JSON.
    pub(crate) body: Vec<u8>,
}

/// What a message says beside the upload's record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Detail<'a> {
    /// Nothing.
    None,
    /// Bytes that have come to count since the last message about this upload.
    Progress(u64),
    /// A stable code and one line.
    Failure(&'static str, &'a str),
}

#[derive(Serialize)]
struct Message {
    r#type: &'static str,
    timestamp: String,
    data: Map<String, Value>,
}

impl Event {
    /// Writes a message about an upload, as its record stands.
    pub(crate) fn new(
        kind: Kind,
        upload: UploadId,
        record: &Record,
        detail: Detail<'_>,
        now: UnixTime,
    ) -> Self {
        let id = match kind {
            Kind::Created | Kind::Completed | Kind::Terminated | Kind::Expired => {
                format!("{upload}-{kind}")
            }
            Kind::Progress => format!("{upload}-{kind}-{}", record.offset),
            Kind::Failed => format!("{upload}-{kind}-{}", now.as_micros()),
        };
        let message = Message {
            r#type: kind.name(),
            timestamp: now.iso8601(),
            data: data(upload, record, detail),
        };
        Self {
            kind,
            upload,
            id,
            // Strings and numbers always serialize.
            body: serde_json::to_vec(&message).unwrap_or_default(),
        }
    }
}

/// The upload, in the words and forms of its record (which are tussi's).
fn data(upload: UploadId, record: &Record, detail: Detail<'_>) -> Map<String, Value> {
    let rest = &record.rest;
    let mut data = Map::new();
    let mut set = |name: &str, value: Value| data.insert(name.to_owned(), value);
    set("upload_id", json!(upload));
    set("length", json!(record.length));
    set("offset", json!(record.offset));
    set("metadata", json!(rest.metadata));
    if !rest.metadata_base64.is_empty() {
        set("metadata_base64", json!(rest.metadata_base64));
    }
    set("server_metadata", json!(rest.server_metadata));
    set("created_at", json!(rest.created_at));
    set("last_write", json!(record.last_write));
    if let Some(finished_at) = record.finished_at {
        set("finished_at", json!(finished_at.iso8601()));
        set("duration", json!(record.duration().map(iso8601_duration)));
    }
    if let Some(digest) = &record.digest {
        set("digest", json!(digest));
    }
    match detail {
        Detail::None => {}
        Detail::Progress(bytes) => drop(set("bytes_written", json!(bytes))),
        Detail::Failure(code, text) => {
            drop(set("error", json!({"code": code, "text": text})));
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use shared::size::{Length, Offset};

    use super::*;

    fn event(kind: Kind, offset: u64, detail: Detail<'_>, now: u64) -> (Event, Value) {
        let upload = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b".parse().unwrap();
        let mut record = Record::new(Some(Length(11)), UnixTime::from_secs(1_700_000_000));
        record.offset = Offset(offset);
        record.rest.metadata.insert("filename".into(), "a".into());
        record
            .rest
            .server_metadata
            .insert("user".into(), "7".into());
        record.rest.destination = Some("/srv/private".into());
        let event = Event::new(kind, upload, &record, detail, UnixTime::from_secs(now));
        let body = serde_json::from_slice(&event.body).unwrap();
        (event, body)
    }

    #[test]
    fn a_message_has_what_tussis_events_have() {
        let (_, body) = event(Kind::Progress, 5, Detail::Progress(3), 1_700_000_001);
        assert_eq!(body["type"], "progress");
        assert_eq!(body["timestamp"], "2023-11-14T22:13:21.000000Z");
        let expected = json!({
            "upload_id": "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b", "length": 11, "offset": 5,
            "metadata": {"filename": "a"}, "server_metadata": {"user": "7"},
            "created_at": 1.7e9, "last_write": 1.7e9, "bytes_written": 3,
        });
        assert_eq!(body["data"], expected);
        let (_, body) = event(Kind::Failed, 5, Detail::Failure("internal_error", "no"), 1);
        assert_eq!(
            body["data"]["error"],
            json!({"code": "internal_error", "text": "no"})
        );
    }

    #[test]
    fn an_event_keeps_its_id_and_no_two_have_the_same() {
        let mut seen = std::collections::HashSet::new();
        for kind in Kind::ALL {
            let (first, _) = event(kind, 5, Detail::None, 1);
            let (again, _) = event(kind, 5, Detail::None, 1);
            let (later, _) = event(kind, 6, Detail::None, 2);
            assert_eq!(first.id, again.id);
            let repeats = matches!(kind, Kind::Progress | Kind::Failed);
            assert_eq!(first.id != later.id, repeats, "{kind}");
            // The signature covers id.timestamp.body: a dot in the id would be ambiguous.
            assert!(!first.id.contains('.'));
            assert!(seen.insert(first.id));
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("complete".parse::<Kind>(), Err(UnknownEvent));
    }
}
