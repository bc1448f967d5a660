//! From the configuration to the exit code: opens the spool, starts the jobs, keeps claims alive,
//! looks after those of others, and ends in order.
//!
//! Jobs are threads, because claiming and settling wait for the disk; one asynchronous thread
//! waits for everything else: signals, timers, the commands' output and end.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use admin::consumer::Claimed;
use admin::{Admin, ConsumerMetrics, Health};
use nix::unistd::{Gid, Uid};
use shared::durable;
use shared::orphan::Rules as OrphanRules;
use shared::probe::Probe;
use shared::spool::{SPARES_PER_CLAIM, Spool};
use shared::startup::{Exit, Failure, Shutdown, systemd};
use shared::time::UnixTime;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::config::{Config, Until};
use crate::deliver::Destination;
use crate::gate::Gate;
use crate::hook::{self, Stop};
use crate::job::Workshop;
use crate::picker::Picker;
use crate::queue::{Queue, Rules};
use crate::recovery::Recovery;
use crate::worker::{Crew, Tally};

/// On local filesystems, how often claims are looked after: the lock tells at once, but only to
/// those who ask.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// While draining, how often: the end waits for it.
const LOOK_WHILE_DRAINING: Duration = Duration::from_millis(250);

/// After the second signal, how long jobs have to put their claims back.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// Consumes until it is time to end, and tells metrics and health on `admin`.
///
/// # Errors
/// The spool cannot be used ([`Exit::USAGE`]), or something failed that ends the process.
pub fn run(config: Config, admin: Option<TcpListener>) -> Result<Exit, Failure> {
    let (spool, probe) = config.spool.open().map_err(Failure::usage)?;
    let spool = Arc::new(spool);
    hook::adopt_orphans()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let metrics = tell(admin, &spool, config.jobs.get(), &shutdown)?;
        consume(config, spool, &probe, metrics, shutdown).await
    })
}

/// Counts from now on, and answers on `listener` who asks what was counted.
fn tell(
    listener: Option<TcpListener>,
    spool: &Arc<Spool>,
    jobs: u32,
    shutdown: &Shutdown,
) -> io::Result<ConsumerMetrics> {
    let mut admin = Admin::new("consumer");
    let metrics = ConsumerMetrics::register(admin.registry(), jobs);
    // Space is no concern of who only takes away.
    let health = Health::new(Arc::clone(spool), 0, shutdown.clone());
    if let Some(listener) = listener {
        tokio::spawn(admin.serve(listener, health)?);
    }
    let counted = metrics.clone();
    durable::observe_syncs(move |took, error| counted.sync(took, error.is_none()));
    Ok(metrics)
}

