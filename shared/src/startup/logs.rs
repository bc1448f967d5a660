//! Logs: to standard error, as lines for people on a terminal and as JSON otherwise.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How a program logs. Flatten it into a program's arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// How log lines look: auto is human on a terminal and json elsewhere
    #[arg(
        long,
        value_name = "auto|human|json",
        default_value_t,
        value_enum,
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, off, or directives like
    /// `info,consumer=debug` [default: RUST_LOG, else info]
    #[arg(long, value_name = "LEVEL", help_heading = "Logging")]
    pub log_level: Option<LogFilter>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere
    #[default]
    Auto,
    /// One line of text per event
    Human,
    /// One JSON object per event
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// Which events are logged, in the syntax of `RUST_LOG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a log level is error, warn, info, debug, trace, off or directives like info,consumer=debug"
)]
pub struct InvalidFilter;

impl FromStr for LogFilter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let level = ["error", "warn", "info", "debug", "trace", "off"];
        // A lone word that is no level would be taken for a target, and silence everything else.
        let known = text.contains(['=', ',']) || level.iter().any(|l| l.eq_ignore_ascii_case(text));
        if !known || EnvFilter::builder().parse(text).is_err() {
            return Err(InvalidFilter);
        }
        Ok(Self(text.to_owned()))
    }
}

impl LogArgs {
    /// Starts logging for the whole process; `rust_log` is the value of `RUST_LOG`.
    ///
    /// # Errors
    ///
    /// `rust_log` is needed but unreadable, or logging was started before.
    pub(super) fn start(
        &self,
        rust_log: Option<&str>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let from_env = rust_log.filter(|text| !text.is_empty());
        let filter = match (&self.log_level, from_env) {
            (Some(filter), _) => filter.0.as_str(),
            (None, Some(text)) => text,
            (None, None) => "info",
        };
        let filter = EnvFilter::builder()
            .parse(filter)
            .map_err(|e| format!("RUST_LOG: {e}"))?;
        let terminal = io::stderr().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        // A log that cannot be written is dropped: reporting that on the same stderr would panic.
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(colours)
            .log_internal_errors(false);
        match self.log_format {
            LogFormat::Human => lines.try_init(),
            LogFormat::Auto if terminal => lines.try_init(),
            LogFormat::Auto | LogFormat::Json => lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .try_init(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused() {
        for text in [
            "info",
            "DEBUG",
            "off",
            "info,consumer=debug",
            "shared=trace",
        ] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text:?}");
        }
        for text in ["", "inof", "verbose", "consumer=loud", "3"] {
            assert_eq!(text.parse::<LogFilter>(), Err(InvalidFilter), "{text:?}");
        }
    }
}
