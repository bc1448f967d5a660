//! The spool as a plain directory: what lies where, read without any code of the programs.
//!
//! Spelled out once more on purpose. If the programs and this file disagree on a name, one of
//! them has departed from the layout that ARCHITECTURE.md describes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The directories of a spool.
pub const DIRECTORIES: [&str; 8] = [
    "uploads",
    "completed",
    "claimed",
    "deferred",
    "held",
    "failed",
    "receipts",
    "outbox",
];

/// A spool to look into.
#[derive(Clone, Debug)]
pub struct SpoolView {
    root: PathBuf,
}

impl SpoolView {
    /// The spool at a directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in one of its directories.
    #[must_use]
    pub fn path(&self, directory: &str, name: &str) -> PathBuf {
        self.root.join(directory).join(name)
    }

    /// Names in one of its directories, sorted; none if the directory does not exist. Without those
    /// of the space that consumers keep, which is there whatever happens.
    ///
    /// # Panics
    /// If the directory cannot be read.
    #[must_use]
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = match std::fs::read_dir(self.root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{directory}: {error}"),
        };
        let entry = |entry: io::Result<std::fs::DirEntry>| entry.expect("a directory entry");
        let name = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
        let names = entries.map(|e| name(entry(e).file_name()));
        let mut names: Vec<_> = names.filter(|name| !name.starts_with(".spare-")).collect();
        names.sort();
        names
    }

    /// Everything in the spool, by directory: for messages and for "nothing else is left".
    #[must_use]
    pub fn listing(&self) -> BTreeMap<&'static str, Vec<String>> {
        let all = DIRECTORIES
            .iter()
            .map(|directory| (*directory, self.names(directory)));
        all.filter(|(_, names)| !names.is_empty()).collect()
    }

    /// Where the parts of one upload are: `uploads/{id}`, `claimed/{id}~.state` … with claim ids
    /// and times left out, so that they can be compared.
    #[must_use]
    pub fn places(&self, id: &str) -> Vec<String> {
        let mut places = Vec::new();
        for directory in DIRECTORIES {
            for name in self.names(directory) {
                if name.contains(id) {
                    places.push(format!("{directory}/{}", role(&name, id)));
                }
            }
        }
        places
    }

    /// Ids of all uploads whose data lies in a directory.
    #[must_use]
    pub fn data_in(&self, directory: &str) -> Vec<String> {
        let names = self.names(directory).into_iter();
        names.filter(|name| is_id(name)).collect()
    }

    /// The record of an upload in a directory.
    ///
    /// # Panics
    /// If it is missing or not JSON.
    #[must_use]
    pub fn record(&self, directory: &str, id: &str) -> Value {
        self.json(directory, &format!("{id}.meta"))
    }

    /// A JSON file of the spool.
    ///
    /// # Panics
    /// If it is missing or not JSON.
    #[must_use]
    pub fn json(&self, directory: &str, name: &str) -> Value {
        let path = self.path(directory, name);
        let text = std::fs::read(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let value = serde_json::from_slice(&text);
        value.unwrap_or_else(|error| panic!("{} is no JSON: {error}", path.display()))
    }

    /// Whether no data waits for a consumer or is being worked on. Records and states that a
    /// crash has left alone are the janitor's.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // Data moves on while the directories are listed one after the other: forward is the order
        // of the looks, and a second round sees what went backward.
        (0..2).all(|_| {
            let held = |name: &String| !name.ends_with(".state") && !name.starts_with('.');
            self.data_in("completed").is_empty()
                && !self.names("claimed").iter().any(held)
                && self.names("deferred").is_empty()
        })
    }

    /// Whether all that is left of the uploads is receipts.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.listing()
            .keys()
            .all(|directory| *directory == "receipts")
    }

    /// Temporary files, which only exist while a step is being taken.
    #[must_use]
    pub fn temporary(&self) -> Vec<String> {
        let all = self.listing();
        let named = all
            .iter()
            .flat_map(|(dir, names)| names.iter().map(move |n| (dir, n)));
        let temporary = named.filter(|(_, name)| name.starts_with(".tmp-"));
        temporary
            .map(|(directory, name)| format!("{directory}/{name}"))
            .collect()
    }
}

/// Whether a name is that of an upload's data: a lower-case hyphenated UUID.
fn is_id(name: &str) -> bool {
    let canonical = uuid::Uuid::try_parse(name).map(|id| id.as_hyphenated().to_string());
    canonical.is_ok_and(|canonical| canonical == name)
}

/// A file name with the id as `{id}` and without what differs between runs.
fn role(name: &str, id: &str) -> String {
    let name = name.replace(id, "{id}");
    if name.starts_with(".tmp-") {
        return ".tmp-{id}".to_owned();
    }
    if let Some((head, tail)) = name.split_once('~') {
        let suffix = tail
            .split_once('.')
            .map(|(_, s)| format!(".{s}"))
            .unwrap_or_default();
        return format!("{head}~{suffix}");
    }
    if name.ends_with("-{id}") {
        return "-{id}".to_owned();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_layout_has_a_role_without_random_parts() {
        let id = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";
        let claim = "0123456789abcdef0123456789abcdef";
        let check = |name: String, wanted: &str| assert_eq!(role(&name, id), wanted, "{name}");
        check(id.to_owned(), "{id}");
        check(format!("{id}.meta"), "{id}.meta");
        check(format!("{id}.reason.json"), "{id}.reason.json");
        check(format!("{id}~{claim}"), "{id}~");
        check(format!("{id}~{claim}.state"), "{id}~.state");
        check(format!("1700000000-{id}"), "-{id}");
        check(format!(".tmp-{id}-abcd"), ".tmp-{id}");
    }

    #[test]
    fn only_the_canonical_form_counts_as_data() {
        assert!(is_id("0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b"));
        for foreign in ["0193A5F0-1C2D-7E3F-8A4B-5C6D7E8F9A0B", "README", "x.meta"] {
            assert!(!is_id(foreign), "{foreign}");
        }
    }
}
