//! Final uploads: their bytes, brought together from their parts behind the answer.
//!
//! The record of a final upload names its parts from the first moment, so that whoever finds it
//! can go on: nothing that is needed is in memory. The watermark moves as with any upload, and the
//! hand-over is the same. Bytes are copied within the kernel, which on xfs and btrfs shares the
//! blocks instead where they are aligned.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use shared::durable::{self, DiskError, OnPath as _};
use shared::ending::{self, End};
use shared::failpoint::{self, Failpoint};
use shared::id::UploadId;
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::receive::{Open, Receiving};
use shared::record::{self, Place, Record, RecordError};
use shared::size::{Length, Offset};
use shared::spool::Spool;
use shared::time::UnixTime;

use crate::digests::{Digests, Finished};
use crate::tus::refusal::Refusal;

/// The watermark follows at the latest after so many bytes.
const PUBLISH_BYTES: u64 = 1 << 30;
/// Where the kernel does not copy between files.
const BUFFER_BYTES: usize = 1 << 20;

/// What came of assembling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Assembly {
    /// It is handed over.
    Done,
    /// It was handed over, or has ended, before.
    Over,
    /// A part is not complete yet.
    Waiting,
    /// Somebody else is at it, or at one of its parts.
    Busy,
    /// A part is gone, or the whole is not what was declared: it has been ended.
    Impossible(Refusal),
}

/// A part as it was found.
enum Part {
    Complete(Length),
    Open,
    Gone,
}

/// Writes into the records of the parts which final upload goes on from them, so that they are
/// not removed meanwhile. A part that somebody holds is left for later, and so is one that bears
/// the name of another final upload which still needs it: who comes second names it once the first
/// is done.
pub(crate) fn name_parts(
    spool: &Arc<Spool>,
    id: UploadId,
    parts: &[UploadId],
) -> Result<(), DiskError> {
    for part in parts {
        if let Open::Held(mut part) = Receiving::open(spool, *part, UnixTime::now())?
            && !is_named(spool, part.record())
        {
            part.set_joined_into(id)?;
        }
    }
    Ok(())
}

/// Whether the final upload whose name a part bears is still being made of it.
fn is_named(spool: &Spool, part: &Record) -> bool {
    let Some(whole) = part.joined_into else {
        return false;
    };
    let whole = record::read(&spool.layout().record(whole, RecordAt::Uploads));
    whole.is_ok_and(|whole| whole.is_assembling())
}

