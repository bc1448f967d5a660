//! Records on disk: read without the lock, written by its holder.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::head::{Start, start};
use super::{HEAD_LEN, NEWER, RECORD_MAX, Record};
use crate::durable::{self, DiskError, OnPath};
use crate::host::BootId;

/// Why a file is not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It was read, but is empty, torn or not ours.
    #[error("{} is not a record: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl RecordError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_missing())
    }

    /// Whether a later version of the programs wrote it: it is not damaged, and not ours to judge.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Unreadable { reason, .. } if reason.starts_with(NEWER))
    }
}

/// How often a torn head is read again before it counts as damaged. A writer that was preempted
/// in the middle of its copy goes on within milliseconds.
const TORN_READS_MAX: u32 = 10_000;

/// Reads a record without holding the upload's lock: again until its check fits.
///
/// # Errors
/// That it is missing, cannot be read, or is no record.
pub fn read(path: &Path) -> Result<Record, RecordError> {
    let file = durable::open_unmarked(path)?;
    let mut bytes = read_whole(&file, path)?;
    for _ in 0..TORN_READS_MAX {
        if start(&bytes) != Start::Torn {
            break;
        }
        std::thread::yield_now();
        let mut head = [0; HEAD_LEN];
        let n = read_at(&file, &mut head, 0, path)?;
        if let (Some(old), Some(new)) = (bytes.get_mut(..n), head.get(..n)) {
            old.copy_from_slice(new);
        }
    }
    parse(&bytes, path)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Record, RecordError> {
    parse_raw(bytes, path).and_then(|record| in_this_boot(record, path))
}

/// What is written, whichever boot it holds in.
fn parse_raw(bytes: &[u8], path: &Path) -> Result<Record, RecordError> {
    Record::from_bytes(bytes).map_err(|reason| unreadable(path, reason))
}

fn in_this_boot(record: Record, path: &Path) -> Result<Record, RecordError> {
    let read = record.read_in(BootId::this());
    if read.length.is_some_and(|length| length.0 < read.offset.0) {
        return Err(unreadable(path, "offset past the length".to_owned()));
    }
    Ok(read)
}

fn unreadable(path: &Path, reason: String) -> RecordError {
    RecordError::Unreadable {
        path: path.to_owned(),
        reason,
    }
}

/// Whether these bytes, of that record, begin as we would write them, so that only their head need
/// be overwritten.
fn has_head(bytes: &[u8], record: &Record) -> bool {
    bytes.get(..HEAD_LEN) == Some(record.head().as_slice())
}

/// More than most records are long.
const USUAL_MAX: usize = 2048;

/// Reads a record of unknown length. Its length is asked for only if it is an unusual one: of a
/// regular file one read gives all that there is.
fn read_whole(file: &File, path: &Path) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![0; USUAL_MAX];
    let read = read_at(file, &mut bytes, 0, path)?;
    if read < USUAL_MAX {
        bytes.truncate(read);
        return Ok(bytes);
    }
    let length = file.metadata().on("stat", path)?.len();
    read_all(file, length, path)
}

/// Reads as much as there was when the file was opened: a record never changes its length.
fn read_all(file: &File, length: u64, path: &Path) -> Result<Vec<u8>, RecordError> {
    let length = match usize::try_from(length) {
        Ok(n) if length <= RECORD_MAX => n,
        _ => return Err(unreadable(path, "too large".to_owned())),
    };
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match read_at(file, &mut bytes[read..], read as u64, path)? {
            0 => break,
            n => read += n,
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

fn read_at(file: &File, buffer: &mut [u8], at: u64, path: &Path) -> Result<usize, DiskError> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.on("read", path),
        }
    }
}

/// A record opened by the holder of its upload's lock.
#[derive(Debug)]
pub struct RecordFile {
    file: File,
    path: PathBuf,
    /// Whether the file has a head of ours that can be overwritten in place.
    has_head: bool,
}

impl RecordFile {
    /// Writes a new record at a name that must be free. Not yet durable.
    ///
    /// # Errors
    /// As open(2) with `O_EXCL` and write(2); nothing is left behind then.
    pub fn create(path: PathBuf, record: &Record, mode: u32) -> Result<Self, DiskError> {
        let file = durable::create_new(&path, mode)?;
        if let Err(error) = file.write_all_at(&record.to_bytes(), 0) {
            durable::unlink(&path)?;
            return Err(DiskError::new("write", path, error));
        }
        Ok(Self::written(path, file))
    }

    /// A file that holds nothing but [`Record::to_bytes`].
    pub(crate) fn written(path: PathBuf, file: File) -> Self {
        Self {
            file,
            path,
            has_head: true,
        }
    }

    /// Opens a record for changing. The caller holds the upload's lock.
    ///
    /// # Errors
    /// That it is missing, cannot be read, or is no record.
    pub fn open(path: PathBuf) -> Result<(Self, Record), RecordError> {
        let file = durable::open_any(&path, true)?;
        let bytes = read_whole(&file, &path)?;
        let written = parse_raw(&bytes, &path)?;
        let has_head = has_head(&bytes, &written);
        let record = in_this_boot(written, &path)?;
        Ok((
            Self {
                file,
                path,
                has_head,
            },
            record,
        ))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether [`Self::write_head`] can be used; otherwise the record must be replaced.
    #[must_use]
    pub fn has_head(&self) -> bool {
        self.has_head
    }

    /// Overwrites the head in place. Not yet durable.
    ///
    /// # Errors
    /// As pwrite(2). On a filesystem that copies on write this can be `ENOSPC`.
    pub fn write_head(&self, record: &Record) -> Result<(), DiskError> {
        debug_assert!(self.has_head);
        self.file
            .write_all_at(&record.head(), 0)
            .on("write", &self.path)
    }

    /// Makes the record's content durable.
    ///
    /// # Errors
    /// As fdatasync(2).
    pub fn sync(&self) -> Result<(), DiskError> {
        durable::sync_data(&self.file, &self.path)
    }

    /// Follows the record to the name that it was renamed to.
    pub fn moved(&mut self, to: PathBuf) {
        self.path = to;
    }
}
