//! What a program tells its caller when it ends: a code, and one line if something was wrong.

use std::error::Error;
use std::fmt;

/// Exit code of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Everything was done.
    pub const OK: Self = Self(0);
    /// Something failed while running.
    pub const FAILURE: Self = Self(1);
    /// A flag, the configuration or the spool is unusable; nothing was bound or touched.
    pub const USAGE: Self = Self(2);
    /// There was nothing to do within the time given (`consumer --once`).
    pub const NONE_CAME: Self = Self(3);
    /// A hook cannot be started (`EX_CONFIG` of sysexits): to restart would not help.
    pub const CONFIG: Self = Self(78);
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// Why a program ends early: an error and the exit code that goes with it.
///
/// `?` turns any error into one with [`Exit::FAILURE`]; for a bad configuration say so with
/// `.map_err(Failure::usage)?`.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Ends with this code.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// Ends with [`Exit::USAGE`].
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Exit::USAGE, error)
    }

    /// The code to end with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// One line: the error and its causes. A cause that the text before it already contains is left
/// out, since many error types print their source themselves.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = one_line(&self.error.to_string());
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let text = one_line(&error.to_string());
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        f.write_str(&line)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::FAILURE, error)
    }
}

/// The words of a text, on one line and without control characters.
pub(super) fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the spool")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let failure = Failure::usage(Outer(std::io::Error::other("no such\n  thing")));
        assert_eq!(failure.to_string(), "cannot open the spool: no such thing");
        assert_eq!(failure.exit(), Exit::USAGE);
    }

    #[test]
    fn any_error_becomes_a_failure() {
        fn run() -> Result<(), Failure> {
            Err(std::io::Error::other("full"))?;
            Ok(())
        }
        let failure = run().unwrap_err();
        assert_eq!(
            (failure.exit(), failure.to_string()),
            (Exit::FAILURE, "full".to_owned())
        );
    }
}
