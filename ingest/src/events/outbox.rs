//! Events that are owed: told at least once, whoever is killed when.
//!
//! The hand-over leaves a marker in `outbox/` before the upload becomes visible as completed, and
//! so does the janitor when it lets an upload expire. This module locks the marker (so that two
//! processes rarely send the same event), sends the event to all listeners and removes the marker.
//! If the process is killed before the removal, the marker is found again by a process that starts,
//! or by one that runs, within a minute.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use shared::durable::{self, DiskError};
use shared::id::UploadId;
use shared::layout::{Dir, Entry};
use shared::lock::{DataLock, TryLock};
use shared::lookup::{self, Found, State};
use shared::spool::Spool;
use shared::time::UnixTime;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::event::{Detail, Event, Kind};
use super::teller::{Teller, Told};

/// How often the directory is looked through.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// Uploads seen to at a time; what is beyond stays in the directory until a later walk.
const OWED_MAX: usize = 10_000;
/// Events remembered as told; some 400 KiB.
const TOLD_MAX: usize = 10_000;
/// Listeners called at a time.
const JOBS: usize = 8;
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Looks at what is not finished, or in another process's hands, before it is left to a later walk.
const EARLY_MAX: u32 = 4;
/// Where nobody listens: how long markers are kept for other processes, and how often to look.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
const FORGET_EVERY: Duration = Duration::from_secs(3600);
const SETTLED_POLL: Duration = Duration::from_millis(20);

/// What is owed, as far as this process knows.
pub(crate) struct Outbox {
    spool: Arc<Spool>,
    teller: Arc<Teller>,
    owed: Mutex<HashSet<UploadId>>,
    /// Told of late. After a kill the walk at the start and whoever finishes the hand-over both come
    /// to tell, and the second one must not take the marker for one that never was.
    told: Mutex<HashSet<(UploadId, Kind)>>,
    jobs: Semaphore,
    runtime: OnceLock<Handle>,
}

/// Whether an event that is owed has left its marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// If it is not there any more, somebody else has told.
    IsThere,
    /// This process made what is to be told. On a full disk there may have been no room to note it:
    /// then it is told from memory.
    MayBeMissing,
}

/// What came of reaching for a marker.
enum Reach {
    /// It is ours, or never was; and the upload that it speaks of.
    Taken(Option<DataLock>, Option<Box<Found>>),
    /// Another process is telling, perhaps in vain.
    Busy,
    /// Another process has told.
    Gone,
}

/// What came of seeing to one marker.
enum Seen {
    /// Nothing is owed any more, or somebody else sees to it.
    Settled,
    /// Its hand-over is not finished, or another process is telling: somebody is at it, or will be.
    TooEarly,
    /// Not everyone could be told of this kind; those before it are done with.
    Failed(Kind, Told),
}

impl Outbox {
    pub(super) fn new(spool: Arc<Spool>, teller: Arc<Teller>) -> Self {
        Self {
            spool,
            teller,
            owed: Mutex::default(),
            told: Mutex::default(),
            jobs: Semaphore::new(JOBS),
            runtime: OnceLock::new(),
        }
    }

    /// Looks through the directory now and again and again.
    pub(super) fn start(self: &Arc<Self>, runtime: Handle) {
        let outbox = Arc::downgrade(self);
        let runtime = self.runtime.get_or_init(|| runtime);
        runtime.spawn(async move {
            while let Some(outbox) = Weak::upgrade(&outbox) {
                let walk = spawn_blocking(move || outbox.walk());
                if let Ok(Err(error)) = walk.await {
                    tracing::warn!(%error, "cannot look through the outbox");
                }
                sleep(WALK_EVERY).await;
            }
        });
    }

    /// Where nobody listens: forgets what is owed once it is old. Not at once, because other
    /// processes on this spool may have listeners.
    pub(super) fn start_forgetting(self: &Arc<Self>, runtime: &Handle) {
        let outbox = Arc::downgrade(self);
        runtime.spawn(async move {
            while let Some(outbox) = Weak::upgrade(&outbox) {
                let walk = spawn_blocking(move || outbox.forget(UnixTime::now()));
                match walk.await {
                    Ok(Ok(0)) | Err(_) => {}
                    Ok(Ok(events)) => {
                        tracing::warn!(events, "forgot what was owed: nobody listens any more");
                    }
                    Ok(Err(error)) => tracing::warn!(%error, "cannot look through the outbox"),
                }
                sleep(FORGET_EVERY).await;
            }
        });
    }

