//! The files of an upload that this process may write to.
//!
//! Positions and watermarks are the callers' business; what is on disk, and in which order it gets
//! there, is `shared::receive`'s. Here the two meet: the data can be written while the watermark is
//! being moved on another thread.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::durable::DiskError;
use shared::id::UploadId;
use shared::layout::Dir;
use shared::receive::{Moved, NewData, Receiving, Resting};
use shared::record::{Finish, Record};
use shared::size::{Length, Offset};
use shared::spool::Spool;
use shared::time::UnixTime;

use crate::events::Events;
use crate::events::event::{Detail, Kind};

/// Data and record of one upload, in the hands of the holder of its lock.
#[derive(Debug)]
pub(crate) struct Ledger {
    spool: Arc<Spool>,
    /// Shares the lock with `files`; `None` while the upload rests.
    data: Option<Arc<File>>,
    path: PathBuf,
    files: Mutex<Files>,
    /// Who is told what comes of it.
    events: Option<(Arc<Events>, UploadId)>,
    direct_io: bool,
}

/// How far an upload has come.
#[derive(Debug)]
enum Files {
    /// Only the data is there. The record comes with the first publication, or with the hand-over
    /// if that is first: an upload that comes whole needs three syncs and no second name.
    New(NewData, Box<Record>),
    /// Data and record.
    Receiving(Box<Receiving>),
    /// Neither is open: the client is silent.
    Resting(Box<Resting>),
    /// Handed over, or half created: nothing can be done with it here.
    Closed,
    /// A publication failed. Another sync would answer that lost bytes are safe, so there is none,
    /// whoever asks: the writer at its end, or a task that was dropped while this was going on.
    Failed(io::ErrorKind),
}

impl Files {
    /// Where the watermark stands.
    fn offset(&self) -> Offset {
        match self {
            Self::Receiving(receiving) => receiving.record().offset,
            Self::Resting(resting) => resting.record().offset,
            Self::New(..) | Self::Closed | Self::Failed(_) => Offset(0),
        }
    }
}

/// An upload that was handed over but for the last sync.
struct Handed {
    moved: Moved,
    /// Where it stood before; `None` if it was new.
    from: Option<Offset>,
}

/// Why a writer that paused cannot go on.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Another process has the upload, or has had it.
    ToAnother,
    /// The files could not be looked at.
    Unreadable(DiskError),
}

impl Ledger {
    /// An upload that has just been given its data file.
    pub(crate) fn of_new(spool: &Arc<Spool>, new: NewData, record: Record) -> Self {
        let (data, path) = (new.share_data(), new.data_path());
        Self::of(spool, data, path, Files::New(new, Box::new(record)))
    }

    /// An upload that was opened to go on with.
    pub(crate) fn of_receiving(spool: &Arc<Spool>, receiving: Box<Receiving>) -> Self {
        let (data, path) = (receiving.share_data(), receiving.data_path());
        Self::of(spool, data, path, Files::Receiving(receiving))
    }

    fn of(spool: &Arc<Spool>, data: Arc<File>, path: PathBuf, files: Files) -> Self {
        Self {
            spool: Arc::clone(spool),
            data: Some(data),
            path,
            files: Mutex::new(files),
            events: None,
            direct_io: false,
        }
    }

    /// Raises an event for everything that happens to it from now on.
    pub(crate) fn told_to(mut self, events: &Arc<Events>, id: UploadId) -> Self {
        self.events = Some((Arc::clone(events), id));
        self
    }

    /// Lets large bodies be written past the page cache, if that is `wanted`.
    pub(crate) fn with_direct_io(mut self, wanted: bool) -> Self {
        self.direct_io = wanted;
        self
    }

    fn raise(&self, kind: Kind, record: &Record) {
        if let Some((events, id)) = &self.events {
            events.raise(kind, *id, record, Detail::None);
        }
    }

    fn progress(&self, record: &Record, from: Offset) {
        let bytes = record.offset.0.saturating_sub(from.0);
        if let Some((events, id)) = self.events.as_ref().filter(|_| 0 < bytes) {
            events.progress_by(*id, record, bytes);
        }
    }

