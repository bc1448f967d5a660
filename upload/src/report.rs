//! Results on standard output: a line for people, or JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::HumanBytes;
use reqwest::Url;
use serde::Serialize;
use serde_json::Value;

use crate::deliver::in_words;
use crate::display::Display;
use crate::exit::UploadError;
use crate::job::Uploaded;

/// What became of one upload, as one line of `--json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line<'a> {
    /// As named on the command line; absent for `--terminate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<&'a str>,
    /// `uploaded`, `delivered`, `terminated`, or `error`.
    pub state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How much of it an earlier run had sent; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub result: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What this upload contributes to the exit code.
    pub exit: u8,
}

/// Where results go.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub display: Display,
    pub json: bool,
    pub quiet: bool,
}

impl Report {
    /// An upload is complete; `result` is there if its delivery was awaited.
    pub(crate) fn uploaded(&self, file: &str, uploaded: &Uploaded, result: Option<Value>) {
        let Uploaded {
            url, length, took, ..
        } = uploaded;
        let before = uploaded.progress.resumed_at();
        let state = if result.is_some() {
            "delivered"
        } else {
            "uploaded"
        };
        let result = result.unwrap_or_default();
        let mut text = format!("{file}: {state}, {} {url}", summary(*length, before, *took));
        if !result.is_null() {
            text.push_str(&format!(": {}", in_words(&result)));
        }
        let line = Line {
            file: Some(file),
            url: Some(url.as_str()),
            state,
            bytes: Some(*length),
            resumed_at: Some(before).filter(|before| *before > 0),
            seconds: Some(milliseconds(*took)),
            result,
            ..Line::default()
        };
        self.print(&line, &text);
    }

    /// An upload was removed.
    pub(crate) fn terminated(&self, url: &Url) {
        let line = Line {
            url: Some(url.as_str()),
            state: "terminated",
            ..Line::default()
        };
        self.print(&line, &format!("{url}: removed"));
    }

    /// Something failed; with the URL if there is an upload on the server.
    pub(crate) fn failed(&self, file: Option<&str>, url: Option<&Url>, error: &UploadError) {
        let named = file
            .or(url.map(Url::as_str))
            .map_or(String::new(), |name| format!("{name}: "));
        self.display.complain(&format!("upload: {named}{error}"));
        if self.json {
            let line = Line {
                file,
                url: url.map(Url::as_str),
                state: "error",
                error: Some(error.to_string()),
                exit: error.exit() as u8,
                ..Line::default()
            };
            self.print(&line, "");
        }
    }

    fn print(&self, line: &Line<'_>, text: &str) {
        self.display.beside_the_bars(|| {
            let mut out = io::stdout();
            let printed = match (self.json, self.quiet) {
                (true, _) => writeln!(out, "{}", serde_json::to_string(line).unwrap_or_default()),
                (false, true) => Ok(()),
                (false, false) => writeln!(out, "{text}"),
            };
            // Nobody reads any more; the uploads are what matters.
            printed.ok();
        });
    }
}

/// `1.20 MiB in 0.34 s (3.52 MiB/s)`; what was there before does not count as speed.
pub(crate) fn summary(bytes: u64, before: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    let speed = HumanBytes((bytes.saturating_sub(before) as f64 / seconds) as u64);
    format!("{} in {seconds:.2} s ({speed}/s)", HumanBytes(bytes))
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_holds_only_what_is_known() {
        let line = Line {
            url: Some("http://h/a"),
            state: "terminated",
            ..Line::default()
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"url":"http://h/a","state":"terminated","exit":0}"#
        );
    }

    #[test]
    fn a_summary_tells_size_time_and_speed() {
        let text = summary(1 << 20, 0, Duration::from_millis(500));
        assert_eq!(text, "1.00 MiB in 0.50 s (2.00 MiB/s)");
        let text = summary(1 << 20, 1 << 19, Duration::from_millis(500));
        assert_eq!(text, "1.00 MiB in 0.50 s (1.00 MiB/s)");
        assert_eq!(summary(0, 0, Duration::ZERO), "0 B in 0.00 s (0 B/s)");
    }
}
