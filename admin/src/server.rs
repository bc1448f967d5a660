//! The listener: three paths, no more.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::health::{Check, Health};
use crate::process::ProcessMetrics;
use crate::stock::StockMetrics;
use crate::text::Format;

/// A few scrapers and probes; more wait.
const CONNECTIONS_MAX: usize = 32;
/// For the headers of a request to arrive, also after the one before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before the next `accept` when there are no descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

const PLAIN: &str = "text/plain; charset=utf-8";

/// The admin listener of a program, while its metrics are being registered.
#[derive(Debug)]
pub struct Admin {
    registry: Registry,
}

/// What every request needs.
#[derive(Debug)]
struct Answers {
    registry: Registry,
    stock: Arc<StockMetrics>,
    health: Health,
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    /// Of the program of this name.
    #[must_use]
    pub fn new(program: &'static str) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new()));
        let labels = [("program", program), ("version", env!("CARGO_PKG_VERSION"))];
        registry.register("tuspool_build", "Which program this is", Info::new(labels));
        Self { registry }
    }

    /// Where a program registers its metrics; they are called `tuspool_…`.
    pub fn registry(&mut self) -> &mut Registry {
        self.registry.sub_registry_with_prefix("tuspool")
    }

    /// Answers on `listener` for ever. Call it within a tokio runtime.
    ///
    /// # Errors
    /// The listener cannot be used with the runtime.
    pub fn serve(
        self,
        listener: TcpListener,
        health: Health,
    ) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "answering /metrics, /healthz and /readyz");
        }
        let Self { mut registry } = self;
        let stock = Arc::new(StockMetrics::new(Arc::clone(health.spool())));
        let spool = registry.sub_registry_with_prefix("tuspool");
        spool.register_collector(Box::new(Arc::clone(&stock)));
        let answers = Arc::new(Answers {
            registry,
            stock,
            health,
        });
        Ok(accept(listener, answers))
    }
}

async fn accept(listener: tokio::net::TcpListener, answers: Arc<Answers>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve(stream, Arc::clone(&answers));
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection on --admin");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, answers: Arc<Answers>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request.map(drop)).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to --admin ended early");
    }
}

impl Answers {
    async fn answer(&self, request: Request<()>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(&request).await,
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(request.uri().query().unwrap_or_default()).await,
            "/" => plain(StatusCode::OK, "/metrics\n/healthz\n/readyz\n"),
            _ => plain(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    async fn metrics(&self, request: &Request<()>) -> Answer {
        self.stock.refresh().await;
        let accept = request
            .headers()
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok());
        let format = Format::accepted(accept.unwrap_or_default());
        match format.encode(&self.registry) {
            Ok(text) => answer(StatusCode::OK, format.content_type(), text),
            Err(_) => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot encode the metrics\n",
            ),
        }
    }

    async fn ready(&self, query: &str) -> Answer {
        let Some(excluded) = excluded(query) else {
            return plain(StatusCode::BAD_REQUEST, "exclude: unknown check\n");
        };
        let report = self.health.report().await;
        let status = match report.is_ready(&excluded) {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        plain(status, report.to_string())
    }
}

/// `exclude=space&exclude=sync`, as Kubernetes' own programs take it. `None` for a check that does
/// not exist: a misspelt probe must not go unnoticed.
fn excluded(query: &str) -> Option<Vec<Check>> {
    let names = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("exclude="));
    names
        .map(|name| Check::ALL.into_iter().find(|check| check.name() == name))
        .collect()
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, PLAIN, text)
}

fn answer(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::SocketAddr;

    use shared::spool::{Options, Spool};
    use shared::startup::Shutdown;
    use shared::startup::shutdown::Trigger;

    use super::*;
    use crate::{IngestMetrics, ingest::UploadEvent};

    struct Rig {
        _dir: tempfile::TempDir,
        address: SocketAddr,
        trigger: Trigger,
        metrics: IngestMetrics,
    }

    fn rig(free_bytes_min: u64) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        let (trigger, shutdown) = Shutdown::manual();
        let health = Health::new(Arc::new(spool), free_bytes_min, shutdown);
        let mut admin = Admin::new("ingest");
        let metrics = IngestMetrics::register(admin.registry());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin.serve(listener, health).unwrap());
        Rig {
            _dir: dir,
            address,
            trigger,
            metrics,
        }
    }

    /// The answer to a request, of which `line` is the beginning.
    async fn ask(address: SocketAddr, line: &'static str) -> String {
        let asked = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            write!(stream, "{line}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        asked.await.unwrap()
    }

    #[tokio::test]
    async fn each_path_answers() {
        let rig = rig(0);
        for (request, status) in [
            ("GET / HTTP/1.1", "200"),
            ("GET /healthz HTTP/1.1", "200"),
            ("HEAD /healthz HTTP/1.1", "200"),
            ("GET /readyz HTTP/1.1", "200"),
            ("GET /metrics HTTP/1.1", "200"),
            ("GET /files/ HTTP/1.1", "404"),
            ("POST /metrics HTTP/1.1", "405"),
            ("GET /readyz?exclude=spcae HTTP/1.1", "400"),
        ] {
            let answer = ask(rig.address, request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {answer}"
            );
        }
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_was_asked_for() {
        let rig = rig(0);
        rig.metrics.upload(UploadEvent::Created);
        let plain = ask(rig.address, "GET /metrics HTTP/1.1").await;
        let open = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text";
        let open = ask(rig.address, open).await;
        assert!(
            plain.contains("content-type: text/plain; version=0.0.4"),
            "{plain}"
        );
        assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(open.ends_with("# EOF\n"));
        for text in [plain, open] {
            for sample in [
                "tuspool_ingest_uploads_total{event=\"created\"} 1\n",
                "tuspool_spool_uploads{dir=\"completed\"} 0.0\n",
                "tuspool_build_info{program=\"ingest\",version=\"",
                "process_start_time_seconds ",
            ] {
                assert!(text.contains(sample), "{sample} in\n{text}");
            }
        }
    }

    #[tokio::test]
    async fn a_draining_program_answers_that_it_drains() {
        let rig = rig(0);
        rig.trigger.next();
        let answer = ask(rig.address, "GET /readyz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("failed running: draining\n"), "{answer}");
        assert!(
            ask(rig.address, "GET /healthz HTTP/1.1")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
    }

    #[tokio::test]
    async fn a_check_can_be_excluded() {
        let rig = rig(u64::MAX);
        assert!(
            ask(rig.address, "GET /readyz HTTP/1.1")
                .await
                .starts_with("HTTP/1.1 503 ")
        );
        let without = ask(rig.address, "GET /readyz?exclude=space HTTP/1.1").await;
        assert!(without.starts_with("HTTP/1.1 200 ") && without.contains("failed space: "));
    }
}