    /// The data file's path, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The data file.
    ///
    /// # Errors
    /// That the upload rests.
    pub(crate) fn data(&self) -> Result<&File, DiskError> {
        let resting = || DiskError::new("use", &self.path, io::ErrorKind::NotConnected.into());
        self.data.as_deref().ok_or_else(resting)
    }

    /// Whether a publication waits for the disk.
    pub(crate) fn syncs(&self) -> bool {
        self.spool.durability().syncs_patches()
    }

    /// Whether large bodies are written past the page cache: where a client waits for the disk,
    /// at the latest in the end, unless that is not wanted.
    pub(crate) fn writes_directly(&self) -> bool {
        self.direct_io && self.spool.durability().syncs_finish()
    }

    /// The record as it stands; `None` once the upload was handed over.
    pub(crate) fn record(&self) -> Option<Record> {
        match &*self.files() {
            Files::New(_, record) => Some(Record::clone(record)),
            Files::Receiving(receiving) => Some(receiving.record().clone()),
            Files::Resting(resting) => Some(resting.record().clone()),
            Files::Closed | Files::Failed(_) => None,
        }
    }

    /// Notes a length that has just become known; durable with the next publication.
    ///
    /// # Errors
    /// As pwrite(2).
    pub(crate) fn set_length(&self, length: Length) -> Result<(), DiskError> {
        match &mut *self.files() {
            Files::New(_, record) => record.length = Some(length),
            Files::Receiving(receiving) => receiving.set_length(length)?,
            Files::Resting(_) | Files::Closed | Files::Failed(_) => {}
        }
        Ok(())
    }

    /// Notes whether the client has said that the upload ends with what it sends now; durable with
    /// the next publication.
    ///
    /// # Errors
    /// As pwrite(2).
    pub(crate) fn set_flagged(&self, flagged: bool) -> Result<(), DiskError> {
        match &mut *self.files() {
            Files::New(_, record) => record.flagged = flagged,
            Files::Receiving(receiving) => receiving.set_flagged(flagged)?,
            Files::Resting(_) | Files::Closed | Files::Failed(_) => {}
        }
        Ok(())
    }

    /// Notes the digest of the whole content; durable with the hand-over.
    ///
    /// # Errors
    /// As pwrite(2).
    pub(crate) fn set_digest(&self, digest: String) -> Result<(), DiskError> {
        match &mut *self.files() {
            Files::New(_, record) => record.digest = Some(digest),
            Files::Receiving(receiving) => receiving.set_digest(digest)?,
            Files::Resting(_) | Files::Closed | Files::Failed(_) => {}
        }
        Ok(())
    }

    /// Moves the watermark to `upto`, which must have been written. As durable as the mode
    /// promises.
    ///
    /// # Errors
    /// Then the watermark stays where it was, and nothing above it may count any more: the kernel
    /// reports lost bytes once and answers 0 the next time. An upload that was new is removed.
    pub(crate) fn publish(&self, upto: Offset) -> Result<(), DiskError> {
        let mut files = self.files();
        let was_new = matches!(*files, Files::New(..));
        let published = self.publish_to(&mut files, upto);
        if let Err(error) = &published {
            let left = std::mem::replace(&mut *files, Files::Failed(error.kind()));
            if let (true, Files::Receiving(receiving)) = (was_new, left) {
                receiving.undo_creation();
            }
        }
        published
    }

    fn publish_to(&self, files: &mut Files, upto: Offset) -> Result<(), DiskError> {
        let was_new = matches!(*files, Files::New(..));
        let from = files.offset();
        *files = match std::mem::replace(files, Files::Closed) {
            Files::New(new, record) => Files::Receiving(Box::new(new.into_receiving(*record)?)),
            found => found,
        };
        let receiving = match files {
            Files::Receiving(receiving) => receiving,
            Files::Failed(kind) => return Err(self.has_failed(*kind)),
            Files::New(..) | Files::Resting(_) | Files::Closed => return Ok(()),
        };
        if was_new && upto.0 == 0 {
            receiving.sync_creation()?;
        } else {
            receiving.advance(upto, UnixTime::now())?;
            self.sync_names_if(was_new)?;
        }
        if was_new {
            self.raise(Kind::Created, receiving.record());
        }
        self.progress(receiving.record(), from);
        Ok(())
    }

