//! Why an upload did not succeed, and the exit code that says so.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// The exit codes listed in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success = 0,
    Local = 1,
    Usage = 2,
    Refused = 3,
    GaveUp = 4,
    NotDelivered = 5,
    WaitedInVain = 6,
    Interrupted = 130,
    Terminated = 143,
}

/// Why one upload ended without success.
#[derive(Debug, Error)]
pub(crate) enum UploadError {
    /// Our side of the transfer: reading the file, keeping the state.
    #[error("{what}: {source}")]
    Local { what: String, source: io::Error },

    /// Its size or modification time is another than when the upload began. The last bytes were held
    /// back, so that no mixture of two versions passes for a file.
    #[error("{path} changed while it was being sent; the upload was left unfinished")]
    Changed { path: String },

    /// A status that will not change by asking again, with the server's own line of text.
    #[error("the server refused to {what}: {status}{}", with_colon(.text))]
    Refused {
        what: &'static str,
        status: u16,
        text: String,
    },

    /// Something was asked for that this server does not do.
    #[error("{0}")]
    Lacking(String),

    /// The last of the failures that brought no progress.
    #[error("gave up {}: {last}", after(.retries))]
    GaveUp { retries: u32, last: String },

    /// The upload itself was complete.
    #[error("uploaded, but the server says it is {state}{}", with_colon(.result))]
    NotDelivered { state: String, result: String },

    /// The upload itself was complete.
    #[error("uploaded, but not delivered after {}: {state}", humantime::format_duration(*.waited))]
    WaitedInVain { waited: Duration, state: String },
}

impl UploadError {
    /// The exit code for this failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Local { .. } | Self::Changed { .. } => Exit::Local,
            Self::Refused { .. } | Self::Lacking(_) => Exit::Refused,
            Self::GaveUp { .. } => Exit::GaveUp,
            Self::NotDelivered { .. } => Exit::NotDelivered,
            Self::WaitedInVain { .. } => Exit::WaitedInVain,
        }
    }

    /// A local error with what was being done, such as `failed to read a.txt`.
    pub(crate) fn local(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Local { what, source }
    }
}

fn with_colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

fn after(retries: &u32) -> String {
    match retries {
        0 => "at once".to_owned(),
        1 => "after 1 retry".to_owned(),
        many => format!("after {many} retries"),
    }
}
