//! What ingest counts.

use std::time::Duration;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metrics::{
    Counters, DURATIONS, Histograms, SIZES, SyncMetrics, counters, histogram, histograms,
};

/// The metrics of ingest. Clones share their values.
#[derive(Clone, Debug)]
pub struct IngestMetrics {
    requests: Family<Request, Counter>,
    request_seconds: Histograms,
    refusals: Counters,
    received_bytes: Counter,
    bodies: Counters,
    body_bytes: Histogram,
    uploads: Counters,
    open: Gauge,
    connections: Counter,
    lock_seconds: Histograms,
    syncs: SyncMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    status: u16,
}

/// What happened to an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadEvent {
    /// A client created it.
    Created,
    /// Received in full and handed over.
    Completed,
    /// A client ended it.
    Terminated,
}

impl UploadEvent {
    const ALL: [Self; 3] = [Self::Created, Self::Completed, Self::Terminated];

    const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Completed => "completed",
            Self::Terminated => "terminated",
        }
    }
}

/// How the body of a request that appends came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// As announced.
    Complete,
    /// The connection broke.
    Broken,
    /// Nothing came for too long.
    Stalled,
    /// We are shutting down.
    Cut,
    /// Another request took the upload over.
    Replaced,
    /// More came than the upload has room for.
    TooLong,
    /// What came is not what its checksum says.
    Mismatch,
    /// The disk said no.
    Disk,
}

impl BodyEnd {
    const ALL: [Self; 8] = [
        Self::Complete,
        Self::Broken,
        Self::Stalled,
        Self::Cut,
        Self::Replaced,
        Self::TooLong,
        Self::Mismatch,
        Self::Disk,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Broken => "broken",
            Self::Stalled => "stalled",
            Self::Cut => "cut",
            Self::Replaced => "replaced",
            Self::TooLong => "too_long",
            Self::Mismatch => "mismatch",
            Self::Disk => "disk",
        }
    }
}

/// Methods with a series of their own; what else clients may come up with is `other`.
const METHODS: [&str; 8] = [
    "OPTIONS", "POST", "HEAD", "PATCH", "DELETE", "GET", "PUT", "other",
];

fn method_name(method: &Method) -> &'static str {
    METHODS
        .into_iter()
        .find(|name| *name == method.as_str())
        .unwrap_or("other")
}

/// What came of waiting for an upload's lock.
const LOCK_OUTCOMES: [&str; 2] = ["locked", "busy"];

