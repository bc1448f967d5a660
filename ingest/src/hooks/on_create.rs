//! `--on-create`: whether an upload may begin, and what the operator wants to be kept with it.
//!
//! It is asked before anything of the upload exists and before a byte of it is read. It fails
//! closed: whatever is not a clear yes refuses the upload, a clear no with its own status, all
//! else with 503, so that the client may come back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{COOKIE, HeaderMap};
use serde::{Deserialize, Serialize};
use shared::id::UploadId;
use shared::record::Record;
use shared::size::Length;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Call, CallError, Hook};
use crate::tus::refusal::Refusal;

/// More than any sensible answer; the record has room for it many times over.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct OnCreate {
    pub(crate) hook: Hook,
    /// From the question to the answer, waiting for one's turn included.
    pub(crate) timeout: Duration,
    /// Bounds the questions asked at a time.
    pub(crate) turns: Arc<Semaphore>,
}

/// The question.
#[derive(Debug, Serialize)]
struct Question<'a> {
    id: UploadId,
    length: Option<Length>,
    metadata: &'a BTreeMap<String, String>,
    metadata_base64: &'a BTreeMap<String, String>,
    upload_concat: Option<&'a str>,
    path: &'a str,
    remote: SocketAddr,
    headers: BTreeMap<&'a str, String>,
}

/// The answer, if it is one. A field that is not known here is a mistake: the operator counts on
/// something that would not happen.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    #[serde(default)]
    server_metadata: BTreeMap<String, String>,
    #[serde(default)]
    reject: Option<Reject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reject {
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    text: String,
}

impl Reply {
    /// serde would also take a list of the fields' values, which nobody means.
    fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let object: serde_json::Map<_, _> = serde_json::from_slice(body)?;
        serde_json::from_value(object.into())
    }
}

/// Why there is no yes and no clear no.
#[derive(Debug, thiserror::Error)]
enum Undecided {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the endpoint answers {0}")]
    Status(StatusCode),
    #[error("the answer is not understood: {0}")]
    Garbage(#[from] serde_json::Error),
}

/// The request that wants to create an upload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) path: &'a str,
    pub(crate) remote: SocketAddr,
    pub(crate) headers: &'a HeaderMap,
}

impl OnCreate {
    /// Asks about the upload that this will be the record of; what is to be kept with it.
    ///
    /// # Errors
    /// [`Refusal::Rejected`] if the hook says no, [`Refusal::Undecided`] if it says nothing.
    pub(crate) async fn ask(
        &self,
        id: UploadId,
        record: &Record,
        asker: Asker<'_>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let deadline = Instant::now() + self.timeout;
        let turn = timeout_at(deadline, self.turns.acquire());
        let decided = match turn.await {
            Ok(_turn) => {
                let patience = deadline.saturating_duration_since(Instant::now());
                let answer = self.hook.call(&question(id, record, asker), patience).await;
                answer.map_err(Undecided::from).and_then(verdict)
            }
            Err(_) => Err(CallError::TimedOut(self.timeout).into()),
        };
        match decided {
            Ok(Ok(server_metadata)) => Ok(server_metadata),
            Ok(Err(refusal)) => {
                tracing::info!(upload_id = %id, %refusal, "on-create refuses the upload");
                Err(refusal)
            }
            Err(error) => {
                tracing::error!(upload_id = %id, %error, "on-create failed; the upload is refused");
                Err(Refusal::Undecided)
            }
        }
    }
}

fn question(id: UploadId, record: &Record, asker: Asker<'_>) -> Call {
    let rest = &record.rest;
    let question = Question {
        id,
        length: record.length,
        metadata: &rest.metadata,
        metadata_base64: &rest.metadata_base64,
        upload_concat: rest.upload_concat.as_deref(),
        path: asker.path,
        remote: asker.remote,
        headers: lower_case(asker.headers),
    };
    Call {
        // Strings and numbers always serialize.
        body: serde_json::to_vec(&question).unwrap_or_default(),
        environment: vec![("UPLOAD_ID", id.to_string())],
        fields: HeaderMap::new(),
        answer_bytes_max: ANSWER_BYTES_MAX,
    }
}

/// The fields by their lower-case names. One that came several times is joined as HTTP says.
fn lower_case(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let joined = headers.keys().map(|name| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| text(v.as_bytes()))
            .collect();
        let separator = if name == COOKIE { "; " } else { ", " };
        (name.as_str(), values.join(separator))
    });
    joined.collect()
}

