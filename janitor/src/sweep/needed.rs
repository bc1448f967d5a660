//! Parts that final uploads are still made of, whether or not they bear the name of one: a part that
//! two of them share bears that of the second only some time after the first is done.

use std::collections::HashSet;

use shared::durable::DiskError;
use shared::id::UploadId;
use shared::layout::{Dir, Entry, RecordAt};
use shared::record::{self, RecordError};
use shared::spool::Spool;

/// Looked for among all uploads, once in a pass, and only if a part is to be removed.
#[derive(Debug, Default)]
pub(super) struct Needed(Option<HashSet<UploadId>>);

impl Needed {
    /// Whether a final upload still needs this part.
    pub(super) fn has(&mut self, spool: &Spool, part: UploadId) -> Result<bool, DiskError> {
        let needed = match self.0.take() {
            Some(needed) => needed,
            None => gather(spool)?,
        };
        Ok(self.0.insert(needed).contains(&part))
    }
}

fn gather(spool: &Spool) -> Result<HashSet<UploadId>, DiskError> {
    let mut needed = HashSet::new();
    for entry in spool.entries(Dir::Uploads)? {
        let Entry::Record(id, _) = entry? else {
            continue;
        };
        match record::read(&spool.layout().record(id, RecordAt::Uploads)) {
            Ok(record) if record.is_assembling() => needed.extend(record.rest.parts),
            Err(RecordError::Disk(error)) if !error.is_missing() => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(needed)
}
