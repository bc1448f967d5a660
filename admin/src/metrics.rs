//! What both programs count alike.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One label whose values are few and known beforehand.
pub(crate) type Label = [(&'static str, &'static str); 1];
pub(crate) type Counters = Family<Label, Counter>;
pub(crate) type Histograms = Family<Label, Histogram, Buckets>;

/// From a millisecond to an hour, in seconds: a small request to a large upload.
pub(crate) const DURATIONS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 3600.0,
];

/// From a fast NVMe drive to a disk that is about to fail, in seconds.
const SYNCS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0,
];

/// From 1 KiB to 64 GiB, in bytes.
pub(crate) const SIZES: &[f64] = &[
    1024.0,
    16_384.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
];

/// Makes the histograms of a family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buckets(pub(crate) &'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Counters that are 0 from the start, so that a rate sees the first event.
pub(crate) fn counters(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Counters {
    let family = Counters::default();
    for value in values {
        drop(family.get_or_create(&[(label, value)]));
    }
    registry.register(name, help, family.clone());
    family
}

pub(crate) fn histograms(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: &'static [f64],
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Histograms {
    let family = Histograms::new_with_constructor(Buckets(buckets));
    for value in values {
        drop(family.get_or_create(&[(label, value)]));
    }
    registry.register(name, help, family.clone());
    family
}

pub(crate) fn histogram(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: &'static [f64],
) -> Histogram {
    let histogram = Buckets(buckets).new_metric();
    registry.register(name, help, histogram.clone());
    histogram
}

/// How long syncs take, of data, records and directories alike.
#[derive(Clone, Debug)]
pub(crate) struct SyncMetrics {
    seconds: Histogram,
    failures: Counter,
}

impl SyncMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let seconds = histogram(
            registry,
            "sync_duration_seconds",
            "Time that fsync and fdatasync took",
            SYNCS,
        );
        let failures = Counter::default();
        registry.register("sync_failures", "Syncs that failed", failures.clone());
        Self { seconds, failures }
    }

    pub(crate) fn ended(&self, took: Duration, done: bool) {
        self.seconds.observe(took.as_secs_f64());
        if !done {
            self.failures.inc();
        }
    }
}
