//! Tells the operator's programs what happens to uploads.
//!
//! Events are raised where they happen and never wait there: each goes into a bounded queue, and
//! if that is full it is dropped and counted. The queue has lanes, one message at a time each, and
//! all messages about one upload go through one lane: they are told in their order, and a listener
//! that hangs holds up a lane for no longer than the timeout.
//!
//! `completed` and `expired` are owed instead: their markers in the spool's outbox survive kills
//! and are gone only once everyone has been told ([`outbox`]).

pub(crate) mod event;
pub(crate) mod outbox;
pub(crate) mod teller;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use shared::id::UploadId;
use shared::record::Record;
use shared::spool::Spool;
use shared::time::UnixTime;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use self::event::{Detail, Event, Kind};
use self::outbox::{Marker, Outbox};
use self::teller::{Teller, Told};

/// Listeners called at a time, for events that are not owed.
const LANES: usize = 8;
/// Messages that wait in one lane: a few hundred KiB at most.
const LANE_LEN: usize = 256;
/// Between two `progress` events about one upload.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Uploads whose last `progress` is remembered; beyond it, those of idle ones are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// Between two lines in the log about dropped events.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Everything that happens to uploads in this process passes through here.
pub(crate) struct Events {
    teller: Arc<Teller>,
    outbox: Arc<Outbox>,
    lanes: OnceLock<Vec<mpsc::Sender<Message>>>,
    progress: Mutex<HashMap<UploadId, Progress>>,
    dropped: Mutex<Dropped>,
}

enum Message {
    Tell(Event),
    /// Answered when everything before it has been told.
    Reached(oneshot::Sender<()>),
}

/// What has not been told of an upload's progress.
struct Progress {
    told: Instant,
    bytes: u64,
}

#[derive(Default)]
struct Dropped {
    events: u64,
    complained: Option<Instant>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Nothing is told before [`Self::start`].
    pub(crate) fn new(spool: Arc<Spool>, teller: Teller) -> Arc<Self> {
        let teller = Arc::new(teller);
        Arc::new(Self {
            outbox: Arc::new(Outbox::new(spool, Arc::clone(&teller))),
            teller,
            lanes: OnceLock::new(),
            progress: Mutex::default(),
            dropped: Mutex::default(),
        })
    }

    /// Begins to tell, on the runtime that this is called in: what is owed from before, and what
    /// is raised from now on.
    pub(crate) fn start(self: &Arc<Self>) {
        if !self.announces() {
            self.outbox.start_forgetting(&Handle::current());
        }
        if !Kind::ALL.into_iter().any(|kind| self.teller.wants(kind)) {
            return;
        }
        let lanes = (0..LANES).map(|_| {
            let (sender, receiver) = mpsc::channel(LANE_LEN);
            tokio::spawn(serve(Arc::clone(&self.teller), receiver));
            sender
        });
        if self.lanes.set(lanes.collect()).is_ok() && self.announces() {
            self.outbox.start(Handle::current());
        }
    }

    /// Whether the record of a new upload must say that its completion is to be told: then every
    /// program leaves the marker at the hand-over.
    pub(crate) fn announces(&self) -> bool {
        self.teller.wants(Kind::Completed) || self.teller.wants(Kind::Expired)
    }

    /// Raises an event about an upload, as its record stands.
    pub(crate) fn raise(&self, kind: Kind, upload: UploadId, record: &Record, detail: Detail<'_>) {
        match detail {
            Detail::Failure(code, text) => {
                tracing::error!(target: "events", event = %kind, upload_id = %upload, code, text, "failed");
            }
            Detail::Progress(_) | Detail::None => {
                let (offset, length) = (record.offset.0, record.length.map(|length| length.0));
                tracing::info!(target: "events", event = %kind, upload_id = %upload, offset, length, "event");
            }
        }
        if kind != Kind::Progress && kind != Kind::Created {
            self.progress().remove(&upload);
        }
        if !self.teller.wants(kind) {
            return;
        }
        if kind == Kind::Completed && record.rest.announce {
            let reached = self.reached(upload);
            self.outbox.owe(upload, reached, Marker::MayBeMissing);
            return;
        }
        let event = Event::new(kind, upload, record, detail, UnixTime::now());
        self.send(upload, Message::Tell(event));
    }

    /// Raises `progress`, unless that was done less than a second ago: then the bytes are told
    /// with the next one.
    pub(crate) fn progress_by(&self, upload: UploadId, record: &Record, bytes: u64) {
        let now = Instant::now();
        let bytes = {
            let mut all = self.progress();
            if REMEMBERED_MAX <= all.len() {
                all.retain(|_, progress| now - progress.told < PROGRESS_EVERY);
            }
            let Some(known) = all.get_mut(&upload) else {
                all.insert(
                    upload,
                    Progress {
                        told: now,
                        bytes: 0,
                    },
                );
                drop(all);
                return self.raise(Kind::Progress, upload, record, Detail::Progress(bytes));
            };
            known.bytes += bytes;
            if now - known.told < PROGRESS_EVERY {
                return;
            }
            known.told = now;
            std::mem::take(&mut known.bytes)
        };
        self.raise(Kind::Progress, upload, record, Detail::Progress(bytes));
    }

    /// A hand-over was finished here, or an upload ended, that somebody else had begun.
    pub(crate) fn owe(&self, upload: UploadId) {
        self.outbox.owe(upload, None, Marker::MayBeMissing);
    }

    /// Waits until everything raised so far has been told or given up, at most for `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        let told = async {
            for lane in self.lanes.get().into_iter().flatten() {
                let (sender, reached) = oneshot::channel();
                if lane.send(Message::Reached(sender)).await.is_ok() {
                    reached.await.ok();
                }
            }
            self.outbox.settled().await;
        };
        if tokio::time::timeout(patience, told).await.is_err() {
            tracing::warn!("not every event was told; what is owed is told after the next start");
        }
    }

    /// Resolves when everything raised before about this upload has been told; `None` if that
    /// cannot be known.
    fn reached(&self, upload: UploadId) -> Option<oneshot::Receiver<()>> {
        let (sender, reached) = oneshot::channel();
        self.try_send(upload, Message::Reached(sender))
            .then_some(reached)
    }

    fn send(&self, upload: UploadId, message: Message) {
        if self.lanes.get().is_some() && !self.try_send(upload, message) {
            self.complain();
        }
    }

    fn try_send(&self, upload: UploadId, message: Message) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(upload);
        let lanes = self.lanes.get().map_or(&[][..], Vec::as_slice);
        let lane = usize::try_from(hash % LANES as u64).unwrap_or(0);
        lanes
            .get(lane)
            .is_some_and(|lane| lane.try_send(message).is_ok())
    }

    fn complain(&self) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.events += 1;
        let long_ago = |at: Instant| COMPLAIN_EVERY <= at.elapsed();
        if dropped.complained.is_none_or(long_ago) {
            dropped.complained = Some(Instant::now());
            let events = dropped.events;
            tracing::warn!(events, "events were dropped: the listeners are too slow");
        }
    }

    fn progress(&self) -> MutexGuard<'_, HashMap<UploadId, Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One lane, to its end.
async fn serve(teller: Arc<Teller>, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        match message {
            Message::Tell(event) => drop(teller.tell(&event, Told::default()).await),
            Message::Reached(sender) => drop(sender.send(())),
        }
    }
}
