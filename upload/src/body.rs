//! A piece of a source as the body of a request, read by its own thread a little ahead of the network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::exit::UploadError;
use crate::meter::Meter;
use crate::source::Source;

/// Read at once: large enough to keep a fast network busy, small enough to be freed soon.
const BUFFER: usize = 256 << 10;

/// Buffers that wait while the network is slower than the disk.
const BUFFERS_AHEAD: usize = 2;

/// A stretch of a source.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub source: Arc<Source>,
    pub from: u64,
    pub to: u64,
}

/// Why reading failed, kept aside because an HTTP client reports it only as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadError(Arc<Mutex<Option<UploadError>>>);

impl ReadError {
    fn set(&self, error: UploadError) {
        *self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
    }

    /// The error, once.
    pub(crate) fn take(&self) -> Option<UploadError> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take()
    }
}

impl Piece {
    /// Starts reading. What the network took is told to the meter as it goes.
    pub(crate) fn into_body(self, meter: &Arc<Meter>) -> (reqwest::Body, ReadError) {
        let read_error = ReadError::default();
        let (sender, receiver) = mpsc::channel(BUFFERS_AHEAD);
        let body = PieceBody {
            receiver,
            left: self.to - self.from,
            meter: Arc::clone(meter),
        };
        let slot = read_error.clone();
        tokio::task::spawn_blocking(move || read_ahead(&self, &sender, &slot));
        (reqwest::Body::wrap(body), read_error)
    }
}

/// Ends early when the body was dropped: the request is over.
fn read_ahead(piece: &Piece, sender: &mpsc::Sender<io::Result<Bytes>>, slot: &ReadError) {
    let mut at = piece.from;
    while at < piece.to {
        let left = usize::try_from(piece.to - at).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(BUFFER)];
        let read = piece.source.read_at(at, &mut buffer);
        let failed = read.is_err();
        let message = read.map(|()| Bytes::from(buffer)).map_err(|error| {
            slot.set(error);
            io::Error::other("the source could not be read")
        });
        at += message.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if sender.blocking_send(message).is_err() || failed {
            return;
        }
    }
}

struct PieceBody {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    meter: Arc<Meter>,
}

impl http_body::Body for PieceBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let bytes = match ready!(self.receiver.poll_recv(context)) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
        };
        let count = bytes.len() as u64;
        self.left = self.left.saturating_sub(count);
        self.meter.add(count);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    /// Exact, so that the request carries a Content-Length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