/// Whether a part must stay because a final upload is still being made of it: the one that it
/// names, or any other, of which the part may not bear the name yet. Those are looked for among
/// all uploads, which is done only to remove a part.
///
/// # Errors
/// As readdir(3).
pub(crate) fn is_needed(spool: &Spool, id: UploadId, part: &Record) -> Result<bool, DiskError> {
    if !part.is_partial() {
        return Ok(false);
    }
    if is_named(spool, part) {
        return Ok(true);
    }
    for entry in spool.entries(Dir::Uploads)? {
        let Entry::Data(other, DataAt::Uploads) = entry? else {
            continue;
        };
        let other = record::read(&spool.layout().record(other, RecordAt::Uploads));
        if other.is_ok_and(|other| other.is_assembling() && other.rest.parts.contains(&id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Brings a final upload as far as its parts allow. Blocks for as long as the copying takes.
pub(crate) fn assemble(
    spool: &Arc<Spool>,
    digests: &Digests,
    id: UploadId,
) -> Result<Assembly, DiskError> {
    let mut whole = match Receiving::open(spool, id, UnixTime::now())? {
        Open::Held(whole) if whole.record().is_final() => whole,
        Open::Held(_) | Open::Missing => return Ok(Assembly::Over),
        Open::Busy => return Ok(Assembly::Busy),
    };
    let parts = whole.record().rest.parts.clone();
    name_parts(spool, id, &parts)?;
    failpoint::hit(Failpoint::AssembleNamed).on("assemble", &whole.data_path())?;
    let mut lengths = Vec::with_capacity(parts.len());
    for (number, part) in (1..).zip(&parts) {
        match look(spool, *part)? {
            Part::Complete(length) => lengths.push(length.0),
            Part::Open => return Ok(Assembly::Waiting),
            Part::Gone => {
                tracing::error!(upload_id = %id, %part, "a part is gone: the upload is ended");
                return give_up(spool, whole, Refusal::NotAPart { number });
            }
        }
    }
    let total = Length(lengths.iter().sum());
    if whole.record().length != Some(total) {
        whole.set_length(total)?;
    }
    let mut start = 0;
    for (part, length) in parts.iter().zip(lengths) {
        copy_part(spool, &mut whole, *part, start, length)?;
        start += length;
    }
    if !has_its_digest(digests, &mut whole, Offset(total.0))? {
        tracing::error!(upload_id = %id, "not what its client declared: the upload is ended");
        return give_up(spool, whole, Refusal::DigestMismatch);
    }
    whole.hand_over(Offset(total.0), UnixTime::now())?;
    tracing::info!(upload_id = %id, parts = parts.len(), length = total.0, "assembled");
    Ok(Assembly::Done)
}

fn look(spool: &Spool, part: UploadId) -> Result<Part, DiskError> {
    match record::read(&spool.layout().record(part, RecordAt::Uploads)) {
        Ok(record) if record.place.is_ending() || !record.is_partial() => Ok(Part::Gone),
        Ok(record) => Ok(
            match record
                .length
                .filter(|length| record.offset.reaches(*length))
            {
                Some(length) => Part::Complete(length),
                None => Part::Open,
            },
        ),
        Err(RecordError::Disk(error)) if !error.is_missing() => Err(error),
        // Being written at this moment, or a later version's, or damaged; what is damaged for good
        // the janitor moves away.
        Err(RecordError::Unreadable { .. }) => Ok(Part::Open),
        Err(_) => Ok(Part::Gone),
    }
}

/// Notes the digest of the whole in the record; whether it is the one that was declared.
fn has_its_digest(
    digests: &Digests,
    whole: &mut Receiving,
    length: Offset,
) -> Result<bool, DiskError> {
    let record = whole.record().clone();
    let needed = digests.needed(&record);
    let finished = Finished::read(whole.data(), &whole.data_path(), length, &needed)?;
    if finished.check(&record).is_err() {
        return Ok(false);
    }
    finished
        .for_record()
        .map_or(Ok(()), |digest| whole.set_digest(digest))?;
    Ok(true)
}

fn give_up(spool: &Spool, whole: Box<Receiving>, why: Refusal) -> Result<Assembly, DiskError> {
    let id = whole.id();
    drop(whole);
    match ending::end(spool, id, Place::Expired, UnixTime::now())? {
        End::Busy => Ok(Assembly::Busy),
        End::Ended | End::Already(_) | End::Missing | End::Spared => Ok(Assembly::Impossible(why)),
    }
}

/// Copies what the watermark does not cover yet of a part that begins at `start`.
fn copy_part(
    spool: &Spool,
    whole: &mut Receiving,
    part: UploadId,
    start: u64,
    length: u64,
) -> Result<(), DiskError> {
    let path = spool.layout().data(part, DataAt::Uploads);
    let end = start + length;
    let mut at = whole.record().offset.0.max(start);
    if end <= at {
        return Ok(());
    }
    let source = durable::open(&path, false)?;
    while at < end {
        let copied = copy(
            &source,
            at - start,
            whole.data(),
            at,
            (end - at).min(PUBLISH_BYTES),
        );
        at += copied.on("copy", &path)?;
        failpoint::hit(Failpoint::AssembleCopied).on("assemble", &path)?;
        let is_last = whole.record().length == Some(Length(at));
        if !is_last && PUBLISH_BYTES <= at - whole.record().offset.0 {
            whole.advance(Offset(at), UnixTime::now())?;
        }
    }
    Ok(())
}

/// Copies up to `most` bytes, and at least one.
fn copy(from: &File, at: u64, to: &File, to_at: u64, most: u64) -> io::Result<u64> {
    let (mut from_offset, mut to_offset) = (position(at)?, position(to_at)?);
    let count = usize::try_from(most).unwrap_or(usize::MAX);
    let copied = copy_file_range(
        from,
        Some(&mut from_offset),
        to,
        Some(&mut to_offset),
        count,
    );
    match copied {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(n) => Ok(n as u64),
        Err(Errno::EINTR) => copy(from, at, to, to_at, most),
        Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
            copy_by_hand(from, at, to, to_at, count)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn copy_by_hand(from: &File, at: u64, to: &File, to_at: u64, most: usize) -> io::Result<u64> {
    let mut buffer = vec![0; most.min(BUFFER_BYTES)];
    let n = from.read_at(&mut buffer, at)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.write_all_at(&buffer[..n], to_at)?;
    Ok(n as u64)
}

fn position(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use shared::receive::NewData;
    use shared::record::Finish;
    use shared::spool::Options;

    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        spool: Arc<Spool>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
            Self {
                _dir: dir,
                spool: Arc::new(spool),
            }
        }

        fn part(&self, content: &[u8], length: usize) -> UploadId {
            let mut record = Record::new(Some(Length(length as u64)), UnixTime::now());
            record.rest.finish = Finish::Never;
            let new = NewData::create(&self.spool).unwrap();
            new.data().write_all_at(content, 0).unwrap();
            let mut part = new.into_receiving(record).unwrap();
            part.advance(Offset(content.len() as u64), UnixTime::now())
                .unwrap();
            part.id()
        }

        fn whole(&self, parts: &[UploadId]) -> UploadId {
            let mut record = Record::new(None, UnixTime::now());
            record.rest.parts = parts.to_vec();
            NewData::create(&self.spool)
                .unwrap()
                .into_receiving(record)
                .unwrap()
                .id()
        }

        fn completed(&self, id: UploadId) -> Vec<u8> {
            std::fs::read(self.spool.layout().data(id, DataAt::Completed)).unwrap()
        }

        fn needs(&self, part: UploadId) -> bool {
            is_needed(&self.spool, part, &self.record(part)).unwrap()
        }

        fn record(&self, id: UploadId) -> Record {
            record::read(&self.spool.layout().record(id, RecordAt::Uploads)).unwrap()
        }
    }

    #[test]
    fn parts_are_joined_in_the_order_named_also_twice() {
        let fixture = Fixture::new();
        let (a, b, empty) = (
            fixture.part(b"hello ", 6),
            fixture.part(b"world", 5),
            fixture.part(b"", 0),
        );
        let whole = fixture.whole(&[a, b, empty, a]);
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Done
        );
        assert_eq!(fixture.completed(whole), b"hello worldhello ");
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Over
        );
        assert_eq!(fixture.record(a).joined_into, Some(whole));
        assert!(!fixture.needs(a));
    }

    #[test]
    fn a_final_upload_waits_for_its_parts_and_keeps_them() {
        let fixture = Fixture::new();
        let (a, b) = (fixture.part(b"hel", 3), fixture.part(b"l", 2));
        let whole = fixture.whole(&[a, b]);
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Waiting
        );
        assert!(fixture.needs(a));
        let Open::Held(held) = Receiving::open(&fixture.spool, whole, UnixTime::now()).unwrap()
        else {
            panic!("still locked")
        };
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Busy
        );
        drop(held);
        let Open::Held(mut part) = Receiving::open(&fixture.spool, b, UnixTime::now()).unwrap()
        else {
            panic!("still locked")
        };
        part.data().write_all_at(b"o", 1).unwrap();
        part.advance(Offset(2), UnixTime::now()).unwrap();
        drop(part);
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Done
        );
        assert_eq!(fixture.completed(whole), b"hello");
    }

    #[test]
    fn a_part_that_two_final_uploads_share_is_needed_until_both_are_done() {
        for first_is_done_first in [true, false] {
            let fixture = Fixture::new();
            let (shared, late) = (fixture.part(b"hello", 5), fixture.part(b"l", 2));
            let (done, waiting) = (fixture.whole(&[shared]), fixture.whole(&[shared, late]));
            let try_one = |id| assemble(&fixture.spool, &Digests::new(None), id).unwrap();
            if first_is_done_first {
                name_parts(&fixture.spool, done, &[shared]).unwrap();
            }
            assert_eq!(try_one(waiting), Assembly::Waiting);
            assert_eq!(try_one(done), Assembly::Done);
            // Before the one that waits has looked again, and after.
            assert!(fixture.needs(shared));
            assert_eq!(try_one(waiting), Assembly::Waiting);
            assert_eq!(fixture.record(shared).joined_into, Some(waiting));
            assert!(fixture.needs(shared) && fixture.needs(late));
            ending::end(&fixture.spool, waiting, Place::Expired, UnixTime::now()).unwrap();
            assert!(!fixture.needs(shared) && !fixture.needs(late));
        }
    }

    #[test]
    fn assembly_goes_on_where_it_was_interrupted() {
        let fixture = Fixture::new();
        let (a, b) = (fixture.part(b"hello ", 6), fixture.part(b"world", 5));
        let whole = fixture.whole(&[a, b]);
        let Open::Held(mut held) = Receiving::open(&fixture.spool, whole, UnixTime::now()).unwrap()
        else {
            panic!("locked")
        };
        // What lies below the watermark is not copied again.
        held.data().write_all_at(b"HELLO w", 0).unwrap();
        held.advance(Offset(7), UnixTime::now()).unwrap();
        drop(held);
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Done
        );
        assert_eq!(fixture.completed(whole), b"HELLO world");
    }

    #[test]
    fn without_one_of_its_parts_a_final_upload_is_ended() {
        let fixture = Fixture::new();
        let a = fixture.part(b"hello", 5);
        let whole = fixture.whole(&[a, UploadId::generate()]);
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Impossible(Refusal::NotAPart { number: 2 })
        );
        let receipt = fixture.spool.layout().record(whole, RecordAt::Receipts);
        assert_eq!(record::read(&receipt).unwrap().place, Place::Expired);
    }

    #[test]
    fn a_part_whose_record_cannot_be_read_now_does_not_end_its_final_upload() {
        let fixture = Fixture::new();
        let a = fixture.part(b"hello", 5);
        let whole = fixture.whole(&[a]);
        let record = fixture.spool.layout().record(a, RecordAt::Uploads);
        let readable = std::fs::read(&record).unwrap();
        std::fs::write(&record, "{\"format\":99}").unwrap();
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Waiting
        );
        std::fs::write(&record, readable).unwrap();
        assert_eq!(
            assemble(&fixture.spool, &Digests::new(None), whole).unwrap(),
            Assembly::Done
        );
    }

    #[test]
    fn copying_by_hand_gives_the_same() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all_at(b"0123456789", 0).unwrap();
        assert_eq!(copy_by_hand(&from, 2, &to, 5, 3).unwrap(), 3);
        assert_eq!(copy(&from, 5, &to, 8, 100).unwrap(), 5);
        let mut joined = [0; 8];
        to.read_exact_at(&mut joined, 5).unwrap();
        assert_eq!(&joined, b"23456789");
        assert!(copy(&from, 10, &to, 0, 1).is_err());
        assert!(copy_by_hand(&from, 10, &to, 0, 1).is_err());
    }
}
