//! Connections that end in the middle: what has to be sent again, and how soon one can go on.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::Args;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::servers::{Kind, Running};
use crate::table::percentile;

const LENGTH: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Fin,
    Rst,
    Stall,
}

nix::ioctl_read_bad!(unsent, nix::libc::TIOCOUTQ, nix::libc::c_int);

pub(crate) fn run(args: &Args) -> Result<()> {
    let payload = Payload::new();
    println!("## Cut: 64 MiB, cut at a random point\n");
    println!(
        "| server | cut | bytes sent again, max | HEAD ms median | HEAD ms max | next PATCH s median | max |\n\
         |---|---|---|---|---|---|---|"
    );
    let kinds = [
        Kind::Ingest("every-patch"),
        Kind::Ingest("none"),
        Kind::Tusd,
        Kind::Rustus,
        Kind::TusNode,
    ];
    for kind in kinds {
        if args.alone && !matches!(kind, Kind::Ingest(_)) || !kind.is_installed(args) {
            continue;
        }
        for cut in [Cut::Fin, Cut::Rst, Cut::Stall] {
            match several(args, kind, cut, &payload) {
                Ok(cells) => println!("| {} | {cut:?} | {cells} |", kind.name()),
                Err(error) if matches!(kind, Kind::Ingest(_)) => return Err(error),
                Err(error) => println!("| {} | {cut:?} | {error:#} |", kind.name()),
            }
        }
    }
    println!();
    Ok(())
}

/// The figures of several uploads, each cut at another point; every byte is verified.
fn several(args: &Args, kind: Kind, cut: Cut, payload: &Payload) -> Result<String> {
    let disk = Disk::make(args.fs, 6, &args.images)?;
    let running = Running::start(kind, &disk, args)?;
    let mut again = Vec::new();
    let (mut heads, mut patches) = (Vec::new(), Vec::new());
    let count = 4 * args.rounds as u64;
    for seed in 0..count {
        let (resent, head, patch) = one(&running, payload, cut, seed)?;
        again.push(resent);
        heads.push(head.as_secs_f64() * 1e3);
        patches.push(patch.as_secs_f64());
    }
    running.verify(payload, count, LENGTH)?;
    Ok(format!(
        "{} | {:.1} | {:.1} | {:.3} | {:.3}",
        again.into_iter().max().unwrap_or(0),
        percentile(heads.clone(), 0.5),
        percentile(heads, 1.0),
        percentile(patches.clone(), 0.5),
        percentile(patches, 1.0),
    ))
}

/// Bytes that had arrived and must be sent again; time of the first HEAD; time from the cut until
/// a PATCH was accepted to its end.
fn one(
    running: &Running,
    payload: &Payload,
    cut: Cut,
    seed: u64,
) -> Result<(u64, Duration, Duration)> {
    let point = fastrand::Rng::with_seed(seed).u64(1..LENGTH - 1);
    let mut first = running.client()?;
    let path = first.create(running.base(), LENGTH)?;
    first.patch_head(&path, 0, LENGTH)?;
    first.body(payload, 0, point)?;
    first.stream.flush()?;
    wait_acknowledged(&first.stream)?;
    let began = Instant::now();
    match cut {
        Cut::Fin => first.stream.shutdown(Shutdown::Write)?,
        Cut::Rst => {
            socket_linger_zero(&first.stream)?;
            drop(first);
        }
        Cut::Stall => {}
    }
    let mut second = running.client()?;
    let mut offset = None;
    let mut head_took = Duration::ZERO;
    // A server may need several questions and pieces: the time runs until one PATCH went through.
    for tried in 0..200 {
        let asked = Instant::now();
        let told = second.offset(&path);
        if tried == 0 {
            head_took = asked.elapsed();
        }
        let Ok(told) = told else {
            std::thread::sleep(Duration::from_millis(50));
            second = running.client()?;
            continue;
        };
        offset.get_or_insert(told);
        ensure!(told <= point, "{told} of {point}");
        let piece = 1024.min(LENGTH - told);
        if second.patch(&path, payload, told, piece).is_ok() {
            let took = began.elapsed();
            // The rest, so that the whole can be verified.
            if told + piece < LENGTH {
                second.patch(&path, payload, told + piece, LENGTH - told - piece)?;
            }
            return Ok((point - offset.unwrap_or(0), head_took, took));
        }
        std::thread::sleep(Duration::from_millis(20));
        second = running.client()?;
    }
    anyhow::bail!("never went on")
}

/// Waits until the other end's kernel has every byte: those have arrived.
fn wait_acknowledged(stream: &std::net::TcpStream) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut left = 0;
        // SAFETY: TIOCOUTQ writes one int to a valid pointer for an open socket.
        #[expect(unsafe_code, reason = "an ioctl")]
        unsafe {
            unsent(stream.as_raw_fd(), &raw mut left)?;
        }
        if left == 0 {
            // A reset throws away what the server's kernel has and the server has not read yet.
            std::thread::sleep(Duration::from_millis(5));
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the server does not read");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn socket_linger_zero(stream: &std::net::TcpStream) -> Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(nix::sys::socket::setsockopt(
        stream,
        nix::sys::socket::sockopt::Linger,
        &linger,
    )?)
}
