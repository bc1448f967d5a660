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
        return match record
            .digest
            .as_deref()
            .and_then(|digest| digest.strip_prefix("sha256:"))
        {
            None => Ok(Fit::Fits),
            Some(expected) => {
                let really = sha256(file).on("read", &path)?;
                let fits = really == expected;
                Ok(if fits {
                    Fit::Fits
                } else {
                    Fit::Unfit(format!("its SHA-256 is {really}"))
                })
            }
        };
    }
    Ok(Fit::Nothing)
}

fn sha256(mut file: impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hash.update(bytes);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
