//! What a consumer counts.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metrics::{
    Counters, DURATIONS, Histograms, SyncMetrics, counters, histogram, histograms,
};

/// The metrics of one consumer. Clones share their values.
#[derive(Clone, Debug)]
pub struct ConsumerMetrics {
    claims: Counters,
    attempts: Counters,
    attempt_seconds: Histogram,
    wait_seconds: Histogram,
    commands: Counters,
    step_seconds: Histograms,
    delivered_bytes: Counter,
    running: Gauge,
    paused: Gauge,
    syncs: SyncMetrics,
}

/// What came of trying to claim an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours.
    Ours,
    /// Somebody else was faster.
    Lost,
    /// We had it, and somebody took it from us.
    TakenAway,
    /// A claim that its consumer left behind was put back.
    Recovered,
}

impl Claimed {
    const ALL: [Self; 4] = [Self::Ours, Self::Lost, Self::TakenAway, Self::Recovered];

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "claimed",
            Self::Lost => "lost",
            Self::TakenAway => "taken_away",
            Self::Recovered => "recovered",
        }
    }
}

/// What came of one attempt to process an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// It has left the spool.
    Delivered,
    /// It will be tried again.
    Retried,
    /// It will not: a dead letter.
    Dead,
    /// Nothing was learnt about it, and the attempt does not count.
    PutBack,
}

impl Attempted {
    const ALL: [Self; 4] = [Self::Delivered, Self::Retried, Self::Dead, Self::PutBack];

    const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::PutBack => "put_back",
        }
    }
}

/// A step of an attempt that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command of `--check`.
    Check,
    /// `--move-to`.
    Move,
    /// A command of `--hook`.
    Hook,
}

impl Step {
    const ALL: [Self; 3] = [Self::Check, Self::Move, Self::Hook];

    const fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Move => "move",
            Self::Hook => "hook",
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// Exit code 0.
    Accepted,
    /// 65 or 100: no attempt can succeed.
    Rejected,
    /// Any other exit code.
    Failed,
    /// By a signal that was not ours.
    Signalled,
    /// By us, because it took too long.
    TimedOut,
    /// By us, because we are shutting down.
    Interrupted,
    /// It never began.
    NotStarted,
}

impl CommandEnd {
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Rejected,
        Self::Failed,
        Self::Signalled,
        Self::TimedOut,
        Self::Interrupted,
        Self::NotStarted,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Signalled => "signalled",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::NotStarted => "not_started",
        }
    }
}

impl ConsumerMetrics {
    /// Registers the metrics, as `tuspool_consumer_…`; `jobs_max` is `--jobs`.
    pub fn register(registry: &mut Registry, jobs_max: u32) -> Self {
        let registry = registry.sub_registry_with_prefix("consumer");
        let mut gauge = |name: &str, help: &str| {
            let gauge: Gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let running = gauge("jobs_running", "Uploads being worked on now");
        let max = gauge("jobs_max", "Uploads that may be worked on at once");
        let paused = gauge("paused", "1 while the breaker lets nothing be claimed");
        max.set(i64::from(jobs_max));
        let delivered_bytes = Counter::default();
        registry.register(
            "delivered_bytes",
            "Sizes of delivered uploads",
            delivered_bytes.clone(),
        );
        Self {
            running,
            paused,
            delivered_bytes,
            claims: counters(
                registry,
                "claims",
                "Attempts to claim an upload, by outcome",
                "outcome",
                Claimed::ALL.map(Claimed::name),
            ),
            attempts: counters(
                registry,
                "attempts",
                "Attempts to process an upload, by outcome",
                "outcome",
                Attempted::ALL.map(Attempted::name),
            ),
            attempt_seconds: histogram(
                registry,
                "attempt_duration_seconds",
                "From the claim of an upload to its settlement",
                DURATIONS,
            ),
            wait_seconds: histogram(
                registry,
                "wait_seconds",
                "From the hand-over of an upload to its first claim",
                DURATIONS,
            ),
            commands: counters(
                registry,
                "commands",
                "Commands of --check and --hook, by their end",
                "end",
                CommandEnd::ALL.map(CommandEnd::name),
            ),
            step_seconds: histograms(
                registry,
                "step_duration_seconds",
                "Time that the steps of an attempt took",
                DURATIONS,
                "step",
                Step::ALL.map(Step::name),
            ),
            syncs: SyncMetrics::register(registry),
        }
    }

    /// An upload was claimed, or not.
    pub fn claim(&self, outcome: Claimed) {
        self.claims
            .get_or_create(&[("outcome", outcome.name())])
            .inc();
    }

    /// An upload was claimed for the first time, so long after its hand-over.
    pub fn waited(&self, waited: Duration) {
        self.wait_seconds.observe(waited.as_secs_f64());
    }

    /// Work on an upload began; it counts as running until the value is dropped.
    #[must_use]
    pub fn job(&self) -> RunningJob {
        self.running.inc();
        RunningJob(self.running.clone())
    }

    /// A step of an attempt has ended.
    pub fn step(&self, step: Step, took: Duration) {
        self.step_seconds
            .get_or_create(&[("step", step.name())])
            .observe(took.as_secs_f64());
    }

    /// A command has ended.
    pub fn command(&self, end: CommandEnd) {
        self.commands.get_or_create(&[("end", end.name())]).inc();
    }

    /// An attempt has been settled; `took` from the claim.
    pub fn attempt(&self, outcome: Attempted, took: Duration) {
        self.attempts
            .get_or_create(&[("outcome", outcome.name())])
            .inc();
        self.attempt_seconds.observe(took.as_secs_f64());
    }

    /// An upload of so many bytes was delivered.
    pub fn delivered(&self, bytes: u64) {
        self.delivered_bytes.inc_by(bytes);
    }

    /// The breaker opened or closed.
    pub fn pause(&self, paused: bool) {
        self.paused.set(i64::from(paused));
    }

    /// A sync has ended.
    pub fn sync(&self, took: Duration, done: bool) {
        self.syncs.ended(took, done);
    }
}

/// Counts an upload as being worked on until it is dropped.
#[derive(Debug)]
pub struct RunningJob(Gauge);

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Format;

    #[test]
    fn everything_is_counted_under_its_outcome() {
        let mut registry = Registry::with_prefix("tuspool");
        let metrics = ConsumerMetrics::register(&mut registry, 4);
        for claimed in Claimed::ALL {
            metrics.claim(claimed);
        }
        for attempted in Attempted::ALL {
            metrics.attempt(attempted, Duration::from_secs(1));
        }
        for step in Step::ALL {
            metrics.step(step, Duration::from_secs(1));
        }
        for end in CommandEnd::ALL {
            metrics.command(end);
        }
        let job = metrics.job();
        metrics.pause(true);
        metrics.delivered(7);
        metrics.waited(Duration::from_secs(3));
        metrics.sync(Duration::from_millis(3), false);
        let text = Format::Prometheus.encode(&registry).unwrap();
        for sample in [
            "claims_total{outcome=\"taken_away\"} 1",
            "attempts_total{outcome=\"dead\"} 1",
            "step_duration_seconds_count{step=\"move\"} 1",
            "commands_total{end=\"timed_out\"} 1",
            "jobs_running 1",
            "jobs_max 4",
            "paused 1",
            "delivered_bytes_total 7",
            "wait_seconds_count 1",
            "attempt_duration_seconds_count 4",
            "sync_failures_total 1",
        ] {
            let line = format!("tuspool_consumer_{sample}");
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        drop(job);
        let text = Format::Prometheus.encode(&registry).unwrap();
        assert!(text.contains("tuspool_consumer_jobs_running 0\n"));
    }
}
