//! Whether anything costs more when there are many uploads.
//!
//! Beside each figure stands what the filesystem alone takes for calls of the same kind in the same
//! directories: what grows there is not ours.

mod bare;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::resource::UsageWho;
use nix::sys::signal::Signal;
use shared::receive::NewData;
use shared::record::Record;
use shared::size::Length;
use shared::spool::Spool;
use shared::time::UnixTime;

use super::backlog::{consumer, finished, open_at};
use crate::Args;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::process::Server;
use crate::servers::{Kind, Running, program};

/// Names that a consumer keeps which it has heard of, but not listed.
const HEARD: u64 = 1024;

pub(crate) fn run(args: &Args) -> Result<()> {
    let sizes: Vec<u64> = (2..=6)
        .map(|exponent| (10_u64.pow(exponent) / args.divide).max(1))
        .collect();
    let sample = u32::try_from(3000 / args.divide).unwrap_or(1).max(10);
    println!("## Growth: uploads being received in the spool\n");
    println!(
        "µs of CPU, and what the filesystem alone takes: per upload (create + PATCH of 10 KiB), per HEAD, and per entry of a pass of the janitor that has nothing to do but to look\n"
    );
    println!(
        "| uploads | upload | filesystem | HEAD | filesystem | janitor's entry | filesystem |"
    );
    println!("|---|---|---|---|---|---|---|");
    for &count in &sizes {
        received(args, count, sample)?;
    }
    println!("\n## Growth: finished uploads in the spool\n");
    println!(
        "µs of CPU per claim that is delivered by --move-to once the backlog is listed, and what the filesystem alone takes\n"
    );
    println!("| uploads | claim | filesystem | consumer's peak RSS MiB |");
    println!("|---|---|---|---|");
    for &count in &sizes {
        waiting(args, count, u64::from(sample))?;
    }
    println!();
    Ok(())
}

fn per(span: Duration, count: u64) -> f64 {
    span.as_secs_f64() * 1e6 / count as f64
}

/// One row: requests and the janitor beside many uploads that are being received.
fn received(args: &Args, count: u64, sample: u32) -> Result<()> {
    let payload = Payload::new();
    let disk = Disk::make(args.fs, 16, &args.images)?;
    let root = disk.path().join("root");
    std::fs::create_dir_all(&root)?;
    let spool = open_at(&root.join("spool"))?;
    let passes = (100_000 / count).clamp(1, 100);
    let idle = janitors(args, &spool, passes)?;
    for _ in 0..count {
        let record = Record::new(Some(Length(1)), UnixTime::now());
        NewData::create(&spool)?.into_receiving(record)?;
    }
    // Older than the grace, so that none is passed over for being young.
    std::thread::sleep(Duration::from_millis(2100));
    // The first who reads a file after it was written has its time of access written down.
    janitors(args, &spool, 1)?;
    let busy = janitors(args, &spool, passes)?;
    let looked = per(busy.saturating_sub(idle), passes * count * 2);
    let bare_looked = bare::look(&spool)?;

    let running = Running::start(Kind::Ingest("none"), &disk, args)?;
    let mut client = running.client()?;
    // At its start it looks through all uploads once.
    running.server.wait_idle()?;
    let before = running.server.usage()?.cpu;
    for _ in 0..sample {
        running.send(&mut client, &payload, 10 << 10, 10 << 10, 0)?;
    }
    let sent = running.server.usage()?.cpu;
    let path = client.create(running.base(), 10)?;
    let created = running.server.usage()?.cpu;
    for _ in 0..sample {
        client.offset(&path)?;
    }
    let asked = running.server.usage()?.cpu;
    let of = u64::from(sample);
    println!(
        "| {count} | {:.0} | {:.0} | {:.0} | {:.1} | {looked:.1} | {bare_looked:.1} |",
        per(sent.saturating_sub(before), of),
        bare::upload(&spool, sample)?,
        per(asked.saturating_sub(created), of),
        bare::head(&spool, sample)?,
    );
    Ok(())
}

/// CPU time of so many passes of the janitor.
fn janitors(args: &Args, spool: &Spool, passes: u64) -> Result<Duration> {
    let before = bare::cpu(UsageWho::RUSAGE_CHILDREN)?;
    for _ in 0..passes {
        let mut command = Command::new(program(args, "janitor")?);
        command.arg("--spool").arg(spool.layout().root());
        command.args(["--grace", "1", "--log-level", "warn"]);
        let ended = command.output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "{command:?}: {said}");
    }
    Ok(bare::cpu(UsageWho::RUSAGE_CHILDREN)?.saturating_sub(before))
}

/// One row: claims beside many uploads that wait.
fn waiting(args: &Args, count: u64, sample: u64) -> Result<()> {
    let disk = Disk::make(args.fs, 16, &args.images)?;
    let spool = open_at(&disk.path().join("spool"))?;
    let delivered = disk.path().join("delivered");
    std::fs::create_dir(&delivered)?;
    let mut command = consumer(args, &spool)?;
    command
        .arg("--move-to")
        .arg(&delivered)
        .args(["--jobs", "1"]);
    let server = Server::start(&mut command, &disk.log("consumer"))?;
    server.wait_idle()?;
    let done = || -> Result<u64> { Ok(std::fs::read_dir(&delivered)?.count() as u64) };
    let until = |wanted: u64| -> Result<u64> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let now = done()?;
            if wanted <= now {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "{now} of {wanted} delivered");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let claim = if count < sample {
        // Few at a time, as often as it takes; it sleeps while they are made.
        let before = server.usage()?.cpu;
        let mut all = 0;
        while all < sample {
            stocked(&server, &spool, count)?;
            all += count;
            until(all)?;
        }
        per(server.usage()?.cpu.saturating_sub(before), all)
    } else {
        stocked(&server, &spool, count)?;
        // It takes those that it has heard of first, and then lists them all.
        let first = until((2 * HEARD + sample / 10).min(count / 2).max(1))?;
        let before = server.usage()?.cpu;
        let last = until((first + sample).min(count))?;
        per(server.usage()?.cpu.saturating_sub(before), last - first)
    };
    let rss_kib = server.usage()?.rss_peak_kib;
    server.signal(Signal::SIGSTOP)?;
    let bare = bare::claim(
        &spool,
        &delivered,
        u32::try_from(sample).unwrap_or(u32::MAX),
    )?;
    server.signal(Signal::SIGCONT)?;
    println!(
        "| {count} | {claim:.0} | {bare:.0} | {:.1} |",
        rss_kib as f64 / 1024.0
    );
    Ok(())
}

/// Adds finished uploads while the consumer is stopped.
fn stocked(server: &Server, spool: &Arc<Spool>, count: u64) -> Result<()> {
    server.signal(Signal::SIGSTOP)?;
    for _ in 0..count {
        finished(spool, UnixTime::now())?;
    }
    server.signal(Signal::SIGCONT)
}
