//! What the filesystem alone takes: the same kinds of system calls, in the same directories, of one
//! thread that does nothing else. Its names are foreign to the programs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use shared::durable;
use shared::layout::Dir;
use shared::spool::Spool;

use crate::sink::{RECORD, Steps};

/// About the length of a claim's state.
const STATE: [u8; 300] = [b' '; 300];

/// User and system time.
pub(super) fn cpu(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who)?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let micros = micros(usage.user_time()) + micros(usage.system_time());
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

/// Microseconds that each of `count` calls takes.
fn each(count: u32, mut one: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let before = cpu(UsageWho::RUSAGE_SELF)?;
    for n in 0..count {
        one(n)?;
    }
    Ok(super::per(
        cpu(UsageWho::RUSAGE_SELF)?.saturating_sub(before),
        u64::from(count),
    ))
}

/// A creation and a PATCH.
pub(super) fn upload(spool: &Spool, count: u32) -> Result<f64> {
    let steps = Steps::open(spool.layout().root(), false)?;
    let content = vec![b'x'; 10 << 10];
    each(count, |_| steps.finish(&steps.create()?, &content))
}

/// A look at a file and a read of another.
pub(super) fn head(spool: &Spool, count: u32) -> Result<f64> {
    let dir = spool.layout().dir(Dir::Uploads);
    let (data, record) = (dir.join("bare"), dir.join("bare.record"));
    fs::write(&data, "x")?;
    fs::write(&record, RECORD)?;
    each(count, |_| {
        fs::read(&record)?;
        fs::symlink_metadata(&data)?;
        Ok(())
    })
}

/// Per name: lists `uploads/`, looks at each file, and reads each second one.
pub(super) fn look(spool: &Spool) -> Result<f64> {
    let dir = spool.layout().dir(Dir::Uploads);
    let before = cpu(UsageWho::RUSAGE_SELF)?;
    let mut names = 0;
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        fs::symlink_metadata(&path)?;
        names += 1;
        if path.extension().is_some() {
            fs::read(&path)?;
        }
    }
    Ok(super::per(
        cpu(UsageWho::RUSAGE_SELF)?.saturating_sub(before),
        names,
    ))
}

/// What a claim and its settling do: moved in, a state made, a link, a receipt made and moved, all
/// but the receipt removed.
pub(super) fn claim(spool: &Spool, delivered: &Path, count: u32) -> Result<f64> {
    let dir = |dir| spool.layout().dir(dir);
    let (from, claimed, receipts) = (dir(Dir::Completed), dir(Dir::Claimed), dir(Dir::Receipts));
    for n in 0..count {
        fs::write(from.join(format!("bare-{n}")), "")?;
        fs::write(from.join(format!("bare-{n}.record")), RECORD)?;
    }
    each(count, |n| {
        let data = format!("bare-{n}");
        let (record, state) = (format!("bare-{n}.record"), format!("bare-{n}.state"));
        fs::read(from.join(&record))?;
        durable::rename(&from.join(&data), &claimed.join(&data))?;
        fs::File::create_new(claimed.join(&state))?.write_all(&STATE)?;
        durable::link(&claimed.join(&data), &delivered.join(&data))?;
        fs::File::create_new(claimed.join(&record))?.write_all(&RECORD)?;
        durable::rename(&claimed.join(&record), &receipts.join(&record))?;
        fs::remove_file(claimed.join(&data))?;
        fs::remove_file(from.join(&record))?;
        fs::remove_file(claimed.join(&state))?;
        Ok(())
    })
}
