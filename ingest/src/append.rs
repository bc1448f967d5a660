//! One request's hold on one upload: the lock, the position, and the watermark that follows it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::uio::pwritev;
use shared::durable::{DiskError, OnPath as _};
use shared::id::UploadId;
use shared::size::{Length, Offset};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::digests::read_digest;
use crate::ledger::{Ledger, Lost};
use crate::space::Promise;
use crate::tus::checksum::Hasher;
use crate::writers::{Seat, Wish};
use direct::Direct;
use write_out::WriteOut;

mod direct;
mod write_out;

/// The right to append to one upload, as long as it lives.
///
/// Nothing that was written counts before the watermark has moved over it. However this ends,
/// also when its task is dropped in the middle, the watermark moves over what arrived.
#[derive(Debug)]
pub(crate) struct Append {
    ledger: Arc<Ledger>,
    seat: Arc<Seat>,
    /// `None` where space is set aside, or what is left is noted already.
    promise: Option<Promise>,
    /// Where the next byte goes.
    at: u64,
    /// Where the watermark stands on disk.
    published: u64,
    /// Where the request or the upload ends.
    end: u64,
    /// Nothing from here on is published before the hand-over.
    ceiling: u64,
    /// Whether what arrives counts at once; not while a checksum must be verified first.
    counted: bool,
    publishing: Option<Publishing>,
    direct: Direct,
    write_out: WriteOut,
    /// Somebody asked for what arrived after the running publication had begun.
    asked_again: bool,
    paused: bool,
    /// The lock was given up while bytes lay there that do not count yet: whoever had it meanwhile
    /// may have written over them.
    gave_way: bool,
    /// There is something to make durable besides bytes: a length, a new upload.
    amended: bool,
    /// A sync failed, or the upload was handed over: nothing more is published. After a failed
    /// sync a second one would answer that lost bytes are safe.
    closed: bool,
}

/// An upload taken for writing: its files, and its seat among this process's writers.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) seat: Arc<Seat>,
    /// `None` where space is set aside.
    pub(crate) promise: Option<Promise>,
    /// It was created just now: nobody finds it before it is published.
    pub(crate) is_new: bool,
}

/// A publication that runs beside the writing.
#[derive(Debug)]
struct Publishing {
    job: Job,
    upto: u64,
    for_others: bool,
}

#[derive(Debug)]
enum Job {
    /// On a thread that may wait for the disk.
    Beside(JoinHandle<Result<(), DiskError>>),
    /// Done: nothing had to be waited for.
    Done(Result<(), DiskError>),
}

impl Append {
    /// Appends from the ledger's watermark on, up to `end` (a position in the upload).
    pub(crate) fn new(held: Held, end: u64, counted: bool) -> Self {
        let Held {
            ledger,
            seat,
            promise,
            is_new,
        } = held;
        let at = ledger.record().map_or(0, |record| record.offset.0);
        let direct = Direct::new(ledger.writes_directly());
        Self {
            ledger,
            seat,
            promise,
            at,
            published: at,
            end,
            ceiling: u64::MAX,
            counted,
            publishing: None,
            direct,
            write_out: WriteOut::new(at),
            asked_again: false,
            paused: false,
            gave_way: false,
            amended: is_new,
            closed: false,
        }
    }

    /// Which upload.
    pub(crate) fn id(&self) -> UploadId {
        self.seat.id()
    }

    /// Bytes that the upload still lacks, as far as its length is known.
    pub(crate) fn left(&self) -> u64 {
        let length = self.ledger.record().and_then(|record| record.length);
        length.map_or(0, |length| length.0.saturating_sub(self.at))
    }

    /// Notes that `left` bytes are still to come, now that what came counts.
    pub(crate) fn keep_promise(&mut self, left: u64) {
        if let Some(promise) = self.promise.take() {
            promise.keep(left);
        }
    }

    /// Where the bytes that arrived end.
    pub(crate) fn position(&self) -> Offset {
        Offset(self.at)
    }

    /// Bytes that may still come.
    pub(crate) fn room(&self) -> u64 {
        self.end - self.at
    }

    /// Whether everything up to the position counts.
    pub(crate) fn all_counts(&self) -> bool {
        self.counted || self.at == self.published
    }

    /// Bytes that arrived, count, and lie above the watermark.
    pub(crate) fn unpublished(&self) -> u64 {
        if self.counted && !self.closed {
            self.at.min(self.ceiling).saturating_sub(self.published)
        } else {
            0
        }
    }

    /// What another request wants of this one.
    pub(crate) fn take_wish(&self) -> Option<Wish> {
        self.seat.take_wish()
    }

