//! What is done with one claimed upload: checks, delivery, hooks; and how that is settled.
//!
//! The order is check, move, hook: a check decides whether the upload may go anywhere; a hook is
//! told where it has gone. Whatever the outcome, the claim is settled exactly once, here.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use admin::ConsumerMetrics;
use admin::consumer::{Claimed, Step};
use nix::unistd::Pid;
use shared::claim::{Claim, ProcessGroup};
use shared::durable::{self, DiskError};
use shared::failpoint::{self, Failpoint};
use shared::host;
use shared::layout::Dir;
use shared::record::Attempt;
use shared::settle::Settled;
use shared::time::UnixTime;
use tokio::runtime::Handle;

use crate::config::{Config, MoveTo};
use crate::deliver::{self, Chosen, DeliverError, Destination, Halt, Parcel};
use crate::facts::Facts;
use crate::hook::{self, Stop};
use crate::outcome::{End, Verdict, counted_as, verdict};
use crate::result;
use crate::retry::Next;
use crate::template::CommandTemplate;

/// What all jobs of a process share.
#[derive(Debug)]
pub struct Workshop {
    /// What to do.
    pub config: Config,
    /// Where to move uploads, opened.
    pub destination: Option<Destination>,
    /// The runtime on which commands are waited for.
    pub runtime: Handle,
    /// When to end them early.
    pub stop: Stop,
    /// What is counted of it.
    pub metrics: ConsumerMetrics,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// Delivered; nothing is left to do.
    Delivered,
    /// Failed; it will be tried again from then on (Unix seconds).
    Deferred {
        /// Earliest next attempt.
        not_before: u64,
    },
    /// It lies in `failed/`.
    Dead {
        /// The command itself said so at once, so that it works; otherwise its attempts are used
        /// up.
        rejected: bool,
    },
    /// Back in the queue, the attempt not counted.
    PutBack,
    /// The claim was lost to another consumer; nothing was touched.
    Lost,
}

/// A job's conclusion, and how its last command ended, if one ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How the job ended.
    pub conclusion: Conclusion,
    /// How its last command ended.
    pub end: Option<End>,
}

/// A stage that did not succeed.
struct Failed {
    verdict: Verdict,
    end: Option<End>,
    attempt: Attempt,
}

/// What the stages made of the upload.
struct Delivered {
    path: Option<PathBuf>,
    end: Option<End>,
}

impl Workshop {
    /// Processes a claimed upload and settles the claim. `chance` lies in `0.0..1.0`.
    ///
    /// # Errors
    /// The claim could not be settled: it is left as a crash would leave it, for the next
    /// consumer to find.
    pub fn process(&self, mut claim: Claim, chance: f64) -> Result<Report, DiskError> {
        let result_path = claim.spool().temp(Dir::Claimed, claim.id());
        let job = Job {
            workshop: self,
            claim: &mut claim,
            result_path: &result_path,
            delivered: None,
        };
        let outcome = job.work();
        let result = match outcome {
            Ok(_) if !self.config.runs_commands() => Ok(None),
            Ok(_) => result::take(&result_path),
            Err(_) => durable::unlink(&result_path).map(|_| None),
        };
        if let Err(error) = &result {
            tracing::warn!(%error, "the command's result cannot be read");
        }
        match outcome {
            Ok(delivered) => {
                let destination = delivered
                    .path
                    .map(|path| path.to_string_lossy().into_owned());
                let end = delivered.end;
                let settled =
                    claim.delivered(destination, result.ok().flatten(), UnixTime::now())?;
                Ok(Report {
                    conclusion: unless_lost(settled, Conclusion::Delivered),
                    end,
                })
            }
            Err(failed) => self.settle_failure(claim, *failed, chance),
        }
    }

    fn settle_failure(
        &self,
        claim: Claim,
        failed: Failed,
        chance: f64,
    ) -> Result<Report, DiskError> {
        let (end, now) = (failed.end, UnixTime::now());
        let error = failed.attempt.error.clone();
        let (settled, conclusion) = match failed.verdict {
            Verdict::PutBack | Verdict::Misconfigured | Verdict::Done => {
                tracing::info!(error, "put back; the attempt does not count");
                (claim.put_back()?, Conclusion::PutBack)
            }
            Verdict::Dead => {
                tracing::warn!(error, "rejected; it lies in failed/");
                let settled = claim.dead(Some(failed.attempt), &error, now)?;
                (settled, Conclusion::Dead { rejected: true })
            }
            Verdict::Retry => match self.config.backoff.next(claim.attempt(), chance) {
                Next::After(delay) => {
                    // Whole seconds in the name; rounding down keeps short delays short.
                    let not_before = now.plus(delay).as_secs();
                    tracing::warn!(
                        error,
                        delay_s = delay.as_secs_f64(),
                        "failed; will be retried"
                    );
                    let settled = claim.retry(failed.attempt, not_before)?;
                    (settled, Conclusion::Deferred { not_before })
                }
                Next::Exhausted => {
                    tracing::error!(error, "failed for the last time; it lies in failed/");
                    let reason = format!("all {} attempts failed: {error}", claim.attempt());
                    let settled = claim.dead(Some(failed.attempt), &reason, now)?;
                    (settled, Conclusion::Dead { rejected: false })
                }
            },
        };
        Ok(Report {
            conclusion: unless_lost(settled, conclusion),
            end,
        })
    }

