//! Something found out by a blocking function: at most one at a time, kept for a while.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// The last answer of a function that may take long, or for ever on a dead network filesystem.
pub(crate) struct Look<T> {
    look: Arc<dyn Fn() -> T + Send + Sync>,
    last: watch::Sender<Option<Arc<Seen<T>>>>,
    free: Arc<Semaphore>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    /// When it was complete.
    pub(crate) at: Instant,
    /// How long it took to find out.
    pub(crate) took: Duration,
    /// What was found.
    pub(crate) value: T,
}

impl<T: Send + Sync + 'static> Look<T> {
    pub(crate) fn new(look: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            look: Arc::new(look),
            last: watch::Sender::new(None),
            free: Arc::new(Semaphore::new(1)),
        }
    }

    /// The last answer, however old it is.
    pub(crate) fn last(&self) -> Option<Arc<Seen<T>>> {
        self.last.borrow().clone()
    }

    /// An answer that is `fresh`: the last one, or a new one if that comes within `patience`;
    /// otherwise the last one all the same. A look once begun goes on after that, and no second
    /// one begins beside it.
    pub(crate) async fn now(
        &self,
        fresh: impl Fn(&Seen<T>) -> bool,
        patience: Duration,
    ) -> Option<Arc<Seen<T>>> {
        let is_fresh = |seen: &Option<Arc<Seen<T>>>| seen.as_deref().is_some_and(&fresh);
        let mut news = self.last.subscribe();
        if !is_fresh(&news.borrow()) {
            self.begin();
        }
        // Whether it came in time or not, the answer is the last one.
        timeout(patience, news.wait_for(is_fresh)).await.ok();
        self.last()
    }

    fn begin(&self) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            return;
        };
        let look = Arc::clone(&self.look);
        let last = self.last.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let value = look();
            // Before the news: who is woken by it and wants a newer answer must be able to begin.
            drop(permit);
            last.send_replace(Some(Arc::new(Seen {
                at: Instant::now(),
                took: began.elapsed(),
                value,
            })));
        });
    }
}

impl<T: fmt::Debug> fmt::Debug for Look<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("last", &self.last).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    fn counting() -> Look<usize> {
        let count = AtomicUsize::new(0);
        Look::new(move || count.fetch_add(1, Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_fresh_answer_is_given_again() {
        let look = counting();
        assert!(look.last().is_none());
        for _ in 0..3 {
            assert_eq!(look.now(|_| true, AN_HOUR).await.unwrap().value, 0);
        }
        let newer = look.now(|seen| seen.value == 1, AN_HOUR).await;
        assert_eq!(newer.unwrap().value, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_look_that_hangs_is_not_joined_by_others() {
        let gate = Arc::new(Barrier::new(2));
        let begun = Arc::new(AtomicUsize::new(0));
        let look = Look::new({
            let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                gate.wait();
            }
        });
        for _ in 0..5 {
            assert!(look.now(|_| true, Duration::from_millis(1)).await.is_none());
        }
        gate.wait();
        assert!(look.now(|_| true, AN_HOUR).await.is_some());
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }
}