/// UTF-8, or else Latin-1, which every byte is.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// What an answer means: yes with metadata, no with a reason, or nothing clear.
fn verdict(answer: Answer) -> Result<Result<BTreeMap<String, String>, Refusal>, Undecided> {
    let status = answer.status;
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // As endpoints made for other servers say no.
        let body = text(&answer.body);
        let line = body.lines().next().unwrap_or_default();
        let rejected = Reply::parse(&answer.body)
            .ok()
            .and_then(|reply| reply.reject);
        return Ok(Err(match rejected {
            Some(reject) => {
                Refusal::rejected(reject.status.unwrap_or(status.as_u16()), &reject.text)
            }
            None => Refusal::rejected(status.as_u16(), line),
        }));
    }
    if status == StatusCode::NO_CONTENT {
        return Ok(Ok(BTreeMap::new()));
    }
    if !status.is_success() {
        return Err(Undecided::Status(status));
    }
    let reply = Reply::parse(&answer.body)?;
    Ok(match reply.reject {
        Some(reject) => Err(Refusal::rejected(
            reject.status.unwrap_or(403),
            &reject.text,
        )),
        None => Ok(reply.server_metadata),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use shared::time::UnixTime;

    use super::*;

    fn said(
        status: u16,
        body: &str,
    ) -> Result<Result<BTreeMap<String, String>, Refusal>, Undecided> {
        verdict(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.as_bytes().to_vec(),
        })
    }

    #[test]
    fn a_clear_yes_brings_its_metadata() {
        for (status, body) in [(204, ""), (200, "{}"), (201, " {\"server_metadata\":{}}\n")] {
            assert_eq!(said(status, body).unwrap().unwrap(), BTreeMap::new());
        }
        let kept = said(200, r#"{"server_metadata":{"user":"7","ä":""}}"#)
            .unwrap()
            .unwrap();
        assert_eq!(
            kept,
            BTreeMap::from([("user".into(), "7".into()), ("ä".into(), String::new())])
        );
    }

    #[test]
    fn a_clear_no_has_its_own_status_and_text() {
        let cases = [
            (
                200,
                r#"{"reject":{"status":402,"text":"pay\nfirst"}}"#,
                402,
                "pay first",
            ),
            (200, r#"{"reject":{}}"#, 403, "refused"),
            // A status that refuses nothing refuses all the same.
            (200, r#"{"reject":{"status":200}}"#, 403, "refused"),
            (
                200,
                r#"{"server_metadata":{"a":"b"},"reject":{"text":"no"}}"#,
                403,
                "no",
            ),
            (401, "who?\nmore", 401, "who?"),
            (403, "", 403, "refused"),
            (403, r#"{"reject":{"text":"no"}}"#, 403, "no"),
        ];
        for (status, body, expected, text) in cases {
            let refusal = said(status, body).unwrap().unwrap_err();
            assert_eq!(refusal.status().as_u16(), expected, "{body}");
            assert_eq!(refusal.to_string(), text, "{body}");
        }
    }

    #[test]
    fn everything_else_is_no_answer() {
        for status in (200..600).filter(|status| ![204, 401, 403].contains(status)) {
            assert!(said(status, "").is_err(), "{status}");
            assert!(status < 300 || said(status, "{}").is_err(), "{status}");
        }
        for body in [
            "garbage",
            "[]",
            "7",
            "{} {}",
            r#"{"uploaded_by":"7"}"#,
            r#"{"server_metadata":{"user":7}}"#,
            r#"{"server_metadata":["user"]}"#,
            r#"{"reject":true}"#,
            r#"{"reject":{"status":"402"}}"#,
            r#"{"reject":{"code":402}}"#,
            "<html></html>",
        ] {
            assert!(said(200, body).is_err(), "{body}");
        }
    }

    #[test]
    fn the_question_has_lower_case_headers_and_the_clients_metadata() {
        let mut headers = HeaderMap::new();
        headers.insert("Authorization", HeaderValue::from_static("Bearer 7"));
        headers.append("X-Many", HeaderValue::from_static("a"));
        headers.append("x-many", HeaderValue::from_static("b"));
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        headers.insert("x-utf8", HeaderValue::from_bytes("ä".as_bytes()).unwrap());
        headers.insert("x-latin1", HeaderValue::from_bytes(b"\xe4").unwrap());
        let mut record = Record::new(Some(Length(11)), UnixTime::default());
        record.rest.metadata.insert("filename".into(), "a b".into());
        let id = UploadId::generate();
        let asker = Asker {
            path: "/files/",
            remote: "127.0.0.1:7".parse().unwrap(),
            headers: &headers,
        };
        let call = question(id, &record, asker);
        let asked: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(asked["id"], id.to_string());
        assert_eq!(
            (&asked["length"], &asked["remote"]),
            (&11.into(), &"127.0.0.1:7".into())
        );
        assert_eq!(asked["metadata"]["filename"], "a b");
        let expected = serde_json::json!({
            "authorization": "Bearer 7", "x-many": "a, b", "cookie": "a=1; b=2",
            "x-utf8": "ä", "x-latin1": "ä",
        });
        assert_eq!(asked["headers"], expected);
    }
}
