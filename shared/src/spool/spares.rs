//! Space kept for claims on a full disk.
//!
//! A claim is a file more, its state; to settle it can take two, a record and a reason. Where the
//! disk is full nothing could be claimed or settled, and who would drain it could not. So consumers
//! keep some files in `claimed/` whose blocks are their own. Where no file can be made, one of these
//! gets the name instead and is overwritten: neither needs space. What a claim gives back when it is
//! settled makes spares again.
//!
//! They stay when their consumer ends: the next may be started on a disk that is full. Whoever
//! renames one has it. None is ever read, so that they need no sync.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use super::Spool;
use crate::durable::{self, DiskError, OnPath as _};
use crate::id::{ClaimId, UploadId};
use crate::layout::{Dir, Entry};

/// Spares that a consumer should keep for each upload that it works on at a time. A claim begins with
/// one or two and ends with two more at most; the rest is for filesystems that have to gather some
/// space before a file can be made again (xfs).
pub const SPARES_PER_CLAIM: usize = 6;

/// Bytes of one: room for all but the records with the longest errors.
const SPARE_BYTES: usize = 16 << 10;

/// What a file is for that is to be made although the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To begin a claim, which has to be settled then: a record and a reason.
    Begin,
    /// To go on with what has begun.
    GoOn,
    /// To tell what could be left out: another claim has to be possible.
    TellMore,
}

impl Purpose {
    /// How many spares have to be left.
    fn leaves(self) -> usize {
        match self {
            Self::GoOn => 0,
            Self::Begin => 2,
            Self::TellMore => 3,
        }
    }
}

/// How many spares this process wants there to be, whoever made them.
#[derive(Debug, Default)]
pub(super) struct Spares {
    wanted: AtomicUsize,
    /// Whether some may be missing.
    used: AtomicBool,
}

impl Spool {
    /// Sees to it that so many spares are there, now and whenever this process has used some.
    ///
    /// # Errors
    /// As the steps; a full disk has room for some of them, or for none. It is tried again with the
    /// next claim.
    pub fn keep_spares(&self, wanted: usize) -> Result<(), DiskError> {
        self.spares.wanted.store(wanted, Ordering::Relaxed);
        let made = self.make_spares(wanted);
        self.spares.used.store(made.is_err(), Ordering::Relaxed);
        made
    }

    /// How many spares this process keeps.
    pub(super) fn spares_wanted(&self) -> usize {
        self.spares.wanted.load(Ordering::Relaxed)
    }

    /// Makes spares in the place of used ones, if there is space.
    pub(crate) fn refill_spares(&self) {
        if self.spares.used.swap(false, Ordering::Relaxed)
            && self.make_spares(self.spares_wanted()).is_err()
        {
            self.spares.used.store(true, Ordering::Relaxed);
        }
    }

    fn make_spares(&self, wanted: usize) -> Result<(), DiskError> {
        for _ in self.spares()?.len()..wanted {
            let temp = self.temp(Dir::Claimed, UploadId::generate());
            let file = self.create_file(&temp)?;
            let made =
                take_up(&file, &temp).and_then(|()| durable::rename(&temp, &self.free_spare()));
            if made.is_err() {
                durable::unlink(&temp)?;
                return made;
            }
        }
        Ok(())
    }

    /// A name that nobody has used.
    fn free_spare(&self) -> PathBuf {
        self.layout.spare(UploadId::generate(), ClaimId::generate())
    }

    /// Makes a file that was made of a spare one again. It is blanked first, or the next claim that a
    /// crash cuts short would seem to have the state of this one.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2).
    pub(crate) fn give_back(&self, path: &Path) -> Result<(), DiskError> {
        match overwrite(path, b"", Purpose::Begin) {
            Ok(_) => durable::rename_if_there(path, &self.free_spare()),
            // Somebody has finished the settling; or nothing is overwritten in place, so that it would
            // be no use, and is gone.
            Err(error) if error.is_missing() || error.is_full() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn spares(&self) -> Result<Vec<(UploadId, ClaimId)>, DiskError> {
        let names = self.entries(Dir::Claimed)?.map(|entry| match entry? {
            Entry::Spare(id, unique) => Ok(Some((id, unique))),
            _ => Ok(None),
        });
        names.filter_map(Result::transpose).collect()
    }

    /// Makes the file `to`, which must not exist, of a spare; `None` if there is none for it. Its
    /// content is not yet durable.
    ///
    /// # Errors
    /// As rename(2), open(2), write(2); `to` is not there then, unless it was before
    /// (`AlreadyExists`).
    pub(super) fn make_of_spare(
        &self,
        to: &Path,
        bytes: &[u8],
        purpose: Purpose,
    ) -> Result<Option<File>, DiskError> {
        let mut spares = self.spares()?;
        if spares.len() <= purpose.leaves() {
            return Ok(None);
        }
        // Each process begins somewhere else, so that they seldom reach for the same one.
        fastrand::shuffle(&mut spares);
        for (id, unique) in spares {
            let spare = self.layout.spare(id, unique);
            // One that a power cut has emptied, or of a filesystem without room of its own for it.
            let has_room = |found: std::fs::Metadata| bytes.len() as u64 <= found.blocks() * 512;
            if !durable::stat(&spare)?.is_some_and(has_room) {
                continue;
            }
            self.spares.used.store(true, Ordering::Relaxed);
            match durable::rename_noreplace(&spare, to) {
                Err(error) if error.is_missing() => continue,
                moved => moved?,
            }
            match overwrite(to, bytes, purpose) {
                // One that was written before, where nothing is overwritten in place.
                Err(error) if error.is_full() => {}
                written => return written.map(Some),
            }
        }
        Ok(None)
    }
}

/// Has a file hold these bytes. What begins a claim will be a spare again: it keeps all its space, and
/// has blanks behind the bytes.
fn overwrite(path: &Path, bytes: &[u8], purpose: Purpose) -> Result<File, DiskError> {
    let written = durable::open(path, true).and_then(|file| {
        file.write_all_at(bytes, 0).on("write", path)?;
        let length = bytes.len() as u64;
        if purpose == Purpose::Begin {
            let old = file.metadata().on("stat", path)?.len();
            let blanks = vec![b' '; usize::try_from(old.saturating_sub(length)).unwrap_or(0)];
            file.write_all_at(&blanks, length).on("write", path)?;
        } else {
            file.set_len(length).on("truncate", path)?;
        }
        Ok(file)
    });
    if written.is_err() {
        durable::unlink(path)?;
    }
    written
}

/// Has a new file take up the space of a spare.
fn take_up(mut file: &File, path: &Path) -> Result<(), DiskError> {
    // Beyond the end of the file, so that a short one keeps it.
    let beyond = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match nix::fcntl::fallocate(file, beyond, 0, SPARE_BYTES as i64) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            file.write_all(&[0; SPARE_BYTES]).on("write", path)?;
            durable::sync_data(file, path)
        }
        done => done.on("allocate", path),
    }
}

#[cfg(test)]
mod tests;
