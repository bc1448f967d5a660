//! The socket beneath a connection, and the two ways in which its bytes are waited for.
//!
//! Most of the time through the runtime. But every segment that arrives wakes a thread there, while
//! another one still reads or writes the last: a body from a fast client costs three wake-ups and
//! as many looks at epoll for each MiB, a third of its CPU time. So while reads keep coming back
//! full, the kernel is not asked for news of the socket, and the little that is still to come of a
//! read is waited for here.

use std::io::{self, IoSlice, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::io::unix::AsyncFd;

/// A client that fills a read of so much is fast: at 1 Gbit/s a read finds less.
const FAST_BYTES: usize = 128 << 10;

/// For how long a worker waits for the rest of a read. Other requests are served by the other
/// workers, and by this one after a time that none of them notices.
const REST_WITHIN: Duration = Duration::from_millis(1);

/// A non-blocking socket.
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    /// The runtime's eye on it; `None` while the client is fast.
    watch: Option<AsyncFd<Arc<TcpStream>>>,
    /// The last read came back full.
    is_fast: bool,
}

impl Socket {
    /// Takes an accepted socket over from the runtime.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(crate) fn new(accepted: tokio::net::TcpStream) -> io::Result<Self> {
        Ok(Self {
            stream: Arc::new(accepted.into_std()?),
            watch: None,
            is_fast: false,
        })
    }

    /// The same socket, for who writes past hyper.
    pub(crate) fn share(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }

    fn watch(&mut self) -> io::Result<&AsyncFd<Arc<TcpStream>>> {
        match &mut self.watch {
            Some(watch) => Ok(watch),
            none => Ok(none.insert(watch(Arc::clone(&self.stream))?)),
        }
    }

    /// Reads what is there, at most `wanted` bytes if that is known; only these are waited for in
    /// any other way than through the runtime, so they must still be to come.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        wanted: Option<usize>,
    ) -> Poll<io::Result<usize>> {
        let was_fast = std::mem::take(&mut self.is_fast);
        let most = wanted.unwrap_or(usize::MAX).min(buf.remaining());
        if was_fast
            && wanted.is_some()
            && let Some(n) = self.read_here(buf, most)?
        {
            self.is_fast = n == most;
            return Poll::Ready(Ok(n));
        }
        loop {
            let mut ready = ready!(self.watch()?.poll_read_ready(cx))?;
            if let Ok(result) = ready.try_io(|watch| receive(watch.get_ref(), buf, most)) {
                let n = result?;
                self.is_fast = wanted.is_some() && FAST_BYTES <= n;
                return Poll::Ready(Ok(n));
            }
        }
    }

    /// Reads `most` bytes, or what has come of them within [`REST_WITHIN`]; `None` if nothing has.
    fn read_here(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<Option<usize>> {
        self.watch = None;
        let (mut read, mut waits_since) = (0, None);
        while read < most {
            match receive(&self.stream, buf, most - read) {
                Ok(0) if read == 0 => return Ok(Some(0)),
                // Here as below: it is there again at the next read.
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let since = *waits_since.get_or_insert_with(Instant::now);
                    match REST_WITHIN.checked_sub(since.elapsed()) {
                        Some(rest) => self.wait(rest)?,
                        None => break,
                    }
                }
                Err(error) if read == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok((0 < read).then_some(read))
    }

    /// Blocks until something has come, at most for so long.
    fn wait(&self, at_most: Duration) -> io::Result<()> {
        let mut socket = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut socket, Some(TimeSpec::from_duration(at_most)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what the kernel takes; waits for room if that is nothing.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.watch()?.poll_write_ready(cx))?;
            if let Ok(result) = ready.try_io(|watch| (&**watch.get_ref()).write_vectored(data)) {
                return Poll::Ready(result);
            }
        }
    }

    /// Ends the writing side.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

fn watch(stream: Arc<TcpStream>) -> io::Result<AsyncFd<Arc<TcpStream>>> {
    #[expect(
        unsafe_code,
        reason = "the runtime cannot know what a descriptor will be"
    )]
    // SAFETY: it stays open as long as the stream, which is shared and never exchanged.
    let registered = unsafe { AsyncFd::register(stream) };
    Ok(registered?)
}

