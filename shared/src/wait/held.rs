//! One upload that a [`super::Waiter`] has claimed, until it is finished, given back or dropped.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use crate::claim::Claim;
use crate::durable::{self, DiskError, OnPath};
use crate::id::UploadId;
use crate::record::{Attempt, Record};
use crate::settle::Settled;
use crate::time::UnixTime;

/// Why an upload could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It has been saved before.
    #[error("upload {0} has been saved already")]
    Twice(UploadId),
    /// The name is taken; nothing is ever overwritten.
    #[error("{} exists already", .0.display())]
    Taken(PathBuf),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// One finished upload, held by this program alone.
#[derive(Debug)]
pub struct Held {
    /// `None` once it is settled.
    claim: Option<Claim>,
    max_attempts: u32,
    saved: Option<PathBuf>,
}

impl Held {
    pub(super) fn new(claim: Claim, max_attempts: u32) -> Self {
        Self {
            claim: Some(claim),
            max_attempts,
            saved: None,
        }
    }

    pub(super) fn claim(&self) -> &Claim {
        #[expect(
            clippy::expect_used,
            reason = "taken only by finish, give_back and drop"
        )]
        self.claim.as_ref().expect("held until finished")
    }

    /// The upload's id: the idempotency key, since delivery is at least once.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.claim().id()
    }

    /// The upload's record.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.claim().record()
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.claim().attempt()
    }

    /// The data, for reading in place.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.claim().path()
    }

    /// Shows that the upload is still worked on. On a network filesystem to be called more often
    /// than every `rules.lease`; elsewhere the lock shows it.
    ///
    /// # Errors
    /// As utimensat(2); missing if the claim was lost.
    pub fn beat(&self) -> Result<(), DiskError> {
        self.claim().beat()
    }

    /// Gives the data the name `to`, durably: a link on the same filesystem, else a copy.
    ///
    /// # Errors
    /// That it was saved before, that the name is taken, or as link(2), write(2), fsync(2).
    pub fn save(&mut self, to: &Path) -> Result<(), SaveError> {
        if self.saved.is_some() {
            return Err(SaveError::Twice(self.id()));
        }
        let from = self.path();
        let saved = match durable::link(&from, to) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => self.copy(to),
            result => result,
        };
        match saved {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(SaveError::Taken(to.to_owned()));
            }
            result => result?,
        }
        durable::sync_directory(parent(to))?;
        self.saved = Some(to.to_owned());
        Ok(())
    }

    fn copy(&self, to: &Path) -> Result<(), DiskError> {
        let part = to.with_file_name(format!(".{}.part", self.id()));
        let mut source = self.claim().data();
        source.rewind().on("read", &self.path())?;
        let mut target = File::create(&part).on("create", &part)?;
        let copied = std::io::copy(&mut source, &mut target)
            .on("copy", &part)
            .and_then(|_| durable::sync_data(&target, &part))
            .and_then(|()| durable::rename_noreplace(&part, to));
        if copied.is_err() {
            durable::unlink(&part)?;
        }
        copied
    }

    /// Writes the record, as the spool has it, beside what was saved or anywhere else.
    ///
    /// # Errors
    /// That the name is taken, or as write(2) and fsync(2).
    pub fn save_record(&self, to: &Path) -> Result<(), SaveError> {
        let mut file = match durable::create_new(to, self.claim().spool().file_mode()) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(SaveError::Taken(to.to_owned()));
            }
            result => result?,
        };
        file.write_all(&self.record().to_bytes()).on("write", to)?;
        durable::sync_data(&file, to)?;
        Ok(durable::sync_directory(parent(to))?)
    }

    /// The upload has been processed: its data leaves the spool, a receipt stays.
    ///
    /// # Errors
    /// As settling; the upload is delivered again then.
    pub fn finish(mut self) -> Result<Settled, DiskError> {
        let destination = self
            .saved
            .take()
            .map(|path| path.to_string_lossy().into_owned());
        match self.claim.take() {
            Some(claim) => claim.delivered(destination, None, UnixTime::now()),
            None => Ok(Settled::Lost),
        }
    }

    /// The upload goes back to the queue, the attempt not counted.
    ///
    /// # Errors
    /// As settling.
    pub fn give_back(mut self) -> Result<Settled, DiskError> {
        self.claim.take().map_or(Ok(Settled::Lost), Claim::put_back)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else {
            return;
        };
        let (id, now) = (claim.id(), UnixTime::now());
        let attempt = Attempt {
            n: claim.attempt(),
            started_at: claim.state().claimed_at,
            ended_at: now,
            host: claim.state().host.clone(),
            pid: claim.state().pid,
            error: "dropped without being saved".to_owned(),
            ..Attempt::default()
        };
        let settled = if let Some(path) = self.saved.take() {
            claim.delivered(Some(path.to_string_lossy().into_owned()), None, now)
        } else if self.max_attempts <= claim.attempt() {
            claim.dead(Some(attempt), "all attempts are used up", now)
        } else {
            claim.retry(attempt, now.as_secs())
        };
        if let Err(error) = settled {
            tracing::warn!(upload_id = %id, "{error}");
        }
    }
}

/// The directory in which a name lies.
fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}
