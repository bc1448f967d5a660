//! What is measured.

mod backlog;
mod big;
mod cut;
mod growth;
mod hand_over;
mod janitor;
mod slow;
mod small;

use std::time::Instant;

use anyhow::{Context, Result};

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
    /// 10 KiB, as create + PATCH and in one request, at 1, 16 and 64 connections
    Small,
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
    /// The cost of a request, a claim and an entry of the janitor with 10² … 10⁶ uploads in the spool
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
            S::Cut,
            S::HandOver,
        ]
    }

    pub(crate) fn run(self, args: &Args) -> Result<()> {
        match self {
            Self::Big => big::one_patch(args),
            Self::Patches => big::patches(args),
            Self::Sixteen => big::sixteen(args),
            Self::Small => small::run(args),
            Self::Slow => slow::run(args),
            Self::Cut => cut::run(args),
            Self::HandOver => hand_over::run(args),
            Self::Claim => backlog::claim(args),
            Self::Janitor => janitor::run(args),
            Self::Growth => growth::run(args),
        }
    }
}

/// What is done with a server and measured.
type Job<'a> = dyn Fn(&Running) -> Result<()> + 'a;

/// One row of a table: a server, and how it is used.
struct Row<'a> {
    name: String,
    kind: Kind,
    work: Box<Job<'a>>,
}

/// Does each row's work in turn, round after round, each time on a fresh filesystem, and verifies
/// what is there afterwards.
fn compare(
    args: &Args,
    rows: &[Row],
    gib: u64,
    verify: impl Fn(&Running) -> Result<()>,
) -> Result<Table> {
    let wanted = |row: &&Row| !args.alone || row.kind.is_ours();
    let rows: Vec<&Row> = rows
        .iter()
        .filter(wanted)
        .filter(|row| row.kind.is_installed(args))
        .collect();
    let mut table = Table::default();
    for _ in 0..args.rounds {
        for row in &rows {
            let figures = one(args, row, gib, &verify);
            table.add(&row.name, figures.with_context(|| row.name.clone())?);
        }
    }
    Ok(table)
}

fn one(
    args: &Args,
    row: &Row,
    gib: u64,
    verify: impl Fn(&Running) -> Result<()>,
) -> Result<Figures> {
    let disk = Disk::make(args.fs, gib, &args.images)?;
    let running = Running::start(row.kind, &disk, args)?;
    let (before, flushes, began) = (running.server.usage()?, disk.flushes()?, Instant::now());
    let worked = (row.work)(&running);
    let wall = began.elapsed();
    let after = running.server.usage()?;
    let flushes = disk.flushes()?.saturating_sub(flushes);
    worked
        .and_then(|()| verify(&running))
        .with_context(|| std::fs::read_to_string(disk.log("server")).unwrap_or_default())?;
    Ok(Figures {
        cpu: after.cpu.saturating_sub(before.cpu),
        wall,
        rss_peak_kib: after.rss_peak_kib,
        flushes,
    })
}

fn joined<T>(handle: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|_| anyhow::bail!("a sender panicked"))
}
