//! What open uploads are promised where no space can be set aside for them: the bytes that are still
//! to come.
//!
//! On a local filesystem, what is written is missing in the free space at once. So who writes an
//! upload takes it off the promise while it writes, without a lock: after the writing, as the free
//! space is asked for after the promises are summed up. At worst a byte counts twice for a moment,
//! and none is promised to two uploads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::id::UploadId;
use shared::size::{Length, Offset};

/// What is written is noted so many bytes at a time: one write of a fast client. A body that brings
/// less is noted at its end.
const STEP_BYTES: u64 = 1 << 20;

/// The promises to all open uploads.
#[derive(Debug)]
pub(super) struct Promises {
    /// Whether what is written is missing in the free space at once.
    takes_at_once: bool,
    book: Mutex<Book>,
    /// Bytes that were written of uploads under way, and are promised in the book all the same.
    written: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    open: HashMap<UploadId, Entry>,
    /// How often the spool was looked through.
    round: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// Who writes the upload takes what it has written off the sum.
    is_under_way: bool,
    /// The round in which this was noted.
    round: u64,
}

impl Book {
    fn note(&mut self, id: UploadId, bytes: u64, is_under_way: bool) {
        let entry = Entry {
            bytes,
            is_under_way,
            round: self.round,
        };
        match bytes {
            0 => self.open.remove(&id),
            _ => self.open.insert(id, entry),
        };
    }
}

impl Promises {
    /// No promises yet, on a filesystem that `takes_at_once` what is written from its free space.
    pub(super) fn new(takes_at_once: bool) -> Self {
        Self {
            takes_at_once,
            book: Mutex::default(),
            written: AtomicU64::new(0),
        }
    }

    /// Bytes that are promised and not there yet.
    pub(super) fn sum(&self) -> u64 {
        let book = self.book();
        let noted = book.open.values().map(|entry| entry.bytes);
        let noted = noted.fold(0, u64::saturating_add);
        noted.saturating_sub(self.written.load(Ordering::Acquire))
    }

    /// Notes how much of an upload that nobody writes is still to come.
    pub(super) fn note(&self, id: UploadId, bytes: u64) {
        self.book().note(id, bytes, false);
    }

    /// The spool is about to be looked through.
    pub(super) fn begin_round(&self) {
        self.book().round += 1;
    }

