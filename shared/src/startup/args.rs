//! Flags that every program has because every program works on one spool.

use std::path::PathBuf;

use clap::builder::PossibleValue;

use super::Mode;
use crate::durable::Durability;
use crate::probe::{self, Expectations, Probe, ProbeError};
use crate::spool::{Options, Spool, SpoolError};

/// Which spool, and how files in it are made. Flatten it into a program's arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct SpoolArgs {
    /// Directory that all programs share; created with its subdirectories if its parent exists
    #[arg(long, value_name = "DIR", help_heading = "Spool")]
    pub spool: PathBuf,

    /// Permissions of directories made in the spool; 2770 for several users of one group
    #[arg(long, value_name = "OCTAL", default_value_t = Mode(0o700), help_heading = "Spool")]
    pub directory_mode: Mode,

    /// Permissions of files made in the spool; 0660 for several users of one group
    #[arg(long, value_name = "OCTAL", default_value_t = Mode(0o600), help_heading = "Spool")]
    pub file_mode: Mode,

    /// What has to be on the disk before it is acknowledged: every byte, finished uploads, or nothing
    #[arg(
        long,
        value_name = "every-patch|on-finish|none",
        default_value = "every-patch",
        value_enum,
        help_heading = "Spool"
    )]
    pub durability: Durability,

    /// Accept a spool on overlayfs, where only processes of one container exclude each other
    #[arg(long, help_heading = "Spool")]
    pub allow_overlay: bool,
}

/// Why the spool of a program's flags cannot be used. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is no spool and cannot become one.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The filesystem below it lacks what the programs stand on.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl SpoolArgs {
    /// How the spool is used.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            durability: self.durability,
            directory_mode: self.directory_mode.0,
            file_mode: self.file_mode.0,
        }
    }

    /// Opens the spool, creating it where its parent exists, and tries it out. What the operator
    /// should know of its filesystem is logged.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(&self) -> Result<(Spool, Probe), OpenError> {
        self.try_out(Spool::open(&self.spool, self.options())?)
    }

    /// As [`Self::open`], but makes no spool where there is none.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open_existing(&self) -> Result<(Spool, Probe), OpenError> {
        self.try_out(Spool::open_existing(&self.spool, self.options())?)
    }

    fn try_out(&self, spool: Spool) -> Result<(Spool, Probe), OpenError> {
        let expect = Expectations {
            file_mode: self.file_mode.0,
            allow_overlay: self.allow_overlay,
        };
        let probe = probe::probe(spool.layout(), expect)?;
        for warning in probe.warnings() {
            tracing::warn!("{warning}");
        }
        Ok((spool, probe))
    }
}

/// As the flag spells it.
impl clap::ValueEnum for Durability {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::EveryPatch, Self::OnFinish, Self::None]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::EveryPatch => PossibleValue::new("every-patch")
                .help("Every acknowledged byte survives a power cut"),
            Self::OnFinish => PossibleValue::new("on-finish")
                .help("Finished uploads survive it; unfinished ones may have to be sent again"),
            Self::None => PossibleValue::new("none")
                .help("Nothing is synced: a power cut can lose what was acknowledged"),
        })
    }
}