    /// Writes at the position and moves it, also over what was written before an error.
    pub(crate) fn write(&mut self, data: &[Bytes]) -> Result<(), DiskError> {
        let mut slices: Vec<_> = data.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut rest = slices.as_mut_slice();
        let file = self.ledger.data()?;
        while let Some(first) = rest.first() {
            let path = self.ledger.path();
            let n = match self.direct.write(file, path, first, self.at)? {
                0 => write_cached(file, rest, self.at).on("write", path)?,
                n => {
                    self.write_out.skip_to(self.at + n as u64);
                    n
                }
            };
            self.at += n as u64;
            self.seat.received(n as u64);
            IoSlice::advance_slices(&mut rest, n);
        }
        if let Some(promise) = &mut self.promise {
            promise.reached(self.at);
        }
        if self.ledger.syncs() {
            self.write_out.follow(self.ledger.path(), self.at);
        }
        Ok(())
    }

    /// Whether the disk is so far behind that nothing should be read until something
    /// [`Self::happens`]. Never where no sync waits for it in the end.
    pub(crate) fn is_behind(&self) -> bool {
        self.write_out.is_behind(self.at)
    }

    /// Begins to move the watermark to the position, unless that is being done already; whether
    /// it has begun now.
    pub(crate) fn publish(&mut self) -> bool {
        let is_free = self.publishing.is_none();
        self.start_publishing(false);
        is_free
    }

    /// The same for somebody who waits for it.
    pub(crate) fn publish_for_others(&mut self) {
        if self.publishing.is_some() {
            self.asked_again = true;
        } else if self.unpublished() == 0 {
            self.seat.has_published();
        } else {
            self.start_publishing(true);
        }
    }

    fn start_publishing(&mut self, for_others: bool) {
        if self.publishing.is_some() || self.unpublished() == 0 {
            return;
        }
        let upto = self.published + self.unpublished();
        let job = match self.ledger.syncs() {
            true => {
                let ledger = Arc::clone(&self.ledger);
                Job::Beside(spawn_blocking(move || ledger.publish(Offset(upto))))
            }
            // A few bytes for the page cache: less than the way to another thread.
            false => Job::Done(self.ledger.publish(Offset(upto))),
        };
        self.publishing = Some(Publishing {
            job,
            upto,
            for_others,
        });
    }

    /// Returns when another request may want something, a publication has ended, or the disk has
    /// come nearer. Cancel-safe.
    pub(crate) async fn happens(&mut self) -> Result<(), DiskError> {
        tokio::select! {
            () = self.seat.wished() => Ok(()),
            result = joined(&mut self.publishing) => self.has_published(result),
            () = self.write_out.happens() => Ok(()),
        }
    }

    fn has_published(&mut self, result: Result<(), DiskError>) -> Result<(), DiskError> {
        let Some(done) = self.publishing.take() else {
            return Ok(());
        };
        self.closed |= result.is_err();
        result?;
        self.published = done.upto;
        self.amended = false;
        if done.for_others {
            self.seat.has_published();
        }
        if std::mem::take(&mut self.asked_again) {
            self.publish_for_others();
        }
        Ok(())
    }

    /// Gives the lock up while nothing comes; whether it has done so now.
    pub(crate) fn pause(&mut self) -> bool {
        // What counts must be published first: who comes writes over it. What waits for its
        // checksum is held against it in the end, whoever wrote it.
        let nothing_held =
            self.publishing.is_none() && (self.at == self.published || !self.counted);
        if self.paused || !nothing_held {
            return false;
        }
        // Kept if the kernel says no: then other processes wait longer, no more. Nobody else has
        // the ledger but a publication.
        let all_published = self.at == self.published;
        let ledger = Arc::get_mut(&mut self.ledger);
        self.paused = ledger.is_some_and(|ledger| ledger.pause(all_published));
        self.gave_way |= self.paused && !all_published;
        if self.paused {
            self.direct.rest();
            self.write_out.rest();
        }
        self.paused
    }

    /// Whether what was written may have been written over since: its digest must then be that of
    /// the file, not that of what came.
    pub(crate) fn gave_way(&self) -> bool {
        self.gave_way
    }

    /// Takes the lock again if it was given up, and makes sure that nobody went on meanwhile.
    pub(crate) fn resume(&mut self) -> Result<(), Lost> {
        if self.paused {
            let ledger = Arc::get_mut(&mut self.ledger).ok_or(Lost::ToAnother)?;
            ledger.resume()?;
            self.paused = false;
        }
        Ok(())
    }

    /// Waits for a running publication; nothing else comes before the end.
    pub(crate) async fn settle(&mut self) -> Result<(), DiskError> {
        while self.publishing.is_some() {
            let result = joined(&mut self.publishing).await;
            self.has_published(result)?;
        }
        Ok(())
    }

    /// What arrived counts from now on: its checksum was right.
    pub(crate) fn count(&mut self) {
        self.counted = true;
    }

    /// Takes back what arrived after `offset`, also what was published: its checksum was wrong.
    /// Blocks.
    pub(crate) fn take_back(&mut self, offset: Offset) -> Result<(), DiskError> {
        let counted = offset.0 < self.published;
        (self.at, self.published) = (offset.0, offset.0);
        if let Some(promise) = &mut self.promise {
            promise.taken_back(offset);
        }
        if counted {
            self.ledger.publish(offset)
        } else {
            Ok(())
        }
    }