    fn sync_names_if(&self, was_new: bool) -> Result<(), DiskError> {
        match was_new && self.spool.durability().syncs_patches() {
            true => self.spool.sync_dir(Dir::Uploads),
            false => Ok(()),
        }
    }

    /// Whether there is no record yet.
    pub(crate) fn is_new(&self) -> bool {
        matches!(&*self.files(), Files::New(..))
    }

    /// Makes a creation without bytes durable. The files are given up with it. `done` is called on
    /// whichever thread syncs, and must not block.
    pub(crate) fn create_then(
        self: Arc<Self>,
        done: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) {
        let found = std::mem::replace(&mut *self.files(), Files::Closed);
        let made = match found {
            Files::New(new, record) => new.into_receiving(*record).map(Some),
            Files::Failed(kind) => Err(self.has_failed(kind)),
            Files::Receiving(_) | Files::Resting(_) | Files::Closed => Ok(None),
        };
        let told = move |result: Result<Option<Record>, DiskError>| {
            let result = result.map(|record| {
                record
                    .iter()
                    .for_each(|record| self.raise(Kind::Created, record));
            });
            drop(self);
            done(result);
        };
        match made {
            Ok(Some(receiving)) => {
                receiving.sync_creation_then(move |settled| told(settled.map(Some)));
            }
            Ok(None) => told(Ok(None)),
            Err(error) => told(Err(error)),
        }
    }

    /// Hands the upload over, complete at `length`. `done` is called on whichever thread syncs, and
    /// must not block.
    ///
    /// If that fails, whoever looks next goes on from there (`shared::handover::recover`).
    pub(crate) fn hand_over_then(
        self: Arc<Self>,
        length: Length,
        done: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) {
        let moved = self.move_over(length);
        let told = move |result: Result<Option<(Record, Option<Offset>)>, DiskError>| {
            let result = result.map(|handed| {
                handed
                    .iter()
                    .for_each(|(record, from)| self.has_handed_over(record, *from));
            });
            drop(self);
            done(result);
        };
        match moved {
            Ok(Some(Handed { moved, from })) => {
                moved.settle_then(move |settled| told(settled.map(|record| Some((record, from)))));
            }
            Ok(None) => told(Ok(None)),
            Err(error) => told(Err(error)),
        }
    }

    /// Takes all the steps of a hand-over but the last, the sync that many share. `None` if there
    /// is nothing to hand over any more.
    fn move_over(&self, length: Length) -> Result<Option<Handed>, DiskError> {
        let now = UnixTime::now();
        let found = std::mem::replace(&mut *self.files(), Files::Closed);
        let (moved, from) = match found {
            Files::New(new, mut record) => {
                record.offset = Offset(length.0);
                record.length = Some(length);
                record.flagged |= record.rest.finish == Finish::AtFlag;
                record.last_write = now;
                (new.move_over(*record, now)?, None)
            }
            Files::Receiving(mut receiving) => {
                if receiving.record().length != Some(length) {
                    receiving.set_length(length)?;
                }
                if receiving.record().rest.finish == Finish::AtFlag {
                    receiving.set_flagged(true)?;
                }
                let from = receiving.record().offset;
                (receiving.move_over(Offset(length.0), now)?, Some(from))
            }
            Files::Resting(_) | Files::Closed => return Ok(None),
            Files::Failed(kind) => return Err(self.has_failed(kind)),
        };
        Ok(Some(Handed { moved, from }))
    }

    fn has_handed_over(&self, record: &Record, from: Option<Offset>) {
        if from.is_none() {
            self.raise(Kind::Created, record);
        }
        self.progress(record, from.unwrap_or(Offset(0)));
        self.raise(Kind::Completed, record);
    }

