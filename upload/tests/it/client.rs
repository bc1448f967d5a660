//! Starts the program under test, apart from the user's own settings.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A home with its own state file.
#[derive(Debug)]
pub(crate) struct Client {
    pub home: TempDir,
    pub endpoint: String,
}

/// What the program said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Client {
    pub(crate) fn of(endpoint: String) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            endpoint,
        }
    }

    /// Makes a file in the home.
    pub(crate) fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.home.path().join("state.json")
    }

    /// How many uploads are remembered.
    pub(crate) fn remembered(&self) -> usize {
        let Ok(text) = fs::read_to_string(self.state_file()) else {
            return 0;
        };
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        state["uploads"].as_array().unwrap().len()
    }

    /// The program with short pauses, in the home, with nothing from the outside.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_upload"));
        command.args(arguments).current_dir(self.home.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("UPLOAD_") || name.to_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command
            .env("UPLOAD_TO", &self.endpoint)
            .env("UPLOAD_STATE", self.state_file())
            .env("UPLOAD_BACKOFF", "10ms")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().unwrap())
    }

    /// With standard input from a pipe.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // The program may end without reading all; then the pipe is closed.
            scope.spawn(move || stdin.write_all(input).ok());
            Ended::of(child.wait_with_output().unwrap())
        })
    }
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}
