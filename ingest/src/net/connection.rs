//! One connection: HTTP/1 or HTTP/2, the service around the routes, what every answer carries.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use admin::IngestMetrics;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::debug;
use warp::reply::Response;

use super::exchange::Exchange;
use super::head;
use super::socket::Socket;
use super::unread;
use super::wire::{LAST_HEAD_MAX, Phase, Wire};

/// One read of the socket: larger frames mean larger writes. Measured optimum; 2 MiB is slower.
pub(super) const READ_BUFFER_BYTES: usize = 1 << 20;
/// Request line and headers together. `Upload-Metadata` has its own, smaller limit.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// HTTP/2: enough window for 1 MiB on the wire per upload, and few streams with so much each.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const FRAME_BYTES_MAX: u32 = 256 << 10;
const STREAMS_MAX: u32 = 100;
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Every HTTP/2 connection starts so; no HTTP/1 request does.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may take for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// From the first byte of a request to the end of its headers.
    pub(crate) header: Duration,
    /// Between two requests.
    pub(crate) keep_alive: Duration,
}

/// What all connections share.
pub(crate) struct Shared<R> {
    pub(crate) routes: R,
    pub(crate) timeouts: Timeouts,
    /// Bounds the connections that linger at their end.
    pub(crate) lingerers: Arc<Semaphore>,
    pub(crate) metrics: IngestMetrics,
    /// Cancelled when nobody is accepted any more.
    pub(crate) stopping: CancellationToken,
}

/// The routes as a service: warp's filter, which never rejects.
pub(crate) trait Routes:
    Service<Request<Empty<Bytes>>, Response = Response, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Routes for S where
    S: Service<
            Request<Empty<Bytes>>,
            Response = Response,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves one connection to its end, and holds `permit` as long.
pub(crate) async fn serve<R: Routes>(
    shared: Arc<Shared<R>>,
    accepted: TcpStream,
    peer: SocketAddr,
    shutdown: Watcher,
    permit: OwnedSemaphorePermit,
) {
    let _open = (shared.metrics.connection(), permit);
    let Ok(mut socket) = Socket::new(accepted) else {
        return;
    };
    let Some(prefix) = begin(&shared, &mut socket).await else {
        return;
    };
    let ended = match prefix == HTTP2_PREFACE {
        true => Box::pin(serve_http2(&shared, socket, prefix, peer, shutdown)).await,
        false => serve_http1(&shared, socket, prefix, peer, shutdown).await,
    };
    // An error is the peer's: a reset, a timeout, garbage.
    if let Err(error) = ended {
        debug!(%peer, %error, "connection ended early");
    }
}

/// Waits for the first bytes; `None` if they do not come in time, or the server stops before. Who
/// has sent nothing yet (a browser that connects on suspicion, say) is as idle as one between two
/// requests.
async fn begin<R>(shared: &Shared<R>, socket: &mut Socket) -> Option<Bytes> {
    let prefix = timeout(shared.timeouts.header, read_prefix(socket));
    tokio::select! {
        biased;
        prefix = prefix => prefix.ok()?.ok(),
        () = shared.stopping.cancelled() => None,
    }
}

/// What lives as long as a connection is made here, outside of the future that waits for its end:
/// there it would be kept twice.
fn serve_http1<R: Routes>(
    shared: &Shared<R>,
    socket: Socket,
    prefix: Bytes,
    peer: SocketAddr,
    shutdown: Watcher,
) -> impl Future<Output = Result<(), hyper::Error>> + use<R> {
    let phase = Arc::new(Phase::default());
    let link = Link {
        peer,
        phase: Arc::clone(&phase),
        socket: Some(socket.share()),
    };
    let io = TokioIo::new(wire(shared, socket, prefix, phase));
    let builder = http1_builder(shared.timeouts.keep_alive);
    shutdown.watch(builder.serve_connection(io, service(shared, link)))
}

async fn serve_http2<R: Routes>(
    shared: &Shared<R>,
    socket: Socket,
    prefix: Bytes,
    peer: SocketAddr,
    shutdown: Watcher,
) -> Result<(), hyper::Error> {
    let phase = Arc::new(Phase::default());
    // There are no heads between bodies to time: see `idle`. Pings find the dead.
    phase.in_request.store(true, Ordering::Relaxed);
    let link = Link {
        peer,
        phase: Arc::clone(&phase),
        socket: None,
    };
    let io = TokioIo::new(wire(shared, socket, prefix, Arc::clone(&phase)));
    let connection = http2_builder().serve_connection(io, service(shared, link));
    tokio::select! {
        ended = shutdown.watch(connection) => ended,
        () = idle(&phase, shared.timeouts, &shared.stopping) => Ok(()),
    }
}

