//! Digests of whole files, computed while they arrive.
//!
//! What an upload has been hashed to so far is kept in memory between its requests. It is not the
//! only way to know: after a restart, or when too many uploads are open, the file is read once more
//! before its hand-over.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::durable::{DiskError, OnPath as _};
use shared::id::UploadId;
use shared::record::Record;
use shared::size::Offset;

use crate::append::Append;
use crate::tus::checksum::{Algorithm, Announced, Hasher};
use crate::tus::refusal::Refusal;

/// Uploads whose state is kept, each about 200 bytes to 2 KiB (BLAKE3).
const KEPT_MAX: usize = 4096;

/// The digests that are asked for, and how far they have been computed.
#[derive(Debug)]
pub(crate) struct Digests {
    /// What the operator wants in every record.
    wanted: Option<Algorithm>,
    kept: Mutex<HashMap<UploadId, Running>>,
}

/// The digests of the first bytes of one upload.
#[derive(Debug)]
pub(crate) struct Running {
    hashers: Vec<(Algorithm, Hasher)>,
    /// How many bytes they have taken.
    upto: Offset,
}

/// The digests of a whole upload.
#[derive(Debug, Default)]
pub(crate) struct Finished(Vec<Announced>);

impl Digests {
    pub(crate) fn new(wanted: Option<Algorithm>) -> Self {
        Self {
            wanted,
            kept: Mutex::default(),
        }
    }

    /// The algorithms that this upload needs: the operator's, and that of a declared digest.
    pub(crate) fn needed(&self, record: &Record) -> Vec<Algorithm> {
        let declared = declared(record).map(|declared| declared.algorithm);
        let mut needed: Vec<_> = self.wanted.into_iter().collect();
        needed.extend(declared.filter(|algorithm| self.wanted != Some(*algorithm)));
        needed
    }

    /// The state to go on with at `at`; `None` if nothing is needed or what is needed is not known.
    pub(crate) fn take(&self, id: UploadId, record: &Record, at: Offset) -> Option<Running> {
        let needed = self.needed(record);
        if needed.is_empty() {
            return None;
        }
        let kept = self.kept().remove(&id).filter(|running| running.upto == at);
        let fresh = || {
            let hashers = needed
                .into_iter()
                .map(|one| (one, Hasher::new(one)))
                .collect();
            Running { hashers, upto: at }
        };
        kept.or_else(|| (at == Offset(0)).then(fresh))
    }

    /// Keeps the state until the next request for this upload.
    pub(crate) fn keep(&self, id: UploadId, running: Running) {
        let mut kept = self.kept();
        if kept.len() < KEPT_MAX {
            kept.insert(id, running);
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<UploadId, Running>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        self.hashers
            .iter_mut()
            .for_each(|(_, hasher)| hasher.update(bytes));
        self.upto.0 += bytes.len() as u64;
    }

    /// How many bytes have been taken.
    pub(crate) fn upto(&self) -> Offset {
        self.upto
    }

    fn finish(self) -> Finished {
        let digest = |(algorithm, hasher): (Algorithm, Hasher)| Announced {
            algorithm,
            digest: hasher.finish(),
        };
        Finished(self.hashers.into_iter().map(digest).collect())
    }
}

impl Finished {
    /// The digests of all that was written: what was computed so far, or by reading it again.
    /// Blocks in that case for as long as it takes.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn of(
        append: &Append,
        running: Option<Running>,
        needed: &[Algorithm],
    ) -> Result<Self, DiskError> {
        if let Some(running) = running.filter(|running| running.upto == append.position()) {
            return Ok(running.finish());
        }
        let (data, path) = (append.ledger().data()?, append.ledger().path());
        Self::read(data, path, append.position(), needed)
    }

