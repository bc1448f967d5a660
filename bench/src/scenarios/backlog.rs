//! A long backlog for consumers.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shared::durable::Durability;
use shared::id::UploadId;
use shared::receive::NewData;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

use crate::Args;
use crate::disk::Disk;
use crate::process::{Server, Usage};
use crate::servers::program;
use crate::table::percentile;

fn open(disk: &Disk) -> Result<Arc<Spool>> {
    open_at(&disk.path().join("spool"))
}

pub(super) fn open_at(path: &Path) -> Result<Arc<Spool>> {
    let options = Options {
        durability: Durability::None,
        ..Options::default()
    };
    Ok(Arc::new(Spool::open(path, options)?))
}

/// An empty upload that was finished at `when`.
pub(super) fn finished(spool: &Arc<Spool>, when: UnixTime) -> Result<UploadId> {
    let mut record = Record::new(Some(Length(0)), when);
    record.offset = Offset(0);
    let new = NewData::create(spool)?;
    let id = new.id();
    new.into_completed(record, when)?;
    Ok(id)
}

/// What one run with a number of consumers came to.
struct Run {
    uploads_per_second: f64,
    cpu_micros: f64,
    failed_per_claim: f64,
    rss_mib: f64,
}

pub(crate) fn claim(args: &Args) -> Result<()> {
    let count = 100_000 / args.divide;
    println!("## Claim: a backlog of {count}, delivered by --move-to, not synced\n");
    // Processes, and jobs of each: the default, and more than there are cores.
    let numbers = [(1, 1), (8, 1), (1, 4), (8, 4)];
    let mut runs: [Vec<Run>; 4] = Default::default();
    for _ in 0..args.rounds {
        for (numbers, runs) in numbers.into_iter().zip(&mut runs) {
            runs.push(drained(args, numbers, count)?);
        }
    }
    println!(
        "| backlog | consumers | jobs each | uploads/s | most | CPU µs/upload | min | failed claims/claim | RSS MiB each, max |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for ((consumers, jobs), runs) in numbers.into_iter().zip(&runs) {
        let at = |share, of: fn(&Run) -> f64| percentile(runs.iter().map(of).collect(), share);
        println!(
            "| {count} | {consumers} | {jobs} | {:.0} | {:.0} | {:.0} | {:.0} | {:.4} | {:.1} |",
            at(0.5, |run| run.uploads_per_second),
            at(1.0, |run| run.uploads_per_second),
            at(0.5, |run| run.cpu_micros),
            at(0.0, |run| run.cpu_micros),
            at(0.5, |run| run.failed_per_claim),
            at(1.0, |run| run.rss_mib),
        );
    }
    println!(
        "\n{} rounds, interleaved; medians unless it says otherwise.\n",
        args.rounds
    );
    Ok(())
}

/// Has consumers work off a backlog, and sees that each upload was delivered once.
fn drained(args: &Args, (consumers, jobs): (usize, u32), count: u64) -> Result<Run> {
    let disk = Disk::make(args.fs, 8, &args.images)?;
    let spool = open(&disk)?;
    for _ in 0..count {
        finished(&spool, UnixTime::now())?;
    }
    let delivered = disk.path().join("delivered");
    std::fs::create_dir(&delivered)?;
    let logs: Vec<_> = (0..consumers)
        .map(|n| disk.log(&format!("consumer {n}")))
        .collect();
    let began = Instant::now();
    let mut running = Vec::new();
    for log in &logs {
        let mut command = consumer(args, &spool)?;
        command
            .arg("--move-to")
            .arg(&delivered)
            .args(["--drain", "--jobs", &jobs.to_string()]);
        running.push(Server::start(&mut command, log)?);
    }
    let (usages, wall) = watch(&mut running, began)?;
    let moved = std::fs::read_dir(&delivered)?.count() as u64;
    ensure!(moved == count, "{moved} of {count} delivered");
    let told: Vec<_> = logs.iter().map(|log| ended(log)).collect::<Result<_>>()?;
    let claimed: u64 = told.iter().map(|(claimed, _)| claimed).sum();
    let missed: u64 = told.iter().map(|(_, missed)| missed).sum();
    ensure!(claimed == count, "{claimed} claims of {count} uploads");
    let cpu: Duration = usages.iter().map(|usage| usage.cpu).sum();
    Ok(Run {
        uploads_per_second: count as f64 / wall.as_secs_f64(),
        cpu_micros: cpu.as_secs_f64() * 1e6 / count as f64,
        failed_per_claim: missed as f64 / claimed as f64,
        rss_mib: rss_mib(&usages),
    })
}

/// A consumer that says little, but how it ended.
pub(super) fn consumer(args: &Args, spool: &Spool) -> Result<Command> {
    let mut command = Command::new(program(args, "consumer")?);
    command.arg("--spool").arg(spool.layout().root());
    command.args(["--durability", "none", "--log-format", "json"]);
    command.args(["--log-level", "warn,consumer::run=info"]);
    Ok(command)
}

/// How many claims a consumer's last line tells of, and how many uploads others had claimed first.
fn ended(log: &Path) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(log)?;
    let line = text.lines().find(|line| line.contains("\"ended\""));
    let line = line.with_context(|| format!("no last line: {text}"))?;
    let count = |name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest.get(..end)?.parse().ok()
    };
    count("claimed").zip(count("missed")).context("no counts")
}

pub(super) fn rss_mib(usages: &[Usage]) -> f64 {
    let most = usages.iter().map(|usage| usage.rss_peak_kib).max();
    most.unwrap_or(0) as f64 / 1024.0
}

/// Waits for all to end; what each had used when it was last seen alive.
pub(super) fn watch(running: &mut [Server], began: Instant) -> Result<(Vec<Usage>, Duration)> {
    let mut usages = vec![Usage::default(); running.len()];
    loop {
        let mut alive = false;
        for (server, usage) in running.iter_mut().zip(&mut usages) {
            match server.wait_exit(Duration::ZERO) {
                Ok(status) => ensure!(status.success(), "{status}"),
                Err(_) => {
                    alive = true;
                    let seen = server.usage()?;
                    // One that has ended meanwhile shows no memory.
                    usage.cpu = usage.cpu.max(seen.cpu);
                    usage.rss_peak_kib = usage.rss_peak_kib.max(seen.rss_peak_kib);
                }
            }
        }
        if !alive {
            return Ok((usages, began.elapsed()));
        }
        ensure!(began.elapsed() < Duration::from_secs(1200), "never ends");
        std::thread::sleep(Duration::from_millis(20));
    }
}
