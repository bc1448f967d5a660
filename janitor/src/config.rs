//! Flags of the janitor.

use std::path::PathBuf;

use shared::orphan;
use shared::startup::{LogArgs, Period, Program, SpoolArgs};

use crate::policy::{Expired, Policy, Zombies};
use crate::sweep::Rules;

/// Tidies a spool: expires what nobody finishes or fetches, finishes what was left half done, and
/// removes what crashes leave behind.
///
/// Makes one pass and ends, or stays with --every. May run at any time beside all other programs,
/// and twice at once. Leaves alone what is locked, young, or not named by the pipeline.
#[derive(Debug, Clone, clap::Parser)]
pub struct Args {
    #[command(flatten)]
    /// Which spool
    pub spool: SpoolArgs,

    /// Idle time after which an unfinished upload is removed; not below ingest's --expire-after,
    /// which clients are told
    #[arg(long, help_heading = "What goes, and when", value_name = "DURATION", default_value_t = Period::from_secs(86_400))]
    pub stale_upload_age: Period,

    /// Time after which a finished upload that nobody has claimed expires
    #[arg(long, help_heading = "What goes, and when", value_name = "DURATION", default_value_t = Period::from_secs(604_800))]
    pub completed_file_age: Period,

    /// Time for which a client can still ask what became of its upload
    #[arg(long, help_heading = "What goes, and when", value_name = "DURATION", default_value_t = Period::from_secs(2_592_000))]
    pub receipt_age: Period,

    /// Time after which dead letters in failed/ are removed [default: never]
    #[arg(long, help_heading = "What goes, and when", value_name = "DURATION")]
    pub failed_age: Option<Period>,

    /// Time for which whatever looks half done counts as being done at this moment
    #[arg(long, help_heading = "What goes, and when", value_name = "DURATION", default_value_t = Period::from_secs(600))]
    pub grace: Period,

    /// What to do with uploads received in full but not handed over
    #[arg(
        long,
        help_heading = "What goes, and when",
        value_name = "finish|delete",
        default_value_t,
        value_enum
    )]
    pub zombies: Zombies,

    /// What to do with finished uploads that have expired: move them to failed/, or delete them
    #[arg(
        long,
        help_heading = "What goes, and when",
        value_name = "move|delete",
        default_value_t,
        value_enum
    )]
    pub expired: Expired,

    /// Attempts after which an upload whose consumer died goes to failed/; as the consumers' flag
    #[arg(
        long,
        help_heading = "What goes, and when",
        value_name = "N",
        default_value_t = orphan::MAX_ATTEMPTS
    )]
    pub max_attempts: u32,

    /// On network filesystems, how long a silent consumer keeps its claims; as the consumers' flag
    #[arg(long, help_heading = "What goes, and when", value_name = "DURATION", default_value_t = Period(orphan::LEASE))]
    pub lease: Period,

    /// Leave the rest for later once this many uploads lost their data in one pass; the exit code
    /// is 1 then [default: no limit]
    #[arg(long, help_heading = "Passes", value_name = "N")]
    pub max_delete: Option<u64>,

    /// Say what would be done, and do nothing
    #[arg(long, help_heading = "Passes")]
    pub dry_run: bool,

    /// Stay, and make a pass this often
    #[arg(long, help_heading = "Passes", value_name = "DURATION", value_parser = positive)]
    pub every: Option<Period>,

    /// Print the summary of a pass as one JSON object
    #[arg(long, help_heading = "Reports")]
    pub json: bool,

    /// Write the figures of each pass to this file, for Prometheus' node exporter (NAME.prom)
    #[arg(long, value_name = "PATH", help_heading = "Reports")]
    pub textfile: Option<PathBuf>,

    #[command(flatten)]
    /// How it logs
    pub log: LogArgs,
}

impl Program for Args {
    const NAME: &'static str = "janitor";

    fn log(&self) -> &LogArgs {
        &self.log
    }
}

impl Args {
    /// How a pass goes about it, on a filesystem that other hosts may share or not.
    #[must_use]
    pub fn rules(&self, is_network: bool) -> Rules {
        let policy = Policy {
            stale_upload: self.stale_upload_age.0,
            completed: self.completed_file_age.0,
            receipt: self.receipt_age.0,
            failed: self.failed_age.map(|age| age.0),
            grace: self.grace.0,
            zombies: self.zombies,
            expired: self.expired,
        };
        let orphans = orphan::Rules {
            lease: is_network.then_some(self.lease.0),
            max_attempts: self.max_attempts.max(1),
        };
        Rules {
            policy,
            orphans,
            dry_run: self.dry_run,
            deletions_max: self.max_delete.unwrap_or(u64::MAX),
        }
    }
}

fn positive(text: &str) -> Result<Period, String> {
    let period: Period = text
        .parse()
        .map_err(|error: shared::startup::InvalidValue| error.to_string())?;
    if period.0.is_zero() {
        Err("it must be longer than nothing".to_owned())
    } else {
        Ok(period)
    }
}
