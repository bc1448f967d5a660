//! Writing back as a kernel does that was not asked to: some pages of some files, in no order.
//!
//! What was never synced reaches the disk within half a minute or so, the record of an upload as
//! likely before its data as after it, and of the data perhaps the last page first. No test waits
//! for that: here it is done at once.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::libc;

/// Writes back each record in a directory, and a random range of the pages of each other file.
/// Files that come and go meanwhile are passed over.
pub fn records_and_some_pages(directory: &Path, random: &mut fastrand::Rng) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut records = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if path
            .extension()
            .is_some_and(|extension| extension == "meta")
        {
            records.push(file);
        } else {
            some_pages(&file, random);
        }
    }
    // Last: their syncs commit what the journal knows of the sizes of the others.
    for record in records {
        drop(record.sync_all());
    }
}

fn some_pages(file: &File, random: &mut fastrand::Rng) {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size == 0 {
        return;
    }
    // To the end, more often than not: the size on the disk then covers all that is missing.
    let from = random.u64(0..size);
    let bytes = if random.bool() {
        0 // to the end
    } else {
        random.u64(1..=size - from)
    };
    let (from, bytes) = (from.cast_signed(), bytes.cast_signed());
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is passed, and the descriptor is open until the call returns.
    #[expect(unsafe_code, reason = "a system call that nix does not wrap")]
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), from, bytes, all);
    }
}
