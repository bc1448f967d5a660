//! What is measured.

mod backlog;
mod big;
mod cut;
mod growth;
mod hand_over;
mod slow;
mod small;

use std::time::Instant;

use anyhow::Result;

use crate::Args;
use crate::disk::Disk;
use crate::servers::{Kind, Running};
use crate::table::{Figures, Table};

/// One table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// One PATCH of 4 GiB
    Big,
    /// 4 GiB in PATCHes of 8 MiB
    Patches,
    /// 16 connections, 256 MiB each in one PATCH
    Sixteen,
    /// 10 KiB, create + PATCH, at 1, 16 and 64 connections
    Small,
    /// 10 KiB, creation-with-upload, at 1, 16 and 64 connections
    SmallWhole,
    /// 1,000 and 10,000 connections that trickle
    Slow,
    /// Connections cut by FIN, RST and silence
    Cut,
    /// From the last byte's answer to the hook's start
    HandOver,
    /// A backlog of 100,000 for 1 and 8 consumers
    Claim,
    /// A pass of the janitor over 1,000,000 entries
    Janitor,
    /// The cost of a request with 10² … 10⁶ uploads in the spool
    Growth,
}

impl Scenario {
    pub(crate) fn usual() -> &'static [Self] {
        use Scenario as S;
        &[
            S::Big,
            S::Patches,
            S::Sixteen,
            S::Small,
            S::SmallWhole,
            S::Cut,
            S::HandOver,
        ]
    }

    pub(crate) fn run(self, args: &Args) -> Result<()> {
        match self {
            Self::Big => big::one_patch(args),
            Self::Patches => big::patches(args),
            Self::Sixteen => big::sixteen(args),
            Self::Small => small::run(args, false),
            Self::SmallWhole => small::run(args, true),
            Self::Slow => slow::run(args),
            Self::Cut => cut::run(args),
            Self::HandOver => hand_over::run(args),
            Self::Claim => backlog::claim(args),
            Self::Janitor => backlog::janitor(args),
            Self::Growth => growth::run(args),
        }
    }
}

/// Runs `work` against each server in turn, round after round, each time on a fresh filesystem.
fn compare(
    args: &Args,
    kinds: &[Kind],
    gib: u64,
    table: &mut Table,
    work: impl Fn(&Running) -> Result<Vec<(&'static str, f64)>>,
    verify: impl Fn(&Running) -> Result<()>,
) -> Result<()> {
    let wanted = |kind: &&Kind| !args.alone || matches!(kind, Kind::Ingest(_) | Kind::Sink(_));
    let kinds: Vec<Kind> = kinds
        .iter()
        .filter(wanted)
        .filter(|kind| kind.is_installed(args))
        .copied()
        .collect();
    for _ in 0..args.rounds {
        for &kind in &kinds {
            let disk = Disk::make(args.fs, gib)?;
            let running = Running::start(kind, &disk, args)?;
            let (before, flushes, began) =
                (running.server.usage()?, disk.flushes()?, Instant::now());
            let more = work(&running).map_err(|error| error.context(kind.name()))?;
            let wall = began.elapsed();
            let after = running.server.usage()?;
            table.add(
                &kind.name(),
                Figures {
                    cpu: after.cpu.saturating_sub(before.cpu),
                    wall,
                    rss_peak_kib: after.rss_peak_kib,
                    flushes: disk.flushes()?.saturating_sub(flushes),
                    more,
                },
            );
            verify(&running).map_err(|error| error.context(kind.name()))?;
        }
    }
    Ok(())
}

fn joined<T>(handle: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|_| anyhow::bail!("a sender panicked"))
}
