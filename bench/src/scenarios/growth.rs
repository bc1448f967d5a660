//! Whether a request costs more when there are many uploads.

use std::sync::Arc;

use anyhow::Result;
use shared::durable::Durability;
use shared::receive::NewData;
use shared::record::Record;
use shared::size::Length;
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

use crate::Args;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::servers::{Kind, Running};

pub(crate) fn run(args: &Args) -> Result<()> {
    let payload = Payload::new();
    let uploads = u32::try_from(3000 / args.divide).unwrap_or(1).max(10);
    println!("## Growth: server CPU per upload (create + PATCH of 10 KiB) and per HEAD\n");
    println!(
        "| uploads in the spool | CPU µs/upload | CPU µs/HEAD | the same creates and renames without a server, µs |\n|---|---|---|---|"
    );
    for exponent in 2..=6 {
        let count = 10_u64.pow(exponent) / args.divide;
        let disk = Disk::make(args.fs, 16, &args.images)?;
        let options = Options {
            durability: Durability::None,
            ..Options::default()
        };
        let spool = Arc::new(Spool::open(
            &disk.path().join("root/spool").parent_made()?,
            options,
        )?);
        for _ in 0..count {
            let record = Record::new(Some(Length(1)), UnixTime::now());
            NewData::create(&spool)?.into_receiving(record)?;
        }
        let running = Running::start(Kind::Ingest("none"), &disk, args)?;
        let mut client = running.client()?;
        // At its start it looks through all uploads once.
        running.server.wait_idle()?;
        let before = running.server.usage()?.cpu;
        for _ in 0..uploads {
            running.send(&mut client, &payload, 10 << 10, 10 << 10, 0)?;
        }
        let sent = running.server.usage()?.cpu;
        let path = client.create(running.base(), 10)?;
        for _ in 0..uploads {
            client.offset(&path)?;
        }
        let asked = running.server.usage()?.cpu;
        let per = |span: std::time::Duration| span.as_secs_f64() * 1e6 / f64::from(uploads);
        let bare = bare(&spool, uploads)?;
        println!(
            "| {count} | {:.0} | {:.0} | {bare:.0} |",
            per(sent.saturating_sub(before)),
            per(asked.saturating_sub(sent)),
        );
    }
    println!();
    Ok(())
}

/// The filesystem's own share: two creates, two renames, per upload.
fn bare(spool: &Arc<Spool>, count: u32) -> Result<f64> {
    let cpu = || nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let total = |usage: nix::sys::resource::Usage| {
        let (user, system) = (usage.user_time(), usage.system_time());
        (user.tv_sec() + system.tv_sec()) as f64 * 1e6 + (user.tv_usec() + system.tv_usec()) as f64
    };
    let before = total(cpu()?);
    for _ in 0..count {
        let record = Record::new(Some(Length(0)), UnixTime::now());
        NewData::create(spool)?
            .into_receiving(record)?
            .hand_over(shared::size::Offset(0), UnixTime::now())?;
    }
    Ok((total(cpu()?) - before) / f64::from(count))
}

trait ParentMade {
    fn parent_made(self) -> Result<std::path::PathBuf>;
}

impl ParentMade for std::path::PathBuf {
    fn parent_made(self) -> Result<std::path::PathBuf> {
        if let Some(parent) = self.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(self)
    }
}
