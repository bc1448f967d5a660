//! Which final uploads wait for their parts, and the task that assembles them.

mod waiting;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::id::UploadId;
use shared::lookup;
use shared::spool::Spool;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use self::waiting::Waiting;
use crate::assemble::{Assembly, assemble};
use crate::digests::Digests;
use crate::events::Events;
use crate::events::event::{Detail, Kind};
use crate::tus::refusal::Refusal;

/// How many are assembled at a time: each is bound by the disk.
const CONCURRENT_MAX: usize = 2;
/// While nothing waits.
const IDLE: Duration = Duration::from_secs(3600);

/// Final uploads that this process has seen and that were not complete then. The truth about them
/// is in their records; who is forgotten here is found again at the next start or HEAD.
pub(crate) struct Assembler {
    spool: Arc<Spool>,
    digests: Arc<Digests>,
    waiting: Mutex<Waiting>,
    wake: Notify,
    slots: Arc<Semaphore>,
    events: Arc<Events>,
}

impl Assembler {
    pub(crate) fn new(spool: Arc<Spool>, digests: Arc<Digests>, events: Arc<Events>) -> Self {
        let slots = Arc::new(Semaphore::new(CONCURRENT_MAX));
        Self {
            spool,
            digests,
            waiting: Mutex::default(),
            wake: Notify::new(),
            slots,
            events,
        }
    }

    /// Takes note of a final upload that is not complete, and of its parts.
    pub(crate) fn add(&self, id: UploadId, parts: &[UploadId]) {
        if self.waiting().add(id, parts, Instant::now()) {
            self.wake.notify_one();
        }
    }

    /// A part has been completed: somebody may have waited for it, be it seen here or, as its
    /// record says, elsewhere.
    pub(crate) fn part_completed(&self, part: UploadId, named_by: Option<UploadId>) {
        if let Some(whole) = named_by {
            self.add(whole, &[part]);
        }
        if self.waiting().wake(&[part], None, Instant::now()) {
            self.wake.notify_one();
        }
    }

    /// Assembles what there is, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let due = self.waiting().due(Instant::now());
            let tries: Vec<_> = due.into_iter().map(|id| self.try_one(id)).collect();
            for one in tries {
                if let Err(error) = one.await {
                    tracing::error!(%error, "assembling panicked");
                }
            }
            let next = self.waiting().next();
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn try_one(self: &Arc<Self>, id: UploadId) -> JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_slot) = this.slots.acquire().await else {
                return;
            };
            let (spool, digests) = (Arc::clone(&this.spool), Arc::clone(&this.digests));
            match spawn_blocking(move || assemble(&spool, &digests, id)).await {
                Ok(Ok(Assembly::Waiting | Assembly::Busy)) => {
                    this.waiting().put_off(id, Instant::now());
                }
                Ok(Ok(Assembly::Done)) => {
                    this.forget(id);
                    this.events.owe(id);
                }
                Ok(Ok(Assembly::Impossible(why))) => {
                    this.forget(id);
                    this.tell_failed(id, &why);
                    this.events.owe(id);
                }
                Ok(Err(error)) => {
                    tracing::error!(upload_id = %id, %error, "cannot assemble; tried again later");
                    this.waiting().put_off(id, Instant::now());
                }
                Ok(Ok(Assembly::Over)) | Err(_) => this.forget(id),
            }
        })
    }

    /// It waits no more. Others may be made of the same parts: they look at once, so that the parts
    /// bear their names before anybody takes them for no longer needed.
    fn forget(&self, id: UploadId) {
        let mut waiting = self.waiting();
        let parts = waiting.remove(id);
        if waiting.wake(&parts, Some(id), Instant::now()) {
            self.wake.notify_one();
        }
    }

    fn tell_failed(&self, id: UploadId, why: &Refusal) {
        if let Ok(Some(found)) = lookup::find_once(&self.spool, id) {
            let text = why.to_string();
            let detail = Detail::Failure(why.code(), &text);
            self.events.raise(Kind::Failed, id, &found.record, detail);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
