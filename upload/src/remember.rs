//! Unfinished uploads, remembered between runs in one JSON file.
//!
//! Several processes may use the file at once: a lock file beside it is held while it is read, changed
//! and replaced. What it holds lets anyone who reads it write to the uploads, so it is readable by its
//! owner alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::Url;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::exit::UploadError;
use crate::metadata::Metadata;

/// Older entries are dropped: no server keeps an idle upload that long.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What makes two runs speak of the same upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    pub endpoint: String,
    /// Absolute, without symbolic links; see [`named`].
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// In nanoseconds since 1970.
    pub modified: u64,
    /// What the user said about the file; names and types found by ourselves do not count.
    pub metadata: Metadata,
}

/// A path as it stands in the state file. One that is not UTF-8, which JSON cannot hold, stands there
/// quoted and escaped, so that no two are alike: no absolute path begins with a quotation mark.
pub(crate) fn named(path: &Path) -> String {
    path.to_str()
        .map_or_else(|| format!("{path:?}"), str::to_owned)
}

/// One upload on the server, which may be one of several parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Places in the file.
    pub from: u64,
    pub to: u64,
    /// `None`: not created yet.
    pub url: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    fingerprint: Fingerprint,
    /// In seconds since 1970.
    begun: u64,
    parts: Vec<Part>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    version: u32,
    uploads: Vec<Entry>,
}

/// The version of the file's format.
const VERSION: u32 = 1;

/// The state file.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    path: PathBuf,
}

impl Store {
    /// Touches nothing yet.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The parts of an upload that was begun and not finished.
    pub(crate) fn find(&self, fingerprint: &Fingerprint) -> Result<Option<Vec<Part>>, UploadError> {
        let contents = self.read().map_err(self.failed())?;
        let found = contents
            .uploads
            .into_iter()
            .find(|entry| entry.fingerprint == *fingerprint);
        Ok(found.map(|entry| entry.parts))
    }

    fn put(&self, fingerprint: &Fingerprint, parts: &[Part]) -> Result<(), UploadError> {
        let begun = since_1970(SystemTime::now()).as_secs();
        self.change(|uploads| {
            let oldest = begun.saturating_sub(KEPT_FOR.as_secs());
            uploads.retain(|e| e.fingerprint != *fingerprint && oldest <= e.begun);
            let fingerprint = fingerprint.clone();
            uploads.push(Entry {
                fingerprint,
                begun,
                parts: parts.to_vec(),
            });
        })
    }

    fn remove(&self, fingerprint: &Fingerprint) -> Result<(), UploadError> {
        self.change(|uploads| uploads.retain(|entry| entry.fingerprint != *fingerprint))
    }

    /// Forgets whatever upload has this URL.
    pub(crate) fn remove_url(&self, url: &Url) -> Result<(), UploadError> {
        let is_it = |part: &Part| part.url.as_deref() == Some(url.as_str());
        self.change(|uploads| uploads.retain(|entry| !entry.parts.iter().any(is_it)))
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> UploadError {
        UploadError::local(format!(
            "failed to use the state file {}",
            self.path.display()
        ))
    }

    fn change(&self, act: impl FnOnce(&mut Vec<Entry>)) -> Result<(), UploadError> {
        let changed = || {
            let _lock = self.lock()?;
            let mut contents = self.read()?;
            act(&mut contents.uploads);
            self.write(&contents)
        };
        changed().map_err(self.failed())
    }

    fn directory(&self) -> &Path {
        self.path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// A file of its own, because the state file is replaced and a lock stays with the old one.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(self.directory())?;
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        let file = File::options().create(true).append(true).open(name)?;
        file.lock()?;
        Ok(file)
    }

    /// A file that is not ours is never overwritten: it is an error.
    fn read(&self) -> io::Result<Contents> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
            other => other?,
        };
        if bytes.is_empty() {
            return Ok(Contents::default());
        }
        let contents: Contents = serde_json::from_slice(&bytes)?;
        if contents.version != VERSION {
            let text = format!("format {} is unknown to this program", contents.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(contents)
    }

    fn write(&self, contents: &Contents) -> io::Result<()> {
        let contents = Contents {
            version: VERSION,
            uploads: contents.uploads.clone(),
        };
        let mut file = NamedTempFile::new_in(self.directory())?;
        serde_json::to_writer_pretty(&mut file, &contents)?;
        file.write_all(b"\n")?;
        file.persist(&self.path)?;
        Ok(())
    }
}

/// Time since 1970.
pub(crate) fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Remembers one upload while it is under way; does nothing where nothing is to be remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ticket(Option<Arc<Entered>>);

#[derive(Debug)]
struct Entered {
    store: Store,
    fingerprint: Fingerprint,
    parts: Mutex<Vec<Part>>,
    /// Whether the file has an entry for this.
    stored: AtomicBool,
}

impl Ticket {
    /// Writes nothing before an upload was created. `stored`: an entry was found.
    pub(crate) fn new(
        store: &Store,
        fingerprint: Fingerprint,
        parts: Vec<Part>,
        stored: bool,
    ) -> Self {
        let parts = Mutex::new(parts);
        let stored = AtomicBool::new(stored);
        Self(Some(Arc::new(Entered {
            store: store.clone(),
            fingerprint,
            parts,
            stored,
        })))
    }