    /// The digests of the first `length` bytes of a file. Blocks for as long as it takes.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn read(
        data: &File,
        path: &Path,
        length: Offset,
        needed: &[Algorithm],
    ) -> Result<Self, DiskError> {
        let read = |&algorithm: &Algorithm| {
            let digest = read_digest(data, path, Offset(0), length, Hasher::new(algorithm))?;
            Ok(Announced { algorithm, digest })
        };
        needed.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Holds them against the digest that the client declared.
    ///
    /// # Errors
    /// [`Refusal::ChecksumMismatch`].
    pub(crate) fn check(&self, record: &Record) -> Result<(), Refusal> {
        let Some(declared) = declared(record) else {
            return Ok(());
        };
        let found = self
            .0
            .iter()
            .find(|digest| digest.algorithm == declared.algorithm);
        found.map_or(Err(Refusal::ChecksumMismatch), |found| {
            declared.verify(&found.digest)
        })
    }

    /// The one for the record: the operator's first.
    pub(crate) fn for_record(&self) -> Option<String> {
        self.0.first().map(ToString::to_string)
    }
}

/// What takes the bytes of one request beside the data file.
#[derive(Debug)]
pub(crate) struct Taps {
    /// For the checksum of the request itself. Boxed: a request without one need not have room for it.
    pub(crate) checksum: Option<Box<Hasher>>,
    /// For the digests of the whole upload.
    pub(crate) whole: Option<Running>,
}

impl Taps {
    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.checksum {
            hasher.update(bytes);
        }
        if let Some(running) = &mut self.whole {
            running.update(bytes);
        }
    }
}

/// Reads bytes back to hash them. Blocks for as long as it takes.
///
/// # Errors
/// As read(2); `UnexpectedEof` if the file ends before `to`.
pub(crate) fn read_digest(
    data: &File,
    path: &Path,
    from: Offset,
    to: Offset,
    mut hasher: Hasher,
) -> Result<Vec<u8>, DiskError> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = from.0;
    while at < to.0 {
        let most = usize::try_from(to.0 - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n = data.read_at(&mut buffer[..most], at).on("read", path)?;
        if n == 0 {
            let short: io::Result<()> = Err(io::ErrorKind::UnexpectedEof.into());
            short.on("read", path)?;
        }
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hasher.finish())
}

fn declared(record: &Record) -> Option<Announced> {
    record.rest.declared_digest.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use shared::size::Length;
    use shared::time::UnixTime;

    use super::*;

    const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn record(declared: Option<&str>) -> Record {
        let mut record = Record::new(Some(Length(5)), UnixTime::from_secs(1));
        record.rest.declared_digest = declared.map(str::to_owned);
        record
    }

    #[test]
    fn each_algorithm_is_needed_once() {
        let digests = Digests::new(Some(Algorithm::Sha256));
        assert_eq!(digests.needed(&record(None)), [Algorithm::Sha256]);
        assert_eq!(digests.needed(&record(Some(HELLO))), [Algorithm::Sha256]);
        assert_eq!(
            Digests::new(None).needed(&record(Some(HELLO))),
            [Algorithm::Sha256]
        );
        assert!(Digests::new(None).needed(&record(None)).is_empty());
    }

    #[test]
    fn a_digest_goes_on_between_requests_and_only_from_where_it_stopped() {
        let digests = Digests::new(Some(Algorithm::Sha256));
        let (id, record) = (UploadId::generate(), record(Some(HELLO)));
        let mut running = digests.take(id, &record, Offset(0)).unwrap();
        running.update(b"hel");
        digests.keep(id, running);
        let mut running = digests.take(id, &record, Offset(3)).unwrap();
        running.update(b"lo");
        let finished = running.finish();
        finished.check(&record).unwrap();
        assert_eq!(finished.for_record().as_deref(), Some(HELLO));
        let mut other = digests.take(id, &record, Offset(0)).unwrap();
        other.update(b"hel");
        digests.keep(id, other);
        assert!(digests.take(id, &record, Offset(2)).is_none());
    }

    #[test]
    fn what_is_read_again_is_the_same() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"hello and more", 0).unwrap();
        let path = Path::new("file");
        let needed = [Algorithm::Sha256];
        let finished = Finished::read(&file, path, Offset(5), &needed).unwrap();
        finished.check(&record(Some(HELLO))).unwrap();
        let other = Finished::read(&file, path, Offset(6), &needed).unwrap();
        assert_eq!(
            other.check(&record(Some(HELLO))),
            Err(Refusal::ChecksumMismatch)
        );
        assert!(Finished::read(&file, path, Offset(99), &needed).is_err());
    }
}
