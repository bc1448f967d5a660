//! One job: takes uploads from the queue, claims them, has them processed, one after the other.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use admin::consumer::{Attempted, Claimed};
use shared::claim::{self, Claim, TryClaim};
use shared::durable::DiskError;
use shared::id::{ClaimId, UploadId};
use shared::size::Length;
use shared::spool::Spool;
use shared::startup::Exit;
use shared::time::UnixTime;

use crate::breaker::Sign;
use crate::job::{Conclusion, Report, Workshop};
use crate::outcome::{End, Verdict, verdict};
use crate::picker::Miss;
use crate::queue::{Queue, Task};

/// How long a job pauses when the machine is short of processes or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What the jobs of a process share.
#[derive(Debug)]
pub struct Crew {
    /// Where uploads come from.
    pub queue: Queue,
    /// What is done with them.
    pub workshop: Workshop,
    /// How it is going.
    pub ledger: Ledger,
}

/// What has come of the uploads so far, and which are being worked on.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    active: HashMap<ClaimId, (UploadId, Arc<Spool>)>,
    tally: Tally,
    /// Why the process must end although nobody asked it to.
    ending: Option<(Exit, &'static str)>,
}

/// Counts of conclusions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Uploads claimed.
    pub claimed: u64,
    /// Delivered.
    pub delivered: u64,
    /// Failed, to be tried again.
    pub deferred: u64,
    /// Dead letters.
    pub dead: u64,
    /// Put back, the attempt not counted.
    pub put_back: u64,
    /// Claims that were lost to others, or could not be settled.
    pub lost: u64,
    /// Uploads that others had claimed first.
    pub missed: u64,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.entries().tally
    }

    /// Why the process must end although nobody asked it to.
    #[must_use]
    pub fn ending(&self) -> Option<(Exit, &'static str)> {
        self.entries().ending
    }

    /// Shows that all claims of this process live.
    pub fn beat(&self) {
        let active: Vec<_> = {
            let entries = self.entries();
            entries
                .active
                .iter()
                .map(|(claim, upload)| (*claim, upload.clone()))
                .collect()
        };
        for (claim, (id, spool)) in active {
            match claim::beat(&spool, id, claim) {
                Err(error) if !error.is_missing() => {
                    tracing::warn!(upload_id = %id, %error, "the heartbeat failed");
                }
                Ok(()) | Err(_) => {} // settled meanwhile
            }
        }
    }
}

impl Crew {
    /// Works until the queue says that it is over.
    pub fn work(&self) {
        while let Some(task) = self.queue.take() {
            let (id, at) = (task.candidate.id, task.candidate.at);
            match claim::try_claim(&task.spool, id, at, UnixTime::now()) {
                Ok(TryClaim::Claimed(claim)) => self.work_on(task, *claim),
                Ok(TryClaim::Busy) => self.miss(task, Miss::Busy),
                Ok(TryClaim::Gone) => self.miss(task, Miss::Gone),
                Ok(TryClaim::Torn(reason)) => {
                    tracing::error!(upload_id = %id, reason, "torn; it lies in failed/");
                    self.queue.missed(task, Miss::Gone);
                }
                Err(error) => {
                    tracing::error!(upload_id = %id, %error, "cannot be claimed");
                    self.end_if_poisoned(&task.spool);
                    self.queue.finished(task, sign_of(&error), None);
                }
            }
        }
    }

    /// Somebody else was faster.
    fn miss(&self, task: Task, miss: Miss) {
        self.workshop.metrics.claim(Claimed::Lost);
        self.ledger.entries().tally.missed += 1;
        self.queue.missed(task, miss);
    }

