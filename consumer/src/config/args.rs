//! The command line. Doc comments are the help texts.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use admin::AdminArgs;
use clap::Command;
use nix::unistd::{Gid, Group, Uid, User};
use shared::orphan;
use shared::startup::{Exit, LogArgs, Mode, Period, Program, SpoolArgs, command};

use super::LimitPer;
use super::only::OnlyPair;
use crate::operate::Tool;
use crate::{breaker, retry};

/// Jobs at most in one process: each running command takes a handful of descriptors of the usual
/// 1024.
const JOBS_MAX: u64 = 128;

/// Processes finished uploads: moves them to a directory, runs a command for each, or both.
///
/// Start as many as needed, on one host or several. Each upload is worked on by one consumer at a
/// time, at least once; what fails is tried again, and after that lies in failed/ with the reason.
///
/// A command is one string, split like a shell would and run without one: --hook 'process
/// --name={filename} {file}'. Placeholders: {file} {record} {result} {id} {claim} {filename}
/// {length} {attempt} {max_attempts} {digest} {metadata.KEY} {server_metadata.KEY}, with a
/// fallback as {metadata.KEY|none}, braces as {{ and }}. It reads the record as JSON on standard
/// input and finds UPLOAD_ID, UPLOAD_FILE, UPLOAD_ATTEMPT and more in its environment. Exit code
/// 0: done; 65 or 100: never try again; 75, 111 and everything else: try again later.
///
/// An operator looks after uploads with `consumer ls`, show, retry, hold, release, drop, verify,
/// fsck and stats; see `consumer help`.
#[derive(Debug, Clone, clap::Parser)]
#[command(max_term_width = 100)]
pub struct Args {
    /// What to do with uploads.
    #[command(flatten)]
    pub work: WorkArgs,

    /// Where metrics and health are told.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Program for Args {
    const NAME: &'static str = "consumer";

    const EXITS: &'static [(Exit, &'static str)] = &[
        (Exit::OK, "done; with --once: an upload was delivered"),
        (
            Exit::FAILURE,
            "something failed while running; with --once: the upload failed",
        ),
        (
            Exit::USAGE,
            "a flag or the spool is unusable; nothing was touched",
        ),
        (Exit::NONE_CAME, "with --once: no upload came in time"),
        (
            Exit::CONFIG,
            "a command cannot be run; a restart would not help",
        ),
    ];

    fn log(&self) -> &LogArgs {
        &self.log
    }

    fn words() -> Vec<Command> {
        let tool = command::<Tool>();
        tool.get_subcommands().cloned().collect()
    }
}

