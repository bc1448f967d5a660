//! What commands and destination names are told of an upload.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use shared::id::{ClaimId, UploadId};
use shared::record::Record;

use crate::filename;
use crate::hook::CLAIM_VARIABLE;
use crate::template::{CommandField, NameField};

/// Bytes of one variable's value at most. The kernel refuses a longer string, and with it the
/// whole command.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// One upload, at one attempt.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Its id.
    pub id: UploadId,
    /// This attempt's claim.
    pub claim: ClaimId,
    /// Its record.
    pub record: &'a Record,
    /// Absolute path of its data, where that lies now.
    pub file: PathBuf,
    /// Absolute path of its record.
    pub record_path: PathBuf,
    /// Absolute path that a command may write its result to.
    pub result_path: &'a Path,
    /// Number of the last attempt there will be.
    pub max_attempts: u32,
}

impl Facts<'_> {
    /// The client's name for the file, made safe; else the id.
    #[must_use]
    pub fn filename(&self) -> String {
        let wish = self.record.rest.metadata.get("filename");
        let name = wish.and_then(|wish| filename::sanitise(wish));
        name.unwrap_or_else(|| self.id.to_string())
    }

    /// The value of a placeholder in a command; `None` if the upload has none.
    #[must_use]
    pub fn for_command(&self, field: &CommandField) -> Option<Vec<u8>> {
        Some(match field {
            CommandField::File => self.file.as_os_str().as_bytes().to_owned(),
            CommandField::Record => self.record_path.as_os_str().as_bytes().to_owned(),
            CommandField::Result => self.result_path.as_os_str().as_bytes().to_owned(),
            CommandField::Id => self.id.to_string().into(),
            CommandField::Claim => self.claim.to_string().into(),
            CommandField::Filename => self.filename().into(),
            CommandField::Length => self.length()?.into(),
            CommandField::Attempt => self.record.attempts.to_string().into(),
            CommandField::MaxAttempts => self.max_attempts.to_string().into(),
            CommandField::Digest => self.record.digest.clone()?.into(),
            CommandField::Metadata(key) => metadata(self.record, key)?,
            CommandField::ServerMetadata(key) => {
                self.record.rest.server_metadata.get(key)?.clone().into()
            }
        })
    }

    /// The value of a placeholder in a destination name; `None` if the upload has none.
    #[must_use]
    pub fn for_name(&self, field: &NameField) -> Option<String> {
        let name = || self.filename();
        let finished = || self.record.finished_at.map(|time| time.iso8601());
        let part = |range: std::ops::Range<usize>| finished()?.get(range).map(str::to_owned);
        match field {
            NameField::Filename => Some(name()),
            NameField::Stem => Some(filename::split(&name()).0.to_owned()),
            NameField::Extension => Some(filename::split(&name()).1.to_owned()),
            NameField::Id => Some(self.id.to_string()),
            NameField::Date => part(0..10),
            NameField::Year => part(0..4),
            NameField::Month => part(5..7),
            NameField::Day => part(8..10),
            NameField::Hour => part(11..13),
            NameField::Length => self.length(),
            NameField::Metadata(key) => {
                metadata(self.record, key).map(|value| String::from_utf8_lossy(&value).into_owned())
            }
            NameField::ServerMetadata(key) => self.record.rest.server_metadata.get(key).cloned(),
        }
    }

    /// What commands find in their environment beside what is in `base`.
    #[must_use]
    pub fn environment(&self, base: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let mut all = base.to_vec();
        let mut set = |name: &str, value: Vec<u8>| {
            // A zero byte would end the value, and the command would not start.
            if value.len() <= VALUE_BYTES_MAX && !value.contains(&0) {
                all.push((name.into(), OsString::from_vec(value)));
            }
        };
        let of = |field| self.for_command(&field).unwrap_or_default();
        set("UPLOAD_ID", of(CommandField::Id));
        set("UPLOAD_IDEMPOTENCY_KEY", of(CommandField::Id));
        set(CLAIM_VARIABLE, of(CommandField::Claim));
        set("UPLOAD_FILE", of(CommandField::File));
        set("UPLOAD_RECORD", of(CommandField::Record));
        set("UPLOAD_RESULT", of(CommandField::Result));
        set("UPLOAD_LENGTH", of(CommandField::Length));
        set("UPLOAD_FILENAME", of(CommandField::Filename));
        set("UPLOAD_ATTEMPT", of(CommandField::Attempt));
        set("UPLOAD_MAX_ATTEMPTS", of(CommandField::MaxAttempts));
        if let Some(digest) = self.for_command(&CommandField::Digest) {
            set("UPLOAD_DIGEST", digest);
        }
        all
    }

    /// The record as one line of JSON, with the upload's `id`: for commands to read and to be kept
    /// beside a delivered file.
    #[must_use]
    pub fn record_json(&self) -> Vec<u8> {
        let record: Map<String, Value> =
            serde_json::from_slice(&self.record.to_bytes()).unwrap_or_default();
        let mut told = Map::new();
        told.insert("id".to_owned(), Value::String(self.id.to_string()));
        // How we keep it on the disk is nobody's business.
        told.extend(record.into_iter().filter(|(key, _)| key != "check"));
        let mut line = Value::Object(told).to_string().into_bytes();
        line.push(b'\n');
        line
    }

    fn length(&self) -> Option<String> {
        self.record.length.map(|length| length.to_string())
    }
}

