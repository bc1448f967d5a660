//! Places where a test can stop, kill or fail a program between two steps.
//!
//! Every step after which a crash leaves something new on the disk has a name here. Programs call
//! [`hit`] there; in debug builds, and in release builds with the feature `failpoints`, it obeys
//! the environment variable [`VARIABLE`]. Elsewhere it is compiled to nothing.
//!
//! ```text
//! TUSPOOL_FAILPOINTS='claim.renamed=kill;handover.record_moved=stop@3;create.synced=error:ENOSPC'
//! ```
//!
//! * `kill`: the process ends as by SIGKILL.
//! * `stop`: the process stops as by SIGSTOP, so that a test can look at the disk; SIGCONT resumes.
//! * `error:ERRNO`: the step fails with that error.
//! * `@n` after any of them: only on the n-th time, counted from 1 in each process.

use std::io;

/// Name of the environment variable.
pub const VARIABLE: &str = "TUSPOOL_FAILPOINTS";

/// Whether this build has failpoints.
pub const BUILT_IN: bool = cfg!(any(debug_assertions, feature = "failpoints"));

macro_rules! failpoints {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place between two steps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Failpoint {
            $($(#[$doc])* $point,)*
        }

        impl Failpoint {
            /// All of them, for tests that walk through every one.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// Its name in the environment variable.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

// One line for a new point; the part before the dot names the operation.
failpoints! {
    /// Start: the probe's file lies in another directory than its own, once for each of them.
    ProbeCarried = "probe.carried",
    /// Create: the data file exists, its record does not.
    CreateDataMade = "create.data_made",
    /// Create: the record is in place, nothing is synced.
    CreateRecordMade = "create.record_made",
    /// Create: everything is synced, the answer is not sent.
    CreateSynced = "create.synced",
    /// PATCH: bytes have been written past the page cache, nothing says so.
    AppendWritten = "append.written",
    /// PATCH: the data is synced, the watermark has not moved.
    AdvanceDataSynced = "advance.data_synced",
    /// PATCH: the record tells of the new watermark, but is not synced.
    AdvanceMarked = "advance.marked",
    /// PATCH: the record is synced, the new watermark is not shown as the offset yet.
    AdvanceRecordSynced = "advance.record_synced",
    /// End: the record tells the ending, the data is still there.
    EndRecorded = "end.recorded",
    /// End: the record is a receipt, the data is still there.
    EndReceiptMoved = "end.receipt_moved",
    /// End: the data is empty, its name is still there.
    EndDataCut = "end.data_cut",
    /// Hand-over: the final record stands in `uploads/`, synced.
    HandoverRecordSynced = "handover.record_synced",
    /// Hand-over: the record has moved to `completed/`, the data has not.
    HandoverRecordMoved = "handover.record_moved",
    /// Hand-over: the data has moved too, the directory is not synced.
    HandoverDataMoved = "handover.data_moved",
    /// Assemble: the parts tell into which final upload they go, nothing is copied.
    AssembleNamed = "assemble.named",
    /// Assemble: bytes of a part are copied, the watermark does not cover them.
    AssembleCopied = "assemble.copied",
    /// Claim: the lock is held, nothing has moved.
    ClaimLocked = "claim.locked",
    /// Claim: the data has its claimed name, there is no state beside it.
    ClaimRenamed = "claim.renamed",
    /// Claim: the state is written, the hook has not started.
    ClaimStateWritten = "claim.state_written",
    /// Deliver: the chosen name is written down, nothing has it yet.
    DeliverChosen = "deliver.chosen",
    /// Deliver: the data has its name in the destination, which is not synced.
    DeliverNamed = "deliver.named",
    /// Hook: it runs, and its process group is written down.
    HookStarted = "hook.started",
    /// Hook: it has ended, nothing is settled.
    HookEnded = "hook.ended",
    /// Settle, delivered: the delivery is durable, there is no receipt.
    SettleDelivered = "settle.delivered",
    /// Settle, delivered: the receipt is durable, the claimed data is still there.
    SettleReceiptWritten = "settle.receipt_written",
    /// Settle, delivered: the data is gone, the record in `completed/` is not.
    SettleDataRemoved = "settle.data_removed",
    /// Settle, dead: the reason is written, the data has not moved.
    SettleReasonWritten = "settle.reason_written",
    /// Settle, dead: the data lies in `failed/`, the record does not.
    SettleDataFailed = "settle.data_failed",
    /// Settle, retry: the record tells the next time, the data has not moved.
    SettleRetryRecorded = "settle.retry_recorded",
    /// Operate: the record tells where an operator wants the data, which has not moved.
    BackRecorded = "back.recorded",
    /// Operate: the data has moved back, a reason is still there.
    BackMoved = "back.moved",
    /// Recovery: an orphaned claim is judged and locked, nothing has moved.
    OrphanLocked = "orphan.locked",
    /// Janitor: an upload is judged and locked, nothing is done yet.
    JanitorJudged = "janitor.judged",
}

/// Says that the step named `point` was reached.
///
/// # Errors
///
/// The error that the environment asks for; never in a build without failpoints.
#[inline]
pub fn hit(point: Failpoint) -> io::Result<()> {
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    return active::hit(point);
    #[cfg(not(any(debug_assertions, feature = "failpoints")))]
    {
        let _ = point;
        Ok(())
    }
}

/// The variable is set but unreadable, or set for a build that would not obey it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFailpoints {
    /// A part that is not `point=action`.
    #[error("{VARIABLE}: `{0}` is not POINT=kill, stop or error:ERRNO, with or without @N")]
    Syntax(String),
    /// No point or no error of that name.
    #[error("{VARIABLE}: unknown name in `{0}`")]
    Unknown(String),
    /// The build has no failpoints, and a test that sets them would pass for the wrong reason.
    #[error("{VARIABLE} is set, but this build has no failpoints")]
    NotBuiltIn,
}

/// Reads the environment variable, so that a mistake in it is told at start.
///
/// # Errors
///
/// See [`InvalidFailpoints`].
pub fn check_environment() -> Result<(), InvalidFailpoints> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    return active::parse(&value.to_string_lossy()).map(drop);
    #[cfg(not(any(debug_assertions, feature = "failpoints")))]
    if value.is_empty() {
        Ok(())
    } else {
        Err(InvalidFailpoints::NotBuiltIn)
    }
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
pub use active::{Scope, scoped};

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod active {
    use std::cell::RefCell;
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::errno::Errno;
    use nix::sys::signal::{Signal, raise};

    use super::{Failpoint, InvalidFailpoints, VARIABLE};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Kill,
        Stop,
        Error(Errno),
    }

    #[derive(Debug)]
    pub(super) struct Rule {
        pub(super) point: Failpoint,
        pub(super) action: Action,
        /// Only on this hit, counted from 1; every hit if `None`.
        pub(super) only: Option<u32>,
        hits: AtomicU32,
    }

    static ENVIRONMENT: OnceLock<Vec<Rule>> = OnceLock::new();

    thread_local! {
        static SCOPED: RefCell<Vec<Rule>> = const { RefCell::new(Vec::new()) };
    }

    /// Rules that hold for the current thread until it is dropped.
    #[derive(Debug)]
    pub struct Scope(std::marker::PhantomData<*const ()>);

    /// Sets rules for the current thread only: for tests within one process, where `error` stops
    /// an operation between two steps as a crash would.
    ///
    /// # Errors
    ///
    /// See [`InvalidFailpoints`].
    pub fn scoped(rules: &str) -> Result<Scope, InvalidFailpoints> {
        let rules = parse(rules)?;
        SCOPED.with_borrow_mut(|scoped| *scoped = rules);
        Ok(Scope(std::marker::PhantomData))
    }

    impl Drop for Scope {
        fn drop(&mut self) {
            SCOPED.with_borrow_mut(Vec::clear);
        }
    }

    pub(super) fn hit(point: Failpoint) -> io::Result<()> {
        // What is unreadable was refused at start by `check_environment`.
        let rules = ENVIRONMENT.get_or_init(|| {
            std::env::var(VARIABLE)
                .map(|v| parse(&v).unwrap_or_default())
                .unwrap_or_default()
        });
        SCOPED.with_borrow(|scoped| obey(scoped, point))?;
        obey(rules, point)
    }

    fn obey(rules: &[Rule], point: Failpoint) -> io::Result<()> {
        for rule in rules.iter().filter(|rule| rule.point == point) {
            let hits = rule.hits.fetch_add(1, Ordering::Relaxed) + 1;
            if rule.only.is_none_or(|only| only == hits) {
                act(rule.action)?;
            }
        }
        Ok(())
    }

    fn act(action: Action) -> io::Result<()> {
        match action {
            Action::Kill => raise(Signal::SIGKILL)?,
            Action::Stop => raise(Signal::SIGSTOP)?,
            Action::Error(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    pub(super) fn parse(text: &str) -> Result<Vec<Rule>, InvalidFailpoints> {
        text.split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(rule)
            .collect()
    }

    fn rule(text: &str) -> Result<Rule, InvalidFailpoints> {
        let syntax = || InvalidFailpoints::Syntax(text.to_owned());
        let unknown = || InvalidFailpoints::Unknown(text.to_owned());
        let (name, action) = text.split_once('=').ok_or_else(syntax)?;
        let (action, only) = match action.split_once('@') {
            Some((action, n)) => (action, Some(n.parse().map_err(|_| syntax())?)),
            None => (action, None),
        };
        let point = Failpoint::ALL
            .iter()
            .copied()
            .find(|point| point.name() == name);
        let action = match action.split_once(':') {
            None if action == "kill" => Action::Kill,
            None if action == "stop" => Action::Stop,
            Some(("error", errno)) => Action::Error(named(errno).ok_or_else(unknown)?),
            _ => return Err(syntax()),
        };
        Ok(Rule {
            point: point.ok_or_else(unknown)?,
            action,
            only,
            hits: AtomicU32::new(0),
        })
    }

    fn named(errno: &str) -> Option<Errno> {
        let known = [
            Errno::EACCES,
            Errno::EDQUOT,
            Errno::EINTR,
            Errno::EINVAL,
            Errno::EIO,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOENT,
            Errno::ENOLCK,
            Errno::ENOSPC,
            Errno::EOPNOTSUPP,
            Errno::EROFS,
            Errno::ESTALE,
            Errno::EXDEV,
        ];
        known
            .into_iter()
            .find(|known| format!("{known:?}") == errno)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nix::errno::Errno;

    use super::active::{Action, parse};
    use super::*;

    #[test]
    fn names_are_distinct_and_name_their_operation() {
        let names: HashSet<_> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Failpoint::ALL.len());
        for name in names {
            let (operation, step) = name.split_once('.').unwrap();
            let word =
                |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(word(operation) && word(step), "{name}");
        }
    }

    #[test]
    fn the_variable_is_read_as_documented() {
        let rules =
            parse("claim.renamed=kill; handover.record_moved=stop@3;create.synced=error:ENOSPC;")
                .unwrap();
        let read: Vec<_> = rules.iter().map(|r| (r.point, r.action, r.only)).collect();
        let expected = [
            (Failpoint::ClaimRenamed, Action::Kill, None),
            (Failpoint::HandoverRecordMoved, Action::Stop, Some(3)),
            (Failpoint::CreateSynced, Action::Error(Errno::ENOSPC), None),
        ];
        assert_eq!(read, expected);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_mistake_in_the_variable_is_told() {
        for text in [
            "claim.renamed",
            "claim.renamed=die",
            "claim.renamed=kill@x",
            "=",
            "x=error",
        ] {
            assert!(
                matches!(parse(text), Err(InvalidFailpoints::Syntax(_))),
                "{text}"
            );
        }
        for text in ["claim.rename=kill", "claim.renamed=error:EWHAT"] {
            assert!(
                matches!(parse(text), Err(InvalidFailpoints::Unknown(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_comes_on_the_named_hit_only() {
        let scope = scoped("claim.renamed=error:ENOSPC@2").unwrap();
        let hits: Vec<_> = (0..3)
            .map(|_| hit(Failpoint::ClaimRenamed).is_ok())
            .collect();
        assert_eq!(hits, [true, false, true]);
        assert!(hit(Failpoint::ClaimLocked).is_ok());
        drop(scope);
        let _every = scoped("claim.renamed=error:EIO").unwrap();
        let error = hit(Failpoint::ClaimRenamed).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32));
        assert!(hit(Failpoint::ClaimRenamed).is_err());
    }

    #[test]
    fn rules_end_with_their_scope() {
        drop(scoped("claim.renamed=error:EIO").unwrap());
        assert!(hit(Failpoint::ClaimRenamed).is_ok());
    }
}
