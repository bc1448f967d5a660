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
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_service::Service;
use warp::reply::Response;

use super::exchange::{Exchange, Unread};
use super::socket::Socket;
use super::wire::{Phase, Wire};

/// One read of the socket: larger frames mean larger writes. Measured optimum; 2 MiB is slower.
const READ_BUFFER_BYTES: usize = 1 << 20;
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

/// An unread body this small is read out, so that the connection survives a refusal.
const DRAIN_BYTES_MAX: u64 = 256 << 10;
const DRAIN_MAX: Duration = Duration::from_millis(500);

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
#[derive(Clone)]
pub(crate) struct Shared<R> {
    pub(crate) routes: R,
    pub(crate) timeouts: Timeouts,
    /// Bounds the connections that linger at their end.
    pub(crate) lingerers: Arc<Semaphore>,
    pub(crate) metrics: IngestMetrics,
}

/// The routes as a service: warp's filter, which never rejects.
pub(crate) trait Routes:
    Service<Request<Empty<Bytes>>, Response = Response, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
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
        + 'static
{
}

/// Serves one connection to its end. An error is the peer's: a reset, a timeout, garbage.
pub(crate) async fn serve<R: Routes>(
    shared: Shared<R>,
    accepted: TcpStream,
    peer: SocketAddr,
    shutdown: Watcher,
) -> Result<(), hyper::Error> {
    let _open = shared.metrics.connection();
    let Ok(mut socket) = Socket::new(accepted) else {
        return Ok(());
    };
    let Ok(Ok(prefix)) = timeout(shared.timeouts.header, read_prefix(&mut socket)).await else {
        return Ok(());
    };
    let is_http2 = prefix == HTTP2_PREFACE;
    let phase = Arc::new(Phase::default());
    // On HTTP/2 there are no heads between bodies to time: see `idle`. Pings find the dead.
    phase.in_request.store(is_http2, Ordering::Relaxed);
    let shared_socket = (!is_http2).then(|| socket.share());
    let wire = Wire::new(
        socket,
        prefix,
        Arc::clone(&phase),
        shared.timeouts.header,
        Arc::clone(&shared.lingerers),
    );
    let link = Link {
        peer,
        phase,
        socket: shared_socket,
    };
    let (routes, phase) = (shared.routes, Arc::clone(&link.phase));
    let service = service_fn(move |request| answer(routes.clone(), link.clone(), request));
    let io = TokioIo::new(wire);
    match is_http2 {
        true => {
            let connection = http2_builder().serve_connection(io, service);
            tokio::select! {
                ended = shutdown.watch(connection) => ended,
                () = idle(&phase, shared.timeouts) => Ok(()),
            }
        }
        false => {
            let builder = http1_builder(shared.timeouts.keep_alive);
            shutdown.watch(builder.serve_connection(io, service)).await
        }
    }
}

/// Returns when a connection of HTTP/2 has been without a request for too long: hyper times heads
/// and pauses on HTTP/1 only, and whoever answers pings could stay for ever.
async fn idle(phase: &Phase, timeouts: Timeouts) {
    loop {
        let before = phase.requests();
        let patience = match before.0 {
            0 => timeouts.header,
            _ => timeouts.keep_alive,
        };
        tokio::time::sleep(patience).await;
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
#[derive(Clone)]
struct Link {
    peer: SocketAddr,
    phase: Arc<Phase>,
    /// `None` on HTTP/2.
    socket: Option<Arc<std::net::TcpStream>>,
}

/// A request that is being answered, until it is answered or dropped.
struct Counted<'a>(&'a Phase);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// One request through the routes, and what must be done about a body that they left unread.
async fn answer<R: Routes>(
    mut routes: R,
    link: Link,
    request: Request<Incoming>,
) -> Result<Response, HangUp> {
    link.phase.in_request.store(true, Ordering::Relaxed);
    link.phase.heads.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(&link.phase);
    let (mut parts, body) = request.into_parts();
    let is_http1 = parts.version <= Version::HTTP_11;
    let (socket, phase) = (link.socket.clone(), Arc::clone(&link.phase));
    let exchange = Exchange::new(link.peer, &parts, body, socket, phase);
    let expects_continue = parts.headers.contains_key(http::header::EXPECT);
    parts.extensions.insert(exchange.clone());
    let Ok(mut response) = routes.call(Request::from_parts(parts, Empty::new())).await;
    if response.extensions().get::<HangUp>().is_some() {
        return Err(HangUp);
    }
    if is_http1 {
        if !read_out(exchange.take_unread(), expects_continue).await {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            link.phase.body_left.store(true, Ordering::Relaxed);
        }
        link.phase.in_request.store(false, Ordering::Relaxed);
    }
    Ok(response)
}

/// Reads a small rest of a body. `false` if the rest is larger, of unknown size, late, or not to
/// be asked for (a client that waits for `100 Continue` would take the reading as consent).
async fn read_out(unread: Unread, expects_continue: bool) -> bool {
    let Some(mut body) = unread.body else {
        return true;
    };
    let waits = expects_continue && !unread.polled;
    if waits
        || body
            .size_hint()
            .upper()
            .is_none_or(|rest| DRAIN_BYTES_MAX < rest)
    {
        return false;
    }
    let to_the_end = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(DRAIN_MAX, to_the_end).await.unwrap_or(false)
}