/// How to consume.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkArgs {
    /// Which spool.
    #[command(flatten)]
    pub spool: SpoolArgs,

    /// Command that must accept an upload before anything else is done with it; exit code 65
    /// rejects it for good; may be repeated
    #[arg(long, value_name = "CMD", help_heading = "What to do")]
    pub check: Vec<String>,

    /// Move each upload into this directory, never over another file
    #[arg(long, value_name = "DIR", help_heading = "What to do")]
    pub move_to: Option<PathBuf>,

    /// Names below --move-to: {filename} {stem} {extension} {id} {date} {year} {month} {day}
    /// {hour} {length} {metadata.KEY} {server_metadata.KEY}; `/` makes directories
    /// [default: {filename}, or the id]
    #[arg(
        long,
        value_name = "TEMPLATE",
        requires = "move_to",
        help_heading = "What to do"
    )]
    pub name: Option<String>,

    /// Put the record beside the moved file, as NAME.meta
    #[arg(long, requires = "move_to", help_heading = "What to do")]
    pub keep_record: bool,

    /// Permissions of moved files [default: as in the spool]
    #[arg(
        long,
        value_name = "OCTAL",
        requires = "move_to",
        help_heading = "What to do"
    )]
    pub move_mode: Option<Mode>,

    /// Owner of moved files: USER, USER:GROUP or :GROUP [default: as in the spool]
    #[arg(
        long,
        value_name = "OWNER",
        requires = "move_to",
        help_heading = "What to do"
    )]
    pub move_owner: Option<OwnerArg>,

    /// Command to run for each upload, after it was moved if --move-to is given; may be repeated
    #[arg(long, value_name = "CMD", help_heading = "What to do")]
    pub hook: Vec<String>,

    /// Variable that commands get beside PATH, HOME, LANG, TZ and TMPDIR: NAME to pass ours on,
    /// or NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "What to do")]
    pub hook_env: Vec<String>,

    /// How long one command may run
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        help_heading = "What to do"
    )]
    pub hook_timeout: Period,

    /// Time that a command has to end between SIGTERM and SIGKILL
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        help_heading = "What to do"
    )]
    pub kill_grace: Period,

    /// Take only uploads whose metadata has this value; several values of one key are
    /// alternatives, several keys must all match
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Which uploads")]
    pub only: Vec<OnlyPair>,

    /// Work on at most N uploads with the same value of a metadata key at once; may be repeated
    #[arg(long, value_name = "KEY=N", help_heading = "Which uploads")]
    pub limit_per: Vec<LimitPer>,

    /// Uploads worked on at once
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = jobs(),
        help_heading = "When"
    )]
    pub jobs: NonZeroU32,

    /// Take one upload and end: exit code 0 if it was delivered, 1 if it failed, 3 if none came
    #[arg(long, conflicts_with = "drain", help_heading = "When")]
    pub once: bool,

    /// How long --once waits for an upload [default: for ever]
    #[arg(
        long,
        value_name = "DURATION",
        requires = "once",
        help_heading = "When"
    )]
    pub timeout: Option<Period>,

    /// End when nothing is left to do at this moment; what waits for its next attempt stays
    #[arg(long, help_heading = "When")]
    pub drain: bool,

    /// How often to look for uploads although nothing was heard of; every 1.5s at least where the
    /// kernel has no events left to give [default: 30s, 1.5s on network filesystems]
    #[arg(long, value_name = "DURATION", help_heading = "When")]
    pub poll: Option<Period>,

    /// How long running commands may go on after SIGTERM; a second signal ends them at once
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        help_heading = "When"
    )]
    pub drain_timeout: Period,

    /// Attempts before an upload goes to failed/
    #[arg(
        long,
        value_name = "N",
        default_value_t = attempts_default(),
        help_heading = "Retries"
    )]
    pub max_attempts: NonZeroU32,

    /// Longest wait before the second attempt; doubles with each further one
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = Period(retry::BASE_DEFAULT),
        help_heading = "Retries"
    )]
    pub backoff_base: Period,

    /// Longest wait before any attempt
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = Period(retry::CAP_DEFAULT),
        help_heading = "Retries"
    )]
    pub backoff_cap: Period,

    /// Pause after so many temporary failures in a row, each of another upload; 0: never
    #[arg(
        long,
        value_name = "N",
        default_value_t = breaker::FAILURES_DEFAULT,
        help_heading = "Retries"
    )]
    pub breaker: u32,

    /// On network filesystems, how long a silent consumer keeps its claims
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = Period(orphan::LEASE),
        help_heading = "Retries"
    )]
    pub lease: Period,
}

fn jobs() -> impl clap::builder::TypedValueParser<Value = NonZeroU32> {
    use clap::builder::TypedValueParser;
    clap::builder::RangedU64ValueParser::<u32>::new()
        .range(1..=JOBS_MAX)
        .map(|jobs| NonZeroU32::new(jobs).unwrap_or(NonZeroU32::MIN))
}

fn attempts_default() -> NonZeroU32 {
    NonZeroU32::new(orphan::MAX_ATTEMPTS).unwrap_or(NonZeroU32::MIN)
}

/// `USER`, `USER:GROUP` or `:GROUP`, by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerArg {
    /// New owner.
    pub user: Option<Uid>,
    /// New group.
    pub group: Option<Gid>,
}

/// An owner that the system does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOwner {
    /// No such user.
    #[error("there is no user {0:?}")]
    User(String),
    /// No such group.
    #[error("there is no group {0:?}")]
    Group(String),
    /// Neither.
    #[error("is written as USER, USER:GROUP or :GROUP")]
    Empty,
}

impl FromStr for OwnerArg {
    type Err = InvalidOwner;

    fn from_str(text: &str) -> Result<Self, InvalidOwner> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        if user.is_empty() && group.is_empty() {
            return Err(InvalidOwner::Empty);
        }
        Ok(Self {
            user: find_user(user)?,
            group: find_group(group)?,
        })
    }
}

fn find_user(name: &str) -> Result<Option<Uid>, InvalidOwner> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = name.parse() {
        return Ok(Some(Uid::from_raw(number)));
    }
    let found = User::from_name(name).ok().flatten().map(|user| user.uid);
    found
        .map(Some)
        .ok_or_else(|| InvalidOwner::User(name.to_owned()))
}

fn find_group(name: &str) -> Result<Option<Gid>, InvalidOwner> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = name.parse() {
        return Ok(Some(Gid::from_raw(number)));
    }
    let found = Group::from_name(name).ok().flatten().map(|group| group.gid);
    found
        .map(Some)
        .ok_or_else(|| InvalidOwner::Group(name.to_owned()))
}
