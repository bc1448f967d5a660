//! How files and records are made in a spool, put in the place of others, and dated.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Spool;
use crate::durable::{self, DiskError, OnPath as _};
use crate::id::{ClaimId, UploadId};
use crate::layout::Dir;
use crate::record::{FORMAT, Record, RecordError, RecordFile};
use crate::time::UnixTime;

impl Spool {
    /// Creates a file that must not exist, with the spool's file mode.
    ///
    /// # Errors
    /// As open(2) and chmod(2).
    pub fn create_file(&self, path: &Path) -> Result<File, DiskError> {
        let file = durable::create_new(path, self.options.file_mode)?;
        self.fix_mode(&file, path)?;
        Ok(file)
    }

    fn fix_mode(&self, file: &File, path: &Path) -> Result<(), DiskError> {
        if self.chmod {
            let mode = std::fs::Permissions::from_mode(self.options.file_mode);
            file.set_permissions(mode).on("chmod", path)?;
        }
        Ok(())
    }

    /// What time it is by the clock that stamps the spool's files; on a network filesystem that is
    /// the server's. Ages of files are measured against it: the local clock may be another.
    ///
    /// # Errors
    /// As open(2): a file is made, and removed at once.
    pub fn stored_now(&self) -> Result<UnixTime, DiskError> {
        let path = self.temp(Dir::Claimed, UploadId::generate());
        let stat = self
            .create_file(&path)
            .and_then(|file| file.metadata().on("stat", &path));
        durable::unlink(&path)?;
        stat.map(|stat| changed_at(&stat))
    }

    /// Writes a record at a free name. Not yet durable.
    ///
    /// # Errors
    /// As open(2) and write(2); nothing is left behind then.
    pub fn create_record(&self, path: PathBuf, record: &Record) -> Result<RecordFile, DiskError> {
        let file = RecordFile::create(path, record, self.options.file_mode)?;
        self.fix_mode(file.file(), file.path())?;
        Ok(file)
    }

    /// A temporary name that nobody else uses, in `uploads/` or `claimed/`.
    #[must_use]
    pub fn temp(&self, dir: Dir, id: UploadId) -> PathBuf {
        self.layout.temp(dir, id, ClaimId::generate())
    }

    /// Writes a file that must not exist; its content durable on return if asked for.
    ///
    /// # Errors
    /// As open(2), write(2), fdatasync(2); nothing is left behind then, but for a file that was
    /// there before (`AlreadyExists`).
    pub(crate) fn create_whole(
        &self,
        path: &Path,
        bytes: &[u8],
        durably: bool,
    ) -> Result<(), DiskError> {
        let mut file = self.create_file(path)?;
        let mut written = file.write_all(bytes).on("write", path);
        if durably {
            written = written.and_then(|()| durable::sync_data(&file, path));
        }
        if written.is_err() {
            durable::unlink(path)?;
        }
        written
    }

    /// Writes a small file of an upload anew: temporary file in `claimed/`, its content durable if
    /// asked for, renamed. The rename itself is not synced.
    ///
    /// # Errors
    /// As write(2), fdatasync(2), rename(2); the old file is untouched then.
    pub(crate) fn replace_file(
        &self,
        path: &Path,
        id: UploadId,
        bytes: &[u8],
        durably: bool,
    ) -> Result<(), DiskError> {
        let temp = self.temp(Dir::Claimed, id);
        self.create_whole(&temp, bytes, durably)?;
        if let Err(error) = durable::rename(&temp, path) {
            durable::unlink(&temp)?;
            return Err(error);
        }
        Ok(())
    }

    /// Puts a whole new record in the place of `path`: temporary file in `temp_dir`, synced unless
    /// nothing is (`--durability none`), renamed. The rename itself is not synced.
    ///
    /// # Errors
    /// As write(2), fdatasync(2), rename(2); the old record is untouched then.
    pub fn replace_record(
        &self,
        path: PathBuf,
        temp_dir: Dir,
        id: UploadId,
        record: &Record,
    ) -> Result<RecordFile, DiskError> {
        let temp = self.temp(temp_dir, id);
        let mut file = self.create_record(temp.clone(), record)?;
        let synced = match self.options.durability.syncs_finish() {
            true => file.sync(),
            false => Ok(()),
        };
        if let Err(error) = synced.and_then(|()| durable::rename(&temp, &path)) {
            durable::unlink(&temp)?;
            return Err(error);
        }
        file.moved(path);
        Ok(file)
    }

    /// Opens a record of a locked upload for changing; one without our head (tussi's) is first
    /// replaced by ours.
    ///
    /// # Errors
    /// That it is missing, cannot be read or replaced, or is no record.
    pub fn open_record(
        &self,
        path: PathBuf,
        temp_dir: Dir,
        id: UploadId,
    ) -> Result<(RecordFile, Record), RecordError> {
        let (file, mut record) = RecordFile::open(path.clone())?;
        if file.has_head() {
            return Ok((file, record));
        }
        record.format = Some(FORMAT);
        let file = self.replace_record(path, temp_dir, id, &record)?;
        Ok((file, record))
    }
}

/// When a file was last changed, its name included (its ctime).
#[must_use]
pub fn changed_at(stat: &std::fs::Metadata) -> UnixTime {
    let micros = stat.ctime().saturating_mul(1_000_000);
    UnixTime::from_micros(micros.saturating_add(stat.ctime_nsec() / 1000))
}
