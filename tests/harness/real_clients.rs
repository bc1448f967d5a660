//! The clients and the server that people really use: tus-js-client, tuspy and tussi.
//!
//! `./check` installs them, at the versions pinned in `tests/clients`, into the target directory.
//! What is started here is a small driver script for each, run by `node` or the virtual
//! environment's `python`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{target_dir, workspace_dir};

/// A client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealClient {
    /// tus-js-client, from npm.
    TusJsClient,
    /// tuspy, from PyPI.
    Tuspy,
}

impl RealClient {
    /// Both.
    pub const ALL: [Self; 2] = [Self::TusJsClient, Self::Tuspy];

    /// The command that uploads `file` as `filename` to the server at `address`, trying again
    /// whenever the connection breaks, and prints the URL of the upload.
    #[must_use]
    pub fn upload(
        self,
        address: SocketAddr,
        base_path: &str,
        file: &Path,
        filename: &str,
    ) -> Command {
        let mut command = match self {
            Self::TusJsClient => node("tus-js-client.cjs"),
            Self::Tuspy => python("tuspy_upload.py"),
        };
        command
            .arg(format!("http://{address}{base_path}"))
            .arg(file)
            .arg(filename);
        command
    }
}

/// As [`RealClient::upload`] with tus-js-client, and with options of its own, in JSON.
#[must_use]
pub fn tus_js_client(
    address: SocketAddr,
    base_path: &str,
    file: &Path,
    filename: &str,
    options: &serde_json::Value,
) -> Command {
    let mut command = RealClient::TusJsClient.upload(address, base_path, file, filename);
    command.arg(options.to_string());
    command
}

/// A tussi server on the directories of a spool; writes `host:port` into `ready` once it listens.
#[must_use]
pub fn tussi_server(spool: &Path, ready: &Path) -> Command {
    let mut command = python("tussi_server.py");
    command.arg(spool).arg(ready);
    command
}

/// A tussi worker that consumes `count` uploads of a spool's `completed/` into `out`.
#[must_use]
pub fn tussi_worker(spool: &Path, out: &Path, count: usize) -> Command {
    let mut command = python("tussi_worker.py");
    command.arg(spool).arg(out).arg(count.to_string());
    command
}

/// What is missing of all this, or out of date; `None` if nothing is.
#[must_use]
pub fn missing() -> Option<String> {
    let install = "run `./check --install` first";
    let stamp = std::fs::read_to_string(tools_dir().join("installed"));
    let Ok(stamp) = stamp else {
        return Some(format!("the real tus clients are not installed: {install}"));
    };
    // As scripts/install-test-tools writes it.
    let wanted = [
        "package-lock.json",
        "requirements.txt",
        "tus_node_server.mjs",
    ]
    .map(|name| std::fs::read_to_string(drivers_dir().join(name)).unwrap_or_default());
    (stamp != wanted.concat())
        .then(|| format!("the real tus clients are of other versions: {install}"))
}

/// Path of something that `./check` installs, such as `venv/bin/check-jsonschema`.
#[must_use]
pub fn test_tool(path: &str) -> PathBuf {
    tools_dir().join(path)
}

fn tools_dir() -> PathBuf {
    target_dir().join("test-tools")
}

fn drivers_dir() -> PathBuf {
    workspace_dir().join("tests/clients")
}

fn node(driver: &str) -> Command {
    let mut command = Command::new("node");
    command
        .arg(drivers_dir().join(driver))
        .env("NODE_PATH", tools_dir().join("node_modules"));
    command
}

fn python(driver: &str) -> Command {
    let mut command = Command::new(tools_dir().join("venv/bin/python"));
    // No __pycache__ beside the drivers: the sources stay as they were checked out.
    command.args(["-B", "-u"]).arg(drivers_dir().join(driver));
    command
}