    /// Counts a claim, and how long the upload has waited for its first one.
    pub(crate) fn count_claim(&self, claim: &Claim) {
        self.metrics.claim(Claimed::Ours);
        if let Some(since) = claim.record().finished_at.filter(|_| claim.attempt() == 1) {
            self.metrics.waited(UnixTime::now().since(since));
        }
    }

    fn timed<T>(&self, step: Step, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.metrics.step(step, began.elapsed());
        done
    }
}

/// The work on one claimed upload.
struct Job<'a> {
    workshop: &'a Workshop,
    claim: &'a mut Claim,
    /// Where commands may leave a result for the client.
    result_path: &'a Path,
    /// The upload's path in the destination, once it has one.
    delivered: Option<PathBuf>,
}

impl Job<'_> {
    /// Check, move, hook.
    fn work(mut self) -> Result<Delivered, Box<Failed>> {
        let workshop = self.workshop;
        let mut end = None;
        for command in &workshop.config.checks {
            let check = || self.command("check", command);
            end = Some(workshop.timed(Step::Check, check)?);
        }
        if let (Some(move_to), Some(destination)) =
            (&workshop.config.move_to, &workshop.destination)
        {
            let deliver = || self.deliver(move_to, destination);
            self.delivered = Some(workshop.timed(Step::Move, deliver)?);
        }
        for command in &workshop.config.hooks {
            let hook = || self.command("hook", command);
            end = Some(workshop.timed(Step::Hook, hook)?);
        }
        Ok(Delivered {
            path: self.delivered,
            end,
        })
    }

    /// Runs one command to its end; `Ok` if it exited with 0.
    fn command(
        &mut self,
        stage: &'static str,
        command: &CommandTemplate,
    ) -> Result<End, Box<Failed>> {
        let workshop = self.workshop;
        let config = &workshop.config;
        let mut attempt = begin(self.claim, stage);
        let facts = self.facts();
        let argv = match command.render(|field| facts.for_command(field)) {
            Ok(argv) => argv,
            Err(unfit) => {
                let verdict = Verdict::Dead;
                return Err(fail(attempt, verdict, None, unfit.to_string()));
            }
        };
        let (environment, stdin) = (facts.environment(&config.environment), facts.record_json());
        let lock = match self.claim.data().try_clone() {
            Ok(lock) => lock,
            Err(error) => return Err(fail(attempt, Verdict::PutBack, None, error.to_string())),
        };
        let run = hook::Run {
            argv,
            environment,
            stdin,
            claim: self.claim.claim_id(),
            lock: lock.as_fd(),
            timeout: config.hook_timeout,
            grace: config.kill_grace,
        };
        let started = |pid| self.write_down(pid);
        let run = hook::run(run, &workshop.stop, started);
        let report = workshop.runtime.block_on(run);
        if let Err(error) = failpoint::hit(Failpoint::HookEnded) {
            return Err(fail(attempt, Verdict::Retry, None, error.to_string()));
        }
        let verdict = verdict(report.end);
        workshop.metrics.command(counted_as(report.end));
        if verdict == Verdict::Done {
            self.strike_out();
            return Ok(report.end);
        }
        match report.end {
            End::Exited(code) => attempt.exit = Some(code.into()),
            End::Signalled(signal) => attempt.signal = Some(signal),
            End::TimedOut => attempt.timeout = true,
            End::Interrupted | End::NotStarted(_) => {}
        }
        attempt.stderr_tail = report.stderr_tail;
        let error = format!("{stage} {:?}: {}", command.program(), report.end);
        Err(fail(attempt, verdict, Some(report.end), error))
    }

    /// Says beside the claim which processes work on it, and until when.
    fn write_down(&mut self, pid: Pid) -> io::Result<()> {
        let id = pid.as_raw().unsigned_abs();
        let group = host::started_ticks(id).map(|started_ticks| ProcessGroup { id, started_ticks });
        let allowed = self.workshop.config.allowed();
        self.claim
            .set_group(group, Some(allowed))
            .map_err(io::Error::other)?;
        failpoint::hit(Failpoint::HookStarted)
    }

    /// The command is over: nobody need end its processes any more.
    fn strike_out(&mut self) {
        if let Err(error) = self.claim.set_group(None, None) {
            // Whoever looked for them would find them gone, or of another start time.
            tracing::warn!(%error, "the ended command stays written down");
        }
    }

    /// Gives the upload its place in the destination; the path that it has there.
    fn deliver(
        &mut self,
        move_to: &MoveTo,
        destination: &Destination,
    ) -> Result<PathBuf, Box<Failed>> {
        let attempt = begin(self.claim, "move");
        let facts = self.facts();
        let name = move_to.name.render(facts.id, |field| facts.for_name(field));
        let record = move_to.keep_record.then(|| facts.record_json());
        let earlier = earlier(self.claim, &move_to.dir);
        let stop = &self.workshop.stop;
        let claim = &mut *self.claim;
        let delivered = claim
            .data()
            .try_clone()
            .map_err(deliver_error(&claim.path()))
            .and_then(|data| {
                let path = claim.path();
                let parcel = Parcel {
                    id: claim.id(),
                    data: &data,
                    path: &path,
                    name: &name,
                    record: record.as_deref(),
                };
                let mut held = Held {
                    claim,
                    dir: &move_to.dir,
                    stop,
                };
                destination.deliver(&parcel, earlier.as_ref(), &mut held)
            });
        delivered
            .map(|name| move_to.dir.join(name))
            .map_err(|error| {
                let verdict = match error {
                    DeliverError::Halted(_) => Verdict::PutBack,
                    _ => Verdict::Retry,
                };
                fail(attempt, verdict, None, format!("move: {error}"))
            })
    }

    fn facts(&self) -> Facts<'_> {
        let claim = &*self.claim;
        let file = self.delivered.clone();
        Facts {
            id: claim.id(),
            claim: claim.claim_id(),
            record: claim.record(),
            file: file.unwrap_or_else(|| claim.path()),
            record_path: claim.record_path(),
            result_path: self.result_path,
            max_attempts: self.workshop.config.backoff.attempts_max,
        }
    }
}