    fn has_failed(&self, kind: io::ErrorKind) -> DiskError {
        DiskError::new("publish after a failure", &self.path, kind.into())
    }

    /// Lets other processes have the upload while nothing comes; whether they may now. The files
    /// are closed as well if every byte that came is below the watermark, unless its sync is still
    /// to come: a write-back that fails before is told only to who had the file open.
    pub(crate) fn pause(&mut self, all_published: bool) -> bool {
        let durability = self.spool.durability();
        let syncs_later = durability.syncs_finish() && !durability.syncs_patches();
        let files = self.files.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (left, paused) = match std::mem::replace(files, Files::Closed) {
            Files::Receiving(receiving) if all_published && !syncs_later => {
                match receiving.rest() {
                    Ok(resting) => {
                        self.data = None;
                        (Files::Resting(Box::new(resting)), true)
                    }
                    Err(receiving) => (Files::Receiving(receiving), false),
                }
            }
            Files::Receiving(receiving) => {
                let paused = receiving.pause().is_ok();
                (Files::Receiving(receiving), paused)
            }
            left => (left, false),
        };
        *files = left;
        paused
    }

    /// Takes the lock again, and only if the upload is as it was left.
    ///
    /// # Errors
    /// [`Lost::ToAnother`] if not.
    pub(crate) fn resume(&mut self) -> Result<(), Lost> {
        let files = self.files.get_mut().unwrap_or_else(PoisonError::into_inner);
        let resumed = match files {
            Files::Receiving(receiving) => receiving.resume(),
            Files::Resting(resting) => resting.resume().map(|resumed| {
                let Some(receiving) = resumed else {
                    return false;
                };
                self.data = Some(receiving.share_data());
                *files = Files::Receiving(Box::new(receiving));
                true
            }),
            Files::New(..) | Files::Closed | Files::Failed(_) => return Ok(()),
        };
        match resumed {
            Ok(true) => Ok(()),
            Ok(false) => Err(Lost::ToAnother),
            Err(error) => Err(Lost::Unreadable(error)),
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    /// Closing would do, were it not for commands that are being started at this moment: until it
    /// executes its program, a new process has all our descriptors, and with them the lock.
    fn drop(&mut self) {
        let data = self.data.as_ref();
        if let Some(Err(error)) = data.map(|data| data.unlock()) {
            tracing::debug!(%error, "not unlocked; closing does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::failpoint;
    use shared::id::UploadId;
    use shared::lookup::{self, State};
    use shared::spool::Options;

    use super::*;

    fn open_ledger(dir: &tempfile::TempDir) -> (Arc<Spool>, UploadId, Ledger) {
        let spool = Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap());
        let record = Record::new(Some(Length(5)), UnixTime::now());
        let receiving = NewData::create(&spool)
            .unwrap()
            .into_receiving(record)
            .unwrap();
        let id = receiving.id();
        let ledger = Ledger::of_receiving(&spool, Box::new(receiving));
        (spool, id, ledger)
    }

    #[test]
    fn after_a_failed_publication_nothing_is_published_or_handed_over() {
        use std::os::unix::fs::FileExt as _;

        let dir = tempfile::tempdir().unwrap();
        let (spool, id, ledger) = open_ledger(&dir);
        ledger.data().unwrap().write_all_at(b"hello", 0).unwrap();
        {
            let _failing = failpoint::scoped("advance.data_synced=error:EIO").unwrap();
            assert!(ledger.publish(Offset(5)).is_err());
        }
        // The kernel would say yes to all of these now.
        assert!(ledger.publish(Offset(5)).is_err());
        let (tell, told) = std::sync::mpsc::channel();
        let ledger = Arc::new(ledger);
        ledger.hand_over_then(Length(5), move |result| tell.send(result).unwrap());
        assert!(told.recv().unwrap().is_err());
        let found = lookup::find(&spool, id).unwrap().unwrap();
        assert_eq!(
            (found.state(), found.record.offset),
            (State::Receiving, Offset(0))
        );
    }
}
