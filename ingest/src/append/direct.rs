//! Writing past the page cache, `O_DIRECT` of open(2), where the client waits for the disk anyway.
//!
//! A body's bytes are copied once instead of twice, no memory is taken from others for them, and
//! the disk is never behind: a sync has only names, sizes and the device's own cache left to do, so
//! that HEAD after a cut answers at once. Of a GiB on a disk without a loop device it left a fifth of
//! the CPU time. It takes whole blocks from memory that begins at a page, so a piece is written so
//! only if a fast client has filled a buffer; everything else goes through the page cache, and the
//! kernel keeps the two apart.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use shared::durable::{self, DiskError, OnPath as _};
use shared::failpoint::{self, Failpoint};
use tokio::task::block_in_place;

/// No device that a filesystem of Linux lies on has larger blocks. Where one has, the kernel
/// refuses, and the page cache is used.
const BLOCK_BYTES: usize = 4 << 10;
/// A wait for the disk is worth so much at a time: a quarter of a gathered write.
const DIRECT_BYTES_MIN: usize = 256 << 10;

/// The data file of one upload, for writing past the page cache.
#[derive(Debug)]
pub(super) enum Direct {
    /// Not opened: nothing has come that could be written so.
    Closed,
    Open(File),
    /// Not to be, or the filesystem does not do it.
    Never,
}

impl Direct {
    pub(super) fn new(is_wanted: bool) -> Self {
        match is_wanted {
            true => Self::Closed,
            false => Self::Never,
        }
    }

    /// Writes the whole blocks at the beginning of `piece` at the position `at` of `data`, a file
    /// at `path`. How many bytes it were: 0 if the piece must go through the page cache. Waits for
    /// the disk, so this is called on a runtime with several workers.
    ///
    /// # Errors
    /// As pwrite(2), but for `EINVAL`: that is a filesystem which takes no such write, or none in
    /// such blocks.
    pub(super) fn write(
        &mut self,
        data: &File,
        path: &Path,
        piece: &[u8],
        at: u64,
    ) -> Result<usize, DiskError> {
        let blocks = whole_blocks(piece, at);
        if blocks.is_empty() {
            return Ok(0);
        }
        if matches!(self, Self::Closed) {
            *self = open(data, path).map_or(Self::Never, Self::Open);
        }
        let Self::Open(file) = self else {
            return Ok(0);
        };
        // Others are served meanwhile.
        let written = block_in_place(|| file.write_at(blocks, at));
        match written.and_then(|n| failpoint::hit(Failpoint::AppendWritten).map(|()| n)) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                *self = Self::Never;
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            written => written.on("write", path),
        }
    }

    /// Closes the file until there is something to write again.
    pub(super) fn rest(&mut self) {
        if matches!(self, Self::Open(_)) {
            *self = Self::Closed;
        }
    }
}

/// The part of a piece that can be written so; nothing if it is not worth it.
fn whole_blocks(piece: &[u8], at: u64) -> &[u8] {
    let begins =
        piece.as_ptr().addr().is_multiple_of(BLOCK_BYTES) && at.is_multiple_of(BLOCK_BYTES as u64);
    let bytes = piece.len() / BLOCK_BYTES * BLOCK_BYTES;
    match begins && DIRECT_BYTES_MIN <= bytes {
        true => &piece[..bytes],
        false => &[],
    }
}

/// Opens the file once more. `None` if the filesystem does not want that, or if the name is
/// another file's: only the one whose lock is held may be written to.
fn open(data: &File, path: &Path) -> Option<File> {
    let direct = durable::open_direct(path).ok()?;
    let identity = |file: &File| Some(durable::identity(&file.metadata().ok()?));
    (identity(data)? == identity(&direct)?).then_some(direct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enough_whole_blocks_from_a_page_to_a_block_of_the_file_are_taken() {
        let block = BLOCK_BYTES;
        let enough = DIRECT_BYTES_MIN;
        let space = vec![0; 2 * enough + block];
        let start = space.as_ptr().align_offset(block);
        for from in [0, 1, 512, block] {
            for length in [0, block, enough - 1, enough, enough + 1, 2 * enough - block] {
                for at in [0, 1, 512, block as u64, (7 << 20) + 4] {
                    let piece = &space[start..][from..from + length];
                    let begins = from % block == 0 && at % block as u64 == 0;
                    let whole = length - length % block;
                    let expected = if begins && enough <= whole { whole } else { 0 };
                    assert_eq!(
                        whole_blocks(piece, at).len(),
                        expected,
                        "{from} {length} {at}"
                    );
                }
            }
        }
    }
}
