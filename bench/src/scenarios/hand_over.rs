//! From the answer to the last byte until the hook has started.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::Args;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::process::Server;
use crate::servers::{Kind, Running, program};
use crate::table::percentile;

pub(crate) fn run(args: &Args) -> Result<()> {
    let payload = Payload::new();
    println!("## Hand-over: last 2xx → the hook has run `touch`\n");
    println!("| durability | uploads | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|");
    for durability in ["none", "every-patch"] {
        let disk = Disk::make(args.fs, 4, &args.images)?;
        let running = Running::start(Kind::Ingest(durability), &disk, args)?;
        let marks = disk.path().join("marks");
        std::fs::create_dir(&marks)?;
        let mut command = Command::new(program(args, "consumer")?);
        command.arg("--spool").arg(disk.path().join("root/spool"));
        command
            .arg("--hook")
            .arg(format!("touch {}/{{id}}", marks.display()));
        command.args([
            "--jobs",
            "2",
            "--log-level",
            "warn",
            "--durability",
            durability,
        ]);
        let _consumer = Server::start(&mut command, &disk.log("consumer"))?;
        let mut client = running.client()?;
        let mut took = Vec::new();
        for _ in 0..(400 / args.divide).max(2) {
            let path = client.create_with(running.base(), &payload, 10 << 10)?;
            let answered = Instant::now();
            let (_, id) = path.rsplit_once('/').unwrap_or_default();
            let mark = marks.join(id);
            while std::fs::metadata(&mark).is_err() {
                ensure!(
                    answered.elapsed() < Duration::from_secs(60),
                    "no hook for {id}"
                );
                std::thread::sleep(Duration::from_micros(50));
            }
            took.push(answered.elapsed().as_secs_f64() * 1e3);
        }
        println!(
            "| {durability} | {} | {:.2} | {:.2} | {:.2} |",
            took.len(),
            percentile(took.clone(), 0.5),
            percentile(took.clone(), 0.99),
            percentile(took, 1.0),
        );
    }
    println!();
    Ok(())
}
