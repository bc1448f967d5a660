//! Long backlogs: for consumers and for the janitor.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shared::durable::Durability;
use shared::layout::Dir;
use shared::receive::NewData;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

use crate::Args;
use crate::disk::Disk;
use crate::process::{Server, Usage};
use crate::servers::program;

const DAY: Duration = Duration::from_secs(86_400);

fn open(disk: &Disk) -> Result<Arc<Spool>> {
    let options = Options {
        durability: Durability::None,
        ..Options::default()
    };
    Ok(Arc::new(Spool::open(&disk.path().join("spool"), options)?))
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
        "| consumers | jobs each | uploads/s | CPU µs/upload | RSS MiB each, max |\n|---|---|---|---|---|"
    );
    for consumers in [1, 8] {
        let disk = Disk::make(args.fs, 8, &args.images)?;
        let spool = open(&disk)?;
        for _ in 0..count {
            finished(&spool, UnixTime::now())?;
        }
        let delivered = disk.path().join("delivered");
        std::fs::create_dir(&delivered)?;
        let began = Instant::now();
        let mut running = Vec::new();
        for n in 0..consumers {
            let mut command = Command::new(program(args, "consumer")?);
            command
                .arg("--spool")
                .arg(spool.layout().root())
                .arg("--move-to")
                .arg(&delivered);
            command.args([
                "--drain",
                "--jobs",
                "4",
                "--log-level",
                "warn",
                "--durability",
                "none",
            ]);
            running.push(Server::start(
                &mut command,
                &disk.log(&format!("consumer {n}")),
            )?);
        }
        let (usages, wall) = watch(&mut running, began)?;
        let moved = std::fs::read_dir(&delivered)?.count() as u64;
        ensure!(moved == count, "{moved} of {count} delivered");
        let cpu: Duration = usages.iter().map(|usage| usage.cpu).sum();
        let rss = usages
            .iter()
            .map(|usage| usage.rss_peak_kib)
            .max()
            .unwrap_or(0);
        println!(
            "| {consumers} | 4 | {:.0} | {:.0} | {:.1} |",
            count as f64 / wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / count as f64,
            rss as f64 / 1024.0,
        );
    }
    println!();
    Ok(())
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
                    if seen.cpu >= usage.cpu {
                        *usage = seen;
                    }
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

pub(crate) fn janitor(args: &Args) -> Result<()> {
    let (open_uploads, completed, receipts) = (
        250_000 / args.divide,
        200_000 / args.divide,
        50_000 / args.divide,
    );
    let disk = Disk::make(args.fs, 16, &args.images)?;
    let spool = open(&disk)?;
    // One in ten is due.
    for n in 0..open_uploads {
        let created = ago(if n % 10 == 0 { 3 } else { 0 });
        NewData::create(&spool)?.into_receiving(Record::new(Some(Length(1)), created))?;
    }
    for n in 0..completed {
        finished(&spool, ago(if n % 10 == 0 { 10 } else { 0 }))?;
    }
    for n in 0..receipts {
        let id = shared::id::UploadId::generate();
        let when = ago(if n % 10 == 0 { 60 } else { 1 });
        let mut record = Record::new(Some(Length(0)), when);
        record.set_ending(shared::record::Place::Delivered, when);
        spool.create_record(
            spool
                .layout()
                .record(id, shared::layout::RecordAt::Receipts),
            &record,
        )?;
    }
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
    let mut running = [Server::start(&mut command, &disk.log("server"))?];
    let (usages, wall) = watch(&mut running, began)?;
    let left = |dir| -> Result<usize> { Ok(spool.entries(dir)?.count()) };
    println!(
        "## Janitor: one pass over {} entries, a tenth due\n",
        2 * (open_uploads + completed) + receipts
    );
    println!(
        "| CPU s | wall s | peak RSS MiB | left in uploads/ | completed/ | failed/ | receipts/ |\n|---|---|---|---|---|---|---|"
    );
    println!(
        "| {:.2} | {:.2} | {:.1} | {} | {} | {} | {} |\n",
        usages[0].cpu.as_secs_f64(),
        wall.as_secs_f64(),
        usages[0].rss_peak_kib as f64 / 1024.0,
        left(Dir::Uploads)?,
        left(Dir::Completed)?,
        left(Dir::Failed)?,
        left(Dir::Receipts)?,
    );
    Ok(())
}
