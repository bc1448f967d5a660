//! Runs one command for one upload and tells how it ended.
//!
//! The command is its own session and process group, so that all of it can be ended; it starts
//! with a clean environment; it inherits the descriptor that holds the upload's lock, so that the
//! lock outlives this process if the command does, and no second command starts meanwhile. What
//! it writes costs bounded memory; what it leaves running is ended when it exits.

mod family;
mod output;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::pin::pin;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use shared::id::ClaimId;
use shared::startup::Shutdown;
use shared::startup::shutdown::Phase;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::signal::unix::SignalKind;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::output::{Lines, Tail};
use crate::outcome::End;

pub use self::family::{CLAIM_VARIABLE, adopt_orphans, end_by_claim, sweep};
pub use self::output::TAIL_BYTES;

/// How long after a command's end its output is still waited for. Everything that could write is
/// dead by then; what is left in the pipes is read at once.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// Variables of our own environment that every command gets.
pub const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// One run of a command.
#[derive(Debug)]
pub struct Run<'a> {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What it reads on standard input.
    pub stdin: Vec<u8>,
    /// The claim that it works for.
    pub claim: ClaimId,
    /// Inherited by the command: the open file that holds the upload's lock.
    pub lock: BorrowedFd<'a>,
    /// How long it may run.
    pub timeout: Duration,
    /// How long it has between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// When a running command is to be ended early.
#[derive(Debug, Clone)]
pub struct Stop {
    /// The drain is over: end commands, with their grace.
    pub drained: CancellationToken,
    /// Second signal: without grace.
    pub shutdown: Shutdown,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// The end of what it wrote to standard error, at most [`TAIL_BYTES`].
    pub stderr_tail: String,
}

/// Runs a command to its end, whatever that takes. `started` is told the process (also its group
/// and session) before anything else happens; if it fails, the command is ended.
///
/// Call it within a tokio runtime with I/O, time and signals.
pub async fn run(run: Run<'_>, stop: &Stop, started: impl FnOnce(Pid) -> io::Result<()>) -> Report {
    let not_started = |error: &io::Error| Report {
        end: End::NotStarted(error.raw_os_error().unwrap_or(nix::libc::EINVAL)),
        stderr_tail: String::new(),
    };
    // Listening begins before there is a child whose end could be missed.
    let mut children = match tokio::signal::unix::signal(SignalKind::child()) {
        Ok(children) => children,
        Err(error) => return not_started(&error),
    };
    let (mut child, pid) = match family::start(run.claim, || spawn(&run)) {
        Ok(started) => started,
        Err(error) => return not_started(&error),
    };
    let mut tail = Tail::default();
    let over = CancellationToken::new();
    let cut_short = {
        let mut streams = pin!(streams(&mut child, &run.stdin, &mut tail));
        let supervise = async {
            let cut_short = match started(pid) {
                Ok(()) => supervise(pid, &run, stop, &mut children).await,
                Err(error) => {
                    tracing::error!(%error, "the command cannot be written down; ending it");
                    terminate(pid, Duration::ZERO, stop, &mut children).await;
                    Some(End::Interrupted)
                }
            };
            // The leader is dead; end the rest of its group, or it would keep the pipes open.
            killpg(pid, Signal::SIGKILL).ok();
            over.cancel();
            cut_short
        };
        let output = async {
            let given_up = async {
                over.cancelled().await;
                sleep(OUTPUT_GRACE).await;
            };
            tokio::select! { () = &mut streams => (), () = given_up => () }
        };
        tokio::join!(supervise, output).0
    };
    let status = family::end(pid, &mut child);
    outlive_strays(&mut children).await;
    let end = match (cut_short, status) {
        (Some(end), _) => end,
        (None, Ok(status)) => end_of(status),
        (None, Err(error)) => {
            tracing::error!(%error, "how the command ended cannot be known");
            End::Interrupted
        }
    };
    Report {
        end,
        stderr_tail: tail.into_text(),
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => End::Signalled(signal.unwrap_or_default()),
    }
}

/// Ends and reaps what the command left outside its group, before the upload is settled.
async fn outlive_strays(children: &mut tokio::signal::unix::Signal) {
    let gone = async {
        while sweep() != 0 {
            // A signal may have come before this began to listen: look again soon in any case.
            timeout(Duration::from_millis(20), children.recv())
                .await
                .ok();
        }
    };
    // A process that cannot be killed sleeps in the kernel; waiting longer would not help.
    if timeout(OUTPUT_GRACE, gone).await.is_err() {
        tracing::warn!("a process that the command left behind does not end");
    }
}

