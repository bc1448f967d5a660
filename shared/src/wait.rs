//! A consumer as a library: wait for a finished upload, hold it, save it, drop it.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc, time::Duration};
//! use shared::spool::{Options, Spool};
//! use shared::wait::Waiter;
//!
//! let spool = Arc::new(Spool::open(Path::new("/var/spool/tuspool"), Options::default())?);
//! let waiter = Waiter::new(spool);
//! while let Some(mut upload) = waiter.wait(Duration::from_secs(3600))? {
//!     let name = upload.id().to_string();
//!     upload.save(&Path::new("/srv/inbox").join(name))?;
//!     upload.finish()?; // a saved upload that is dropped is finished too, but tells no error
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any number of such programs and of `consumer` workers may share a spool: each upload is held by
//! one of them. An upload that is dropped unsaved (a panic, an early return) goes back to the
//! queue with its attempt counted, and to `failed/` once its attempts are used up.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::claim::{Claim, TryClaim, try_claim};
use crate::durable::{self, DiskError, OnPath};
use crate::id::UploadId;
use crate::layout::{DataAt, Dir, Entry};
use crate::orphan::{self, Rules};
use crate::record::{Attempt, Record};
use crate::settle::Settled;
use crate::spool::Spool;
use crate::time::UnixTime;

/// How often the spool is looked at while nothing is there.
pub const POLL: Duration = Duration::from_secs(1);

/// Attempts after which an upload is a dead letter, unless said otherwise.
pub const MAX_ATTEMPTS: u32 = 10;

/// Longest delay before another attempt, unless said otherwise.
pub const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// Waits for finished uploads.
#[derive(Debug, Clone)]
pub struct Waiter {
    spool: Arc<Spool>,
    /// By which rules claims of dead consumers go back to the queue.
    pub rules: Rules,
    /// How often the spool is looked at while nothing is there.
    pub poll: Duration,
    /// Longest delay that any consumer of the spool gives a failed upload. A time further ahead
    /// was not written by this clock: it has been set back since.
    pub delay_max: Duration,
}

impl Waiter {
    /// A waiter on a local spool; on a network filesystem set `rules.lease`, and call
    /// [`Held::beat`] while an upload is held.
    #[must_use]
    pub fn new(spool: Arc<Spool>) -> Self {
        let rules = Rules {
            lease: None,
            max_attempts: MAX_ATTEMPTS,
        };
        Self {
            spool,
            rules,
            poll: POLL,
            delay_max: DELAY_MAX,
        }
    }

    /// Blocks until an upload could be claimed, or `timeout` has passed.
    ///
    /// # Errors
    /// As listing, locking and renaming.
    pub fn wait(&self, timeout: Duration) -> Result<Option<Held>, DiskError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(held) = self.try_next()? {
                return Ok(Some(held));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(self.poll.min(left));
        }
    }

    /// Claims an upload if there is one. Claims of dead consumers go back to the queue on the way.
    ///
    /// # Errors
    /// As [`Self::wait`]. What is wrong with one upload is told only if no other could be claimed.
    pub fn try_next(&self) -> Result<Option<Held>, DiskError> {
        let now = UnixTime::now();
        let mut wrong = self.recover(now)?;
        for dir in [Dir::Completed, Dir::Deferred] {
            for entry in self.spool.entries(dir)? {
                let Entry::Data(id, at) = entry? else {
                    continue;
                };
                if !self.is_due(at, now) {
                    continue;
                }
                match try_claim(&self.spool, id, at, now) {
                    Ok(TryClaim::Claimed(claim)) => {
                        return Ok(Some(Held {
                            claim: Some(*claim),
                            rules: self.rules,
                            saved: None,
                        }));
                    }
                    Ok(TryClaim::Busy | TryClaim::Gone | TryClaim::Torn(_)) => {}
                    Err(error) => wrong = wrong.or(Some(error)),
                }
            }
        }
        wrong.map_or(Ok(None), Err)
    }

    /// Gives claims of dead consumers back. The first thing that was wrong with one of them.
    fn recover(&self, now: UnixTime) -> Result<Option<DiskError>, DiskError> {
        let mut wrong = None;
        for entry in self.spool.entries(Dir::Claimed)? {
            let looked = match entry? {
                Entry::Data(id, DataAt::Claimed(claim)) => {
                    orphan::recover(&self.spool, id, claim, self.rules, now).map(drop)
                }
                Entry::State(id, claim) => {
                    orphan::finish_settled(&self.spool, id, claim, now).map(drop)
                }
                _ => Ok(()),
            };
            wrong = wrong.or(looked.err());
        }
        Ok(wrong)
    }

    fn is_due(&self, at: DataAt, now: UnixTime) -> bool {
        match at {
            DataAt::Deferred(not_before) => {
                let now = now.as_secs();
                not_before <= now || now + self.delay_max.as_secs() + 1 < not_before
            }
            _ => true,
        }
    }
}

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
    claim: Option<Claim>,
    rules: Rules,
    saved: Option<PathBuf>,
}

impl Held {
    fn claim(&self) -> &Claim {
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
        sync_parent(to)?;
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
        Ok(sync_parent(to)?)
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
        } else if self.rules.max_attempts <= claim.attempt() {
            claim.dead(Some(attempt), "all attempts are used up", now)
        } else {
            claim.retry(attempt, now.as_secs())
        };
        if let Err(error) = settled {
            tracing::warn!(upload_id = %id, "{error}");
        }
    }
}

fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .on("sync", parent)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::id::ClaimId;
    use crate::layout::RecordAt;
    use crate::lookup::{self, State};
    use crate::receive::NewData;
    use crate::size::{Length, Offset};
    use crate::spool::Options;

    fn finished(dir: &Path) -> (Waiter, UploadId) {
        let spool = Arc::new(Spool::open(&dir.join("s"), Options::default()).unwrap());
        let new = NewData::create(&spool).unwrap();
        let id = new.id();
        new.data().write_all_at(b"hello", 0).unwrap();
        let mut record = Record::new(Some(Length(5)), UnixTime::now());
        record.offset = Offset(5);
        new.into_completed(record, UnixTime::now()).unwrap();
        (Waiter::new(spool), id)
    }

    fn state(waiter: &Waiter, id: UploadId) -> State {
        lookup::find(&waiter.spool, id).unwrap().unwrap().state()
    }

    #[test]
    fn an_upload_is_waited_for_saved_once_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (waiter, id) = finished(dir.path());
        let mut held = waiter.wait(Duration::ZERO).unwrap().unwrap();
        assert!(
            waiter.wait(Duration::ZERO).unwrap().is_none(),
            "it is held by one only"
        );
        let to = dir.path().join("a.txt");
        std::fs::write(dir.path().join("taken"), "").unwrap();
        let taken = held.save(&dir.path().join("taken"));
        assert!(matches!(taken, Err(SaveError::Taken(_))));
        held.save(&to).unwrap();
        held.save_record(&dir.path().join("a.txt.meta")).unwrap();
        assert!(matches!(held.save(&to), Err(SaveError::Twice(_))));
        assert_eq!(held.finish().unwrap(), Settled::Done);
        assert_eq!(std::fs::read(&to).unwrap(), b"hello");
        assert_eq!(state(&waiter, id), State::Delivered);
        let saved = std::fs::read(dir.path().join("a.txt.meta")).unwrap();
        assert_eq!(Record::from_bytes(&saved).unwrap().length, Some(Length(5)));
    }

    #[test]
    fn what_is_dropped_unsaved_comes_back_until_its_attempts_are_used_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mut waiter, id) = finished(dir.path());
        waiter.rules.max_attempts = 2;
        waiter
            .wait(Duration::ZERO)
            .unwrap()
            .unwrap()
            .give_back()
            .unwrap();
        for attempt in 1..=2 {
            let held = waiter.wait(Duration::ZERO).unwrap().unwrap();
            assert_eq!(held.attempt(), attempt);
        }
        assert!(waiter.wait(Duration::ZERO).unwrap().is_none());
        assert_eq!(state(&waiter, id), State::Failed);
    }

    #[test]
    fn what_is_wrong_with_one_upload_keeps_no_other_from_being_held() {
        let dir = tempfile::tempdir().unwrap();
        let (waiter, _) = finished(dir.path());
        let layout = waiter.spool.layout();
        // An orphaned claim, then data in the queue, whose records cannot even be looked at.
        let claim = ClaimId::generate();
        for at in [DataAt::Claimed(claim), DataAt::Completed] {
            let id = UploadId::generate();
            std::fs::write(layout.data(id, at), "x").unwrap();
            std::fs::create_dir(layout.record(id, RecordAt::Completed)).unwrap();
        }
        let held = waiter.try_next().unwrap().unwrap();
        held.finish().unwrap();
        let error = waiter.try_next().unwrap_err();
        assert!(
            error.path.extension().is_some_and(|x| x == "meta"),
            "{error}"
        );
    }

    #[test]
    fn a_delay_that_a_clock_set_back_has_made_long_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (waiter, id) = finished(dir.path());
        let now = UnixTime::now();
        for (ahead, due) in [(600, false), (3600, true)] {
            let claim = try_claim(&waiter.spool, id, DataAt::Completed, now).unwrap();
            let TryClaim::Claimed(claim) = claim else {
                panic!("{claim:?}")
            };
            claim
                .retry(Attempt::default(), now.as_secs() + ahead)
                .unwrap();
            let held = waiter.try_next().unwrap();
            assert_eq!(held.is_some(), due, "{ahead}");
            match held {
                Some(held) => drop(held.give_back()),
                None => drop(crate::operate::retry(&waiter.spool, id).unwrap()),
            }
        }
    }

    #[test]
    fn what_is_shown_to_live_is_not_taken_even_if_its_lock_was_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (mut waiter, _) = finished(dir.path());
        waiter.rules.lease = Some(Duration::from_secs(3600));
        let held = waiter.try_next().unwrap().unwrap();
        let claim = held.claim();
        let state = waiter.spool.layout().state(claim.id(), claim.claim_id());
        held.claim().lock.unlock(&held.path()).unwrap();
        assert!(waiter.try_next().unwrap().is_none());
        let before = std::fs::metadata(&state).unwrap().modified().unwrap();
        held.beat().unwrap();
        assert!(before <= std::fs::metadata(&state).unwrap().modified().unwrap());
        waiter.rules.lease = None;
        assert!(waiter.try_next().unwrap().is_some(), "back in the queue");
        assert!(held.beat().unwrap_err().is_missing());
    }

    #[test]
    fn dropping_what_was_saved_finishes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (waiter, id) = finished(dir.path());
        let mut held = waiter.wait(Duration::ZERO).unwrap().unwrap();
        held.save(&dir.path().join("x")).unwrap();
        drop(held);
        assert_eq!(state(&waiter, id), State::Delivered);
    }

    #[test]
    fn a_copy_to_another_filesystem_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("skipped: no /dev/shm");
            return;
        };
        let (waiter, _) = finished(dir.path());
        let mut held = waiter.wait(Duration::ZERO).unwrap().unwrap();
        held.save(&other.path().join("x")).unwrap();
        held.finish().unwrap();
        assert_eq!(std::fs::read(other.path().join("x")).unwrap(), b"hello");
        assert_eq!(
            std::fs::read_dir(other.path()).unwrap().count(),
            1,
            "no part is left"
        );
    }
}
