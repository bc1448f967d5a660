//! How files and records are made in a spool, put in the place of others, and dated.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Purpose, Spool};
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

    /// Writes a file that must not exist; its content durable on return if asked for. Where the disk
    /// is full it is made of a spare; whether it was.
    ///
    /// # Errors
    /// As open(2), write(2), fdatasync(2); nothing is left behind then, but for a file that was
    /// there before (`AlreadyExists`).
    pub(crate) fn create_whole(
        &self,
        path: &Path,
        bytes: &[u8],
        durably: bool,
        purpose: Purpose,
    ) -> Result<bool, DiskError> {
        let finish = |file: &File, written: Result<(), DiskError>| {
            let synced = written.and_then(|()| match durably {
                true => durable::sync_data(file, path),
                false => Ok(()),
            });
            if synced.is_err() {
                durable::unlink(path)?;
            }
            synced
        };
        let written = self.create_file(path).and_then(|mut file| {
            let written = file.write_all(bytes).on("write", path);
            finish(&file, written)
        });
        match written {
            Err(error) if error.is_full() => {
                let spare = self.make_of_spare(path, bytes, purpose)?.ok_or(error)?;
                finish(&spare, Ok(())).map(|()| true)
            }
            written => written.map(|()| false),
        }
    }

    /// Writes a small file of an upload anew: temporary file in `claimed/`, its content durable if
    /// asked for, renamed. The rename itself is not synced. Whether it was made of a spare.
    ///
    /// # Errors
    /// As write(2), fdatasync(2), rename(2); the old file is untouched then.
    pub(crate) fn replace_file(
        &self,
        path: &Path,
        id: UploadId,
        bytes: &[u8],
        durably: bool,
    ) -> Result<bool, DiskError> {
        let temp = self.temp(Dir::Claimed, id);
        let of_spare = self.create_whole(&temp, bytes, durably, Purpose::GoOn)?;
        if let Err(error) = durable::rename(&temp, path) {
            durable::unlink(&temp)?;
            return Err(error);
        }
        Ok(of_spare)
    }

    /// Puts a whole new record in the place of `path`: temporary file in `temp_dir`, synced unless
    /// nothing is (`--durability none`), renamed. The rename itself is not synced. In `claimed/` the
    /// file is made of a spare where the disk is full.
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
        self.replace_record_for(Purpose::GoOn, path, temp_dir, id, record)
    }

    /// As [`Self::replace_record`], for a purpose that not every spare may be spent on.
    pub(crate) fn replace_record_for(
        &self,
        purpose: Purpose,
        path: PathBuf,
        temp_dir: Dir,
        id: UploadId,
        record: &Record,
    ) -> Result<RecordFile, DiskError> {
        let temp = self.temp(temp_dir, id);
        let mut file = match self.create_record(temp.clone(), record) {
            Err(error) if error.is_full() && temp_dir == Dir::Claimed => {
                let bytes = record.to_bytes();
                let spare = self.make_of_spare(&temp, &bytes, purpose)?;
                RecordFile::written(temp.clone(), spare.ok_or(error)?)
            }
            created => created?,
        };
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

    /// Tells what has changed of a claimed upload's record, of which only the head has: in place, or,
    /// where even that needs space and there is none (btrfs), by another record.
    ///
    /// # Errors
    /// As pwrite(2) and fdatasync(2), or as [`Self::replace_record`].
    pub(crate) fn rewrite_head(
        &self,
        file: &mut RecordFile,
        id: UploadId,
        record: &Record,
        durably: bool,
    ) -> Result<(), DiskError> {
        match file.write_head(record) {
            Err(error) if error.is_full() => {
                *file = self.replace_record(file.path().to_owned(), Dir::Claimed, id, record)?;
                Ok(())
            }
            written => {
                written?;
                if durably { file.sync() } else { Ok(()) }
            }
        }
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