    /// The digest of what was written from `offset` on, read again. Blocks.
    pub(crate) fn digest_from(&self, offset: Offset, hasher: Hasher) -> Result<Vec<u8>, DiskError> {
        let (data, path) = (self.ledger.data()?, self.ledger.path());
        read_digest(data, path, offset, self.position(), hasher)
    }

    /// The upload's files.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Nothing from `ceiling` on is published before the hand-over: something about the whole must
    /// be checked first, and who finds an upload with all its bytes hands it over.
    pub(crate) fn hold_back_from(&mut self, ceiling: u64) {
        self.ceiling = ceiling;
    }

    /// Notes the digest of the whole for the record.
    pub(crate) fn set_digest(&mut self, digest: String) -> Result<(), DiskError> {
        self.ledger.set_digest(digest)
    }

    /// Notes a length that has just become known; durable with the next publication.
    pub(crate) fn set_length(&mut self, length: Length) -> Result<(), DiskError> {
        self.ledger.set_length(length)?;
        if let Some(promise) = &mut self.promise {
            promise.set_length(length);
        }
        self.amended = true;
        Ok(())
    }

    /// Notes whether the client has said that the upload ends with what it sends now.
    pub(crate) fn set_flagged(&mut self, flagged: bool) -> Result<(), DiskError> {
        self.ledger.set_flagged(flagged)?;
        self.amended = true;
        Ok(())
    }

    /// Moves the watermark over what arrived, here and now; not while paused, when the record may
    /// be another's. Blocks.
    pub(crate) fn publish_now(&mut self) -> Result<(), DiskError> {
        if self.paused {
            return Ok(());
        }
        if let Some(upto) = self.owed() {
            let result = self.ledger.publish(upto);
            self.closed |= result.is_err();
            result?;
            self.published = upto.0;
            self.amended = false;
        }
        Ok(())
    }

    /// Up to where the watermark must still be moved; `None` if nothing is left to publish.
    fn owed(&self) -> Option<Offset> {
        let owes = self.unpublished() > 0 || (self.amended && !self.closed);
        owes.then(|| Offset(self.published + self.unpublished()))
    }

    /// The last that is done with an upload's files: what arrived counts, and the upload is handed
    /// over if it is complete at `whole`. Blocks, but not for a sync that others wait for too.
    /// `done` gets this back, for its files to be given up; it is called on whichever thread syncs,
    /// and must not block.
    pub(crate) fn conclude_then(
        mut self,
        whole: Option<Length>,
        done: impl FnOnce(Result<(), DiskError>, Self) + Send + 'static,
    ) {
        let only_creates = self.owed() == Some(Offset(0)) && self.ledger.is_new();
        if whole.is_none() && !only_creates {
            let result = self.publish_now();
            return done(result, self);
        }
        self.closed = true;
        // Nobody keeps the ledger, and the lock with it, for longer than `done` wants it.
        let ledger = Arc::clone(&self.ledger);
        let done = move |result| done(result, self);
        match whole {
            Some(length) => ledger.hand_over_then(length, done),
            None => ledger.create_then(done),
        }
    }
}

impl Drop for Append {
    /// For a request whose task was dropped. A client can have a hundred dropped at once (streams
    /// of HTTP/2): their syncs must not hold up the workers that serve everybody else.
    fn drop(&mut self) {
        let Some(upto) = self.owed().filter(|_| !self.paused) else {
            return;
        };
        let debt = Debt {
            ledger: Arc::clone(&self.ledger),
            upto,
            _seat: Arc::clone(&self.seat),
        };
        match Handle::try_current() {
            Ok(runtime) if self.ledger.syncs() => {
                drop(runtime.spawn_blocking(move || drop(debt)));
            }
            _ => drop(debt),
        }
    }
}

/// Bytes that arrived for a request that is gone. Whoever drops it publishes them: the thread that
/// it was sent to, or a runtime that is being shut down and starts no such thread any more.
struct Debt {
    ledger: Arc<Ledger>,
    upto: Offset,
    /// Nobody writes before that is done.
    _seat: Arc<Seat>,
}

impl Drop for Debt {
    fn drop(&mut self) {
        if let Err(error) = self.ledger.publish(self.upto) {
            tracing::error!(%error, "bytes that arrived are not kept");
        }
    }
}

/// Writes through the page cache; how many bytes, at least one of which there must be.
fn write_cached(file: &File, data: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
    // Positions past i64::MAX do not exist: no upload may be that long.
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    loop {
        match pwritev(file, data, at) {
            Err(Errno::EINTR) => {}
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            written => return Ok(written?),
        }
    }
}

/// The end of a running publication; never returns if there is none.
async fn joined(publishing: &mut Option<Publishing>) -> Result<(), DiskError> {
    match publishing.as_mut().map(|running| &mut running.job) {
        Some(Job::Beside(job)) => match job.await {
            Ok(result) => result,
            Err(panicked) => Err(DiskError::new("publish", "", io::Error::other(panicked))),
        },
        Some(Job::Done(result)) => std::mem::replace(result, Ok(())),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
