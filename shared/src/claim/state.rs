//! What is written beside a claim, and how.
//!
//! Nobody else uses the name of a claim's state, so it is made at once under it: who finds it empty
//! finds what a crash left before it was written, and that is as good as none. Later it is
//! overwritten in place as long as it fits into one sector, for the reasons that a record's head
//! is: neither a crash nor a power cut leaves half of it, and an inode less is made and removed for
//! every upload. What is larger replaces it by a rename.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::durable::{self, DiskError, OnPath};
use crate::host::{self, Host};
use crate::id::UploadId;
use crate::record::{HEAD_LEN as SECTOR, Record};
use crate::spool::{Purpose, Spool};
use crate::time::UnixTime;

/// A process group started by a consumer, as it can be told from a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessGroup {
    /// The group's id: its leader's process id.
    pub id: u32,
    /// When the leader started, in clock ticks since boot.
    pub started_ticks: u64,
}

/// What a claim's state file says: who works on the upload, how, and until when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimState {
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Host of the consumer.
    pub host: String,
    /// Boot of that host.
    pub boot: String,
    /// Process id of the consumer.
    pub pid: u32,
    /// When the claim was made.
    pub claimed_at: UnixTime,
    /// The same by the clock of that boot, which nobody sets: see [`crate::host::steady`].
    #[serde(default)]
    pub claimed_steady: Option<Duration>,
    /// The hook's process group, once it runs.
    #[serde(default)]
    pub group: Option<ProcessGroup>,
    /// When the hook must have ended, as far as other hosts can tell.
    #[serde(default)]
    pub deadline: Option<UnixTime>,
    /// The same by the clock of that boot: what processes of that host go by.
    #[serde(default)]
    pub deadline_steady: Option<Duration>,
    /// The name that was chosen in the destination, written before the delivery.
    #[serde(default)]
    pub destination: Option<String>,
    /// The inode that gets the name. A file of that name is ours only if it is this one: another
    /// upload of the same name and length may have been faster.
    #[serde(default)]
    pub destination_inode: Option<u64>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

impl ClaimState {
    /// Of a claim that this process makes now. What an earlier attempt chose in the destination is
    /// known to the record.
    pub(super) fn of_this_process(record: &Record, now: UnixTime) -> Self {
        let host = Host::this();
        Self {
            attempt: record.attempts,
            host: host.name.clone(),
            boot: host.boot.clone(),
            pid: std::process::id(),
            claimed_at: now,
            claimed_steady: Some(host::steady()),
            group: None,
            deadline: None,
            deadline_steady: None,
            destination: record.rest.destination.clone(),
            destination_inode: record.rest.destination_inode,
            other: serde_json::Map::new(),
        }
    }
}

/// The file of one claim's state, for the claim's owner.
#[derive(Debug, Default)]
pub(super) struct StateFile {
    /// Its length; 0 before it is made.
    length: usize,
    /// Whether it was made of a spare.
    of_spare: bool,
}

impl StateFile {
    /// Writes the state; the content durable on return if asked for.
    ///
    /// # Errors
    /// As open(2), write(2), fdatasync(2), rename(2). What was there before may be read then.
    pub(super) fn write(
        &mut self,
        spool: &Spool,
        id: UploadId,
        path: &Path,
        state: &ClaimState,
        durably: bool,
    ) -> Result<(), DiskError> {
        let mut bytes = serde_json::to_vec(state).unwrap_or_default();
        if self.length == 0 {
            self.length = bytes.len();
            self.of_spare = spool.create_whole(path, &bytes, durably, Purpose::Begin)?;
            return Ok(());
        }
        if SECTOR < bytes.len().max(self.length) {
            self.length = bytes.len();
            self.of_spare = spool.replace_file(path, id, &bytes, durably)?;
            return Ok(());
        }
        // Blanks over what is left of a longer one.
        bytes.resize(bytes.len().max(self.length), b' ');
        self.length = bytes.len();
        let file = durable::open(path, true)?;
        match file.write_all_at(&bytes, 0).on("write", path) {
            // Where nothing is overwritten in place (btrfs).
            Err(error) if error.is_full() => {
                self.of_spare = spool.replace_file(path, id, &bytes, durably)?;
                return Ok(());
            }
            written => written?,
        }
        match durably {
            true => durable::sync_data(&file, path),
            false => Ok(()),
        }
    }

    /// Takes the state's name away.
    ///
    /// # Errors
    /// As rename(2), unlink(2).
    pub(super) fn remove(&self, spool: &Spool, path: &Path) -> Result<(), DiskError> {
        match self.of_spare {
            true => spool.give_back(path),
            false => durable::unlink(path).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::id::ClaimId;
    use crate::spool::Options;

    #[test]
    fn a_state_is_overwritten_in_place_while_a_sector_holds_it_and_replaced_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        let (id, mut file) = (UploadId::generate(), StateFile::default());
        let path = spool.layout().state(id, ClaimId::generate());
        let (mut inode, mut state) = (None, ClaimState::default());
        for (length, same) in [(0, false), (100, true), (3, true), (600, false), (5, false)] {
            state.destination = Some("d".repeat(length));
            for durably in [true, false] {
                file.write(&spool, id, &path, &state, durably).unwrap();
                let read: ClaimState =
                    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                assert_eq!(read, state);
                assert_eq!(std::fs::metadata(&path).unwrap().len(), file.length as u64);
            }
            let now = std::fs::metadata(&path).unwrap().ino();
            // An inode number may come back at once: that it is another one shows in the length.
            assert!(!same || inode == Some(now), "{length}");
            inode = Some(now);
        }
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "a temporary file is left");
    }

    #[test]
    fn a_state_whose_name_is_gone_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        let (id, mut file) = (UploadId::generate(), StateFile::default());
        let path = spool.layout().state(id, ClaimId::generate());
        let state = ClaimState::default();
        file.write(&spool, id, &path, &state, false).unwrap();
        durable::unlink(&path).unwrap();
        let lost = file.write(&spool, id, &path, &state, false).unwrap_err();
        assert!(lost.is_missing());
    }
}
