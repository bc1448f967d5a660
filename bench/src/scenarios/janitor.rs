//! A pass of the janitor over a full spool, beside those who work there.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use shared::id::UploadId;
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::receive::NewData;
use shared::record::{Place, Record};
use shared::size::Length;
use shared::spool::Spool;
use shared::time::UnixTime;

use super::backlog::{consumer, finished, open_at, rss_mib, watch};
use crate::Args;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::process::{Server, Usage};
use crate::servers::{Kind, Running, program};

const DAY: Duration = Duration::from_secs(86_400);

fn ago(days: u32) -> UnixTime {
    let now = UnixTime::now();
    UnixTime::from_micros(now.as_micros() - i64::try_from((DAY * days).as_micros()).unwrap_or(0))
}

/// What a pass begins with; one in ten is due.
struct Stock {
    uploads: u64,
    completed: u64,
    receipts: u64,
}

impl Stock {
    fn make(&self, spool: &Arc<Spool>) -> Result<Due> {
        let mut due = Due::default();
        for n in 0..self.uploads {
            let created = ago(if n % 10 == 0 { 3 } else { 0 });
            let new = NewData::create(spool)?;
            let id = new.id();
            new.into_receiving(Record::new(Some(Length(1)), created))?;
            if n % 10 == 0 {
                due.uploads.insert(id);
                age(spool, id, Some(DataAt::Uploads), RecordAt::Uploads, created)?;
            }
        }
        for n in 0..self.completed {
            let when = ago(if n % 10 == 0 { 10 } else { 0 });
            let id = finished(spool, when)?;
            if n % 10 == 0 {
                due.completed.insert(id);
                age(
                    spool,
                    id,
                    Some(DataAt::Completed),
                    RecordAt::Completed,
                    when,
                )?;
            }
        }
        for n in 0..self.receipts {
            let id = UploadId::generate();
            let when = ago(if n % 10 == 0 { 60 } else { 1 });
            let mut record = Record::new(Some(Length(0)), when);
            record.set_ending(Place::Delivered, when);
            spool.create_record(spool.layout().record(id, RecordAt::Receipts), &record)?;
            if n % 10 == 0 {
                due.receipts.insert(id);
                age(spool, id, None, RecordAt::Receipts, when)?;
            }
        }
        Ok(due)
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

/// What a pass must deal with, and nothing else.
#[derive(Default)]
struct Due {
    uploads: HashSet<UploadId>,
    completed: HashSet<UploadId>,
    receipts: HashSet<UploadId>,
}

impl Due {
    /// That nothing of it is left where it was: together with the number of names that are left,
    /// that it and only it was taken.
    fn ensure_taken(&self, spool: &Spool) -> Result<()> {
        for (dir, due) in [
            (Dir::Uploads, &self.uploads),
            (Dir::Completed, &self.completed),
            (Dir::Receipts, &self.receipts),
        ] {
            for entry in spool.entries(dir)? {
                if let Entry::Data(id, _) | Entry::Record(id, _) = entry? {
                    ensure!(!due.contains(&id), "{id} is still in {}/", dir.name());
                }
            }
        }
        Ok(())
    }
}

/// Makes files as old as what they say: the janitor goes by the younger of the two.
fn age(
    spool: &Spool,
    id: UploadId,
    data: Option<DataAt>,
    record: RecordAt,
    when: UnixTime,
) -> Result<()> {
    let layout = spool.layout();
    let since = Duration::from_secs(when.as_secs());
    for path in data
        .map(|at| layout.data(id, at))
        .into_iter()
        .chain([layout.record(id, record)])
    {
        std::fs::File::open(path)?.set_modified(std::time::UNIX_EPOCH + since)?;
    }
    Ok(())
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

pub(crate) fn run(args: &Args) -> Result<()> {
    let stock = Stock {
        uploads: 250_000 / args.divide,
        completed: 200_000 / args.divide,
        receipts: 50_000 / args.divide,
    };
    let disk = Disk::make(args.fs, 16, &args.images)?;
    let ingest = Running::start(Kind::Ingest("none"), &disk, args)?;
    let spool = open_at(&disk.path().join("root/spool"))?;
    let due = stock.make(&spool)?;
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
    println!("| directory | names left | if exactly what is due is taken |\n|---|---|---|");
    let mut exact = true;
    for (dir, expected) in stock.expected(sent) {
        let left = std::fs::read_dir(spool.layout().dir(dir))?.count() as u64;
        println!("| {}/ | {left} | {expected} |", dir.name());
        exact &= left == expected;
    }
    println!();
    ensure!(exact, "not exactly what was due was taken");
    due.ensure_taken(&spool)
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