    fn work_on(&self, task: Task, claim: Claim) {
        let (id, key, spool) = (claim.id(), claim.claim_id(), Arc::clone(&task.spool));
        let span = tracing::info_span!("job", upload_id = %id, attempt = claim.attempt());
        let _entered = span.enter();
        self.queue.claimed(&task);
        {
            let mut entries = self.ledger.entries();
            entries.tally.claimed += 1;
            entries.active.insert(key, (id, Arc::clone(&spool)));
        }
        tracing::debug!("claimed");
        self.workshop.count_claim(&claim);
        let (began, length) = (Instant::now(), claim.record().length);
        let _running = self.workshop.metrics.job();
        let chance = fastrand::f64();
        let report = catch_unwind(AssertUnwindSafe(|| self.workshop.process(claim, chance)));
        self.ledger.entries().active.remove(&key);
        let report = match report {
            Ok(report) => report,
            Err(_) => {
                // The claim was dropped on the way: it is now what a crash leaves.
                tracing::error!("the job panicked; the upload goes back to the queue");
                self.queue.finished(task, Sign::Nothing, None);
                return;
            }
        };
        if let Ok(report) = &report {
            self.count(report.conclusion, began.elapsed(), length);
        }
        self.conclude(task, report);
        self.end_if_poisoned(&spool);
    }

    fn count(&self, conclusion: Conclusion, took: Duration, length: Option<Length>) {
        let metrics = &self.workshop.metrics;
        let attempted = match conclusion {
            Conclusion::Delivered => Attempted::Delivered,
            Conclusion::Deferred { .. } => Attempted::Retried,
            Conclusion::Dead { .. } => Attempted::Dead,
            Conclusion::PutBack => Attempted::PutBack,
            Conclusion::Lost => return metrics.claim(Claimed::TakenAway),
        };
        metrics.attempt(attempted, took);
        if attempted == Attempted::Delivered {
            metrics.delivered(length.map_or(0, |length| length.0));
        }
    }

    fn conclude(&self, task: Task, report: Result<Report, DiskError>) {
        let (sign, end) = match &report {
            Ok(report) => (self.note(task.candidate.id, report), report.end),
            Err(error) => {
                tracing::error!(%error, "cannot be settled; the upload will be tried again");
                self.ledger.entries().tally.lost += 1;
                (sign_of(error), None)
            }
        };
        if self.queue.finished(task, sign, end) {
            self.end(
                Exit::CONFIG,
                "the command could not run for several uploads in a row",
            );
        }
        match end.map(verdict) {
            Some(Verdict::Misconfigured) => {
                self.end(Exit::CONFIG, "the command cannot be started");
            }
            Some(Verdict::PutBack) if end != Some(End::Interrupted) => {
                std::thread::sleep(SHORTAGE_PAUSE);
            }
            _ => {}
        }
    }

    /// Counts a conclusion; what it says about the things that commands depend on.
    fn note(&self, id: UploadId, report: &Report) -> Sign {
        if let Conclusion::Deferred { not_before } = report.conclusion {
            self.queue.deferred(not_before, id);
        }
        let tally = &mut self.ledger.entries().tally;
        let (count, sign) = match report.conclusion {
            Conclusion::Delivered => {
                tracing::info!("delivered");
                (&mut tally.delivered, Sign::Works)
            }
            Conclusion::Deferred { .. } => (&mut tally.deferred, Sign::Fails),
            Conclusion::Dead { rejected: true } => (&mut tally.dead, Sign::Works),
            Conclusion::Dead { rejected: false } => (&mut tally.dead, Sign::Fails),
            Conclusion::PutBack => (&mut tally.put_back, Sign::Nothing),
            Conclusion::Lost => {
                tracing::warn!("the claim was lost to another consumer; nothing was touched");
                (&mut tally.lost, Sign::Nothing)
            }
        };
        *count += 1;
        sign
    }

    /// Ends the process once running jobs are done.
    fn end(&self, exit: Exit, why: &'static str) {
        self.ledger.entries().ending.get_or_insert((exit, why));
        self.queue.close();
    }

    fn end_if_poisoned(&self, spool: &Spool) {
        if spool.is_poisoned() {
            self.end(Exit::FAILURE, "a directory of the spool cannot be synced");
        }
    }
}

/// What an error of the spool says about the uploads that are left.
fn sign_of(error: &DiskError) -> Sign {
    match error.is_full() {
        true => Sign::NoSpace,
        false => Sign::Fails,
    }
}
