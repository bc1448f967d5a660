//! Where the programs under test are, and whether they are the ones that lie in the sources.
//!
//! `cargo test --workspace` builds the binaries of every package that has integration tests, and
//! all packages before the first test runs; `cargo test -p tests` builds none of them, and
//! `CARGO_BIN_EXE_*` does not cross packages. So the binaries are looked for beside the running
//! test, and one that is older than what it is made of is refused: a test that passes against
//! yesterday's program proves nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A program of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The HTTP server.
    Ingest,
    /// The worker.
    Consumer,
    /// The tidier.
    Janitor,
    /// The command line client.
    Upload,
}

impl Program {
    /// Name of the binary and of its package.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Consumer => "consumer",
            Self::Janitor => "janitor",
            Self::Upload => "upload",
        }
    }

    /// The binary that was built together with this test.
    ///
    /// # Panics
    /// If it is missing or older than its sources, naming the command that builds it.
    #[must_use]
    pub fn path(self) -> PathBuf {
        let binary = build_dir().join(self.name());
        if let Err(why) = fresh(&binary) {
            let release = if cfg!(debug_assertions) {
                ""
            } else {
                " --release"
            };
            panic!("{why}: run `cargo build --workspace --bins{release}` first");
        }
        binary
    }
}

/// `target/debug` or `target/release`: where cargo put the test that is running.
#[must_use]
pub fn build_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running test knows its own file");
    let deps = test.parent().expect("a file lies in a directory");
    deps.parent()
        .expect("cargo runs tests in target/<profile>/deps")
        .to_path_buf()
}

/// A directory on the disk of the build (not in memory, as `/tmp` often is) for what tests write.
#[must_use]
pub fn scratch_dir() -> PathBuf {
    let dir = target_dir().join("tmp");
    std::fs::create_dir_all(&dir).expect("the target directory is writable");
    dir
}

/// The cargo target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    let build = build_dir();
    build
        .parent()
        .expect("cargo puts profiles into the target directory")
        .to_path_buf()
}

/// The root of the workspace's sources.
#[must_use]
pub fn workspace_dir() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in the workspace")
        .to_path_buf()
}

/// Whether a binary exists and is younger than every file it is made of, by cargo's own list
/// (`ingest.d` beside `ingest`).
fn fresh(binary: &Path) -> Result<(), String> {
    let built = modified(binary)?;
    let list = binary.with_extension("d");
    let list = std::fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    for source in dependencies(&list) {
        // A source that is gone was removed since the build.
        if modified(&source)? > built {
            let (binary, source) = (binary.display(), source.display());
            return Err(format!("{binary} is older than {source}"));
        }
    }
    Ok(())
}

fn modified(path: &Path) -> Result<SystemTime, String> {
    let metadata = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    metadata.map_err(|error| format!("{}: {error}", path.display()))
}

/// The right side of `target: a b\ c`, the form of a make rule.
fn dependencies(rule: &str) -> Vec<PathBuf> {
    let Some((_, right)) = rule.split_once(": ") else {
        return Vec::new();
    };
    let line = right
        .lines()
        .next()
        .unwrap_or_default()
        .replace("\\ ", "\0");
    line.split_whitespace()
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_list_is_read_with_its_escaped_blanks() {
        let rule = "/t/debug/ingest: /w/a b/x.rs\n";
        assert_eq!(dependencies(rule).len(), 2);
        let rule = "/t/debug/ingest: /w/a\\ b/x.rs /w/y.rs\n\nother: /w/z.rs\n";
        assert_eq!(
            dependencies(rule),
            [PathBuf::from("/w/a b/x.rs"), PathBuf::from("/w/y.rs")]
        );
    }

    #[test]
    fn a_binary_older_than_a_source_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("source.rs"), "").unwrap();
        std::fs::write(at("ingest"), "").unwrap();
        std::fs::write(
            at("ingest.d"),
            format!("x: {}\n", at("source.rs").display()),
        )
        .unwrap();
        let set = |name: &str, seconds: u64| {
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::options()
                .write(true)
                .open(at(name))
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        set("source.rs", 1000);
        set("ingest", 2000);
        assert_eq!(fresh(&at("ingest")), Ok(()));
        set("source.rs", 3000);
        assert!(fresh(&at("ingest")).unwrap_err().contains("is older than"));
        assert!(fresh(&at("consumer")).is_err());
    }
}