    /// Replaces what was noted before this round by what was found in it. Of uploads under way it is
    /// better known here than on disk.
    pub(super) fn end_round(&self, found: HashMap<UploadId, u64>) {
        let mut book = self.book();
        let round = book.round;
        book.open
            .retain(|_, entry| entry.is_under_way || entry.round == round);
        for (id, bytes) in found {
            if !book.open.contains_key(&id) {
                book.note(id, bytes, false);
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The promise to one upload, in the hands of who writes it. Dropped, it is again what it was at the
/// beginning: what was written since may not have come to count, and be cut off.
#[derive(Debug)]
pub(crate) struct Promise {
    promises: Arc<Promises>,
    id: UploadId,
    /// Where the upload stood.
    from: u64,
    /// Up to here it is noted that bytes were written.
    noted: u64,
    /// Where the upload ends; 0 if that is not known.
    end: u64,
    /// What of [`Promises::written`] is this upload's; `None` while it is not under way.
    written: Option<u64>,
}

impl Promise {
    pub(super) fn new(
        promises: &Arc<Promises>,
        id: UploadId,
        from: Offset,
        length: Option<Length>,
    ) -> Self {
        Self {
            promises: Arc::clone(promises),
            id,
            from: from.0,
            noted: from.0,
            end: length.map_or(0, |length| length.0),
            written: None,
        }
    }

    /// The length has become known.
    pub(crate) fn set_length(&mut self, length: Length) {
        self.end = length.0;
    }

    /// Everything up to `at` was written.
    pub(crate) fn reached(&mut self, at: u64) {
        if !self.promises.takes_at_once || at < self.noted + STEP_BYTES {
            return;
        }
        match &mut self.written {
            Some(written) => {
                let bytes = at.min(self.end).saturating_sub(self.noted);
                *written += bytes;
                self.promises.written.fetch_add(bytes, Ordering::Release);
            }
            None => {
                let left = self.end.saturating_sub(at);
                self.promises.book().note(self.id, left, true);
                self.written = Some(0);
            }
        }
        self.noted = at;
    }

    /// The upload is to go on from `offset`, whatever was written.
    pub(crate) fn taken_back(&mut self, offset: Offset) {
        if offset.0 < self.from {
            self.from = offset.0;
            self.settle(self.end.saturating_sub(self.from));
        }
    }

    /// Everything that came counts, and `left` bytes are still to come.
    pub(crate) fn keep(mut self, left: u64) {
        self.settle(left);
    }

    fn settle(&mut self, left: u64) {
        let mut book = self.promises.book();
        book.note(self.id, left, false);
        let written = self.written.take().unwrap_or(0);
        self.promises.written.fetch_sub(written, Ordering::Relaxed);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.written.is_some() {
            self.settle(self.end.saturating_sub(self.from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// An upload of 10 MiB that stands at 1 MiB, and the promise to it in the hands of its writer.
    fn under_way(takes_at_once: bool) -> (Arc<Promises>, UploadId, Promise) {
        let (promises, id) = (Arc::new(Promises::new(takes_at_once)), UploadId::generate());
        promises.note(id, 9 * MIB);
        let promise = Promise::new(&promises, id, Offset(MIB), Some(Length(10 * MIB)));
        (promises, id, promise)
    }

    #[test]
    fn what_is_written_is_taken_off_and_comes_back_unless_it_is_kept() {
        let (promises, id, mut promise) = under_way(true);
        for (at, left) in [
            (2 * MIB - 1, 9 * MIB),
            (2 * MIB + 5, 8 * MIB - 5),
            (3 * MIB + 4, 8 * MIB - 5),
            (9 * MIB, MIB),
            (11 * MIB, 0),
        ] {
            promise.reached(at);
            assert_eq!(promises.sum(), left, "at {at}");
        }
        drop(promise);
        assert_eq!(promises.sum(), 9 * MIB);
        let mut promise = Promise::new(&promises, id, Offset(MIB), Some(Length(10 * MIB)));
        promise.reached(6 * MIB);
        promise.reached(7 * MIB);
        promise.keep(2 * MIB);
        assert_eq!(promises.sum(), 2 * MIB);
        let mut last = Promise::new(&promises, id, Offset(8 * MIB), Some(Length(10 * MIB)));
        last.reached(9 * MIB);
        last.taken_back(Offset(0));
        drop(last);
        assert_eq!(promises.sum(), 10 * MIB);
        Promise::new(&promises, id, Offset(8 * MIB), Some(Length(10 * MIB))).keep(0);
        assert_eq!(promises.sum(), 0);
        assert!(promises.book().open.is_empty());
    }

    #[test]
    fn a_length_that_becomes_known_later_is_promised_from_then_on() {
        let (promises, id) = (Arc::new(Promises::new(true)), UploadId::generate());
        let mut promise = Promise::new(&promises, id, Offset(0), None);
        promise.reached(5 * MIB);
        promise.reached(6 * MIB);
        assert_eq!(promises.sum(), 0);
        drop(promise);
        let mut promise = Promise::new(&promises, id, Offset(6 * MIB), None);
        promises.note(id, MIB);
        promise.set_length(Length(9 * MIB));
        promise.reached(7 * MIB);
        assert_eq!(promises.sum(), 2 * MIB);
    }

    #[test]
    fn where_free_space_follows_later_the_promise_stays_until_the_bytes_are_kept() {
        let (promises, _, mut promise) = under_way(false);
        promise.reached(9 * MIB);
        assert_eq!(promises.sum(), 9 * MIB);
        promise.keep(MIB);
        assert_eq!(promises.sum(), MIB);
    }

    #[test]
    fn a_round_replaces_only_what_was_noted_before_it_and_is_not_under_way() {
        let (promises, id, mut promise) = under_way(true);
        let [gone, grown, new] = [(); 3].map(|()| UploadId::generate());
        promises.note(gone, 100);
        promises.note(grown, 100);
        promise.reached(3 * MIB);
        promise.reached(9 * MIB);
        promises.begin_round();
        // It came too late to be found, or was found as it was before.
        promises.note(new, 7);
        promises.end_round(HashMap::from([(id, 9 * MIB), (grown, 50), (new, 9)]));
        assert_eq!(promises.sum(), MIB + 50 + 7);
        promise.keep(5);
        promises.begin_round();
        promises.end_round(HashMap::from([(new, 9)]));
        assert_eq!(promises.sum(), 9);
    }
}
