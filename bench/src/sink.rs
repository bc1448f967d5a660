//! The physical limit: a blocking read/write loop that understands just enough of HTTP to be sent
//! to. One aligned buffer of 1 MiB per connection, used again and again; the file's blocks set
//! aside beforehand; `fdatasync` before the answer if asked for.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    sync: bool,
}

static FILES: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", args.port))?;
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = stream?;
            scope.spawn(move || serve(stream, args));
        }
        Ok(())
    })
}

fn serve(mut stream: TcpStream, args: &Args) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut space = vec![0; (1 << 20) + 4096];
    let start = space.as_ptr().align_offset(4096);
    let buffer = &mut space[start..start + (1 << 20)];
    loop {
        let mut have = 0;
        let head = loop {
            let n = stream.read(&mut buffer[have..65536])?;
            if n == 0 {
                return Ok(());
            }
            have += n;
            if let Some(end) = buffer[..have].windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = std::str::from_utf8(&buffer[..head])?.to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: u64 = length.context("no length")?.trim().parse()?;
        buffer.copy_within(head..have, 0);
        receive(&mut stream, buffer, have - head, length, args)?;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
}

fn receive(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    mut have: usize,
    length: u64,
    args: &Args,
) -> Result<()> {
    let name = format!("{}", FILES.fetch_add(1, Ordering::Relaxed));
    let path = args.dir.join(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    if let Ok(length) = i64::try_from(length) {
        let keep = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&file, keep, 0, length).ok();
    }
    let mut at = 0;
    loop {
        file.write_all_at(&buffer[..have], at)?;
        at += have as u64;
        if at == length {
            break;
        }
        let most = (length - at).min(buffer.len() as u64);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most the buffer's length"
        )]
        let most = most as usize;
        // Up to the next MiB of the file: aligned writes of large pages.
        #[expect(clippy::cast_possible_truncation, reason = "below 1 MiB")]
        let to_boundary = ((1 << 20) - at % (1 << 20)) as usize;
        let most = most.min(to_boundary);
        have = 0;
        while have < most {
            let n = stream.read(&mut buffer[have..most])?;
            anyhow::ensure!(n != 0, "body ended early");
            have += n;
        }
    }
    if args.sync {
        file.sync_data()?;
    }
    Ok(())
}
