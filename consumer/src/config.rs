//! Flags and environment (`CONSUMER_*`), and the checked configuration made of them.
//!
//! Everything that can be wrong about a configuration is found here, before the spool is touched.

mod args;
mod only;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, Gid, Uid};
use shared::startup::SpoolArgs;

use crate::hook;
use crate::retry::Backoff;
use crate::template::{CommandTemplate, NameTemplate, TemplateError};

pub use args::{Args, OwnerArg, WorkArgs};
pub use only::{Key, LimitPer, Only, OnlyPair, ParsePairError, Source};

/// What a consumer does, with what, and when it stops. Everything in it can be used.
#[derive(Debug)]
pub struct Config {
    /// Which spool.
    pub spool: SpoolArgs,
    /// Where to move uploads.
    pub move_to: Option<MoveTo>,
    /// Commands that must accept an upload before anything is delivered, in order.
    pub checks: Vec<CommandTemplate>,
    /// Commands that process an upload, in order.
    pub hooks: Vec<CommandTemplate>,
    /// The environment of commands, without what is particular to an upload.
    pub environment: Vec<(OsString, OsString)>,
    /// How long one command may run.
    pub hook_timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// When failed attempts are repeated.
    pub backoff: Backoff,
    /// Temporary failures in a row after which claiming pauses; 0: never.
    pub breaker: u32,
    /// Uploads worked on at once.
    pub jobs: NonZeroU32,
    /// Which uploads are taken.
    pub only: Only,
    /// How many uploads with one value of a key are worked on at once.
    pub limits: Vec<LimitPer>,
    /// When the consumer ends by itself.
    pub until: Until,
    /// How often the spool is looked at although no event came; `None`: as suits its filesystem.
    pub poll: Option<Duration>,
    /// How long running commands may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Age of a heartbeat from which a claim on a network filesystem counts as abandoned.
    pub lease: Duration,
}

/// `--move-to` and what belongs to it.
#[derive(Debug)]
pub struct MoveTo {
    /// The directory; exists and can be written to.
    pub dir: PathBuf,
    /// Names in it.
    pub name: NameTemplate,
    /// Put the record beside each file.
    pub keep_record: bool,
    /// Permissions of delivered files.
    pub mode: Option<u32>,
    /// Owner of delivered files.
    pub owner: (Option<Uid>, Option<Gid>),
}

/// When a consumer ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// After one upload, or when none has come in this time.
    One {
        /// How long to wait for it; `None`: as long as it takes.
        within: Option<Duration>,
    },
    /// When nothing is left to do at this moment.
    Empty,
}

/// A configuration that cannot work, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A template is wrong.
    #[error("--{flag} {text:?}: {source}")]
    Template {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// Nothing would be done with an upload.
    #[error("nothing to do with uploads: give --move-to DIR, --hook CMD or both")]
    Nothing,
    /// A program that does not exist or may not be run.
    #[error("--{flag} {text:?}: cannot run {program:?}: {reason}")]
    Program {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        text: String,
        /// The program in it.
        program: String,
        /// Why not.
        reason: &'static str,
    },
    /// The destination is no directory that files can be put in.
    #[error("--move-to {}: {source}", path.display())]
    Destination {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The destination lies in the spool.
    #[error("--move-to {} lies in the spool", .0.display())]
    InsideSpool(PathBuf),
    /// A variable to pass on that is not set.
    #[error("--hook-env {0}: is not set (write NAME=VALUE to set it)")]
    Unset(String),
    /// A variable that only the consumer sets.
    #[error("--hook-env {0}: names that begin with UPLOAD_ are the consumer's")]
    Reserved(String),
    /// The working directory is gone.
    #[error("the current directory: {0}")]
    CurrentDirectory(std::io::Error),
}

/// Beyond a command's timeout and grace, how long its consumer may need to end it.
const DEADLINE_SLACK: Duration = Duration::from_secs(5);

impl Config {
    /// Whether any command is run for an upload, which might write a result.
    #[must_use]
    pub fn runs_commands(&self) -> bool {
        !(self.checks.is_empty() && self.hooks.is_empty())
    }

    /// From the start of a command to when it certainly should have ended.
    #[must_use]
    pub fn allowed(&self) -> Duration {
        self.hook_timeout + self.kill_grace + DEADLINE_SLACK
    }

    /// Checks the arguments against each other and the world. Touches nothing.
    ///
    /// # Errors
    /// What cannot work.
    pub fn check(args: WorkArgs) -> Result<Self, ConfigError> {
        let mut spool = args.spool;
        // Commands get absolute paths, so that none of them can begin with `-`.
        spool.spool = std::path::absolute(&spool.spool).map_err(ConfigError::CurrentDirectory)?;
        if args.hook.is_empty() && args.move_to.is_none() {
            return Err(ConfigError::Nothing);
        }
        let environment = environment(&args.hook_env)?;
        let path = environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsString::new(), |(_, value)| value.clone());
        let commands = |flag, texts: Vec<String>| -> Result<Vec<_>, ConfigError> {
            texts
                .into_iter()
                .map(|text| command(flag, text, &path))
                .collect()
        };
        let name = args.name.as_deref().unwrap_or(NameTemplate::DEFAULT);
        let name = NameTemplate::parse(name).map_err(|source| ConfigError::Template {
            flag: "name",
            text: name.to_owned(),
            source,
        })?;
        let move_to = match args.move_to {
            None => None,
            Some(dir) => Some(MoveTo {
                dir: destination(&dir, &spool.spool)?,
                name,
                keep_record: args.keep_record,
                mode: args.move_mode.map(|mode| mode.0),
                owner: args
                    .move_owner
                    .map_or((None, None), |owner| (owner.user, owner.group)),
            }),
        };
        Ok(Self {
            move_to,
            checks: commands("check", args.check)?,
            hooks: commands("hook", args.hook)?,
            environment,
            hook_timeout: args.hook_timeout.0,
            kill_grace: args.kill_grace.0,
            backoff: Backoff {
                base: args.backoff_base.0,
                cap: args.backoff_cap.0,
                attempts_max: args.max_attempts.get(),
            },
            breaker: args.breaker,
            jobs: if args.once {
                NonZeroU32::MIN
            } else {
                args.jobs
            },
            only: Only::new(args.only),
            limits: args.limit_per,
            until: match (args.once, args.drain) {
                (true, _) => Until::One {
                    within: args.timeout.map(|timeout| timeout.0),
                },
                (false, true) => Until::Empty,
                (false, false) => Until::Stopped,
            },
            poll: args.poll.map(|poll| poll.0),
            drain_timeout: args.drain_timeout.0,
            lease: args.lease.0,
            spool,
        })
    }
}