    /// Removes markers that are older than [`FORGET_AFTER`]; how many.
    fn forget(&self, now: UnixTime) -> Result<u64, DiskError> {
        let mut forgotten = 0;
        for entry in self.spool.entries(Dir::Outbox)? {
            let Entry::Event(upload) = entry? else {
                continue;
            };
            let marker = self.spool.layout().event(upload);
            let TryLock::Held(lock) = DataLock::try_lock(&marker)? else {
                continue;
            };
            let made = lock.file().metadata().and_then(|found| found.modified());
            let is_old = made.is_ok_and(|made| FORGET_AFTER < now.since(made.into()));
            if is_old && durable::unlink(&marker)? {
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    fn walk(self: &Arc<Self>) -> Result<(), DiskError> {
        for entry in self.spool.entries(Dir::Outbox)? {
            if let Entry::Event(upload) = entry?
                && !self.owe(upload, None, Marker::IsThere)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sees to an upload's marker, once `after` has come. `false` if there is too much to do.
    pub(super) fn owe(
        self: &Arc<Self>,
        upload: UploadId,
        after: Option<oneshot::Receiver<()>>,
        marker: Marker,
    ) -> bool {
        let Some(runtime) = self.runtime.get() else {
            return false;
        };
        {
            let mut owed = self.owed();
            if OWED_MAX <= owed.len() {
                return false;
            }
            if !owed.insert(upload) {
                return true;
            }
        }
        let outbox = Arc::clone(self);
        runtime.spawn(async move {
            if let Some(after) = after {
                timeout(outbox.teller.timeout, after).await.ok();
            }
            outbox.see_to(upload, marker).await;
            outbox.owed().remove(&upload);
        });
        true
    }

    /// Waits until nothing is owed of which this process knows. That may never be, where nobody can
    /// be told: whoever calls it sets a limit.
    pub(super) async fn settled(&self) {
        while !self.owed().is_empty() {
            sleep(SETTLED_POLL).await;
        }
    }

    async fn see_to(self: &Arc<Self>, upload: UploadId, mut marker: Marker) {
        let (mut delay, most) = BACKOFF;
        let (mut half_told, mut early) = (None, 0);
        loop {
            match self.try_to_tell(upload, half_told, &mut marker).await {
                Ok(Seen::Settled) => return,
                Ok(Seen::TooEarly) if early == EARLY_MAX => return,
                Ok(Seen::TooEarly) => early += 1,
                Ok(Seen::Failed(kind, told)) => half_told = Some((kind, told)),
                Err(error) => {
                    tracing::error!(upload_id = %upload, %error, "cannot tell what is owed")
                }
            }
            // Not all at once after an outage.
            sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            delay = (delay * 2).min(most);
        }
    }

    async fn try_to_tell(
        self: &Arc<Self>,
        upload: UploadId,
        half_told: Option<(Kind, Told)>,
        expected: &mut Marker,
    ) -> Result<Seen, DiskError> {
        let Ok(_job) = self.jobs.acquire().await else {
            return Ok(Seen::Settled);
        };
        let (outbox, mark) = (Arc::clone(self), *expected);
        let taken = spawn_blocking(move || outbox.take(upload, mark)).await;
        let (marker, found) = match taken.unwrap_or(Ok(Reach::Gone))? {
            Reach::Taken(marker, found) => (marker, found),
            Reach::Busy => return Ok(Seen::TooEarly),
            Reach::Gone => return Ok(Seen::Settled),
        };
        if marker.is_some() {
            // Should it be gone later, somebody else has told.
            *expected = Marker::IsThere;
        }
        let kinds = match found.as_deref().map(owed_kinds) {
            None => Vec::new(),
            Some(None) => return Ok(Seen::TooEarly),
            Some(Some(kinds)) => kinds,
        };
        if let Some(found) = &found {
            for (kind, before) in left_to_tell(&kinds, half_told) {
                let by_heart = marker.is_none();
                if !self.teller.wants(kind) || by_heart && self.told().contains(&(upload, kind)) {
                    continue;
                }
                let now = UnixTime::now();
                let event = Event::new(kind, upload, &found.record, Detail::None, now);
                let told = self.teller.tell(&event, before).await;
                if !told.all() {
                    return Ok(Seen::Failed(kind, told));
                }
                self.remember(upload, kind);
            }
        } else {
            tracing::warn!(upload_id = %upload, "an event was owed about an upload that is no more");
        }
        durable::unlink(&self.spool.layout().event(upload))?;
        drop(marker);
        Ok(Seen::Settled)
    }

    /// Locks a marker and looks its upload up.
    fn take(&self, upload: UploadId, expected: Marker) -> Result<Reach, DiskError> {
        let find = || Ok(lookup::find(&self.spool, upload)?.map(Box::new));
        Ok(
            match DataLock::try_lock(&self.spool.layout().event(upload))? {
                TryLock::Held(marker) => Reach::Taken(Some(marker), find()?),
                TryLock::Busy => Reach::Busy,
                TryLock::Missing if expected == Marker::MayBeMissing => {
                    match find()?.filter(|found| found.record.rest.announce) {
                        Some(found) => Reach::Taken(None, Some(found)),
                        None => Reach::Gone,
                    }
                }
                TryLock::Missing => Reach::Gone,
            },
        )
    }

    fn remember(&self, upload: UploadId, kind: Kind) {
        let mut told = self.told();
        if TOLD_MAX <= told.len() {
            told.clear();
        }
        told.insert((upload, kind));
    }

    fn told(&self) -> MutexGuard<'_, HashSet<(UploadId, Kind)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, HashSet<UploadId>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a marker owes, by what has become of its upload; `None` while that is not yet certain: the
/// marker comes before the hand-over.
fn owed_kinds(found: &Found) -> Option<Vec<Kind>> {
    let finished = found.record.finished_at.is_some();
    match found.state() {
        State::Receiving => None,
        State::Expired if finished => Some(vec![Kind::Completed, Kind::Expired]),
        State::Expired => Some(vec![Kind::Expired]),
        State::Terminated if !finished => Some(Vec::new()),
        State::Joined => Some(Vec::new()),
        State::Terminated
        | State::Queued
        | State::Processing
        | State::Deferred
        | State::Held
        | State::Delivered
        | State::Failed => Some(vec![Kind::Completed]),
    }
}

/// What is still to be told, and who knows each already, when the last attempt stopped at a kind.
fn left_to_tell(kinds: &[Kind], half_told: Option<(Kind, Told)>) -> Vec<(Kind, Told)> {
    let stopped_at = |kind: &Kind| half_told.is_some_and(|(stopped, _)| stopped == *kind);
    let first = kinds.iter().position(stopped_at).unwrap_or(0);
    let before = |kind: &Kind| match half_told {
        Some((stopped, told)) if stopped == *kind => told,
        _ => Told::default(),
    };
    kinds[first..].iter().map(|k| (*k, before(k))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shared::layout::RecordAt;
    use shared::receive::NewData;
    use shared::record::{Place, Record};
    use shared::size::{Length, Offset};
    use shared::spool::Options;

    use super::*;

    fn owed(at: RecordAt, place: Place, finished: bool) -> Option<Vec<Kind>> {
        let mut record = Record::new(Some(Length(0)), UnixTime::default());
        record.place = place;
        record.finished_at = finished.then(UnixTime::now);
        owed_kinds(&Found { at, record })
    }

    #[test]
    fn who_knows_of_one_event_is_still_told_of_the_next() {
        let (first, second) = (Kind::Completed, Kind::Expired);
        let (nobody, one) = (
            Told::default(),
            Told {
                command: true,
                endpoint: false,
            },
        );
        let both = [first, second];
        assert_eq!(
            left_to_tell(&both, None),
            [(first, nobody), (second, nobody)]
        );
        assert_eq!(
            left_to_tell(&both, Some((first, one))),
            [(first, one), (second, nobody)]
        );
        assert_eq!(left_to_tell(&both, Some((second, one))), [(second, one)]);
        // What was owed then need not be owed now.
        assert_eq!(
            left_to_tell(&[second], Some((first, one))),
            [(second, nobody)]
        );
        assert_eq!(left_to_tell(&[], Some((first, one))), []);
    }

    #[test]
    fn where_nobody_listens_only_old_markers_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap());
        let teller = Teller {
            command: None,
            endpoint: None,
            kinds: Vec::new(),
            timeout: Duration::from_secs(1),
        };
        let outbox = Outbox::new(Arc::clone(&spool), Arc::new(teller));
        let marker = spool.layout().event(UploadId::generate());
        let file = spool.create_file(&marker).unwrap();
        let now = std::time::SystemTime::now();
        for (age, forgotten) in [(FORGET_AFTER / 2, 0), (FORGET_AFTER * 2, 1)] {
            file.set_modified(now - age).unwrap();
            assert_eq!(outbox.forget(now.into()).unwrap(), forgotten, "{age:?}");
            assert_eq!(durable::stat(&marker).unwrap().is_none(), forgotten == 1);
        }
    }

    /// An outbox below `dir` that tells a command, and an upload whose completion is owed.
    fn owing(dir: &Path, command: &str) -> (Arc<Outbox>, UploadId) {
        let spool = Arc::new(Spool::open(&dir.join("s"), Options::default()).unwrap());
        let teller = Teller {
            command: Some(command.parse().unwrap()),
            endpoint: None,
            kinds: vec![Kind::Completed],
            timeout: Duration::from_secs(60),
        };
        let mut record = Record::new(Some(Length(0)), UnixTime::now());
        record.offset = Offset(0);
        record.rest.announce = true;
        let new = NewData::create(&spool).unwrap();
        let upload = new.id();
        new.into_completed(record, UnixTime::now()).unwrap();
        (Arc::new(Outbox::new(spool, Arc::new(teller))), upload)
    }

    #[tokio::test]
    async fn who_has_told_by_a_marker_does_not_tell_again_by_heart() {
        let dir = tempfile::tempdir().unwrap();
        let heard = dir.path().join("heard");
        let command = format!("/bin/sh -c 'echo once >>{}'", heard.display());
        let (outbox, upload) = owing(dir.path(), &command);
        // The walk of a start, and then whoever finished the hand-over meanwhile.
        for marker in [Marker::IsThere, Marker::MayBeMissing] {
            outbox.see_to(upload, marker).await;
            assert_eq!(std::fs::read_to_string(&heard).unwrap(), "once\n");
        }
        // What nobody has told yet is told, marker or not.
        outbox.told().clear();
        outbox.see_to(upload, Marker::MayBeMissing).await;
        assert_eq!(std::fs::read_to_string(&heard).unwrap(), "once\nonce\n");
    }

    #[tokio::test]
    async fn a_marker_in_other_hands_is_come_back_to() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, upload) = owing(dir.path(), "true");
        let marker = outbox.spool.layout().event(upload);
        let TryLock::Held(other) = DataLock::try_lock(&marker).unwrap() else {
            panic!("nobody else knows it");
        };
        let seen = outbox.try_to_tell(upload, None, &mut Marker::IsThere).await;
        assert!(matches!(seen, Ok(Seen::TooEarly)));
        drop(other);
        let seen = outbox.try_to_tell(upload, None, &mut Marker::IsThere).await;
        assert!(matches!(seen, Ok(Seen::Settled)));
        assert!(durable::stat(&marker).unwrap().is_none());
    }

    #[test]
    fn a_completion_is_owed_whatever_came_after_it_and_never_before() {
        use Place as P;
        assert_eq!(owed(RecordAt::Uploads, P::Uploads, true), None);
        for place in [P::Completed, P::Claimed, P::Deferred, P::Held] {
            for finished in [false, true] {
                let owed = owed(RecordAt::Completed, place, finished);
                assert_eq!(owed, Some(vec![Kind::Completed]), "{place:?}");
            }
        }
        for (at, place) in [
            (RecordAt::Failed, P::Failed),
            (RecordAt::Receipts, P::Delivered),
            (RecordAt::Receipts, P::Terminated),
        ] {
            assert_eq!(
                owed(at, place, true),
                Some(vec![Kind::Completed]),
                "{place:?}"
            );
        }
        let both = vec![Kind::Completed, Kind::Expired];
        assert_eq!(owed(RecordAt::Receipts, P::Expired, true), Some(both));
        assert_eq!(
            owed(RecordAt::Receipts, P::Expired, false),
            Some(vec![Kind::Expired])
        );
        assert_eq!(owed(RecordAt::Receipts, P::Terminated, false), Some(vec![]));
        assert_eq!(owed(RecordAt::Receipts, P::Joined, false), Some(vec![]));
    }
}
