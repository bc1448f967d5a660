//! From the words on the command line to the list of uploads.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::exit::UploadError;
use crate::text::printable;

/// Where one upload's data is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    File(PathBuf),
    /// Standard input, or something else that can only be read once.
    Pipe(Option<PathBuf>),
    /// This many random bytes.
    Random(u64),
}

/// One upload to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub origin: Origin,
    /// As messages call it.
    pub shown: String,
    /// For the metadata, without control characters; empty for pipes.
    pub filename: String,
    /// For the metadata of files found in directories, beginning with that directory's name.
    pub relative_path: Option<String>,
}

/// What became of the words.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub jobs: Vec<Job>,
    /// What could not be read.
    pub failures: Vec<(String, UploadError)>,
    /// What is neither file nor directory.
    pub skipped: Vec<String>,
}

impl Job {
    /// Random data.
    pub(crate) fn random(length: u64) -> Self {
        let name = format!("random-{length}.bin");
        let origin = Origin::Random(length);
        Self {
            origin,
            shown: name.clone(),
            filename: name,
            relative_path: None,
        }
    }

    fn pipe(path: Option<&Path>) -> Self {
        let shown = path.map_or("standard input".to_owned(), show);
        let origin = Origin::Pipe(path.map(Path::to_owned));
        Self {
            origin,
            shown,
            filename: String::new(),
            relative_path: None,
        }
    }

    fn file(path: &Path, relative_path: Option<String>) -> Self {
        let filename = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            // Servers refuse such names, and a file is not to be lost for its name.
            .replace(char::is_control, "_");
        let origin = Origin::File(path.to_owned());
        Self {
            origin,
            shown: show(path),
            filename,
            relative_path,
        }
    }
}

fn show(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Walks directories in the order of names. Symbolic links are followed when they are named, and
/// skipped below directories, so that no walk leaves its directory or runs in circles.
pub(crate) fn walk(words: &[PathBuf]) -> Found {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    for word in words {
        if word.as_os_str() == "-" {
            found.add(Job::pipe(None), &mut seen);
            continue;
        }
        match fs::metadata(word) {
            Ok(data) if data.is_dir() => found.add_directory(word, &mut seen),
            Ok(data) if data.is_file() => found.add(Job::file(word, None), &mut seen),
            Ok(_) => found.add(Job::pipe(Some(word)), &mut seen),
            Err(error) => found.fail(word, error),
        }
    }
    found
}

impl Found {
    /// The same file named twice is one upload.
    fn add(&mut self, job: Job, seen: &mut HashSet<Origin>) {
        if seen.insert(job.origin.clone()) {
            self.jobs.push(job);
        }
    }

    fn fail(&mut self, path: &Path, error: io::Error) {
        let shown = show(path);
        let error = UploadError::local("failed to open it")(error);
        self.failures.push((shown, error));
    }

    fn add_directory(&mut self, root: &Path, seen: &mut HashSet<Origin>) {
        let name = directory_name(root);
        for entry in WalkDir::new(root).sort_by_file_name() {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) if entry.file_type().is_file() => {
                    let relative = relative_path(&name, root, &entry);
                    self.add(Job::file(entry.path(), Some(relative)), seen);
                }
                Ok(entry) if entry.depth() == 0 => {}
                Ok(entry) => self.skipped.push(show(entry.path())),
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    self.fail(&path, error.into());
                }
            }
        }
    }
}

/// `.` and `..` have no name of their own.
fn directory_name(root: &Path) -> String {
    let named = root
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let real = || {
        fs::canonicalize(root)
            .ok()?
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
    };
    named.or_else(real).unwrap_or_default()
}

fn relative_path(name: &str, root: &Path, entry: &DirEntry) -> String {
    let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
    let steps = below.iter().map(|step| step.to_string_lossy());
    let mut path = name.to_owned();
    for step in steps {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&step);
    }
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("photos/trip")).unwrap();
        fs::create_dir_all(at("photos/empty")).unwrap();
        fs::write(at("photos/b.jpg"), "b").unwrap();
        fs::write(at("photos/a.jpg"), "a").unwrap();
        fs::write(at("photos/trip/.hidden"), "h").unwrap();
        symlink("/etc", at("photos/elsewhere")).unwrap();
        symlink(at("photos/a.jpg"), at("link.jpg")).unwrap();
        symlink(at("photos"), at("album")).unwrap();
        root
    }

    fn relative_paths(found: &Found) -> Vec<&str> {
        found
            .jobs
            .iter()
            .map(|job| job.relative_path.as_deref().unwrap_or("-"))
            .collect()
    }

    #[test]
    fn a_directory_is_walked_in_order_and_links_below_it_are_skipped() {
        let root = tree();
        let found = walk(&[root.path().join("photos")]);
        let expected = ["photos/a.jpg", "photos/b.jpg", "photos/trip/.hidden"];
        assert_eq!(relative_paths(&found), expected);
        assert_eq!(found.skipped.len(), 1);
        assert!(found.failures.is_empty());
    }

    #[test]
    fn links_that_are_named_are_followed() {
        let root = tree();
        let found = walk(&[root.path().join("album/"), root.path().join("link.jpg")]);
        assert_eq!(
            relative_paths(&found),
            ["album/a.jpg", "album/b.jpg", "album/trip/.hidden", "-"]
        );
        assert_eq!(found.jobs[3].filename, "link.jpg");
    }

    #[test]
    fn a_directory_without_a_name_takes_its_real_one() {
        let root = tree();
        let found = walk(&[root.path().join("photos/trip/..")]);
        assert_eq!(relative_paths(&found).first(), Some(&"photos/a.jpg"));
    }

    #[test]
    fn what_is_not_there_fails_and_the_rest_goes_on() {
        let root = tree();
        let words = ["nothing", "photos/a.jpg", "photos/a.jpg"].map(|p| root.path().join(p));
        let found = walk(&words);
        assert_eq!((found.jobs.len(), found.failures.len()), (1, 1));
    }

    #[test]
    fn pipes_and_devices_are_read_as_streams() {
        let found = walk(&["-".into(), "/dev/null".into()]);
        let origins: Vec<_> = found.jobs.iter().map(|job| &job.origin).collect();
        assert_eq!(
            origins,
            [&Origin::Pipe(None), &Origin::Pipe(Some("/dev/null".into()))]
        );
    }
}
