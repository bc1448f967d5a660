//! How far the disk may fall behind a body.
//!
//! A fast client fills the page cache faster than any disk empties it, and a sync then has all of
//! that to write: HEAD, which tells of no byte before it is synced, would wait for it. So what
//! arrives is written out beside the writing, a few MiB at a time, and reading pauses while more
//! than that is in arrears. The client loses nothing: its last byte waits for the disk anyway.
//!
//! Nothing is made durable here. If the disk says no, the next sync says so.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use shared::durable;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

/// Written out at a time: a fraction of what the watermark's own syncs cover.
const PORTION_BYTES: u64 = 4 << 20;
/// So far the disk may be behind: one portion on its way, and the next one gathering. Some 10 ms
/// of a disk that writes 1 GiB/s.
const ARREARS_MAX_BYTES: u64 = 2 * PORTION_BYTES;

/// One portion of this process at a time. Of many bodies none would come nearer to the disk for
/// being held up: 16 at once took a third more CPU time and wall time when each had its own.
static TURN: Semaphore = Semaphore::const_new(1);

/// The portion that is being written out, and those before it. Positions in the upload.
#[derive(Debug)]
pub(super) struct WriteOut {
    /// The data file, opened once more. The kernel tells each opening once of bytes that it lost;
    /// waiting for them through the one that is synced would take that from the sync.
    file: Option<Arc<File>>,
    turn: &'static Semaphore,
    /// Up to here it is done.
    done: u64,
    /// Up to here it has begun.
    begun: u64,
    job: Option<JoinHandle<()>>,
}

impl WriteOut {
    /// Of an upload that stands at `at`.
    pub(super) fn new(at: u64) -> Self {
        Self::taking_turns(at, &TURN)
    }

    fn taking_turns(at: u64, turn: &'static Semaphore) -> Self {
        Self {
            file: None,
            turn,
            done: at,
            begun: at,
            job: None,
        }
    }

    /// Begins with the next portion of the file at `path` if it is there, up to `at`, and none is
    /// under way, here or for another body.
    pub(super) fn follow(&mut self, path: &Path, at: u64) {
        if self.job.is_some() || at < self.begun + PORTION_BYTES {
            return;
        }
        let Ok(turn) = self.turn.try_acquire() else {
            self.skip_to(at);
            return;
        };
        let opened = self
            .file
            .take()
            .map_or_else(|| durable::open(path, false).map(Arc::new), Ok);
        let Ok(file) = opened else { return };
        self.file = Some(Arc::clone(&file));
        let from = std::mem::replace(&mut self.begun, at);
        self.job = Some(spawn_blocking(move || {
            durable::write_out(&file, from..at);
            drop(turn);
        }));
    }

    /// Everything below `at` is on its way, or is left to the syncs of the watermark.
    pub(super) fn skip_to(&mut self, at: u64) {
        (self.done, self.begun) = (at, at);
    }

    /// Whether the disk is too far behind an upload that stands at `at`. Then a portion is under
    /// way, whose end is told by [`Self::happens`].
    pub(super) fn is_behind(&self, at: u64) -> bool {
        self.job.is_some() && self.done + ARREARS_MAX_BYTES <= at
    }

    /// Closes the file until there is another portion.
    pub(super) fn rest(&mut self) {
        self.file = None;
    }

    /// Returns when the portion under way is done; never if there is none. Cancel-safe.
    pub(super) async fn happens(&mut self) {
        let Some(job) = &mut self.job else {
            return std::future::pending().await;
        };
        // Panicked or not: nothing is under way any more.
        job.await.ok();
        self.job = None;
        self.done = self.begun;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_out(at: u64) -> WriteOut {
        WriteOut::taking_turns(at, Box::leak(Box::new(Semaphore::new(1))))
    }

    #[tokio::test]
    async fn of_several_bodies_one_is_written_out_and_the_others_are_not_held_up() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 * PORTION_BYTES).unwrap();
        let mut first = write_out(0);
        let mut second = WriteOut::taking_turns(0, first.turn);
        first.follow(file.path(), PORTION_BYTES);
        second.follow(file.path(), ARREARS_MAX_BYTES);
        assert!(!second.is_behind(u64::MAX));
        first.happens().await;
        // What it could not begin with is not made up for.
        second.follow(file.path(), ARREARS_MAX_BYTES + PORTION_BYTES);
        assert!(second.job.is_some());
        assert!(!second.is_behind(2 * ARREARS_MAX_BYTES - 1));
    }

    #[tokio::test]
    async fn the_disk_is_behind_until_a_portion_is_done_and_only_by_more_than_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 * PORTION_BYTES).unwrap();
        let mut write_out = write_out(7);
        write_out.follow(file.path(), PORTION_BYTES + 6);
        assert!(write_out.job.is_none(), "too little for a portion");
        write_out.follow(file.path(), PORTION_BYTES + 7);
        assert!(write_out.job.is_some());
        assert!(!write_out.is_behind(ARREARS_MAX_BYTES + 6));
        assert!(write_out.is_behind(ARREARS_MAX_BYTES + 7));
        write_out.follow(file.path(), ARREARS_MAX_BYTES + 7);
        assert_eq!(write_out.begun, PORTION_BYTES + 7, "one is under way");
        write_out.happens().await;
        assert_eq!(write_out.done, PORTION_BYTES + 7);
        assert!(!write_out.is_behind(u64::MAX), "nothing would end it");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_again_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut write_out = write_out(0);
        write_out.follow(&dir.path().join("gone"), PORTION_BYTES);
        assert!(!write_out.is_behind(u64::MAX));
    }
}
