//! The requests of this process that are writing, by upload: how others see and ask them.
//!
//! The lock on the data file keeps processes apart. Within one process that would be too blunt: a
//! client that has lost its connection comes back while the server still believes in the old one.
//! So a writer can be asked to publish what it has (HEAD then tells the client of every byte that
//! arrived) and, if nothing comes from its client, to stop (so that the new request goes on).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::id::UploadId;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A writer from whose client nothing came for so long may be stopped by one who has the right
/// offset: shorter than any client takes to notice, reconnect and ask; longer than the pauses of
/// one that is alive.
const SILENCE: Duration = Duration::from_millis(200);

/// How long to wait for a writer that was asked for something: it has two syncs to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// All writers of this process.
#[derive(Debug, Default)]
pub(crate) struct Writers(Mutex<HashMap<UploadId, Arc<Writer>>>);

/// One request that is writing, as the others see it.
#[derive(Debug)]
pub(crate) struct Writer {
    started: Instant,
    /// Bytes taken from the client, and when, in milliseconds after `started`.
    received: AtomicU64,
    last_byte_ms: AtomicU64,
    wishes: AtomicU8,
    wake: Notify,
    /// Counts what was published; closed when the writer is gone.
    published: watch::Receiver<u64>,
}

/// What somebody wants of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Move the watermark to what has arrived.
    Publish,
    /// The same, then give the upload up.
    Stop,
}

/// The writer's own end. While it lives, nobody else in this process writes to the upload.
#[derive(Debug)]
pub(crate) struct Seat {
    id: UploadId,
    writer: Arc<Writer>,
    published: watch::Sender<u64>,
    writers: Arc<Writers>,
}