fn wire<R>(shared: &Shared<R>, socket: Socket, prefix: Bytes, phase: Arc<Phase>) -> Wire {
    let (lingerers, stopping) = (Arc::clone(&shared.lingerers), shared.stopping.clone());
    let header_timeout = shared.timeouts.header;
    Wire::new(socket, prefix, phase, header_timeout, lingerers, stopping)
}

/// The routes, for the requests of one connection.
fn service<R: Routes>(
    shared: &Shared<R>,
    link: Link,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response, Error = HangUp, Future: Send>
+ use<R> {
    let routes = shared.routes.clone();
    service_fn(move |request| answer(routes.clone(), &link, request))
}

/// Returns when a connection of HTTP/2 has been without a request for too long: hyper times heads
/// and pauses on HTTP/1 only, and whoever answers pings could stay for ever, as whoever answers none
/// could hold up a stop.
async fn idle(phase: &Phase, timeouts: Timeouts, stopping: &CancellationToken) {
    loop {
        let before = phase.requests();
        let patience = match before.0 {
            _ if stopping.is_cancelled() => LAST_HEAD_MAX,
            0 => timeouts.header,
            _ => timeouts.keep_alive,
        };
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            () = stopping.cancelled(), if !stopping.is_cancelled() => continue,
        }
        let (begun, ended) = phase.requests();
        if begun == ended && before == (begun, ended) {
            return;
        }
    }
}

/// Reads until HTTP/2's preface is recognised or ruled out.
async fn read_prefix(socket: &mut Socket) -> io::Result<Bytes> {
    let mut space = [0; HTTP2_PREFACE.len()];
    let mut read = ReadBuf::new(&mut space);
    while read.remaining() != 0 && HTTP2_PREFACE.starts_with(read.filled()) {
        let n = poll_fn(|cx| socket.poll_read(cx, &mut read, None)).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Bytes::copy_from_slice(read.filled()))
}

fn http1_builder(keep_alive: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // No `pipeline_flush`: with it the answer to a malformed head never leaves the buffer.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(keep_alive)
        // Without it a client that sends its last byte and closes loses the whole request.
        .half_close(true)
        .max_buf_size(READ_BUFFER_BYTES)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Marks an answer that must not be sent: the connection is closed instead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("closed without an answer")]
pub(crate) struct HangUp;

/// The connection as its requests see it.
struct Link {
    peer: SocketAddr,
    phase: Arc<Phase>,
    /// `None` on HTTP/2.
    socket: Option<Arc<std::net::TcpStream>>,
}

/// A request that is being answered, until it is answered or dropped, and nothing more is read of it.
struct Counted(Arc<Phase>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// One request through the routes, and what must be done about a body that they left unread.
fn answer<R: Routes>(
    mut routes: R,
    link: &Link,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response, HangUp>> + Send + use<R> {
    let phase = Arc::clone(&link.phase);
    phase.in_request.store(true, Ordering::Relaxed);
    phase.heads.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(Arc::clone(&phase));
    let (mut parts, body) = request.into_parts();
    let is_http1 = parts.version <= Version::HTTP_11;
    let expects_continue = parts.headers.contains_key(http::header::EXPECT);
    if is_http1 && !body.is_end_stream() {
        head::detach(&mut parts);
    }
    let exchange = Exchange::new(link.peer, &mut parts, body, link.socket.clone(), phase);
    parts.extensions.insert(exchange.clone());
    let answered = routes.call(Request::from_parts(parts, Empty::new()));
    async move {
        let Counted(phase) = &counted;
        let Ok(mut response) = answered.await;
        if response.extensions().get::<HangUp>().is_some() {
            return Err(HangUp);
        }
        if is_http1 {
            if !unread::read_out(exchange.take_unread(), expects_continue).await {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
                phase.body_left.store(true, Ordering::Relaxed);
            }
            phase.in_request.store(false, Ordering::Relaxed);
        } else if let Some(body) = exchange.take_unread().body {
            tokio::spawn(async move {
                unread::discard(body).await;
                drop(counted);
            });
        }
        Ok(response)
    }
}