fn spawn(run: &Run<'_>) -> io::Result<Child> {
    let (program, arguments) = run
        .argv
        .split_first()
        .ok_or_else(|| io::Error::from(Errno::EINVAL))?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear();
    command.envs(run.environment.iter().map(|(name, value)| (name, value)));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let lock = run.lock.as_raw_fd();
    let in_child = move || {
        nix::unistd::setsid()?;
        // SAFETY: the descriptor is borrowed in `run`, which outlives the spawn; the child has a
        // copy of it under the same number.
        #[expect(unsafe_code, reason = "a number is all that crosses the fork")]
        let lock = unsafe { BorrowedFd::borrow_raw(lock) };
        let flags = nix::fcntl::FdFlag::empty();
        nix::fcntl::fcntl(lock, nix::fcntl::FcntlArg::F_SETFD(flags))?;
        Ok(())
    };
    // SAFETY: between fork and exec only setsid(2) and fcntl(2) are called; both are
    // async-signal-safe and neither allocates nor locks.
    #[expect(unsafe_code, reason = "keeps one descriptor for one child")]
    let command = unsafe { command.pre_exec(in_child) };
    command.spawn()
}

/// Waits until the leader has exited by itself (`None`), or ends it and says why. It is left to be
/// reaped.
async fn supervise(
    pid: Pid,
    run: &Run<'_>,
    stop: &Stop,
    children: &mut tokio::signal::unix::Signal,
) -> Option<End> {
    let (end, grace) = tokio::select! {
        biased;
        () = exited(pid, children) => return None,
        () = sleep(run.timeout) => (End::TimedOut, run.grace),
        () = stop.shutdown.now() => (End::Interrupted, Duration::ZERO),
        () = stop.drained.cancelled() => (End::Interrupted, run.grace),
    };
    tracing::warn!(reason = %end, "ending the command");
    terminate(pid, grace, stop, children).await;
    // Whatever its exit code says after our signal: it was not allowed to finish.
    Some(end)
}

/// SIGTERM to the whole group, SIGKILL after the grace, and returns once the leader is dead.
async fn terminate(
    pid: Pid,
    grace: Duration,
    stop: &Stop,
    children: &mut tokio::signal::unix::Signal,
) {
    if !grace.is_zero() && stop.shutdown.phase() != Phase::Now {
        killpg(pid, Signal::SIGTERM).ok();
        // A stopped process does not see a signal until it goes on.
        killpg(pid, Signal::SIGCONT).ok();
        tokio::select! {
            () = exited(pid, children) => return,
            () = sleep(grace) => {}
            () = stop.shutdown.now() => {}
        }
    }
    killpg(pid, Signal::SIGKILL).ok();
    while timeout(Duration::from_secs(60), exited(pid, children))
        .await
        .is_err()
    {
        // Uninterruptible in the kernel (a dead network mount). It still holds the lock, so the
        // upload cannot go to anybody else either.
        tracing::error!(pid = pid.as_raw(), "the command does not die of SIGKILL");
    }
}

/// Waits until the leader has exited, without reaping it.
async fn exited(pid: Pid, children: &mut tokio::signal::unix::Signal) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // An error means dead too: EINVAL is a signal that nix has no name for, ECHILD would mean
    // that somebody else has reaped it.
    while let Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) = waitid(Id::Pid(pid), flags) {
        if children.recv().await.is_none() {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Feeds and drains the command's three streams until all are closed.
async fn streams(child: &mut Child, stdin: &[u8], tail: &mut Tail) {
    let opened = (|| {
        let stdin = child.stdin.take().map(ChildStdin::from_std).transpose()?;
        let stdout = child.stdout.take().map(ChildStdout::from_std).transpose()?;
        let stderr = child.stderr.take().map(ChildStderr::from_std).transpose()?;
        Ok::<_, io::Error>((stdin, stdout, stderr))
    })();
    let (input, stdout, stderr) = match opened {
        Ok(streams) => streams,
        Err(error) => return tracing::error!(%error, "cannot read what the command writes"),
    };
    let feed = async {
        if let Some(mut input) = input {
            // A command that does not read its input is free to.
            input.write_all(stdin).await.ok();
        }
    };
    let stdout = pump(
        stdout,
        |_| (),
        |line| tracing::info!(stream = "stdout", "{line}"),
    );
    let stderr = pump(
        stderr,
        |bytes| tail.push(bytes),
        |line| tracing::info!(stream = "stderr", "{line}"),
    );
    tokio::join!(feed, stdout, stderr);
}

async fn pump(
    stream: Option<impl AsyncRead + Unpin>,
    mut keep: impl FnMut(&[u8]),
    mut say: impl FnMut(&str),
) {
    let Some(mut stream) = stream else { return };
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = stream.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        keep(bytes);
        lines.push(bytes, &mut say);
    }
    lines.finish(&mut say);
}

#[cfg(test)]
mod tests;
