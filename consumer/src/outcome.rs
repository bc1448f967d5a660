//! What the end of a command means for its upload. Pure: numbers in, verdict out.
//!
//! The codes are those that mail systems have used for decades: `<sysexits.h>` (65, 75) and
//! qmail-command (100, 111), so that many programs say the right thing already.

use admin::consumer::CommandEnd;
use shared::id::UploadId;

/// How a command ended, or why it never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited by itself.
    Exited(u8),
    /// A signal that we did not send ended it.
    Signalled(i32),
    /// It ran longer than it may and was ended by us.
    TimedOut,
    /// We are shutting down and ended it.
    Interrupted,
    /// The operating system did not start it (`errno`).
    NotStarted(i32),
}

/// What is done with the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Processed: settle it.
    Done,
    /// This attempt failed, a later one may not.
    Retry,
    /// No attempt can succeed: into `failed/` at once.
    Dead,
    /// Back to the queue, the attempt not counted: nothing was learnt about the upload.
    PutBack,
    /// As `PutBack`, and this consumer stops: its own configuration is wrong.
    Misconfigured,
}

/// The command says that no attempt can succeed (EX_DATAERR; qmail "hard"). Every other code but 0
/// may succeed later, those that say so (75, EX_TEMPFAIL; 111, qmail "soft") like the rest.
pub const PERMANENT: [u8; 2] = [65, 100];
/// A shell says that it could not run (126) or find (127) what it was told to: usually a mistake
/// in the command, though a script that had begun may exit so too.
pub const NOT_RUN: [u8; 2] = [126, 127];

/// Uploads in a row that may end with [`NOT_RUN`] before the command is taken to be the mistake.
pub const NOT_RUN_MAX: u32 = 3;

/// The meaning of one end. [`NOT_RUN`] codes are a counted retry here; [`Suspicion`] sees the row
/// of them.
#[must_use]
pub fn verdict(end: End) -> Verdict {
    match end {
        End::Exited(0) => Verdict::Done,
        End::Exited(code) if PERMANENT.contains(&code) => Verdict::Dead,
        End::Exited(_) | End::Signalled(_) | End::TimedOut => Verdict::Retry,
        End::Interrupted => Verdict::PutBack,
        End::NotStarted(errno) if is_shortage(errno) => Verdict::PutBack,
        // This upload's values are too long together; the command itself may be fine.
        End::NotStarted(nix::libc::E2BIG) => Verdict::Retry,
        End::NotStarted(_) => Verdict::Misconfigured,
    }
}

/// Whether the machine, not the command, kept the process from starting.
fn is_shortage(errno: i32) -> bool {
    use nix::libc::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ETXTBSY};
    [EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ETXTBSY].contains(&errno)
}

/// Under what the end of a command is counted.
#[must_use]
pub fn counted_as(end: End) -> CommandEnd {
    match end {
        End::Exited(0) => CommandEnd::Accepted,
        End::Exited(code) if PERMANENT.contains(&code) => CommandEnd::Rejected,
        End::Exited(_) => CommandEnd::Failed,
        End::Signalled(_) => CommandEnd::Signalled,
        End::TimedOut => CommandEnd::TimedOut,
        End::Interrupted => CommandEnd::Interrupted,
        End::NotStarted(_) => CommandEnd::NotStarted,
    }
}

/// Counts uploads in a row whose command "could not run" by its own exit code.
#[derive(Debug, Default)]
pub struct Suspicion {
    last: Option<UploadId>,
    uploads: u32,
}

impl Suspicion {
    /// Takes note of one end; true once [`NOT_RUN_MAX`] different uploads in a row ended so.
    ///
    /// One upload counts once, however often it is tried: it may be the one that breaks a script.
    pub fn note(&mut self, id: UploadId, end: End) -> bool {
        match end {
            End::Exited(code) if NOT_RUN.contains(&code) => {
                if self.last != Some(id) {
                    self.last = Some(id);
                    self.uploads += 1;
                }
            }
            End::Exited(_) | End::Signalled(_) | End::TimedOut => *self = Self::default(),
            End::Interrupted | End::NotStarted(_) => {}
        }
        NOT_RUN_MAX <= self.uploads
    }
}

/// One line for the log and for `reason.json`.
impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
            Self::TimedOut => write!(f, "timed out"),
            Self::Interrupted => write!(f, "interrupted by shutdown"),
            Self::NotStarted(errno) => {
                write!(
                    f,
                    "not started: {}",
                    std::io::Error::from_raw_os_error(*errno)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_has_its_documented_meaning() {
        for code in 0..=255u8 {
            let expected = match code {
                0 => Verdict::Done,
                65 | 100 => Verdict::Dead,
                _ => Verdict::Retry,
            };
            assert_eq!(verdict(End::Exited(code)), expected, "{code}");
        }
    }

    #[test]
    fn signals_and_timeouts_are_retried_whatever_the_signal() {
        for signal in 0..=128 {
            assert_eq!(verdict(End::Signalled(signal)), Verdict::Retry, "{signal}");
        }
        assert_eq!(verdict(End::TimedOut), Verdict::Retry);
    }

    #[test]
    fn a_command_that_cannot_start_is_our_mistake_unless_the_machine_is_short() {
        use nix::libc::*;
        for errno in [
            ENOENT, EACCES, ENOEXEC, ENOTDIR, EISDIR, ELOOP, EPERM, EINVAL, EIO,
        ] {
            assert_eq!(
                verdict(End::NotStarted(errno)),
                Verdict::Misconfigured,
                "{errno}"
            );
        }
        for errno in [EAGAIN, ENOMEM, EMFILE, ENFILE, ETXTBSY] {
            assert_eq!(verdict(End::NotStarted(errno)), Verdict::PutBack, "{errno}");
        }
        assert_eq!(verdict(End::NotStarted(E2BIG)), Verdict::Retry);
        assert_eq!(verdict(End::Interrupted), Verdict::PutBack);
    }

    #[test]
    fn three_different_uploads_in_a_row_that_could_not_run_are_a_mistake_in_the_command() {
        let ids: Vec<_> = (0..4).map(|_| UploadId::generate()).collect();
        for code in NOT_RUN {
            let end = End::Exited(code);
            let mut row = Suspicion::default();
            assert!(!row.note(ids[0], end));
            assert!(
                !row.note(ids[0], end),
                "the same upload again is no further evidence"
            );
            assert!(!row.note(ids[1], end));
            assert!(
                !row.note(ids[3], End::Interrupted),
                "a shutdown says nothing"
            );
            assert!(row.note(ids[2], end));
        }
    }

    #[test]
    fn any_other_end_breaks_the_row() {
        let ids: Vec<_> = (0..4).map(|_| UploadId::generate()).collect();
        for other in [
            End::Exited(0),
            End::Exited(75),
            End::Signalled(9),
            End::TimedOut,
        ] {
            let mut row = Suspicion::default();
            row.note(ids[0], End::Exited(127));
            row.note(ids[1], End::Exited(126));
            assert!(!row.note(ids[2], other));
            assert!(!row.note(ids[3], End::Exited(127)), "{other}");
        }
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(End::Exited(75).to_string(), "exit code 75");
        assert_eq!(End::Signalled(9).to_string(), "killed by SIGKILL");
        assert_eq!(End::Signalled(64).to_string(), "killed by signal 64");
        assert!(
            End::NotStarted(2)
                .to_string()
                .starts_with("not started: No such file")
        );
    }
}
