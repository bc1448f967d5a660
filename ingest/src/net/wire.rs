//! The connection's byte stream as hyper sees it.
//!
//! It adds three things to the socket: bytes that were read to tell HTTP/1 from HTTP/2 are read
//! again; a request's head must arrive within the header timeout although hyper's own timer also
//! covers the idle time before it; and closing lingers, because Linux answers data that arrives
//! for a closed socket with a reset, which can destroy the refusal that the client has not read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::pages::give_back;
use super::socket::Socket;

/// What a lingering close may read and throw away, and for how long.
pub(super) const LINGER_BYTES_MAX: u64 = 64 << 20;
pub(super) const LINGER_MAX: Duration = Duration::from_secs(5);
/// The same for a connection on which no body was left unread: only a late byte can come.
const FAREWELL_BYTES_MAX: u64 = 1 << 20;
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// A head that is arriving when the server is asked to stop may go on for so long: its rest may have
/// been lost on the way, and is then sent again after a second (RFC 6298).
pub(super) const LAST_HEAD_MAX: Duration = Duration::from_secs(2);

/// What the connection and the requests on it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// A request is being answered: what is read now is body, not head.
    pub(crate) in_request: AtomicBool,
    /// Heads that have arrived whole.
    pub(crate) heads: AtomicU64,
    /// Requests that were answered, or whose client went away.
    pub(crate) ended: AtomicU64,
    /// The client still sends a body that nobody will read.
    pub(crate) body_left: AtomicBool,
    /// An answer, or a part of one, waits until the client has read what was sent before.
    pub(crate) unsent: AtomicBool,
    /// What the reader of a body would have in one piece, all of it still to come; 0 if there is
    /// no such reader, or it does not know.
    pub(crate) wanted: AtomicUsize,
    /// The client has fallen silent: what it will send is read into memory that is free until then.
    pub(crate) is_silent: AtomicBool,
}

impl Phase {
    /// Requests that have begun, and those of them that have ended.
    pub(crate) fn requests(&self) -> (u64, u64) {
        let ended = self.ended.load(Ordering::Relaxed);
        (self.heads.load(Ordering::Relaxed), ended)
    }

    /// What is to be read in one piece. Not while an answer waits to be sent: it needs the runtime
    /// to see when it can be.
    fn wanted(&self) -> Option<usize> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        (wanted != 0 && !self.unsent.load(Ordering::Relaxed)).then_some(wanted)
    }
}

/// See the module's documentation.
pub(crate) struct Wire {
    socket: Socket,
    prefix: Bytes,
    phase: Arc<Phase>,
    header_timeout: Duration,
    /// When a head that has begun must be whole.
    head_deadline: Option<Instant>,
    /// Wakes the connection then, if the rest of the head has to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Heads that had arrived whole when the deadline was set.
    heads_before: u64,
    lingerers: Arc<Semaphore>,
    stopping: CancellationToken,
    closing: Option<Closing>,
}

struct Closing {
    bytes_left: u64,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Wire {
    pub(crate) fn new(
        socket: Socket,
        prefix: Bytes,
        phase: Arc<Phase>,
        header_timeout: Duration,
        lingerers: Arc<Semaphore>,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            socket,
            prefix,
            phase,
            header_timeout,
            head_deadline: None,
            alarm: None,
            heads_before: 0,
            lingerers,
            stopping,
            closing: None,
        }
    }

