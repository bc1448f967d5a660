//! From a request's body into the data file: constant memory, no hand-over between threads, and
//! nothing that arrived is lost when the body ends in any other way than its end.
//!
//! Frames that are there are gathered into one write of up to 1 MiB; nothing is ever held back to
//! wait for more. The write is done where the bytes were read: handing them to another thread
//! costs more than the write itself. The watermark follows beside the writing, every 16 MiB or
//! second, and when the client falls silent; at once if that is worth it, see `pace`. Where it waits
//! for the disk, reading does too: see `append::write_out`.

mod pace;

use std::pin::Pin;
use std::time::Duration;

use admin::IngestMetrics;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use shared::durable::DiskError;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::append::Append;
use crate::digests::Taps;
use crate::ledger::Lost;
use crate::net::exchange::RequestBody;
use crate::writers::Wish;
use pace::{Pace, Saves};

/// One write: where small writes cost 1.7 times as much per byte, larger ones gain nothing.
const GATHER_BYTES: usize = 1 << 20;
/// HTTP/2 frames are small; the kernel takes up to 1024 pieces at once.
const GATHER_FRAMES: usize = 128;

/// The watermark follows at the latest after so many bytes: what a SIGKILL may cost.
const PUBLISH_BYTES: u64 = 16 << 20;

/// What a socket may hold that was not read yet, by Linux's default (`tcp_rmem`: 6 MiB): it has
/// arrived, and who asks for what has arrived is told of it.
const DRAIN_BYTES: u64 = 8 << 20;

/// How often to look whether time has made something due: the watermark, then the silence.
const TICK: Duration = Duration::from_millis(500);
/// After so much silence the lock is given up (and taken again when bytes come), so that another
/// process can go on with an upload whose client has come back there.
const SILENCE: Duration = Duration::from_millis(500);

/// How a body ended.
#[derive(Debug)]
pub(crate) enum End {
    /// By its end, with its trailers if there were any.
    Complete(Option<HeaderMap>),
    /// The connection broke, or the framing was wrong.
    Broken(hyper::Error),
    /// Nothing came for the stall timeout, or too little for a minute.
    Stalled,
    /// The server is stopping and the drain time is over.
    Cut,
    /// Another request with the right offset has taken the upload over.
    Replaced,
    /// More bytes than the upload or the request may have.
    TooLong,
    /// Another process went on with the upload while nothing came here.
    Lost(Lost),
    /// The bytes, or the watermark over them, could not be written.
    Disk(DiskError),
}

/// What bounds a body besides the upload's length.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// Without a byte.
    pub(crate) stall_timeout: Duration,
    /// Bytes per second that must come on average; 0 for however few.
    pub(crate) rate_min: u64,
    /// Cancelled when the drain time is over.
    pub(crate) cut: CancellationToken,
}

/// Receives a body to its end, whatever that is. Everything that arrived and fits has been written
/// when this returns; the watermark may be behind it. The taps have taken what was written.
pub(crate) async fn receive(
    body: &mut RequestBody,
    append: &mut Append,
    taps: &mut Taps,
    patience: &Patience,
    metrics: &IngestMetrics,
) -> End {
    let mut clock = Clock::new(patience.rate_min);
    let mut frames = Frames::default();
    let mut cut = std::pin::pin!(patience.cut.cancelled());
    let mut heard = None;
    loop {
        // Looked at in every round: while bytes keep coming, nothing below is reached.
        if patience.cut.is_cancelled() {
            return End::Cut;
        }
        Heard::listen(&mut heard, append);
        match Heard::take_due(&mut heard) {
            Some(Wish::Stop) => return End::Replaced,
            Some(Wish::Publish) => append.publish_for_others(),
            None => {}
        }
        body.want(until_boundary(append.position().0));
        let reads = heard.is_some() || !append.is_behind();
        let step = tokio::select! {
            // Bytes first: what the client sent before it went away is worth more than the rest.
            biased;
            arrived = next(body, heard.is_some()), if reads => match arrived {
                Some(frame) => {
                    let ended = frames.gather(frame, body);
                    let bytes = frames.bytes as u64;
                    clock.bytes_came(bytes);
                    metrics.received(bytes);
                    Heard::has_read(&mut heard, bytes);
                    write(&mut frames, append, taps).err().or(ended)
                }
                None => {
                    Heard::has_read(&mut heard, DRAIN_BYTES);
                    None
                }
            },
            happened = append.happens() => {
                if !reads {
                    // It was the disk that was slow, not the client.
                    clock.goes_on();
                }
                happened.err().map(End::Disk)
            }
            () = &mut cut => Some(End::Cut),
            () = clock.tick(), if reads => on_tick(&mut clock, append, patience.stall_timeout),
        };
        if let Some(end) = step {
            return end;
        }
        if append.unpublished() == 0 && clock.is_silent() && append.pause() {
            clock.rest_until(clock.last_byte + patience.stall_timeout);
            body.rest().await;
        }
    }
}

/// The next frame; if `or_nothing`, nothing once all that has arrived was read.
async fn next(body: &mut RequestBody, or_nothing: bool) -> Option<Next> {
    match or_nothing {
        true => body.frame_or_nothing().await,
        false => Some(body.frame().await),
    }
}

/// What another request wants of this one: that what has arrived counts. It is done once what lies
/// in the socket has been read.
struct Heard {
    wish: Wish,
    /// Bytes that may still be read before: a fast client's socket is never empty.
    left: u64,
}

