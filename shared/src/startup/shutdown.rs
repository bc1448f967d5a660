//! How a program learns that it should end: SIGTERM or SIGINT once means "finish what you do",
//! twice means "now".

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::systemd;

/// How urgently the program should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Running,
    /// Begin nothing new, finish what was begun.
    Draining,
    /// Leave everything as it is.
    Now,
}

/// Tells when to end. Cheap to clone; give one to each task.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// Asks a program to end; for tests and for programs that end by themselves.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<Phase>);

impl Shutdown {
    /// Listens for SIGTERM and SIGINT. Call it within a tokio runtime, before the first task that
    /// should be stopped cleanly.
    ///
    /// # Errors
    ///
    /// The signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (trigger, shutdown) = Self::manual();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                let phase = trigger.next();
                systemd::stopping();
                tracing::info!(signal = name, ?phase, "asked to stop");
            }
        });
        Ok(shutdown)
    }

    /// A shutdown that only the trigger causes.
    #[must_use]
    pub fn manual() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(Phase::Running);
        (Trigger(sender), Self(receiver))
    }

    /// How urgent it is at this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether something new may still be begun.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase() == Phase::Running
    }

    /// Waits for the first request to end.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits for the second request to end.
    pub async fn now(&self) {
        self.reached(Phase::Now).await;
    }

    async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|seen| phase <= *seen).await.is_err() {
            // No trigger is left, so that nobody will ever ask.
            std::future::pending::<()>().await;
        }
    }
}

impl Trigger {
    /// One step further, as one signal does; returns where that leads.
    pub fn next(&self) -> Phase {
        self.0.send_modify(|phase| {
            *phase = match phase {
                Phase::Running => Phase::Draining,
                Phase::Draining | Phase::Now => Phase::Now,
            };
        });
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn the_first_request_drains_and_the_second_ends_now() {
        block_on(async {
            let (trigger, shutdown) = Shutdown::manual();
            assert!(shutdown.is_running());
            assert_eq!(trigger.next(), Phase::Draining);
            shutdown.draining().await;
            assert!(!shutdown.is_running());
            assert_eq!(trigger.next(), Phase::Now);
            shutdown.now().await;
            shutdown.draining().await;
            assert_eq!(trigger.next(), Phase::Now);
        });
    }

    #[test]
    fn a_clone_hears_of_it_too() {
        block_on(async {
            let (trigger, shutdown) = Shutdown::manual();
            let other = shutdown.clone();
            let waiting = tokio::spawn(async move { other.now().await });
            trigger.next();
            trigger.next();
            waiting.await.unwrap();
        });
    }

    #[test]
    fn a_signal_drains() {
        block_on(async {
            let shutdown = Shutdown::on_signals().unwrap();
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
            shutdown.draining().await;
            assert_eq!(shutdown.phase(), Phase::Draining);
        });
    }
}
