//! A large body: one aligned buffer, used again and again; the file's blocks set aside beforehand.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result, ensure};
use shared::durable;

use super::{Args, Sync};

/// Written out at a time; one portion is on its way while the next one gathers, as in ingest.
const PORTION_BYTES: u64 = 4 << 20;
/// Synced so often: a killed server's offset is to be so near.
const SYNC_BYTES: u64 = 16 << 20;

static FILES: AtomicU64 = AtomicU64::new(0);

/// Takes a body of `length` bytes, of which `have` lie in the buffer.
pub(super) fn receive(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    have: usize,
    length: u64,
    args: &Args,
) -> Result<()> {
    let name = format!("{}", FILES.fetch_add(1, Ordering::Relaxed));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(args.dir.join(name))?;
    if let Ok(length) = i64::try_from(length) {
        let keep = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&file, keep, 0, length).ok();
    }
    if args.sync == Sync::Paced {
        // None waits in the channel: it is taken when the one before it is done.
        let (portions, taken) = sync_channel(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_out(&file, taken));
            let copied = copy(stream, buffer, have, length, &file, Some(portions));
            let written = writer.join().unwrap_or(Ok(()));
            copied.and(written)
        })?;
    } else {
        copy(stream, buffer, have, length, &file, None)?;
    }
    if args.sync != Sync::Never {
        file.sync_data()?;
    }
    Ok(())
}

fn copy(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    mut have: usize,
    length: u64,
    file: &File,
    portions: Option<SyncSender<Range<u64>>>,
) -> Result<()> {
    let (mut at, mut told) = (0, 0);
    loop {
        file.write_all_at(&buffer[..have], at)?;
        at += have as u64;
        if at == length {
            return Ok(());
        }
        if let Some(portions) = &portions
            && told + PORTION_BYTES <= at
        {
            portions.send(told..at).context("the disk has failed")?;
            told = at;
        }
        // Up to the next MiB of the file: aligned writes of large pages.
        let room = buffer.len() as u64;
        let most = (length - at).min(room - at % room);
        let most = usize::try_from(most)?;
        have = 0;
        while have < most {
            let n = stream.read(&mut buffer[have..most])?;
            ensure!(n != 0, "body ended early");
            have += n;
        }
    }
}

fn write_out(file: &File, portions: Receiver<Range<u64>>) -> Result<()> {
    let mut synced = 0;
    for portion in portions {
        let end = portion.end;
        durable::write_out(file, portion);
        if synced + SYNC_BYTES <= end {
            file.sync_data()?;
            synced = end;
        }
    }
    Ok(())
}