async fn consume(
    config: Config,
    spool: Arc<Spool>,
    probe: &Probe,
    metrics: ConsumerMetrics,
    shutdown: Shutdown,
) -> Result<Exit, Failure> {
    let until = config.until;
    let lease = config.lease;
    let drain_timeout = config.drain_timeout;
    let drained = CancellationToken::new();
    let stop = Stop {
        drained: drained.clone(),
        shutdown: shutdown.clone(),
    };
    let jobs = config.jobs.get();
    tracing::info!(
        spool = %spool.layout().root().display(),
        filesystem = %probe,
        jobs,
        version = env!("CARGO_PKG_VERSION"),
        "consuming"
    );
    keep_spares(&spool, jobs);
    systemd::ready();
    let mut recovery = recovery(&config, probe);
    let crew = Arc::new(crew(config, Arc::clone(&spool), probe, metrics, stop)?);
    // Before the first upload is taken: what a crash left has waited longest.
    look_after(&mut recovery, &crew);
    let mut all_gone = start_jobs(jobs, &crew)?;
    start_recovery(recovery, until, probe.is_network().then_some(lease), &crew)?;
    let keeping = tokio::spawn(keep(Arc::clone(&crew), lease));

    let patience = async {
        match until {
            Until::One {
                within: Some(within),
            } => sleep(within).await,
            Until::One { within: None } | Until::Empty | Until::Stopped => {
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        _ = all_gone.recv() => {}
        () = shutdown.draining() => crew.queue.close(),
        () = patience => crew.queue.close(),
    }
    // Either all jobs have ended, or they are told to; what they do may still be finished.
    tokio::select! {
        _ = all_gone.recv() => {}
        () = drain(&shutdown, drain_timeout) => {
            drained.cancel();
            end_now(&shutdown, &mut all_gone).await;
        }
    }
    keeping.abort();
    finish(&crew, until)
}

/// Keeps what the jobs need to go on if the disk becomes full.
fn keep_spares(spool: &Spool, jobs: u32) {
    if let Err(error) = spool.keep_spares(jobs as usize * SPARES_PER_CLAIM) {
        tracing::warn!(%error, "no space is kept for claims on a full disk");
    }
}

/// Returns when running commands have had their time: at once after a second signal, and never
/// unless somebody has asked to end (a `--once` that found its upload in time goes on).
async fn drain(shutdown: &Shutdown, drain_timeout: Duration) {
    shutdown.draining().await;
    tokio::select! {
        () = sleep(drain_timeout) => {
            tracing::warn!("the time for draining is over; ending what still runs");
        }
        () = shutdown.now() => tracing::warn!("ending now"),
    }
}

/// Waits for the jobs to put back what they hold; after a second signal not for long.
async fn end_now(shutdown: &Shutdown, all_gone: &mut mpsc::Receiver<()>) {
    let impatience = async {
        shutdown.now().await;
        sleep(LAST_MOMENTS).await;
    };
    tokio::select! {
        _ = all_gone.recv() => {}
        () = impatience => tracing::error!("some jobs do not end; their uploads will be tried again"),
    }
}

fn finish(crew: &Crew, until: Until) -> Result<Exit, Failure> {
    let tally = crew.ledger.tally();
    let Tally {
        claimed,
        missed,
        delivered,
        deferred,
        dead,
        put_back,
        lost,
    } = tally;
    tracing::info!(
        claimed, missed, delivered, deferred, dead, put_back, lost, "ended"
    );
    if let Some((exit, why)) = crew.ledger.ending() {
        return Err(Failure::new(exit, why));
    }
    if crew.queue.gave_up() {
        return Err("claiming pauses, as the log says; what is left was not tried".into());
    }
    Ok(match until {
        Until::Stopped | Until::Empty => Exit::OK,
        Until::One { .. } if tally.delivered != 0 => Exit::OK,
        Until::One { .. } if tally.claimed != 0 => Exit::FAILURE,
        Until::One { .. } => Exit::NONE_CAME,
    })
}

fn recovery(config: &Config, probe: &Probe) -> Recovery {
    let rules = OrphanRules {
        lease: probe.is_network().then_some(config.lease),
        max_attempts: config.backoff.attempts_max,
    };
    Recovery::new(rules, config.allowed())
}

fn crew(
    config: Config,
    spool: Arc<Spool>,
    probe: &Probe,
    metrics: ConsumerMetrics,
    stop: Stop,
) -> Result<Crew, Failure> {
    let syncs = spool.durability().syncs_finish();
    let destination = match &config.move_to {
        None => None,
        Some(to) => {
            let opened = Destination::open(to.dir.clone(), to.mode, to.owner, syncs);
            may_give_away(to.owner)?;
            Some(opened.map_err(Failure::usage)?)
        }
    };
    let rules = Rules {
        drains: config.until == Until::Empty,
        allowance: matches!(config.until, Until::One { .. }).then_some(1),
        watches: !probe.is_network(),
    };
    let gate = Gate::new(config.only.clone(), config.limits.clone());
    let poll = config.poll.unwrap_or_else(|| probe.poll());
    let backoff = config.backoff;
    let queue = Queue::new(spool, &rules, gate, Breaker::new(config.breaker), |now| {
        Picker::new(backoff, poll, now)
    });
    let runtime = tokio::runtime::Handle::current();
    Ok(Crew {
        queue,
        workshop: Workshop {
            config,
            destination,
            runtime,
            stop,
            metrics,
        },
        ledger: crate::worker::Ledger::default(),
    })
}

/// Only root may give files to another user: better told now than by the first upload.
fn may_give_away((user, _): (Option<Uid>, Option<Gid>)) -> Result<(), Failure> {
    let own = Uid::effective();
    match user {
        Some(user) if user != own && !own.is_root() => Err(Failure::usage(
            "--move-owner: only root can give files to another user",
        )),
        _ => Ok(()),
    }
}

/// Starts the jobs; the channel ends when the last of them has.
fn start_jobs(jobs: u32, crew: &Arc<Crew>) -> io::Result<mpsc::Receiver<()>> {
    let (alive, all_gone) = mpsc::channel(1);
    for job in 1..=jobs {
        let (crew, alive) = (Arc::clone(crew), alive.clone());
        std::thread::Builder::new()
            .name(format!("job-{job}"))
            .spawn(move || {
                crew.work();
                drop(alive);
            })?;
    }
    Ok(all_gone)
}

/// Looks after the claims of others, in a thread of its own, until the process ends.
fn start_recovery(
    mut recovery: Recovery,
    until: Until,
    lease: Option<Duration>,
    crew: &Arc<Crew>,
) -> io::Result<()> {
    let every = match (until, lease) {
        (Until::Empty, _) => LOOK_WHILE_DRAINING,
        (_, Some(lease)) => (lease / 2).max(Duration::from_secs(1)),
        (_, None) => LOOK_EVERY,
    };
    let crew = Arc::clone(crew);
    let looks = move || loop {
        std::thread::sleep(every);
        look_after(&mut recovery, &crew);
    };
    std::thread::Builder::new()
        .name("recovery".to_owned())
        .spawn(looks)?;
    Ok(())
}

fn look_after(recovery: &mut Recovery, crew: &Crew) {
    if let Err(error) = crew.queue.notice_replacement() {
        tracing::error!(%error, "cannot look at the spool");
    }
    match recovery.look(&crew.queue.spool(), UnixTime::now()) {
        Ok(requeued) => requeued.into_iter().for_each(|id| {
            crew.workshop.metrics.claim(Claimed::Recovered);
            crew.queue.arrived(id);
        }),
        Err(error) => tracing::error!(%error, "cannot look after claims"),
    }
}

/// Keeps claims alive, and reaps what commands leave behind.
async fn keep(crew: Arc<Crew>, lease: Duration) {
    let Ok(mut children) = tokio::signal::unix::signal(SignalKind::child()) else {
        return;
    };
    let mut heartbeat = interval((lease / 4).max(Duration::from_millis(250)));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                let crew = Arc::clone(&crew);
                // The disk may be slow; but a second beat need not pile up on the first.
                let beat = tokio::task::spawn_blocking(move || {
                    crew.ledger.beat();
                    crew.workshop.metrics.pause(crew.queue.is_paused());
                });
                timeout(lease, beat).await.ok();
            }
            _ = children.recv() => {
                hook::sweep();
            }
        }
    }
}
