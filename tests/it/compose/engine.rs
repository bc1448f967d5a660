//! A Docker engine of a test's own, in namespaces of its own.
//!
//! Its bridges, firewall rules and mounts are nobody else's, so that it disturbs no engine that
//! already runs here, and all of it goes away with its process, however the test ends.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::pipeline::Pipeline;
use tests::process::Process;
use tests::programs::workspace_dir;
use tests::wait::{PATIENCE, happens, wait_up_to};

/// Loading its parts takes seconds; iptables on a slow machine a while.
const START_WITHIN: Duration = Duration::from_secs(120);
/// The longest is a restart, which may take the whole time to drain.
const STEP_WITHIN: Duration = Duration::from_secs(300);
const PROJECT: &str = "tuspool";

/// A running engine. Dropping it ends everything in it.
pub(crate) struct Engine<'a> {
    pipeline: &'a Pipeline,
    namespaces: Process,
    /// Short, because a socket's path may have 107 bytes only.
    sockets: tempfile::TempDir,
}

impl<'a> Engine<'a> {
    /// Starts it; the reason where the kernel (or a container around us) does not let it run.
    pub(crate) fn start(pipeline: &'a Pipeline) -> Result<Self, String> {
        let sockets = tempfile::Builder::new()
            .prefix("tuspool-")
            .tempdir()
            .unwrap();
        let at = |name: &str| sockets.path().join(name).display().to_string();
        let script = "ip link set lo up && exec unshare --pid --fork --kill-child --mount-proc \
                      dockerd \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", script, "dockerd"]);
        command.arg("--data-root").arg(pipeline.path("docker"));
        command.args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &format!("unix://{}", at("api"))]);
        command.env("PATH", path());
        let namespaces = pipeline.start("dockerd", command);
        let mut engine = Self {
            pipeline,
            namespaces,
            sockets,
        };
        let runs = wait_up_to(START_WITHIN, "dockerd to run or to give up", || {
            if engine.namespaces.poll().is_some() {
                return Some(false);
            }
            let answered = engine.command("docker").arg("version").output().unwrap();
            answered.status.success().then_some(true)
        });
        if runs {
            return Ok(engine);
        }
        let log = engine.namespaces.log();
        Err(log.lines().last().unwrap_or_default().to_owned())
    }

    /// Whether a container of an image starts at all; the reason if not.
    pub(crate) fn try_container(&self, image: &str) -> Result<(), String> {
        let mut command = self.command("docker");
        let output = command.args(["run", "--rm", image, "true"]).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    }

    /// A program that talks to this engine, run in the workspace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let socket = self.sockets.path().join("api");
        let mut command = Command::new(program);
        command
            .env("PATH", path())
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_PROJECT_NAME", PROJECT)
            .current_dir(workspace_dir())
            .stdin(Stdio::null());
        command
    }

    /// A command that sees the ports which this engine publishes.
    pub(crate) fn beside(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new("nsenter");
        let namespace = format!("--net=/proc/{}/ns/net", self.namespaces.pid());
        command.arg(namespace).arg(program.into());
        command
    }

    /// `docker …`, which has to succeed.
    pub(crate) fn docker(&self, args: &[&str]) -> String {
        let mut command = self.command("docker");
        command.args(args);
        let ended = self.pipeline.start("docker", command).finish(STEP_WITHIN);
        ended.expect_code(0).stdout.trim().to_owned()
    }

    /// A line of README, `docker compose …`, by the compose of this machine.
    pub(crate) fn typed(&self, limit: Duration, line: &str) -> String {
        let words = line.strip_prefix("docker compose ");
        let words = words.unwrap_or_else(|| panic!("{line} is not for compose"));
        // Without a terminal; a person has one.
        let words = words.replace(" exec ", " exec -T ");
        let mut command = self.command("docker-compose");
        command.args(words.split_whitespace());
        let process = self.pipeline.start("compose", command);
        process.finish(limit).expect_code(0).stdout
    }

    /// The container of a service.
    pub(crate) fn container(service: &str, n: u32) -> String {
        format!("{PROJECT}_{service}_{n}")
    }

    /// Where a named volume lies on this machine.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        let volumes = self.pipeline.path("docker/volumes");
        volumes.join(format!("{PROJECT}_{name}/_data"))
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the programs said belongs to a failure; what fails here does not.
            let mut logs = self.command("docker-compose");
            logs.args(["-f", "deploy/compose.yaml", "--profile", "cluster"]);
            if let Ok(output) = logs.args(["logs", "--no-color", "--tail", "20"]).output() {
                io::stderr().write_all(&output.stdout).ok();
            }
        }
        self.namespaces.kill();
        // The engine's mounts went with its namespace, but they may take a moment to end.
        let data = self.pipeline.path("docker");
        happens(PATIENCE, || std::fs::remove_dir_all(&data).is_ok());
    }
}

/// Debian keeps dockerd and iptables where only root looks.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}
