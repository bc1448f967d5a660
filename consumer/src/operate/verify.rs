//! `verify`: does what lies there fit what its record says? Reads only, and takes no lock: what
//! moves while it is read is looked at again or left out.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};
use shared::durable::{self, DiskError, OnPath};
use shared::id::UploadId;
use shared::lookup::{self, Found};
use shared::spool::Spool;
use shared::startup::Failure;

use super::{Verify, survey, tell};

/// What was found out about one upload.
enum Fit {
    /// All that can be checked fits.
    Fits,
    /// It does not.
    Unfit(String),
    /// There is nothing to check: it has no data, or is on its way.
    Nothing,
}

pub(super) fn verify(spool: &Spool, args: &Verify, out: &mut impl Write) -> Result<bool, Failure> {
    let mut all = true;
    let mut one = |id: UploadId, found: &Found| -> Result<(), Failure> {
        match check(spool, id, found)? {
            Fit::Fits => tell(out, args.json, id, true, "fits")?,
            Fit::Unfit(why) => {
                all = false;
                tell(out, args.json, id, false, &why)?;
            }
            Fit::Nothing => {}
        }
        Ok(())
    };
    if args.ids.is_empty() {
        survey::each(spool, |id, found| one(id, &found))?;
        return Ok(all);
    }
    for &id in &args.ids {
        match lookup::find(spool, id)? {
            Some(found) => one(id, &found)?,
            None => return Err(format!("there is no upload {id}").into()),
        }
    }
    Ok(all)
}

fn check(spool: &Spool, id: UploadId, found: &Found) -> Result<Fit, DiskError> {
    for at in lookup::data_candidates(found) {
        let path = spool.layout().data(id, at);
        let file = match durable::open(&path, false) {
            Err(error) if error.is_missing() => continue,
            file => file?,
        };
        let size = file.metadata().on("stat", &path)?.len();
        let record = &found.record;
        if !record.is_received() {
            let enough = record.offset.0 <= size;
            let why = || format!("{size} bytes where {} were received", record.offset);
            return Ok(if enough { Fit::Fits } else { Fit::Unfit(why()) });
        }
        if record.length.is_some_and(|length| length.0 != size) {
            let length = record.length.map_or(0, |length| length.0);
            return Ok(Fit::Unfit(format!(
                "{size} bytes where {length} are recorded"
            )));
        }
        let Some(expected) = record.digest.as_deref() else {
            return Ok(Fit::Fits);
        };
        let really = match expected.split_once(':') {
            Some(("sha256", _)) => {
                let mut hash = Sha256::new();
                read(file, |bytes| hash.update(bytes)).map(|()| hex(&hash.finalize()))
            }
            Some(("blake3", _)) => {
                let mut hash = blake3::Hasher::new();
                let all = read(file, |bytes| {
                    hash.update(bytes);
                });
                all.map(|()| hash.finalize().to_hex().to_string())
            }
            _ => {
                return Ok(Fit::Unfit(format!(
                    "its digest {expected:?} is of no known kind"
                )));
            }
        };
        let really = really.on("read", &path)?;
        let fits = expected
            .split_once(':')
            .is_some_and(|(_, hex)| hex == really);
        return Ok(match fits {
            true => Fit::Fits,
            false => Fit::Unfit(format!(
                "its digest is {really}, where {expected} is recorded"
            )),
        });
    }
    Ok(Fit::Nothing)
}

fn read(mut file: impl Read, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer)?;
        match buffer.get(..n).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => each(bytes),
            None => return Ok(()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use shared::receive::NewData;
    use shared::record::Record;
    use shared::size::{Length, Offset};
    use shared::spool::Options;
    use shared::time::UnixTime;

    use super::*;

    #[test]
    fn every_digest_that_ingest_records_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap());
        // Of `hello`, by sha256sum and b3sum.
        let sha256 = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let blake3 = "blake3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";
        for (digest, fits) in [
            (sha256.to_owned(), true),
            (blake3.to_owned(), true),
            (sha256.replace('2', "3"), false),
            (blake3.replace('2', "3"), false),
            ("crc32:00".to_owned(), false),
        ] {
            let new = NewData::create(&spool).unwrap();
            let id = new.id();
            new.data().write_all_at(b"hello", 0).unwrap();
            let mut record = Record::new(Some(Length(5)), UnixTime::now());
            record.offset = Offset(5);
            record.digest = Some(digest.clone());
            new.into_completed(record, UnixTime::now()).unwrap();
            let found = lookup::find(&spool, id).unwrap().unwrap();
            let fit = check(&spool, id, &found).unwrap();
            assert_eq!(matches!(fit, Fit::Fits), fits, "{digest}");
        }
    }
}
