//! The operator's tool: looks at the uploads of a spool and tells them where to go.
//!
//! Subcommands of the consumer and not a program of their own: who runs a consumer has the right
//! user and the spool at hand, and what is told here (attempts, reasons, holds) is the consumer's.
//! It works on the directory alone and takes the same locks as everybody, so that it is safe while
//! everything runs.

mod act;
mod fsck;
mod survey;
mod verify;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::sync::Arc;

use shared::id::UploadId;
use shared::lookup::State;
use shared::orphan;
use shared::spool::Spool;
use shared::startup::{Bytes, Exit, Failure, LogArgs, Period, Program, SpoolArgs};
use shared::time::UnixTime;

use crate::config::OnlyPair;

/// The command line of the operator's tool: the consumer's, if its first word is no flag.
#[derive(Debug, Clone, clap::Parser)]
#[command(max_term_width = 100, about = "Looks after the uploads of a spool")]
pub struct Tool {
    /// What to do.
    #[command(subcommand)]
    pub operate: Operate,

    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Program for Tool {
    const NAME: &'static str = "consumer";

    const EXITS: &'static [(Exit, &'static str)] = &[
        (Exit::OK, "done, and nothing was found"),
        (
            Exit::FAILURE,
            "some of it could not be done, or something was found",
        ),
        (Exit::USAGE, "a flag or the spool is unusable"),
    ];

    fn log(&self) -> &LogArgs {
        &self.log
    }
}

impl Tool {
    /// Whether a command line that begins with this word is for the tool. A consumer's begins
    /// with a flag.
    #[must_use]
    pub fn is_asked_for(word: Option<&OsStr>) -> bool {
        word.is_some_and(|word| !word.as_encoded_bytes().starts_with(b"-"))
    }
}

/// What an operator may ask for.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Operate {
    /// List uploads
    Ls(Ls),
    /// Show all that is known of one upload, as JSON
    Show(One),
    /// Put dead letters and deferred uploads back into the queue, their attempts forgotten
    Retry(Retry),
    /// Take queued or deferred uploads aside
    Hold(Several),
    /// Put uploads that were taken aside back into the queue
    Release(Release),
    /// Remove uploads for good; a receipt stays
    Drop(Remove),
    /// Check records, sizes and digests of uploads
    Verify(Verify),
    /// Find every inconsistent state
    Fsck(Fsck),
    /// Count uploads by state
    Stats(Stats),
}

/// `ls`
#[derive(Debug, Clone, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    spool: SpoolArgs,
    #[command(flatten)]
    which: Which,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which uploads.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// Only in this state: receiving, queued, processing, deferred, held, delivered, failed,
    /// terminated, expired, joined; may be repeated
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<State>,
    /// Only those created longer ago
    #[arg(long, value_name = "DURATION")]
    older: Option<Period>,
    /// Only those created since
    #[arg(long, value_name = "DURATION")]
    newer: Option<Period>,
    /// Only those at least this long
    #[arg(long, value_name = "SIZE")]
    larger: Option<Bytes>,
    /// Only those whose metadata has this value
    #[arg(long, value_name = "KEY=VALUE")]
    only: Vec<OnlyPair>,
}

/// `show`
#[derive(Debug, Clone, clap::Args)]
pub struct One {
    #[command(flatten)]
    spool: SpoolArgs,
    /// The upload
    id: UploadId,
    /// Accepted for uniformity: the answer is always JSON
    #[arg(long)]
    json: bool,
}

