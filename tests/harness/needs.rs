//! What a test needs from the machine, and how large it may be.
//!
//! A test that cannot run says so. Under `CI=true` that is a failure: there, everything a test
//! needs is installed first, so a skip would mean that something is silently not tested.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::real_clients;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// tus-js-client, tuspy and tussi, installed by `./check`.
    RealClients,
    /// Root, to mount file systems.
    Root,
    /// Loop devices.
    LoopDevices,
    /// A program on the `PATH`.
    Tool(&'static str),
    /// A file that `./check` installs, in full only where everything is tested: see
    /// [`real_clients::test_tool`].
    TestTool(&'static str),
    /// Programs built with debug assertions: only those have failpoints.
    Failpoints,
}

impl Need {
    /// Why this machine does not have it; `None` if it does.
    fn missing(self) -> Option<String> {
        match self {
            Self::RealClients => real_clients::missing(),
            Self::Root => {
                (!nix::unistd::geteuid().is_root()).then(|| "must be run by root".to_owned())
            }
            Self::LoopDevices => std::fs::metadata("/dev/loop-control")
                .err()
                .map(|error| format!("/dev/loop-control: {error}")),
            Self::Tool(name) => (!on_path(name)).then(|| format!("{name} is not installed")),
            Self::TestTool(path) => (!real_clients::test_tool(path).is_file())
                .then(|| format!("{path} is missing: `./check --long` installs it")),
            Self::Failpoints => (!cfg!(debug_assertions))
                .then(|| "failpoints exist in debug builds only".to_owned()),
        }
    }
}

/// Whether the machine has everything in `needs`; if not, says what is missing.
///
/// # Panics
/// Under `CI=true`, instead of returning `false`.
#[must_use = "return from the test if something is missing"]
pub fn met(needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&missing.join("; "));
    false
}

/// Says that a test cannot run here, and why; past the capture of test output, because what did not
/// run must not look as if it had.
///
/// # Panics
/// Under `CI=true`.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci, "{test} cannot run here: {why}");
    writeln!(io::stderr(), "SKIPPED {test}: {why}").ok();
}

/// Whether the long form of the tests was asked for (`TUSPOOL_LONG=1`).
#[must_use]
pub fn long() -> bool {
    std::env::var("TUSPOOL_LONG").is_ok_and(|value| value == "1")
}

/// `quick` in a plain `cargo test`, `long` under `TUSPOOL_LONG=1`.
#[must_use]
pub fn sized<T>(quick: T, full: T) -> T {
    if long() { full } else { quick }
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    listed || Path::new("/usr/sbin").join(name).is_file()
}

/// Runs a command of the machine (`mount`, `mkfs.ext4`) and returns its output.
///
/// # Panics
/// If it cannot be started or fails, with what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {said}{complained}",
        output.status
    );
    said
}
