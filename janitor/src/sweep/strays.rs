//! Records whose data was not found where they say.

use std::collections::HashSet;

use shared::durable::DiskError;
use shared::id::UploadId;
use shared::layout::{Dir, Entry, RecordAt};
use shared::spool::Spool;

/// How many are remembered; what comes after them waits for the next pass. Bounds the memory to
/// a few MiB.
const STRAYS_MAX: usize = 50_000;

/// Suspects, until the directories have been listed in which their data has names of its own. An
/// upload can have two of them.
#[derive(Debug, Default)]
pub(super) struct Strays(HashSet<(UploadId, RecordAt)>);

impl Strays {
    pub(super) fn suspect(&mut self, id: UploadId, at: RecordAt) {
        if self.0.len() < STRAYS_MAX {
            self.0.insert((id, at));
        }
    }

    /// Forgets all whose data is claimed or deferred.
    pub(super) fn absolve(&mut self, spool: &Spool) -> Result<(), DiskError> {
        if self.0.is_empty() {
            return Ok(());
        }
        // Twice, because data on its way from one directory to the other can be missed once.
        for _ in 0..2 {
            for dir in [Dir::Claimed, Dir::Deferred] {
                for entry in spool.entries(dir)? {
                    if let Entry::Data(id, _) = entry? {
                        for at in RecordAt::ALL {
                            self.0.remove(&(id, at));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn remaining(self) -> impl Iterator<Item = (UploadId, RecordAt)> {
        self.0.into_iter()
    }
}
