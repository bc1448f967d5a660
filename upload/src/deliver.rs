//! `--wait`: asks for an upload's state until the server has delivered it.

use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Wait;
use crate::display::FileProgress;
use crate::exit::UploadError;
use crate::retry::Request;
use crate::session::Session;
use crate::text::printable;

/// Between the first questions; small files are often delivered at once.
const POLL_FIRST: Duration = Duration::from_millis(100);

/// Between questions about what takes long.
const POLL_MAX: Duration = Duration::from_secs(5);

/// The part of a server's answer that is understood here.
#[derive(Debug, Deserialize)]
struct Told {
    state: String,
    /// What the processing had to say.
    #[serde(default)]
    result: Value,
    #[serde(default)]
    failure: Option<LastFailure>,
}

/// Why the last attempt failed, if the server tells it to clients.
#[derive(Debug, Deserialize)]
struct LastFailure {
    #[serde(default)]
    error: String,
}

impl Told {
    /// Why an upload will not be delivered.
    fn reason(&self) -> String {
        let failure = self
            .failure
            .as_ref()
            .map(|failure| printable(&failure.error));
        let said = [in_words(&self.result), failure.unwrap_or_default()];
        said.into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// What a state means for who waits.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Delivered,
    /// It will not be delivered any more.
    Lost,
    /// Also for states that are not known here.
    Pending,
}

fn meaning(state: &str) -> Meaning {
    match state {
        "delivered" => Meaning::Delivered,
        "failed" | "terminated" | "expired" => Meaning::Lost,
        _ => Meaning::Pending,
    }
}

/// Waits; the answer is the result that the server tells, or null.
pub(crate) async fn wait(
    session: &Session,
    url: &Url,
    limit: Wait,
    progress: &FileProgress,
) -> Result<Value, UploadError> {
    let begun = Instant::now();
    let mut pause = POLL_FIRST;
    loop {
        let told = ask(session, url, progress).await?;
        let state = printable(&told.state);
        match meaning(&told.state) {
            Meaning::Delivered => return Ok(told.result),
            Meaning::Lost => {
                let result = told.reason();
                return Err(UploadError::NotDelivered { state, result });
            }
            Meaning::Pending => {}
        }
        progress.state(&state);
        let next = match limit {
            Wait::ForEver => pause,
            Wait::AtMost(limit) => pause.min(limit.saturating_sub(begun.elapsed())),
        };
        if next.is_zero() {
            let waited = Duration::from_secs(begun.elapsed().as_secs());
            return Err(UploadError::WaitedInVain { waited, state });
        }
        tokio::time::sleep(next).await;
        pause = pause.mul_f64(1.5).min(POLL_MAX);
    }
}

async fn ask(session: &Session, url: &Url, progress: &FileProgress) -> Result<Told, UploadError> {
    let note = |text: &str| progress.note(text);
    let told = session
        .persist(Request::State, note, || session.client.state(url))
        .await;
    let untold = |reason: String| {
        let text = "uploaded, but the server does not tell what becomes of it (--wait)";
        UploadError::Lacking(format!("{text}{reason}"))
    };
    let body = told.map_err(|ended| match UploadError::from(ended) {
        UploadError::Refused { status, text, .. } => untold(format!(": {status}: {text}")),
        other => other,
    })?;
    serde_json::from_slice(&body).map_err(|_| untold(String::new()))
}

/// A result as one line: a text as it is, everything else as JSON.
pub(crate) fn in_words(result: &Value) -> String {
    match result {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_of_the_server_has_its_meaning() {
        for (state, expected) in [
            ("receiving", Meaning::Pending),
            ("queued", Meaning::Pending),
            ("processing", Meaning::Pending),
            ("deferred", Meaning::Pending),
            ("delivered", Meaning::Delivered),
            ("failed", Meaning::Lost),
            ("terminated", Meaning::Lost),
            ("expired", Meaning::Lost),
            ("something new", Meaning::Pending),
        ] {
            assert_eq!(meaning(state), expected, "{state}");
        }
    }

    #[test]
    fn a_result_becomes_one_harmless_line() {
        assert_eq!(in_words(&Value::Null), "");
        assert_eq!(
            in_words(&Value::from("infected:\n\u{1b}[31mX")),
            "infected:  [31mX"
        );
        assert_eq!(in_words(&serde_json::json!({"a": 1})), "{\"a\":1}");
    }

    #[test]
    fn a_state_may_come_with_more_than_is_understood() {
        let told: Told = serde_json::from_str(r#"{"state":"queued","attempts":3}"#).unwrap();
        assert_eq!(
            (told.state.as_str(), told.reason().as_str()),
            ("queued", "")
        );
    }
}
