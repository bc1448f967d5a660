//! What one HTTP request gives to its handler beside method, path and headers.
//!
//! warp boxes a request's body and drops its trailers, so the body travels beside it: the outer
//! service takes it out of hyper's request and puts it into the extensions.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Uri, Version};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use nix::libc::{FIONREAD, c_int};

use super::wire::Phase;

/// A request's way to its connection. Cheap to clone, as warp demands of an extension.
#[derive(Clone)]
pub(crate) struct Exchange(Arc<State>);

/// What all handles of one exchange share.
pub(crate) struct State {
    /// Who is connected to us (the proxy, if there is one).
    pub(crate) peer: SocketAddr,
    /// Which HTTP the request came by: it decides how its body is framed.
    pub(crate) version: Version,
    /// What was asked for, as the client or the proxy wrote it.
    pub(crate) uri: Uri,
    /// The request's header fields.
    pub(crate) headers: HeaderMap,
    /// The request's body until a handler takes it, and what a handler left of it.
    body: Mutex<Unread>,
    /// The socket beneath an HTTP/1 connection: hyper cannot send interim answers.
    socket: Option<Arc<TcpStream>>,
    /// The state of the connection.
    phase: Arc<Phase>,
}

/// The state of a body that no handler holds at the moment.
#[derive(Default)]
pub(crate) struct Unread {
    /// `None` once it was read to its end, or while a handler reads it.
    pub(crate) body: Option<Incoming>,
    /// Somebody asked for the body, so that hyper has sent `100 Continue` where it was expected.
    pub(crate) polled: bool,
}

impl Deref for Exchange {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Exchange {
    /// Takes the header fields out of `head`: nobody else needs them.
    pub(crate) fn new(
        peer: SocketAddr,
        head: &mut Parts,
        body: Incoming,
        socket: Option<Arc<TcpStream>>,
        phase: Arc<Phase>,
    ) -> Self {
        let body = (!body.is_end_stream()).then_some(body);
        Self(Arc::new(State {
            peer,
            version: head.version,
            uri: head.uri.clone(),
            headers: std::mem::take(&mut head.headers),
            body: Mutex::new(Unread {
                body,
                polled: false,
            }),
            socket,
            phase,
        }))
    }

    /// Whether the request is known to have ended with its headers.
    pub(crate) fn has_no_body(&self) -> bool {
        self.unread().body.is_none()
    }

    /// The body, for the one handler that reads it. What is left of it comes back on drop.
    pub(crate) fn take_body(&self) -> RequestBody {
        let incoming = self.unread().body.take();
        RequestBody {
            incoming,
            polled: false,
            home: self.clone(),
        }
    }

    /// What no handler has read; for the outer service after the handler's end.
    pub(crate) fn take_unread(&self) -> Unread {
        std::mem::take(&mut *self.unread())
    }

    /// Writes an interim answer past hyper. Right only before the body is first polled, on HTTP/1.
    ///
    /// # Errors
    /// While an earlier answer waits to be sent (a client may send several requests and read none
    /// of the answers): past it, this one would stand in its middle. When the socket's buffer does
    /// not take it at once: then it is left out, never cut short.
    pub(crate) fn write_interim(&self, head: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        if self.phase.unsent.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match (&**socket).write(head)? {
            n if n == head.len() => Ok(()),
            // A part of a head on the wire would be read as part of the final one.
            _ => socket.shutdown(Shutdown::Both),
        }
    }

    fn unread(&self) -> std::sync::MutexGuard<'_, Unread> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body, frame by frame, trailers included.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    polled: bool,
    home: Exchange,
}

impl RequestBody {
    /// What would best come in one piece. Only where it is certain that so much is still to come:
    /// on HTTP/1, of a body whose length was told.
    pub(crate) fn want(&self, bytes: u64) {
        let left = self
            .incoming
            .as_ref()
            .and_then(|body| body.size_hint().exact());
        let wanted = match &self.home.socket {
            Some(_) => left.unwrap_or(0).min(bytes),
            None => 0,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        self.home.phase.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Lets the connection do without a buffer until the client sends again.
    pub(crate) async fn rest(&self) {
        self.home.phase.is_silent.store(true, Ordering::Relaxed);
        // It does so when it tries to read, which it would not do before there is something.
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        })
        .await;
    }

    /// The next frame; `None` after the last. Cancel-safe.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        let incoming = self.incoming.as_mut()?;
        self.polled = true;
        let frame = incoming.frame().await;
        if frame.as_ref().is_none_or(Result::is_err) {
            self.incoming = None;
        }
        frame
    }

    /// The next frame, or nothing once all that has arrived was read. On HTTP/2 that is at once:
    /// there, whatever has arrived is a frame already. Cancel-safe.
    pub(crate) async fn frame_or_nothing(
        &mut self,
    ) -> Option<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let socket = self.home.socket.clone();
        let mut frame = std::pin::pin!(self.frame());
        poll_fn(|cx| match frame.as_mut().poll(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => match socket.as_deref().map_or(0, unread_bytes) {
                0 => Poll::Ready(None),
                _ => Poll::Pending,
            },
        })
        .await
    }

    /// The next frame if it is there already; `None` if not. The caller awaits [`Self::frame`]
    /// next, because nobody is woken on behalf of this call.
    #[expect(
        clippy::option_option,
        reason = "not yet, and no more, are two answers"
    )]
    pub(crate) fn frame_now(&mut self) -> Option<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut context = Context::from_waker(Waker::noop());
        match std::pin::pin!(self.frame()).poll(&mut context) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        }
    }
}

nix::ioctl_read_bad!(fionread, FIONREAD, c_int);

/// Bytes that lie in a socket; 0 if it cannot tell. tcp(7), `SIOCINQ`.
fn unread_bytes(socket: &TcpStream) -> usize {
    let mut bytes = 0;
    #[expect(unsafe_code, reason = "an ioctl")]
    // SAFETY: it writes one int to a valid pointer, for a socket that is open.
    let told = unsafe { fionread(socket.as_raw_fd(), &raw mut bytes) };
    told.ok().and(usize::try_from(bytes).ok()).unwrap_or(0)
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.home.phase.wanted.store(0, Ordering::Relaxed);
        let rest = self.incoming.take().filter(|body| !body.is_end_stream());
        let mut home = self.home.unread();
        home.body = rest;
        home.polled |= self.polled;
    }
}