/// recv(2), of at most `most` bytes.
fn receive(stream: &TcpStream, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<usize> {
    let most = most.min(buf.remaining());
    #[expect(unsafe_code, reason = "hyper's buffers are not initialised")]
    // SAFETY: nothing is read from the slice, and nothing of it is made uninitialised.
    let space = unsafe { &mut buf.unfilled_mut()[..most] };
    let n = SockRef::from(stream).recv(space)?;
    #[expect(unsafe_code, reason = "hyper's buffers are not initialised")]
    // SAFETY: the kernel has just written so many bytes there.
    unsafe {
        buf.assume_init(n);
    }
    buf.advance(n);
    Ok(n)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MIB: usize = 1 << 20;

    /// A socket and its client.
    async fn pair() -> (Socket, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        SockRef::from(&accepted)
            .set_recv_buffer_size(4 * MIB)
            .unwrap();
        (Socket::new(accepted).unwrap(), client)
    }

    async fn read(socket: &mut Socket, wanted: Option<usize>) -> usize {
        let mut space = vec![0; 2 * MIB];
        let mut buf = ReadBuf::new(&mut space);
        let n = poll_fn(|cx| socket.poll_read(cx, &mut buf, wanted)).await;
        assert_eq!(n.as_ref().ok(), Some(&buf.filled().len()));
        n.unwrap()
    }

    /// A socket whose client has just filled a read.
    async fn fast() -> (Socket, TcpStream) {
        let (mut socket, mut client) = pair().await;
        client.write_all(&[0; FAST_BYTES]).unwrap();
        let mut space = vec![0; FAST_BYTES];
        while !matches!(socket.stream.peek(&mut space), Ok(FAST_BYTES)) {
            tokio::task::yield_now().await;
        }
        assert_eq!(read(&mut socket, Some(FAST_BYTES)).await, FAST_BYTES);
        assert!(socket.is_fast);
        (socket, client)
    }

    #[tokio::test]
    async fn no_more_is_read_than_is_wanted() {
        let (mut socket, mut client) = pair().await;
        client.write_all(b"hello").unwrap();
        assert_eq!(read(&mut socket, Some(2)).await, 2);
        assert_eq!(read(&mut socket, None).await, 3);
        let (mut socket, mut client) = fast().await;
        client.write_all(b"hello").unwrap();
        assert_eq!(read(&mut socket, Some(2)).await, 2);
        assert!(socket.watch.is_none());
        assert_eq!(read(&mut socket, None).await, 3);
    }

    #[tokio::test]
    async fn a_fast_client_that_falls_silent_is_waited_for_by_the_runtime() {
        let (mut socket, mut client) = fast().await;
        let reading = tokio::spawn(async move {
            let n = read(&mut socket, Some(MIB)).await;
            (socket, n)
        });
        // The only thread is free: otherwise this would never go on.
        tokio::task::yield_now().await;
        client.write_all(b"hello").unwrap();
        let (socket, n) = reading.await.unwrap();
        assert_eq!(n, 5);
        assert!(socket.watch.is_some() && !socket.is_fast);
    }

    #[tokio::test]
    async fn what_came_of_a_wanted_read_is_not_held_back() {
        let (mut socket, mut client) = fast().await;
        client.write_all(b"hello").unwrap();
        assert_eq!(read(&mut socket, Some(MIB)).await, 5);
        assert!(!socket.is_fast);
    }

    #[tokio::test]
    async fn the_end_of_a_fast_client_comes_behind_its_last_bytes() {
        let (mut socket, mut client) = fast().await;
        client.write_all(b"hello").unwrap();
        drop(client);
        assert_eq!(read(&mut socket, Some(MIB)).await, 5);
        assert_eq!(read(&mut socket, Some(MIB)).await, 0);
    }

    #[tokio::test]
    async fn the_reset_of_a_fast_client_is_an_error() {
        let (mut socket, client) = fast().await;
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        let mut space = [0; 16];
        let mut buf = ReadBuf::new(&mut space);
        let result = poll_fn(|cx| socket.poll_read(cx, &mut buf, Some(16))).await;
        assert!(result.is_err());
    }
}
