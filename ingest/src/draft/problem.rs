//! Refusals as problem details (RFC 9457).

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::fields::{self, UPLOAD_LIMIT};
use super::version::Version;
use crate::tus::headers::{CONTENT_TYPE, TUS_VERSION, set};
use crate::tus::refusal::Refusal;

/// Where the draft's problem types are registered.
const TYPES: &str = "https://iana.org/assignments/http-problem-types#";

/// The answer to a refused draft request: status, header fields, and a body of one line.
///
/// `version` is `None` if the request named one that is not spoken.
#[must_use]
pub fn reply(
    refusal: &Refusal,
    version: Option<Version>,
    limit: &str,
) -> (StatusCode, HeaderMap, String) {
    let refusal = in_draft(refusal);
    let mut answer = refusal.headers();
    answer.remove(TUS_VERSION);
    set(&mut answer, CONTENT_TYPE, "application/problem+json");
    if let Some(version) = version {
        fields::set_version(&mut answer, version);
    }
    match &refusal {
        Refusal::OffsetMismatch { complete, .. } => fields::set_complete(&mut answer, *complete),
        Refusal::AlreadyComplete => fields::set_complete(&mut answer, true),
        // Whoever runs into a limit is told the limits.
        _ if refusal.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            set(&mut answer, UPLOAD_LIMIT, limit);
        }
        _ => {}
    }
    let body = format!("{}\n", problem(&refusal));
    (refusal.status(), answer, body)
}

/// tus names the mismatch of a checksum with a status of its own; the draft has none.
fn in_draft(refusal: &Refusal) -> Refusal {
    match refusal {
        Refusal::ChecksumMismatch => Refusal::DigestMismatch,
        other => other.clone(),
    }
}

fn problem(refusal: &Refusal) -> Value {
    let mut problem = json!({
        "type": problem_type(refusal),
        "title": refusal.to_string(),
        "status": refusal.status().as_u16(),
        "code": refusal.code(),
    });
    if let Refusal::OffsetMismatch { asked, have, .. } = refusal {
        problem["expected-offset"] = json!(have.0);
        problem["provided-offset"] = json!(asked.0);
    }
    problem
}

fn problem_type(refusal: &Refusal) -> String {
    match refusal {
        Refusal::OffsetMismatch { .. } => format!("{TYPES}mismatching-upload-offset"),
        Refusal::AlreadyComplete => format!("{TYPES}completed-upload"),
        Refusal::InconsistentLength | Refusal::Overrun { .. } => {
            format!("{TYPES}inconsistent-upload-length")
        }
        _ => "about:blank".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use shared::size::{Length, Offset};

    use super::*;

    fn answer(refusal: &Refusal) -> (StatusCode, HeaderMap, Value) {
        let (status, fields, body) = reply(refusal, Some(Version::V8), "max-size=9");
        assert_eq!(body.lines().count(), 1);
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["status"], status.as_u16());
        assert_eq!(problem["code"], in_draft(refusal).code());
        assert_eq!(fields["content-type"], "application/problem+json");
        assert_eq!(fields["upload-draft-interop-version"], "8");
        (status, fields, problem)
    }

    #[test]
    fn a_wrong_offset_is_409_with_the_right_one_in_header_and_body() {
        let mismatch = Refusal::OffsetMismatch {
            asked: Offset(9),
            have: Offset(5),
            complete: false,
        };
        let (status, fields, problem) = answer(&mismatch);
        assert_eq!(status, 409);
        assert_eq!(fields["upload-offset"], "5");
        assert_eq!(fields["upload-complete"], "?0");
        assert_eq!(
            problem["type"],
            "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
        );
        assert_eq!(problem["expected-offset"], 5);
        assert_eq!(problem["provided-offset"], 9);
    }

    #[test]
    fn the_other_types_of_the_draft_are_named() {
        for (refusal, name) in [
            (Refusal::AlreadyComplete, "completed-upload"),
            (Refusal::InconsistentLength, "inconsistent-upload-length"),
            (
                Refusal::Overrun { length: Length(5) },
                "inconsistent-upload-length",
            ),
        ] {
            let (status, _, problem) = answer(&refusal);
            assert_eq!(status, 400);
            assert!(
                problem["type"]
                    .as_str()
                    .unwrap()
                    .ends_with(&format!("#{name}"))
            );
        }
        assert_eq!(answer(&Refusal::NotFound).2["type"], "about:blank");
    }

    #[test]
    fn a_413_tells_the_limits() {
        let (status, fields, _) = answer(&Refusal::MaxSize { most: 9 });
        assert_eq!(status, 413);
        assert_eq!(fields["upload-limit"], "max-size=9");
        assert!(!answer(&Refusal::Locked).1.contains_key("upload-limit"));
        assert_eq!(answer(&Refusal::Locked).1["retry-after"], "1");
    }

    #[test]
    fn there_is_no_460_and_nothing_of_tus() {
        assert_eq!(answer(&Refusal::ChecksumMismatch).0, 400);
        let (_, fields, _) = reply(&Refusal::UnsupportedVersion, None, "");
        assert!(!fields.contains_key("tus-version"));
        assert!(!fields.contains_key("upload-draft-interop-version"));
    }
}