/// What commands inherit of our environment, and what the operator adds.
fn environment(extra: &[String]) -> Result<Vec<(OsString, OsString)>, ConfigError> {
    let inherited = |name: &str| std::env::var_os(name).map(|value| (name.into(), value));
    let mut all: Vec<(OsString, OsString)> = hook::INHERITED
        .iter()
        .filter_map(|name| inherited(name))
        .collect();
    for entry in extra {
        if entry.starts_with("UPLOAD_") {
            return Err(ConfigError::Reserved(entry.clone()));
        }
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name.into(), value.into()),
            None => inherited(entry).ok_or_else(|| ConfigError::Unset(entry.clone()))?,
        };
        all.retain(|(other, _)| *other != name);
        all.push((name, value));
    }
    Ok(all)
}

fn command(
    flag: &'static str,
    text: String,
    path: &OsString,
) -> Result<CommandTemplate, ConfigError> {
    let template = match CommandTemplate::parse(&text) {
        Ok(template) => template,
        Err(source) => return Err(ConfigError::Template { flag, text, source }),
    };
    match runnable(template.program(), path) {
        Ok(()) => Ok(template),
        Err(reason) => {
            let program = template.program().to_owned();
            Err(ConfigError::Program {
                flag,
                text,
                program,
                reason,
            })
        }
    }
}

/// Whether a program can be started, as execvp(3) would look for it.
fn runnable(program: &str, path: &OsString) -> Result<(), &'static str> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![program.into()]
    } else {
        std::env::split_paths(path)
            .map(|dir| dir.join(program))
            .collect()
    };
    let files: Vec<_> = candidates.iter().filter(|path| path.is_file()).collect();
    if files.is_empty() {
        return Err("there is no such file");
    }
    let executable =
        |path: &&PathBuf| nix::unistd::access(path.as_path(), AccessFlags::X_OK).is_ok();
    if files.into_iter().any(|path| executable(&path)) {
        Ok(())
    } else {
        Err("it is not executable")
    }
}

fn destination(dir: &Path, spool: &Path) -> Result<PathBuf, ConfigError> {
    let wrong = |source| ConfigError::Destination {
        path: dir.to_owned(),
        source,
    };
    let real = dir.canonicalize().map_err(wrong)?;
    if !real.is_dir() {
        return Err(wrong(std::io::ErrorKind::NotADirectory.into()));
    }
    let usable = nix::unistd::access(&real, AccessFlags::W_OK | AccessFlags::X_OK);
    usable.map_err(|errno| wrong(errno.into()))?;
    // The spool may not exist yet; then nothing lies in it.
    if spool
        .canonicalize()
        .is_ok_and(|spool| real.starts_with(spool))
    {
        return Err(ConfigError::InsideSpool(dir.to_owned()));
    }
    Ok(real)
}

#[cfg(test)]
mod tests;