    /// Sets the head's deadline at its first byte and reports when it has passed. The runtime is
    /// asked for a timer only if the rest of the head has to be waited for: most come in one piece,
    /// and a timer that is nearer than all others costs a wake-up of who waits for the next one.
    fn poll_head_deadline(&mut self, cx: &mut Context<'_>, read: Poll<usize>) -> io::Result<()> {
        let heads = self.phase.heads.load(Ordering::Relaxed);
        let in_request = self.phase.in_request.load(Ordering::Relaxed);
        if in_request || heads != self.heads_before {
            self.heads_before = heads;
            (self.head_deadline, self.alarm) = (None, None);
        }
        if in_request {
            return Ok(());
        }
        let is_over = match (self.head_deadline, read) {
            (None, Poll::Pending | Poll::Ready(0)) => false,
            (None, Poll::Ready(_)) => {
                self.head_deadline = Some(Instant::now() + self.header_timeout);
                false
            }
            (Some(deadline), Poll::Ready(_)) => deadline <= Instant::now(),
            (Some(mut deadline), Poll::Pending) => {
                let last = Instant::now() + LAST_HEAD_MAX;
                if last < deadline && self.stopping.is_cancelled() {
                    deadline = last;
                    (self.head_deadline, self.alarm) = (Some(last), None);
                }
                let new = || Box::pin(sleep_until(deadline));
                let alarm = self.alarm.get_or_insert_with(new);
                alarm.as_mut().poll(cx).is_ready()
            }
        };
        match is_over {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    /// Ends the writing side and prepares to linger; `None` when enough others linger already.
    fn start_closing(&self) -> io::Result<Option<Closing>> {
        self.socket.shut_down()?;
        let Ok(permit) = Arc::clone(&self.lingerers).try_acquire_owned() else {
            return Ok(None);
        };
        let body_left = self.phase.body_left.load(Ordering::Relaxed);
        let (bytes_left, time) = match body_left {
            true => (LINGER_BYTES_MAX, LINGER_MAX),
            false => (FAREWELL_BYTES_MAX, FAREWELL_MAX),
        };
        let deadline = Box::pin(sleep_until(Instant::now() + time));
        Ok(Some(Closing {
            bytes_left,
            deadline,
            _permit: permit,
        }))
    }

    /// Reads and discards until the peer closes too, or a limit is reached.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); 16 << 10];
        loop {
            let Some(closing) = &mut self.closing else {
                return Poll::Ready(());
            };
            if closing.deadline.as_mut().poll(cx).is_ready() || closing.bytes_left == 0 {
                return Poll::Ready(());
            }
            let mut buf = ReadBuf::uninit(&mut scratch);
            match ready!(self.socket.poll_read(cx, &mut buf, None)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(n) => {
                    if let Some(closing) = &mut self.closing {
                        closing.bytes_left = closing.bytes_left.saturating_sub(n as u64);
                    }
                }
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(n));
            // With what has come behind it: of half a head hyper makes a buffer of twice the size,
            // which the connection keeps.
            if let Poll::Ready(result) = self.socket.poll_read(cx, buf, None) {
                result?;
            }
            self.poll_head_deadline(cx, Poll::Ready(n))?;
            return Poll::Ready(Ok(()));
        }
        let wanted = self.phase.wanted();
        match self.socket.poll_read(cx, buf, wanted) {
            Poll::Ready(result) => {
                let n = result?;
                self.poll_head_deadline(cx, Poll::Ready(n))?;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                if self.phase.is_silent.swap(false, Ordering::Relaxed) {
                    #[expect(unsafe_code, reason = "hyper's buffers are not initialised")]
                    // SAFETY: to be filled is all that this space is for.
                    give_back(unsafe { buf.unfilled_mut() });
                }
                self.poll_head_deadline(cx, Poll::Pending)?;
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Whatever is not written now is kept by who calls, and written with the next call.
        self.phase.unsent.store(true, Ordering::Relaxed);
        let result = ready!(self.socket.poll_write(cx, data));
        let all: usize = data.iter().map(|piece| piece.len()).sum();
        let is_rest = result.as_ref().is_ok_and(|&written| written < all);
        self.phase.unsent.store(is_rest, Ordering::Relaxed);
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            self.closing = self.start_closing()?;
        }
        ready!(self.poll_linger(cx));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::net::TcpStream;

    use super::*;

    /// A connection of which `prefix` was read already, and its client. A head may take no time.
    async fn pair(prefix: &'static [u8]) -> (Wire, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let wire = Wire::new(
            Socket::new(accepted).unwrap(),
            Bytes::from_static(prefix),
            Arc::new(Phase::default()),
            Duration::ZERO,
            Arc::new(Semaphore::new(1)),
            CancellationToken::new(),
        );
        (wire, client)
    }

    #[tokio::test]
    async fn what_came_behind_the_prefix_comes_with_it() {
        let (mut wire, mut client) = pair(b"GET ").await;
        client.write_all(b"/files/").unwrap();
        while !matches!(wire.socket.share().peek(&mut [0; 8]), Ok(7)) {
            tokio::task::yield_now().await;
        }
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        // Nobody has asked yet whether there is something: the first read may find nothing.
        poll_fn(|cx| {
            let asked = wire.socket.poll_read(cx, &mut ReadBuf::new(&mut []), None);
            asked.map(drop)
        })
        .await;
        poll_fn(|cx| Pin::new(&mut wire).poll_read(cx, &mut buf))
            .await
            .unwrap();
        assert_eq!(buf.filled(), b"GET /files/");
    }

    #[tokio::test]
    async fn a_head_is_timed_from_its_first_byte_until_it_is_whole() {
        async fn read(wire: &mut Wire) -> io::Result<()> {
            let mut space = [0; 4];
            let mut buf = ReadBuf::new(&mut space);
            poll_fn(|cx| Pin::new(&mut *wire).poll_read(cx, &mut buf)).await
        }
        let is_late = |result: io::Result<()>| {
            result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
        };
        // Whether more of the head comes, or nothing.
        for more in [true, false] {
            let (mut wire, mut client) = pair(b"").await;
            client.write_all(b"GET ").unwrap();
            read(&mut wire).await.unwrap();
            if more {
                client.write_all(b"/").unwrap();
            }
            assert!(is_late(read(&mut wire).await), "more: {more}");
        }
        let (mut wire, mut client) = pair(b"").await;
        for _ in 0..3 {
            client.write_all(b"GET ").unwrap();
            read(&mut wire).await.unwrap();
            wire.phase.heads.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_waited_for_without_memory_and_once_told() {
        let (mut wire, _client) = pair(b"").await;
        let mut space = vec![1; 16 << 10];
        for (is_silent, is_kept) in [(false, true), (true, false), (false, true)] {
            space.fill(1);
            wire.phase.is_silent.fetch_or(is_silent, Ordering::Relaxed);
            poll_fn(|cx| {
                let waits = Pin::new(&mut wire).poll_read(cx, &mut ReadBuf::new(&mut space));
                assert!(waits.is_pending());
                Poll::Ready(())
            })
            .await;
            assert_eq!(space.iter().all(|byte| *byte == 1), is_kept);
        }
    }
}
