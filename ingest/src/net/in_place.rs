//! A task that goes on where it is after it has woken itself.
//!
//! A connection wakes itself with every piece of a body: hyper's reader hands it to the request,
//! which asks for the next. Each such wake-up through the runtime's queue calls another worker,
//! which takes the task to another core and finds nothing of the body in its cache.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// So often before the runtime has its turn: what this task woke waits behind it.
const TURNS_MAX: usize = 4;

/// Runs a future that often wakes itself.
pub(crate) fn in_place<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut future = Box::pin(future);
    std::future::poll_fn(move |cx| bell.poll(&waker, future.as_mut(), cx))
}

/// Takes the wake-ups of one future.
#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    /// Whom to wake while the future is not being polled.
    outside: Mutex<Option<Waker>>,
}

impl Bell {
    fn poll<F: Future>(
        &self,
        waker: &Waker,
        mut future: Pin<&mut F>,
        outer: &mut Context<'_>,
    ) -> Poll<F::Output> {
        *self.outside() = None;
        for _ in 0..TURNS_MAX {
            // What was done before it rang is seen by the poll.
            self.has_rung.swap(false, Ordering::AcqRel);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            if !self.has_rung.load(Ordering::Acquire) {
                break;
            }
        }
        *self.outside() = Some(outer.waker().clone());
        // Also for who rang since the last look and found nobody outside.
        if self.has_rung.load(Ordering::Acquire) {
            outer.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn outside(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        let outside = self.outside().take();
        if let Some(outside) = outside {
            outside.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll_once<F: Future>(future: Pin<&mut F>, counter: &Arc<Counter>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(counter));
        future.poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn who_wakes_itself_goes_on_at_once_and_after_some_turns_through_the_runtime() {
        let mut polls = 0;
        let future = poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            match polls {
                6 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        let (mut future, counter) = (Box::pin(in_place(future)), Arc::default());
        assert!(poll_once(future.as_mut(), &counter).is_pending());
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(poll_once(future.as_mut(), &counter).is_ready());
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        drop(future);
        assert_eq!(polls, TURNS_MAX + 2);
    }

    #[test]
    fn who_is_woken_by_others_wakes_its_task_once() {
        let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
        let future = poll_fn(|cx| {
            sender.send(cx.waker().clone()).unwrap();
            Poll::<()>::Pending
        });
        let (mut future, counter) = (Box::pin(in_place(future)), Arc::default());
        for woken in 1..3 {
            assert!(poll_once(future.as_mut(), &counter).is_pending());
            assert_eq!(counter.0.load(Ordering::Relaxed), woken - 1);
            let waker = receiver.recv().unwrap();
            waker.wake_by_ref();
            waker.wake();
            assert_eq!(counter.0.load(Ordering::Relaxed), woken);
        }
    }
}