/// `hold`
#[derive(Debug, Clone, clap::Args)]
pub struct Several {
    #[command(flatten)]
    spool: SpoolArgs,
    /// The uploads
    #[arg(required = true)]
    ids: Vec<UploadId>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `retry`
#[derive(Debug, Clone, clap::Args)]
pub struct Retry {
    #[command(flatten)]
    spool: SpoolArgs,
    /// The uploads
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<UploadId>,
    /// All dead letters
    #[arg(long)]
    all: bool,
    /// Only dead letters whose reason contains this text
    #[arg(long, value_name = "TEXT", requires = "all")]
    reason: Option<String>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `release`
#[derive(Debug, Clone, clap::Args)]
pub struct Release {
    #[command(flatten)]
    spool: SpoolArgs,
    /// The uploads
    #[arg(required = true)]
    ids: Vec<UploadId>,
    /// Also take uploads away from a consumer, for one that hangs on another host; should it live
    /// after all, the upload is processed twice
    #[arg(long)]
    force: bool,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `drop`
#[derive(Debug, Clone, clap::Args)]
pub struct Remove {
    #[command(flatten)]
    spool: SpoolArgs,
    /// The uploads
    #[arg(required_unless_present = "failed", conflicts_with = "failed")]
    ids: Vec<UploadId>,
    /// All dead letters
    #[arg(long)]
    failed: bool,
    /// Only dead letters that were created longer ago
    #[arg(long, value_name = "DURATION", requires = "failed")]
    older: Option<Period>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `verify`
#[derive(Debug, Clone, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    spool: SpoolArgs,
    /// The uploads [default: all that have data]
    ids: Vec<UploadId>,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `fsck`
#[derive(Debug, Clone, clap::Args)]
pub struct Fsck {
    #[command(flatten)]
    spool: SpoolArgs,
    /// Put right what can be put right; no data is deleted but what an ended upload has left behind
    #[arg(long)]
    repair: bool,
    /// On network filesystems, how long a silent consumer keeps its claims; as the consumers' flag
    #[arg(long, value_name = "DURATION", default_value_t = Period(orphan::LEASE))]
    lease: Period,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `stats`
#[derive(Debug, Clone, clap::Args)]
pub struct Stats {
    #[command(flatten)]
    spool: SpoolArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// All states, as they are written.
const STATES: [State; 10] = [
    State::Receiving,
    State::Queued,
    State::Processing,
    State::Deferred,
    State::Held,
    State::Delivered,
    State::Failed,
    State::Terminated,
    State::Expired,
    State::Joined,
];

fn state(text: &str) -> Result<State, String> {
    let found = STATES.into_iter().find(|state| state.name() == text);
    found.ok_or_else(|| "there is no such state; see --help".to_owned())
}

/// Does what was asked. Exit code 1 if any of it could not be done, or something was found.
///
/// # Errors
/// The spool cannot be used, or an operation on it failed.
pub fn run(operate: Operate) -> Result<Exit, Failure> {
    let mut out = Out {
        lines: io::BufWriter::new(io::stdout().lock()),
        closed: false,
    };
    let now = UnixTime::now();
    let all = match operate {
        Operate::Ls(args) => survey::list(&*open(&args.spool)?, &args, now, &mut out),
        Operate::Show(args) => survey::show(&*open(&args.spool)?, args.id, &mut out),
        Operate::Retry(args) => act::retry(&open(&args.spool)?, &args, &mut out),
        Operate::Hold(args) => act::hold(&open(&args.spool)?, &args, &mut out),
        Operate::Release(args) => act::release(&open(&args.spool)?, &args, now, &mut out),
        Operate::Drop(args) => act::remove(&open(&args.spool)?, &args, now, &mut out),
        Operate::Verify(args) => verify::verify(&*open(&args.spool)?, &args, &mut out),
        Operate::Fsck(args) => fsck::fsck(&open(&args.spool)?, &args, now, &mut out),
        Operate::Stats(args) => survey::stats(&*open(&args.spool)?, &args, now, &mut out),
    }?;
    out.flush()?;
    Ok(if all { Exit::OK } else { Exit::FAILURE })
}

/// Standard output, for which a reader that goes away is no failure (`consumer ls | head`).
struct Out<W: Write> {
    lines: W,
    closed: bool,
}

impl<W: Write> Out<W> {
    fn unless_closed<T>(&mut self, result: io::Result<T>, otherwise: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(otherwise)
            }
            result => result,
        }
    }
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(bytes.len());
        }
        let written = self.lines.write(bytes);
        self.unless_closed(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.lines.flush();
        self.unless_closed(flushed, ())
    }
}

/// Opens a spool that exists: looking must not create one.
fn open(args: &SpoolArgs) -> Result<Arc<Spool>, Failure> {
    let root = std::path::absolute(&args.spool).map_err(Failure::usage)?;
    let spool = Spool::open_existing(&root, args.options()).map_err(Failure::usage)?;
    Ok(Arc::new(spool))
}

/// One line about what came of one upload.
fn tell(out: &mut impl Write, json: bool, id: UploadId, done: bool, what: &str) -> io::Result<()> {
    if json {
        let line = serde_json::json!({"id": id, "done": done, "what": what});
        return writeln!(out, "{line}");
    }
    writeln!(out, "{id}  {what}")
}

#[cfg(test)]
mod tests;