/// A claim as a delivery sees it.
struct Held<'a> {
    claim: &'a mut Claim,
    dir: &'a Path,
    stop: &'a Stop,
}

impl deliver::Claim for Held<'_> {
    fn choose(&mut self, chosen: &Chosen) -> io::Result<()> {
        let path = self.dir.join(&chosen.name);
        self.claim
            .set_destination(&path.to_string_lossy(), chosen.inode)
            .map_err(io::Error::other)?;
        failpoint::hit(Failpoint::DeliverChosen)
    }

    fn forget(&mut self) -> io::Result<()> {
        self.claim.forget_destination().map_err(io::Error::other)
    }

    fn go_on(&mut self) -> Result<(), Halt> {
        if self.stop.drained.is_cancelled() {
            return Err(Halt::Stopping);
        }
        match self.claim.is_ours() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Halt::ClaimLost),
            Err(error) => Err(Halt::Unknown(io::Error::other(error))),
        }
    }
}

/// The name that an earlier attempt chose in this destination.
fn earlier(claim: &Claim, dir: &Path) -> Option<Chosen> {
    let state = claim.state();
    let path = Path::new(state.destination.as_deref()?);
    let name = path.strip_prefix(dir).ok()?.to_owned();
    Some(Chosen {
        name,
        inode: state.destination_inode?,
    })
}

fn deliver_error(path: &Path) -> impl FnOnce(io::Error) -> DeliverError {
    move |error| DiskError::new("duplicate", path, error).into()
}

fn begin(claim: &Claim, stage: &str) -> Attempt {
    let now = UnixTime::now();
    Attempt {
        n: claim.attempt(),
        started_at: now,
        ended_at: now,
        host: host::Host::this().name.clone(),
        pid: std::process::id(),
        stage: stage.to_owned(),
        ..Attempt::default()
    }
}

fn fail(mut attempt: Attempt, verdict: Verdict, end: Option<End>, error: String) -> Box<Failed> {
    attempt.ended_at = UnixTime::now();
    attempt.error = error;
    Box::new(Failed {
        verdict,
        end,
        attempt,
    })
}

fn unless_lost(settled: Settled, conclusion: Conclusion) -> Conclusion {
    match settled {
        Settled::Done => conclusion,
        Settled::Lost => Conclusion::Lost,
        Settled::DataTaken => {
            tracing::error!(
                "the command moved the data away and failed; only its record is left, in failed/"
            );
            Conclusion::Dead { rejected: false }
        }
    }
}
