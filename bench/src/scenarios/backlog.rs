//! Long backlogs: for consumers and for the janitor.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use shared::durable::Durability;
use shared::layout::{Dir, RecordAt};
use shared::receive::NewData;
use shared::record::{Place, Record};
use shared::size::{Length, Offset};
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

use crate::Args;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::process::{Server, Usage};
use crate::servers::{Kind, Running, program};

const DAY: Duration = Duration::from_secs(86_400);

fn open(disk: &Disk) -> Result<Arc<Spool>> {
    open_at(&disk.path().join("spool"))
}

fn open_at(path: &Path) -> Result<Arc<Spool>> {
    let options = Options {
        durability: Durability::None,
        ..Options::default()
    };
    Ok(Arc::new(Spool::open(path, options)?))
}

fn ago(days: u32) -> UnixTime {
    let now = UnixTime::now();
    UnixTime::from_micros(now.as_micros() - i64::try_from((DAY * days).as_micros()).unwrap_or(0))
}

/// An empty upload that was finished at `when`.
fn finished(spool: &Arc<Spool>, when: UnixTime) -> Result<()> {
    let mut record = Record::new(Some(Length(0)), when);
    record.offset = Offset(0);
    NewData::create(spool)?.into_completed(record, when)?;
    Ok(())
}

pub(crate) fn claim(args: &Args) -> Result<()> {
    let count = 100_000 / args.divide;
    println!("## Claim: a backlog of {count}, delivered by --move-to\n");
    println!(
        "| backlog | consumers | jobs each | uploads/s | CPU µs/upload | failed claims/claim | RSS MiB each, max |"
    );
    println!("|---|---|---|---|---|---|---|");
    for consumers in [1, 8] {
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
                .args(["--drain", "--jobs", "4"]);
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
        println!(
            "| {count} | {consumers} | 4 | {:.0} | {:.0} | {:.4} | {:.1} |",
            count as f64 / wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / count as f64,
            missed as f64 / claimed as f64,
            rss_mib(&usages),
        );
    }
    println!();
    Ok(())
}