/// Another request is receiving bytes for this upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl Writers {
    /// Takes the upload's seat; from a silent holder by asking it to leave.
    pub(crate) async fn take_seat(self: &Arc<Self>, id: UploadId) -> Result<Seat, Busy> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let holder = match self.try_seat(id) {
                Ok(seat) => return Ok(seat),
                Err(holder) => holder,
            };
            if deadline <= Instant::now() {
                return Err(Busy);
            }
            holder.leave(deadline).await?;
        }
    }

    /// Takes the seat or finds out who has it.
    fn try_seat(self: &Arc<Self>, id: UploadId) -> Result<Seat, Arc<Writer>> {
        let mut writers = self.lock();
        if let Some(holder) = writers.get(&id) {
            return Err(Arc::clone(holder));
        }
        let (published, receiver) = watch::channel(0);
        let writer = Arc::new(Writer::new(receiver));
        writers.insert(id, Arc::clone(&writer));
        Ok(Seat {
            id,
            writer,
            published,
            writers: Arc::clone(self),
        })
    }

    /// Has a writer of this upload publish what has arrived, if there is one.
    pub(crate) async fn publish(&self, id: UploadId, patience: Duration) {
        let writer = self.lock().get(&id).cloned();
        let Some(writer) = writer else { return };
        let mut published = writer.published.clone();
        published.mark_unchanged();
        writer.ask(Wish::Publish);
        // Late or gone: the caller reads the record either way.
        let answered = tokio::time::timeout(patience, published.changed()).await;
        tracing::trace!(%id, in_time = answered.is_ok(), "asked a writer to publish");
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Writer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn new(published: watch::Receiver<u64>) -> Self {
        Self {
            started: Instant::now(),
            received: AtomicU64::new(0),
            last_byte_ms: AtomicU64::new(0),
            wishes: AtomicU8::new(0),
            wake: Notify::new(),
            published,
        }
    }

    fn ask(&self, wish: Wish) {
        self.wishes.fetch_or(wish.bit(), Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// When this writer will have been silent for [`SILENCE`].
    fn silent_at(&self) -> Instant {
        self.started + Duration::from_millis(self.last_byte_ms.load(Ordering::Acquire)) + SILENCE
    }

    /// Returns once the writer is gone, having asked it to go if its client is silent.
    async fn leave(&self, deadline: Instant) -> Result<(), Busy> {
        let received = self.received.load(Ordering::Acquire);
        let mut published = self.published.clone();
        let gone = async { while published.changed().await.is_ok() {} };
        let mut gone = std::pin::pin!(gone);
        tokio::select! {
            () = &mut gone => return Ok(()),
            () = tokio::time::sleep_until(self.silent_at()) => {}
        }
        if self.received.load(Ordering::Acquire) != received {
            return Err(Busy);
        }
        self.ask(Wish::Stop);
        tokio::time::timeout_at(deadline, gone)
            .await
            .map_err(|_| Busy)
    }
}

impl Wish {
    const fn bit(self) -> u8 {
        match self {
            Self::Publish => 1,
            Self::Stop => 2,
        }
    }
}

impl Seat {
    /// Which upload it is.
    pub(crate) fn id(&self) -> UploadId {
        self.id
    }

    /// Notes bytes from the client.
    pub(crate) fn received(&self, bytes: u64) {
        let writer = &self.writer;
        let ms = u64::try_from(writer.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        writer.last_byte_ms.store(ms, Ordering::Release);
        writer.received.fetch_add(bytes, Ordering::AcqRel);
    }

    /// What somebody wants now; `Stop` outweighs `Publish`.
    pub(crate) fn take_wish(&self) -> Option<Wish> {
        if self.writer.wishes.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let wishes = self.writer.wishes.swap(0, Ordering::AcqRel);
        [Wish::Stop, Wish::Publish]
            .into_iter()
            .find(|wish| wishes & wish.bit() != 0)
    }

    /// Returns when somebody may want something. Cancel-safe.
    pub(crate) async fn wished(&self) {
        self.writer.wake.notified().await;
    }

    /// Tells who asked that the watermark stands where the bytes ended when they asked.
    pub(crate) fn has_published(&self) {
        self.published.send_modify(|count| *count += 1);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.writers.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test)
    }

    /// A writer that does what it is asked until it has to stop.
    fn serve(seat: Seat) -> tokio::task::JoinHandle<u32> {
        tokio::spawn(async move {
            let mut publications = 0;
            loop {
                match seat.take_wish() {
                    Some(Wish::Stop) => return publications,
                    Some(Wish::Publish) => {
                        publications += 1;
                        seat.has_published();
                    }
                    None => seat.wished().await,
                }
            }
        })
    }

    #[test]
    fn a_seat_is_taken_from_a_silent_writer() {
        paused(async {
            let (writers, id) = (Arc::new(Writers::default()), UploadId::generate());
            let first = serve(writers.take_seat(id).await.unwrap());
            let second = writers.take_seat(id).await.unwrap();
            assert_eq!(first.await.unwrap(), 0);
            drop(second);
        });
    }

    #[test]
    fn a_receiving_writer_is_never_robbed() {
        paused(async {
            let (writers, id) = (Arc::new(Writers::default()), UploadId::generate());
            let first = writers.take_seat(id).await.unwrap();
            let (second, ()) = tokio::join!(writers.take_seat(id), async { first.received(1) });
            assert_eq!(second.unwrap_err(), Busy);
            assert_eq!(first.take_wish(), None);
        });
    }

    #[test]
    fn a_writer_that_ends_by_itself_leaves_its_seat_to_who_waits() {
        paused(async {
            let (writers, id) = (Arc::new(Writers::default()), UploadId::generate());
            let first = writers.take_seat(id).await.unwrap();
            let (second, ()) = tokio::join!(writers.take_seat(id), async { drop(first) });
            assert!(second.is_ok());
        });
    }

    #[test]
    fn a_writer_publishes_when_asked_and_nobody_waits_for_one_that_is_gone() {
        paused(async {
            let (writers, id) = (Arc::new(Writers::default()), UploadId::generate());
            let hour = Duration::from_secs(3600);
            writers.publish(id, hour).await;
            let writer = serve(writers.take_seat(id).await.unwrap());
            writers.publish(id, hour).await;
            let seat = writers.take_seat(id).await.unwrap();
            assert_eq!(writer.await.unwrap(), 1);
            tokio::join!(writers.publish(id, hour), async { drop(seat) });
        });
    }

    #[test]
    fn uploads_do_not_hinder_each_other() {
        paused(async {
            let writers = Arc::new(Writers::default());
            let one = writers.take_seat(UploadId::generate()).await.unwrap();
            let two = writers.take_seat(UploadId::generate()).await.unwrap();
            one.received(1);
            two.received(1);
        });
    }
}