    /// The part for these places has a URL now.
    pub(crate) fn created(&self, range: &Range<u64>, url: &Url) -> Result<(), UploadError> {
        let Some(entered) = &self.0 else {
            return Ok(());
        };
        let mut parts = entered.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts
            .iter_mut()
            .filter(|part| part.from == range.start && part.to == range.end)
        {
            part.url = Some(url.to_string());
        }
        entered.store.put(&entered.fingerprint, &parts)?;
        entered.stored.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The upload is complete, or given up for another.
    pub(crate) fn forget(&self) -> Result<(), UploadError> {
        let Some(entered) = &self.0 else {
            return Ok(());
        };
        if entered.stored.swap(false, Ordering::Relaxed) {
            entered.store.remove(&entered.fingerprint)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fingerprint(size: u64) -> Fingerprint {
        Fingerprint {
            endpoint: "http://host/files/".to_owned(),
            path: "/data/file".into(),
            size,
            modified: 12,
            metadata: Metadata::default(),
        }
    }

    fn part(url: Option<&str>) -> Part {
        Part {
            from: 0,
            to: 10,
            url: url.map(str::to_owned),
        }
    }

    fn url() -> Url {
        Url::parse("http://host/files/a").unwrap()
    }

    #[test]
    fn no_two_paths_are_remembered_as_one() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;

        let names: [&[u8]; 5] = [
            b"/a\xff",
            b"/a\xfe",
            "/a\u{fffd}".as_bytes(),
            b"/a\\xff",
            b"/a",
        ];
        let remembered = names.map(|name| named(Path::new(OsStr::from_bytes(name))));
        let different: std::collections::HashSet<_> = remembered.iter().collect();
        assert_eq!(different.len(), names.len(), "{remembered:?}");
    }

    #[test]
    fn an_upload_is_found_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("new/dir/state.json"));
        assert_eq!(store.find(&fingerprint(1)).unwrap(), None);
        let ticket = Ticket::new(&store, fingerprint(1), vec![part(None)], false);
        ticket.created(&(0..10), &url()).unwrap();
        assert_eq!(
            store.find(&fingerprint(1)).unwrap(),
            Some(vec![part(Some(url().as_str()))])
        );
        assert_eq!(store.find(&fingerprint(2)).unwrap(), None);
        ticket.forget().unwrap();
        assert_eq!(store.find(&fingerprint(1)).unwrap(), None);
    }

    #[test]
    fn every_field_of_the_fingerprint_counts() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("state"));
        let one = fingerprint(1);
        store.put(&one, &[part(None)]).unwrap();
        let metadata = Metadata::parse(&["a=b".to_owned()]).unwrap();
        for other in [
            Fingerprint {
                endpoint: "http://other/".to_owned(),
                ..one.clone()
            },
            Fingerprint {
                path: "/other".into(),
                ..one.clone()
            },
            Fingerprint {
                size: 2,
                ..one.clone()
            },
            Fingerprint {
                modified: 13,
                ..one.clone()
            },
            Fingerprint {
                metadata,
                ..one.clone()
            },
        ] {
            assert_eq!(store.find(&other).unwrap(), None, "{other:?}");
        }
        assert!(store.find(&one).unwrap().is_some());
    }

    #[test]
    fn only_the_owner_can_read_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("state"));
        store.put(&fingerprint(1), &[part(None)]).unwrap();
        let mode = fs::metadata(&store.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_not_ours_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for foreign in ["{}", "hello", "{\"version\": 2, \"uploads\": []}"] {
            let path = directory.path().join("precious");
            fs::write(&path, foreign).unwrap();
            let store = Store::at(path.clone());
            assert!(store.find(&fingerprint(1)).is_err());
            assert!(store.put(&fingerprint(1), &[]).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }

    #[test]
    fn many_writers_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        std::thread::scope(|scope| {
            for size in 0..16 {
                let store = Store::at(path.clone());
                scope.spawn(move || store.put(&fingerprint(size), &[part(None)]).unwrap());
            }
        });
        let store = Store::at(path);
        for size in 0..16 {
            assert!(store.find(&fingerprint(size)).unwrap().is_some(), "{size}");
        }
    }

    #[test]
    fn a_terminated_upload_is_forgotten_by_its_url() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("state"));
        store
            .put(&fingerprint(1), &[part(Some(url().as_str()))])
            .unwrap();
        store
            .put(&fingerprint(2), &[part(Some("http://host/files/b"))])
            .unwrap();
        store.remove_url(&url()).unwrap();
        assert_eq!(store.find(&fingerprint(1)).unwrap(), None);
        assert!(store.find(&fingerprint(2)).unwrap().is_some());
    }
}
