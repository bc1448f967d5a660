//! Thousands of clients that trickle.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Args;
use crate::client::Client;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::servers::{Kind, Running};
use crate::table::percentile;

pub(crate) fn run(args: &Args) -> Result<()> {
    let payload = Payload::new();
    let most = most()?;
    println!("## Slow: PATCHes that send one byte every 5 s\n");
    println!(
        "| server | connections | RSS KiB per connection | CPU s per minute | HEAD of another ms p50 | p99 |\n\
         |---|---|---|---|---|---|"
    );
    for kind in [
        Kind::Ingest("none"),
        Kind::Ingest("every-patch"),
        Kind::Tusd,
        Kind::Rustus,
    ] {
        if args.alone && !matches!(kind, Kind::Ingest(_)) || !kind.is_installed(args) {
            continue;
        }
        for count in [1_000 / args.divide, most / args.divide] {
            let disk = Disk::make(args.fs, 4, &args.images)?;
            let running = Running::start(kind, &disk, args)?;
            let period = Duration::from_secs(if args.divide < 100 { 5 } else { 1 });
            let measured = one(&running, &payload, count.max(1), period);
            match measured {
                Ok((rss, cpu, heads)) => println!(
                    "| {} | {count} | {rss:.1} | {cpu:.2} | {:.2} | {:.2} |",
                    kind.name(),
                    percentile(heads.clone(), 0.5),
                    percentile(heads, 0.99),
                ),
                Err(error) => println!("| {} | {count} | {error:#} | | | |", kind.name()),
            }
        }
    }
    println!();
    Ok(())
}

/// Ten thousand connections, or as many as the descriptors that one process may have are enough
/// for: a socket for each, and the files of those whose last byte came within a second, of five.
fn most() -> Result<u64> {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(limit)?;
    nix::sys::resource::setrlimit(limit, hard, hard)?;
    Ok((hard.saturating_sub(200) * 5 / 8 / 100 * 100).min(10_000))
}

fn one(
    running: &Running,
    payload: &Payload,
    count: u64,
    period: Duration,
) -> Result<(f64, f64, Vec<f64>)> {
    let mut other = running.client()?;
    let path = other.create(running.base(), 1000)?;
    other.patch(&path, payload, 0, 500)?;
    let before = rss_kib(running)?;
    let mut clients = connect(running, count)?;
    let used = running.server.usage()?.cpu;
    let began = Instant::now();
    let mut heads = Vec::new();
    while began.elapsed() < period * 3 {
        let round = Instant::now();
        for (index, client) in clients.iter_mut().enumerate() {
            client.stream.write_all(b"y")?;
            // Spread over the period, with a HEAD now and then.
            if index % 16 == 0 {
                let asked = Instant::now();
                other.offset(&path)?;
                heads.push(asked.elapsed().as_secs_f64() * 1e3);
                let due = period.mul_f64(((index as f64 + 16.0) / count as f64).min(1.0));
                std::thread::sleep(due.saturating_sub(round.elapsed()));
            }
        }
        std::thread::sleep(period.saturating_sub(round.elapsed()));
    }
    let cpu = running.server.usage()?.cpu.saturating_sub(used);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let rss = (rss_kib(running)? - before) / count as f64;
    Ok((rss, cpu.as_secs_f64() / minutes, heads))
}

/// Clients in the middle of a PATCH. By many threads: until the last has come the first is silent.
fn connect(running: &Running, count: u64) -> Result<Vec<Client>> {
    let some = |share: u64| {
        let begin = || -> Result<Client> {
            let mut client = running.client()?;
            let path = client.create(running.base(), 1000)?;
            client.patch_head(&path, 0, 1000)?;
            client.stream.write_all(b"x")?;
            Ok(client)
        };
        (0..share).map(|_| begin()).collect::<Result<Vec<_>>>()
    };
    let threads = 64.min(count);
    let clients = std::thread::scope(|scope| {
        let shares = (0..threads).map(|n| (count + n) / threads);
        let begun: Vec<_> = shares
            .map(|share| scope.spawn(move || some(share)))
            .collect();
        let joined = begun.into_iter().map(super::joined);
        joined.collect::<Result<Vec<_>>>()
    })?;
    Ok(clients.into_iter().flatten().collect())
}

fn rss_kib(running: &Running) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line
        .and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0.0))
}
