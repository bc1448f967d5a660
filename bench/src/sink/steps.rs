//! What a small upload asks of the filesystem, and nothing around it: two files, the lock, the
//! offset, two renames, and the syncs between them. The order is the spool's own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use shared::durable::{self, DirSync};

/// About the length of a record.
pub(crate) const RECORD: [u8; 600] = [b' '; 600];
/// Its part that is overwritten in place.
const RECORD_HEAD_BYTES: usize = 512;

/// Two directories in which uploads are made. Their names are foreign to the programs.
pub(crate) struct Steps {
    uploads: PathBuf,
    completed: PathBuf,
    /// Shared by all who wait for one, as in ingest; `None`: nothing is synced.
    syncs: Option<[DirSync; 2]>,
    names: AtomicU64,
}

impl Steps {
    /// Takes the directories `uploads` and `completed` below `root`, and makes them if need be.
    pub(crate) fn open(root: &Path, sync: bool) -> Result<Self> {
        let (uploads, completed) = (root.join("uploads"), root.join("completed"));
        for dir in [&uploads, &completed] {
            fs::create_dir_all(dir)?;
        }
        let syncs = match sync {
            true => Some([
                DirSync::open(uploads.clone())?,
                DirSync::open(completed.clone())?,
            ]),
            false => None,
        };
        Ok(Self {
            uploads,
            completed,
            syncs,
            names: AtomicU64::new(0),
        })
    }

    /// A creation: two files, the second one with content.
    pub(crate) fn create(&self) -> Result<String> {
        let name = self.name();
        let (data, record) = self.make(&name)?;
        if let Some([uploads, _]) = &self.syncs {
            record.sync_data()?;
            uploads.sync()?;
        }
        data.unlock()?;
        Ok(name)
    }

    /// A PATCH with all bytes, and the hand-over.
    pub(crate) fn finish(&self, name: &str, body: &[u8]) -> Result<()> {
        let path = self.uploads.join(name);
        let data = durable::open(&path, true)?;
        data.lock()?;
        let record = durable::open(&record_of(&path), true)?;
        // Whether the offset is the right one, and the lock that of the file with this name.
        record.read_at(&mut [0; RECORD.len()], 0)?;
        data.metadata()?;
        durable::stat(&path)?;
        data.write_all_at(body, 0)?;
        if self.syncs.is_some() {
            data.sync_data()?;
        }
        record.write_all_at(&RECORD[..RECORD_HEAD_BYTES], 0)?;
        if self.syncs.is_some() {
            record.sync_data()?;
        }
        self.hand_over(name, &data)
    }

    /// A creation with all bytes, and the hand-over.
    pub(crate) fn create_with(&self, body: &[u8]) -> Result<String> {
        let name = self.name();
        let (data, record) = self.make(&name)?;
        data.write_all_at(body, 0)?;
        if self.syncs.is_some() {
            let path = self.uploads.join(&name);
            durable::sync_both((&data, &path), (&record, &record_of(&path)))?;
        }
        self.hand_over(&name, &data)?;
        Ok(name)
    }

    fn name(&self) -> String {
        format!("bare-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn make(&self, name: &str) -> Result<(File, File)> {
        let path = self.uploads.join(name);
        let data = File::create_new(&path)?;
        data.lock()?;
        let record = File::create_new(record_of(&path))?;
        record.write_all_at(&RECORD, 0)?;
        Ok((data, record))
    }

    fn hand_over(&self, name: &str, data: &File) -> Result<()> {
        let (from, to) = (self.uploads.join(name), self.completed.join(name));
        durable::rename(&record_of(&from), &record_of(&to))?;
        durable::rename(&from, &to)?;
        if let Some([_, completed]) = &self.syncs {
            completed.sync()?;
        }
        data.unlock()?;
        Ok(())
    }
}

fn record_of(data: &Path) -> PathBuf {
    data.with_extension("meta")
}
