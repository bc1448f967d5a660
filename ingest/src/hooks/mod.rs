//! The operator's own programs, asked or told over JSON: a command or an HTTP endpoint.
//!
//! Whatever such a program does, it costs the server bounded time, bounded memory and a bounded
//! number of processes: a call that takes too long is ended with all that it started, an answer
//! that is too long is cut off and counts as none. What cannot work at all (a missing program, a
//! name that does not resolve) is found at start.

pub(crate) mod command;
pub(crate) mod endpoint;
pub(crate) mod on_create;
pub(crate) mod webhook;

use std::io;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use self::command::Command;
use self::endpoint::Endpoint;

/// Why a hook in the configuration can never work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidHook {
    /// An open quote, or nothing.
    #[error("'{0}' is not a command line")]
    CommandLine(String),
    /// No such file, or not to be executed.
    #[error("program '{0}' is not found, or is not executable")]
    Program(String),
    /// Not `http://` or `https://` with a host.
    #[error("'{0}' is not a URL of http or https")]
    Url(String),
    /// Nobody knows the name.
    #[error("host '{0}' cannot be resolved")]
    Host(String),
    /// TLS cannot be set up.
    #[error("cannot make HTTP requests: {0}")]
    Client(String),
}

/// Somebody to ask or tell.
#[derive(Clone, Debug)]
pub(crate) enum Hook {
    /// A command, started for each call.
    Command(Command),
    /// An HTTP endpoint, sent a POST for each call.
    Endpoint(Endpoint),
}

impl FromStr for Hook {
    type Err = InvalidHook;

    /// A URL by its scheme; everything else is a command line.
    fn from_str(text: &str) -> Result<Self, InvalidHook> {
        match text.starts_with("http://") || text.starts_with("https://") {
            true => text.parse().map(Self::Endpoint),
            false => text.parse().map(Self::Command),
        }
    }
}

/// One question or message.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// JSON: standard input of a command, body of a request.
    pub(crate) body: Vec<u8>,
    /// Variables that a command gets beside the inherited ones.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Fields that a request gets beside the usual ones.
    pub(crate) fields: HeaderMap,
    /// How long the answer may be, in bytes.
    pub(crate) answer_bytes_max: usize,
}

/// What a hook answered: the standard output of a command that exited with 0, or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// For a command 200, or 204 if it wrote nothing.
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

/// Why a hook did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The command could not be started, or its streams broke.
    #[error("cannot run the command: {0}")]
    Process(#[from] io::Error),
    /// It came to an end, but not a good one.
    #[error("the command ended with {status}{}", said(.stderr))]
    Exit {
        /// As the system puts it.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error, on one line.
        stderr: String,
    },
    /// No connection, no response, or a broken one.
    #[error("the endpoint does not answer: {0}")]
    Http(String),
    /// More than an answer may have.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// Nothing in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

impl Hook {
    /// Calls it and waits for the answer, at most for `patience`. Dropped in the middle, what was
    /// started ends with it.
    pub(crate) async fn call(&self, call: &Call, patience: Duration) -> Result<Answer, CallError> {
        let answered = async {
            match self {
                Self::Command(command) => command.run(call).await,
                Self::Endpoint(endpoint) => endpoint.post(call).await,
            }
        };
        timeout(patience, answered)
            .await
            .unwrap_or(Err(CallError::TimedOut(patience)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_can_never_work_is_refused() {
        use InvalidHook as I;
        let cases = [
            ("", I::CommandLine(String::new())),
            ("  ", I::CommandLine("  ".into())),
            ("a 'b", I::CommandLine("a 'b".into())),
            (
                "no-such-program-x --y",
                I::Program("no-such-program-x".into()),
            ),
            ("/no/such/program", I::Program("/no/such/program".into())),
            ("/etc/passwd", I::Program("/etc/passwd".into())),
            ("/", I::Program("/".into())),
            ("http://", I::Url("http://".into())),
            ("http:///x", I::Host("x".into())),
            ("https://[::1", I::Url("https://[::1".into())),
            (
                "http://no-such-host.invalid/",
                I::Host("no-such-host.invalid".into()),
            ),
        ];
        for (text, expected) in cases {
            match text.parse::<Hook>() {
                Err(error) if text == "http:///x" => assert!(matches!(error, I::Host(_))),
                Err(error) => assert_eq!(error, expected, "{text}"),
                Ok(hook) => panic!("{text}: {hook:?}"),
            }
        }
    }

    #[test]
    fn a_scheme_makes_the_difference() {
        assert!(matches!("cat".parse(), Ok(Hook::Command(_))));
        assert!(matches!("/bin/sh -c 'a b'".parse(), Ok(Hook::Command(_))));
        assert!(matches!(
            "http://127.0.0.1:1/x".parse(),
            Ok(Hook::Endpoint(_))
        ));
    }
}