impl IngestMetrics {
    /// Registers the metrics, as `tuspool_ingest_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("ingest");
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let received_bytes = Counter::default();
        registry.register(
            "received_bytes",
            "Bytes of bodies received",
            received_bytes.clone(),
        );
        let open = Gauge::default();
        registry.register("connections_open", "Connections open now", open.clone());
        let connections = Counter::default();
        registry.register("connections", "Connections accepted", connections.clone());
        Self {
            requests,
            received_bytes,
            open,
            connections,
            request_seconds: histograms(
                registry,
                "request_duration_seconds",
                "From the headers of a request to its answer",
                DURATIONS,
                "method",
                METHODS,
            ),
            // The codes are the protocol's; each appears with its first refusal.
            refusals: counters(
                registry,
                "refusals",
                "Requests refused, by reason",
                "code",
                [],
            ),
            bodies: counters(
                registry,
                "bodies",
                "Bodies received, by their end",
                "end",
                BodyEnd::ALL.map(BodyEnd::name),
            ),
            body_bytes: histogram(
                registry,
                "body_size_bytes",
                "Bytes that came with one PATCH or creation",
                SIZES,
            ),
            uploads: counters(
                registry,
                "uploads",
                "Uploads created, completed and terminated",
                "event",
                UploadEvent::ALL.map(UploadEvent::name),
            ),
            lock_seconds: histograms(
                registry,
                "lock_wait_seconds",
                "Time that requests waited for the lock of an upload",
                DURATIONS,
                "outcome",
                LOCK_OUTCOMES,
            ),
            syncs: SyncMetrics::register(registry),
        }
    }

    /// A request has been answered; `took` from its headers to the answer's.
    pub fn request(&self, method: &Method, status: u16, took: Duration) {
        let method = method_name(method);
        self.requests
            .get_or_create(&Request { method, status })
            .inc();
        self.request_seconds
            .get_or_create(&[("method", method)])
            .observe(took.as_secs_f64());
    }

    /// A request was refused with this stable code.
    pub fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&[("code", code)]).inc();
    }

    /// Bytes of a body have come.
    pub fn received(&self, bytes: u64) {
        self.received_bytes.inc_by(bytes);
    }

    /// The body of a request that appends has ended after `bytes`.
    pub fn body(&self, end: BodyEnd, bytes: u64) {
        self.bodies.get_or_create(&[("end", end.name())]).inc();
        self.body_bytes.observe(bytes as f64);
    }

    /// Something happened to an upload.
    pub fn upload(&self, event: UploadEvent) {
        self.uploads.get_or_create(&[("event", event.name())]).inc();
    }

    /// A request waited for the lock of an upload, and has it or has given up.
    pub fn lock(&self, locked: bool, waited: Duration) {
        let outcome = LOCK_OUTCOMES[usize::from(!locked)];
        self.lock_seconds
            .get_or_create(&[("outcome", outcome)])
            .observe(waited.as_secs_f64());
    }

    /// A connection was accepted; it counts as open until the value is dropped.
    #[must_use]
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        self.open.inc();
        OpenConnection(self.open.clone())
    }

    /// A sync has ended.
    pub fn sync(&self, took: Duration, done: bool) {
        self.syncs.ended(took, done);
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Format;

    fn text(registry: &Registry) -> String {
        Format::Prometheus.encode(registry).unwrap()
    }

    #[test]
    fn connections_are_open_until_they_are_dropped() {
        let mut registry = Registry::default();
        let metrics = IngestMetrics::register(&mut registry);
        let (one, two) = (metrics.connection(), metrics.connection());
        assert!(text(&registry).contains("ingest_connections_open 2\n"));
        drop((one, two));
        let after = text(&registry);
        assert!(after.contains("ingest_connections_open 0\n"));
        assert!(after.contains("ingest_connections_total 2\n"));
    }

    #[test]
    fn whatever_clients_send_makes_few_series() {
        let mut registry = Registry::default();
        let metrics = IngestMetrics::register(&mut registry);
        for n in 0..1000 {
            let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
            metrics.request(&method, 405, Duration::ZERO);
        }
        metrics.request(&Method::PATCH, 204, Duration::from_secs(2));
        let text = text(&registry);
        assert!(text.contains("ingest_requests_total{method=\"other\",status=\"405\"} 1000\n"));
        assert!(text.contains("ingest_requests_total{method=\"PATCH\",status=\"204\"} 1\n"));
        let seconds = "ingest_request_duration_seconds_bucket{le=\"2.5\",method=\"PATCH\"} 1\n";
        assert!(text.contains(seconds), "{text}");
        assert!(text.lines().count() < 400);
    }

    #[test]
    fn what_has_not_happened_yet_is_zero() {
        let mut registry = Registry::default();
        let metrics = IngestMetrics::register(&mut registry);
        for line in [
            "ingest_uploads_total{event=\"terminated\"} 0\n",
            "ingest_bodies_total{end=\"too_long\"} 0\n",
            "ingest_lock_wait_seconds_count{outcome=\"busy\"} 0\n",
        ] {
            assert!(text(&registry).contains(line), "{line}");
        }
        metrics.lock(false, Duration::from_millis(2));
        metrics.upload(UploadEvent::Terminated);
        for line in [
            "ingest_uploads_total{event=\"terminated\"} 1\n",
            "ingest_lock_wait_seconds_count{outcome=\"busy\"} 1\n",
            "ingest_lock_wait_seconds_count{outcome=\"locked\"} 0\n",
        ] {
            assert!(text(&registry).contains(line), "{line}");
        }
    }
}