/// A value that the client sent, text or not.
fn metadata(record: &Record, key: &str) -> Option<Vec<u8>> {
    let text = record
        .rest
        .metadata
        .get(key)
        .map(|text| text.clone().into_bytes());
    text.or_else(|| STANDARD.decode(record.rest.metadata_base64.get(key)?).ok())
}

#[cfg(test)]
mod tests {
    use shared::size::{Length, Offset};
    use shared::time::UnixTime;

    use super::*;

    fn record() -> Record {
        let mut record = Record::new(Some(Length(5)), UnixTime::from_secs(1));
        record.offset = Offset(5);
        record.attempts = 2;
        record.finished_at = UnixTime::parse_iso8601("2026-08-03T07:05:02Z");
        record.digest = Some("sha256:00".to_owned());
        record
            .rest
            .metadata
            .insert("filename".to_owned(), "../a b.tar.gz".to_owned());
        record
            .rest
            .metadata_base64
            .insert("raw".to_owned(), STANDARD.encode(b"\xff\0"));
        record
            .rest
            .server_metadata
            .insert("tenant".to_owned(), "t".to_owned());
        record
    }

    fn facts(record: &Record) -> Facts<'_> {
        Facts {
            id: "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b".parse().unwrap(),
            claim: ClaimId::generate(),
            record,
            file: "/s/claimed/x".into(),
            record_path: "/s/completed/x.meta".into(),
            result_path: Path::new("/s/claimed/.tmp-x"),
            max_attempts: 10,
        }
    }

    #[test]
    fn names_are_made_of_what_does_not_change_between_attempts() {
        let record = record();
        let facts = facts(&record);
        let name = |field: NameField| facts.for_name(&field).unwrap_or_default();
        assert_eq!(name(NameField::Filename), "a b.tar.gz");
        assert_eq!(name(NameField::Stem), "a b");
        assert_eq!(name(NameField::Extension), ".tar.gz");
        let date = [
            NameField::Year,
            NameField::Month,
            NameField::Day,
            NameField::Hour,
        ]
        .map(name);
        assert_eq!(date, ["2026", "08", "03", "07"]);
        assert_eq!(name(NameField::Date), "2026-08-03");
        assert_eq!(name(NameField::Length), "5");
        assert_eq!(name(NameField::Metadata("raw".to_owned())), "\u{fffd}\0");
        assert_eq!(name(NameField::ServerMetadata("tenant".to_owned())), "t");
        assert_eq!(
            facts.for_name(&NameField::Metadata("none".to_owned())),
            None
        );
    }

    #[test]
    fn a_file_without_a_usable_name_is_called_by_its_id() {
        let mut record = record();
        for wish in [None, Some(""), Some("/")] {
            record.rest.metadata.remove("filename");
            if let Some(wish) = wish {
                record
                    .rest
                    .metadata
                    .insert("filename".to_owned(), wish.to_owned());
            }
            let facts = facts(&record);
            assert_eq!(facts.filename(), facts.id.to_string());
        }
    }

    #[test]
    fn the_environment_says_it_all_once() {
        let record = record();
        let facts = facts(&record);
        let all = facts.environment(&[("PATH".into(), "/bin".into())]);
        let value = |name: &str| {
            let found: Vec<_> = all.iter().filter(|(other, _)| other == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            found[0].1.to_str().unwrap().to_owned()
        };
        assert_eq!(value("PATH"), "/bin");
        assert_eq!(value("UPLOAD_ID"), facts.id.to_string());
        assert_eq!(value("UPLOAD_IDEMPOTENCY_KEY"), facts.id.to_string());
        assert_eq!(value("UPLOAD_CLAIM"), facts.claim.to_string());
        assert_eq!(value("UPLOAD_FILE"), "/s/claimed/x");
        assert_eq!(value("UPLOAD_RECORD"), "/s/completed/x.meta");
        assert_eq!(value("UPLOAD_RESULT"), "/s/claimed/.tmp-x");
        assert_eq!(
            (value("UPLOAD_LENGTH"), value("UPLOAD_ATTEMPT")),
            ("5".into(), "2".into())
        );
        assert_eq!(value("UPLOAD_MAX_ATTEMPTS"), "10");
        assert_eq!(value("UPLOAD_FILENAME"), "a b.tar.gz");
        assert_eq!(value("UPLOAD_DIGEST"), "sha256:00");
    }

    #[test]
    fn the_record_is_told_as_json_with_its_id() {
        let record = record();
        let facts = facts(&record);
        let json: Value = serde_json::from_slice(&facts.record_json()).unwrap();
        assert_eq!(json["id"], facts.id.to_string());
        assert_eq!(json["length"], 5);
        assert_eq!(json["metadata"]["filename"], "../a b.tar.gz");
        assert!(json.get("check").is_none());
        assert_eq!(
            facts.record_json().iter().filter(|&&b| b == b'\n').count(),
            1
        );
    }

    #[test]
    fn binary_values_reach_commands_as_they_are() {
        let record = record();
        let value = facts(&record).for_command(&CommandField::Metadata("raw".to_owned()));
        assert_eq!(value.as_deref(), Some(&b"\xff\0"[..]));
    }
}