impl Heard {
    fn listen(heard: &mut Option<Self>, append: &Append) {
        if let Some(wish) = append.take_wish() {
            let left = heard.as_ref().map_or(DRAIN_BYTES, |before| before.left);
            let wish = match heard {
                Some(Self {
                    wish: Wish::Stop, ..
                }) => Wish::Stop,
                _ => wish,
            };
            *heard = Some(Self { wish, left });
        }
    }

    fn has_read(heard: &mut Option<Self>, bytes: u64) {
        if let Some(heard) = heard {
            heard.left = heard.left.saturating_sub(bytes);
        }
    }

    fn take_due(heard: &mut Option<Self>) -> Option<Wish> {
        heard
            .take_if(|heard| heard.left == 0)
            .map(|heard| heard.wish)
    }
}

/// How much of the file is best written next: up to a multiple of a write's size, so that each of
/// those that follow falls together with the kernel's large pages.
fn until_boundary(at: u64) -> u64 {
    GATHER_BYTES as u64 - at % GATHER_BYTES as u64
}

/// Writes what was gathered behind what was written before.
fn write(frames: &mut Frames, append: &mut Append, taps: &mut Taps) -> Result<(), End> {
    if frames.bytes == 0 {
        return Ok(());
    }
    append.resume().map_err(End::Lost)?;
    let too_long = append.room() < frames.bytes as u64;
    if too_long {
        frames.truncate(append.room());
    }
    append.write(&frames.data).map_err(End::Disk)?;
    frames.data.iter().for_each(|bytes| taps.update(bytes));
    frames.clear();
    if too_long {
        return Err(End::TooLong);
    }
    if PUBLISH_BYTES <= append.unpublished() {
        append.publish();
    }
    Ok(())
}

/// What is due once time has passed.
fn on_tick(clock: &mut Clock, append: &mut Append, stall_timeout: Duration) -> Option<End> {
    let now = Instant::now();
    let silence = now.duration_since(clock.last_byte);
    if stall_timeout <= silence || clock.pace.is_too_slow(now) {
        return Some(End::Stalled);
    }
    let unpublished = append.unpublished();
    let due = clock.saves.due(unpublished);
    if unpublished == 0 {
        return None;
    }
    if now < due {
        clock.rest_until(due.min(clock.last_byte + stall_timeout));
    } else if append.publish() {
        clock.saves.began(unpublished, now);
    }
    None
}

/// Frames that wait to be written together.
#[derive(Default)]
struct Frames {
    data: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
}

type Next = Option<Result<Frame<Bytes>, hyper::Error>>;

impl Frames {
    /// Takes this frame and those behind it that are there already; how the body ended, if so.
    fn gather(&mut self, first: Next, body: &mut RequestBody) -> Option<End> {
        let mut next = first;
        loop {
            match next {
                Some(Ok(frame)) => self.push(frame),
                Some(Err(error)) => return Some(End::Broken(error)),
                None => return Some(End::Complete(self.trailers.take())),
            }
            if GATHER_BYTES <= self.bytes || GATHER_FRAMES <= self.data.len() {
                return None;
            }
            next = body.frame_now()?;
        }
    }

    fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                self.bytes += data.len();
                self.data.push(data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    /// Drops what lies beyond the first `most` bytes.
    fn truncate(&mut self, most: u64) {
        let mut room = usize::try_from(most).unwrap_or(usize::MAX);
        for piece in &mut self.data {
            piece.truncate(room);
            room -= piece.len();
        }
        self.data.retain(|piece| !piece.is_empty());
    }

    fn clear(&mut self) {
        self.data.clear();
        self.bytes = 0;
    }
}

/// One timer for all that time can make due.
struct Clock {
    last_byte: Instant,
    saves: Saves,
    pace: Pace,
    next: Pin<Box<Sleep>>,
}

impl Clock {
    fn new(rate_min: u64) -> Self {
        let now = Instant::now();
        Self {
            last_byte: now,
            saves: Saves::new(now),
            pace: Pace::new(rate_min, now),
            next: Box::pin(sleep_until(now + TICK)),
        }
    }

    fn bytes_came(&mut self, bytes: u64) {
        let now = Instant::now();
        self.last_byte = now;
        self.pace.came(bytes);
        // It is moved only from where it rests: once per frame would cost more than the frame.
        if now + TICK < self.next.deadline() {
            self.next.as_mut().reset(now + TICK);
        }
    }

    /// Whether nothing has come for so long that others may have the upload.
    fn is_silent(&self) -> bool {
        SILENCE <= self.last_byte.elapsed()
    }

    /// Nobody listened for a while: the client's silence and its pace are measured from now on.
    fn goes_on(&mut self) {
        let now = Instant::now();
        self.last_byte = now;
        self.pace.restart(now);
    }

    /// Nothing can be due before, unless bytes come.
    fn rest_until(&mut self, due: Instant) {
        self.next.as_mut().reset(due);
    }

    /// Cancel-safe.
    async fn tick(&mut self) {
        self.next.as_mut().await;
        self.next.as_mut().reset(Instant::now() + TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ends_at_a_multiple_of_its_size_wherever_it_begins() {
        let most = GATHER_BYTES as u64;
        for (at, expected) in [
            (0, most),
            (1, most - 1),
            (most - 1, 1),
            (most, most),
            (3 * most + 7, most - 7),
        ] {
            assert_eq!(until_boundary(at), expected);
        }
    }
}
