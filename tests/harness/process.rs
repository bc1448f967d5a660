//! One child process: started with its output in files, signalled by PID, never left behind.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{PATIENCE, wait_until, wait_up_to};

/// A running program. Dropping it kills it; in a failing test its log is printed.
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

/// What a program that has ended left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns itself if the exit code is `code`.
    ///
    /// # Panics
    /// If it is another one, with all output.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self
    }
}

impl Process {
    /// Starts `command`, its output going to `{logs}/{name}.out` and `.err`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Self {
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        let open = |path: &Path| {
            // Appending, so that a restarted program goes on in the log of the one before it.
            let file = File::options().create(true).append(true).open(path);
            file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        command
            .stdin(Stdio::null())
            .stdout(open(&stdout))
            .stderr(open(&stderr));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            ended: None,
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal; nothing happens if the process has ended.
    ///
    /// # Panics
    /// If the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) {
        if self.poll().is_none() {
            kill(self.pid(), signal).expect("a child that was not waited for can be signalled");
        }
    }

    /// SIGKILL, and waits until the process is gone (its locks and ports with it).
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// SIGTERM, and waits until the process has ended by itself.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// How the process ended, or `None` while it runs.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .expect("one's own child can be waited for");
        }
        self.ended
    }

    /// Waits for the end, for at most [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_at_most(PATIENCE)
    }

    /// Waits for the end, for at most `limit`.
    pub fn wait_at_most(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_up_to(limit, &what, || self.poll())
    }

    /// Waits for the end and returns all that the process wrote.
    #[must_use]
    pub fn finish(mut self, limit: Duration) -> Finished {
        let status = self.wait_at_most(limit);
        Finished {
            status,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        }
    }

    /// All that was written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// All that was written to standard error so far: the log.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for the first line of the log: from then on a signal is heard.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for_log(&self) {
        let what = format!("the first line of {}", self.name);
        wait_until(&what, || self.log().contains('\n').then_some(()));
    }

    /// Waits until the process has stopped itself (state `T`) or was stopped by a signal.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn wait_stopped(&mut self) {
        let what = format!("the stop of {}", self.name);
        wait_until(&what, || {
            if let Some(status) = self.poll() {
                panic!("{} ended ({status}) instead of stopping", self.name);
            }
            (state(self.pid()) == Some('T')).then_some(())
        });
    }

    /// Waits until the process was killed by SIGKILL: by a failpoint in itself.
    ///
    /// # Panics
    /// If it ends in another way.
    pub fn wait_killed(&mut self) {
        let status = self.wait();
        let signal = status.signal();
        assert_eq!(
            signal,
            Some(Signal::SIGKILL as i32),
            "{} ended with {status}",
            self.name
        );
    }

    /// Largest resident set the process ever had, in bytes (`VmHWM`).
    ///
    /// # Panics
    /// If the process has ended.
    #[must_use]
    pub fn peak_resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the kernel reports VmHWM in KiB") * 1024
    }
}

impl Drop for Process {
    #[expect(
        clippy::print_stderr,
        reason = "a failing test shows what its programs said"
    )]
    fn drop(&mut self) {
        if self.poll().is_none() {
            let gone = self.child.kill().and_then(|()| self.child.wait());
            self.ended = gone.ok();
        }
        if std::thread::panicking() {
            for log in [&self.stdout, &self.stderr] {
                let text = read(log);
                if !text.is_empty() {
                    eprintln!("--- {} ---\n{}", log.display(), tail(&text, 60));
                }
            }
        }
    }
}

/// State letter of a process (`R`, `S`, `T`, `Z` …); `None` once it is gone.
#[must_use]
pub fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses and may hold anything.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default()
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, logs: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("shell", command, logs)
    }

    #[test]
    fn output_and_exit_code_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let ended = shell("echo out; echo err >&2; exit 3", dir.path()).finish(PATIENCE);
        assert_eq!(ended.code(), Some(3));
        assert_eq!(
            (ended.stdout.as_str(), ended.stderr.as_str()),
            ("out\n", "err\n")
        );
    }

    #[test]
    fn a_process_that_stops_or_kills_itself_is_seen_to_do_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut stopping = shell("kill -STOP $$; exit 0", dir.path());
        stopping.wait_stopped();
        stopping.kill();
        shell("kill -KILL $$", dir.path()).wait_killed();
    }

    #[test]
    fn dropping_a_process_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell("exec sleep 600", dir.path());
        let pid = process.pid();
        assert!(process.peak_resident_bytes() > 0);
        drop(process);
        assert_eq!(state(pid), None);
    }
}