/// A consumer that says little, but how it ended.
fn consumer(args: &Args, spool: &Spool) -> Result<Command> {
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

fn rss_mib(usages: &[Usage]) -> f64 {
    let most = usages.iter().map(|usage| usage.rss_peak_kib).max();
    most.unwrap_or(0) as f64 / 1024.0
}

/// Waits for all to end; what each had used when it was last seen alive.
fn watch(running: &mut [Server], began: Instant) -> Result<(Vec<Usage>, Duration)> {
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

/// What a pass begins with; one in ten is due.
struct Stock {
    uploads: u64,
    completed: u64,
    receipts: u64,
}

impl Stock {
    fn make(&self, spool: &Arc<Spool>) -> Result<()> {
        for n in 0..self.uploads {
            let created = ago(if n % 10 == 0 { 3 } else { 0 });
            NewData::create(spool)?.into_receiving(Record::new(Some(Length(1)), created))?;
        }
        for n in 0..self.completed {
            finished(spool, ago(if n % 10 == 0 { 10 } else { 0 }))?;
        }
        for n in 0..self.receipts {
            let id = shared::id::UploadId::generate();
            let when = ago(if n % 10 == 0 { 60 } else { 1 });
            let mut record = Record::new(Some(Length(0)), when);
            record.set_ending(Place::Delivered, when);
            spool.create_record(spool.layout().record(id, RecordAt::Receipts), &record)?;
        }
        Ok(())
    }

    /// What must be left: what expires leaves a receipt, what nobody has claimed goes to
    /// `failed/`, and `passed` uploads came and were delivered meanwhile.
    fn expected(&self, passed: u64) -> [(Dir, u64); 4] {
        let kept = |n: u64| n - n.div_ceil(10);
        let expired = self.uploads.div_ceil(10);
        [
            (Dir::Uploads, kept(self.uploads) * 2),
            (Dir::Completed, kept(self.completed) * 2),
            (Dir::Failed, self.completed.div_ceil(10) * 3),
            (Dir::Receipts, kept(self.receipts) + expired + passed),
        ]
    }
}

/// Sends small uploads for as long as `over` is false. How many.
fn keep_sending(ingest: &Running, over: &AtomicBool) -> Result<u64> {
    let payload = Payload::new();
    let mut client = ingest.client()?;
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        let fields = "Upload-Length: 1024\r\nContent-Length: 1024\r\nUpload-Metadata: kind bGl2ZQ==\r\n\
                      Content-Type: application/offset+octet-stream\r\n";
        client.head("POST", ingest.base(), fields)?;
        client.body(&payload, 0, 1024)?;
        client.expect(&[201])?;
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(sent)
}

pub(crate) fn janitor(args: &Args) -> Result<()> {
    let stock = Stock {
        uploads: 250_000 / args.divide,
        completed: 200_000 / args.divide,
        receipts: 50_000 / args.divide,
    };
    let disk = Disk::make(args.fs, 16, &args.images)?;
    let ingest = Running::start(Kind::Ingest("none"), &disk, args)?;
    let spool = open_at(&disk.path().join("root/spool"))?;
    stock.make(&spool)?;
    let delivered = disk.path().join("delivered");
    std::fs::create_dir(&delivered)?;
    let mut consumers = Vec::new();
    for n in 0..4 {
        let mut command = consumer(args, &spool)?;
        command.arg("--move-to").arg(&delivered);
        command.args(["--name", "{id}", "--only", "kind=live"]);
        consumers.push(Server::start(
            &mut command,
            &disk.log(&format!("consumer {n}")),
        )?);
    }
    for consumer in &consumers {
        consumer.wait_idle()?;
    }
    let over = AtomicBool::new(false);
    let (usages, wall, sent) = std::thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| keep_sending(&ingest, &over));
        let watched = pass(args, &disk, &spool);
        over.store(true, Ordering::Relaxed);
        let sent = sending
            .join()
            .map_err(|_| anyhow!("the client panicked"))??;
        let (usages, wall) = watched?;
        Ok((usages, wall, sent))
    })?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while (std::fs::read_dir(&delivered)?.count() as u64) < sent {
        ensure!(
            Instant::now() < deadline,
            "not all of {sent} were delivered"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    for consumer in &consumers {
        consumer.wait_idle()?;
    }
    let beside: Vec<_> = consumers.iter().map(Server::usage).collect::<Result<_>>()?;
    println!(
        "## Janitor: one pass over {} entries, a tenth due, beside 4 consumers and an ingest\n",
        2 * (stock.uploads + stock.completed) + stock.receipts
    );
    println!(
        "| CPU s | wall s | peak RSS MiB | uploads delivered meanwhile | RSS MiB of a consumer, max |\n|---|---|---|---|---|"
    );
    println!(
        "| {:.2} | {:.2} | {:.1} | {sent} | {:.1} |\n",
        usages[0].cpu.as_secs_f64(),
        wall.as_secs_f64(),
        rss_mib(&usages),
        rss_mib(&beside),
    );
    println!("| directory | names left | if all due were taken |\n|---|---|---|");
    for (dir, expected) in stock.expected(sent) {
        let left = std::fs::read_dir(spool.layout().dir(dir))?.count();
        println!("| {}/ | {left} | {expected} |", dir.name());
    }
    println!();
    Ok(())
}

/// One pass of the janitor.
fn pass(args: &Args, disk: &Disk, spool: &Spool) -> Result<(Vec<Usage>, Duration)> {
    let mut command = Command::new(program(args, "janitor")?);
    command.arg("--spool").arg(spool.layout().root());
    command.args([
        "--json",
        "--grace",
        "1",
        "--log-level",
        "warn",
        "--durability",
        "none",
    ]);
    let began = Instant::now();
    let mut running = [Server::start(&mut command, &disk.log("janitor"))?];
    watch(&mut running, began)
}
