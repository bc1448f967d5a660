//! Many clients at once, each sending one upload after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use crate::client::Tus;
use crate::ledger::{Ledger, Shape};
use crate::sender::Sender;
use crate::wait::{PATIENCE, happens};

/// What a load consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Clients at once.
    pub clients: u32,
    /// How they send.
    pub shapes: Vec<Shape>,
    /// Largest upload in bytes; streams are four times as long.
    pub length_max: usize,
    /// Uploads of each client; without end if `None`.
    pub uploads_each: Option<u32>,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// Clients at work. Dropping it stops them.
pub struct Load {
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    busy: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients of `plan`, which write into `ledger`.
    #[must_use]
    pub fn start(tus: &Tus, plan: &Plan, ledger: &Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = Arc::new(AtomicU32::new(plan.clients));
        let client = |n: u32| {
            let random = fastrand::Rng::with_seed(plan.seed ^ (u64::from(n) << 32));
            let sender = Sender {
                tus: tus.clone(),
                ledger: ledger.clone(),
                stop: stop.clone(),
                random,
            };
            let (plan, busy) = (plan.clone(), Arc::clone(&busy));
            std::thread::spawn(move || {
                sender.work(&plan, n);
                busy.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let clients = (0..plan.clients).map(client).collect();
        Self {
            ledger: ledger.clone(),
            stop,
            busy,
            clients,
        }
    }

    /// What the clients were told so far.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether all clients have sent all that they were to.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0
    }

    /// Lets the clients give up what they are at, and waits for them.
    ///
    /// # Panics
    /// If a client has.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Goes on with every upload of a ledger that is not complete, until all are, or are refused, or
/// [`PATIENCE`] is over.
///
/// # Panics
/// If the client does.
pub fn resume_all(tus: &Tus, ledger: &Ledger) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut sender = Sender {
        tus: tus.clone(),
        ledger: ledger.clone(),
        stop: Arc::clone(&stop),
        random: fastrand::Rng::with_seed(0),
    };
    let resuming = std::thread::spawn(move || {
        for entry in sender
            .ledger
            .entries()
            .iter()
            .filter(|entry| !entry.complete)
        {
            sender.send(entry.number);
        }
    });
    happens(PATIENCE, || resuming.is_finished());
    stop.store(true, Ordering::SeqCst);
    resuming.join().expect("a client does not panic");
}
