//! Which final uploads wait for their parts, and the task that assembles them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::id::UploadId;
use shared::spool::Spool;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::assemble::{Assembly, assemble};
use crate::digests::Digests;
use crate::events::Events;

/// How many are assembled at a time: each is bound by the disk.
const CONCURRENT_MAX: usize = 2;
/// How often to look at those that wait: their parts may be completed by other processes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Final uploads that this process has seen and that were not complete then. The truth about them
/// is in their records; who is forgotten here is found again at the next start or HEAD.
pub(crate) struct Assembler {
    spool: Arc<Spool>,
    digests: Arc<Digests>,
    waiting: Mutex<HashSet<UploadId>>,
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

    /// Takes note of a final upload that is not complete.
    pub(crate) fn add(&self, id: UploadId) {
        if self.waiting().insert(id) {
            self.wake.notify_one();
        }
    }

    /// A part has been completed: somebody may have waited for it.
    pub(crate) fn part_completed(&self) {
        if !self.waiting().is_empty() {
            self.wake.notify_one();
        }
    }

    /// Assembles what there is, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let waiting: Vec<_> = self.waiting().iter().copied().collect();
            if waiting.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let tries: Vec<_> = waiting.into_iter().map(|id| self.try_one(id)).collect();
            for one in tries {
                if let Err(error) = one.await {
                    tracing::error!(%error, "assembling panicked");
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn try_one(self: &Arc<Self>, id: UploadId) -> tokio::task::JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_slot) = this.slots.acquire().await else {
                return;
            };
            let (spool, digests) = (Arc::clone(&this.spool), Arc::clone(&this.digests));
            match spawn_blocking(move || assemble(&spool, &digests, id)).await {
                Ok(Ok(Assembly::Waiting | Assembly::Busy)) => {}
                Ok(Ok(Assembly::Done)) => {
                    this.events.owe(id);
                    this.waiting().remove(&id);
                }
                Ok(Ok(Assembly::Impossible)) | Err(_) => {
                    this.waiting().remove(&id);
                }
                Ok(Err(error)) => {
                    tracing::error!(upload_id = %id, %error, "cannot assemble; tried again later");
                }
            }
        })
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<UploadId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
