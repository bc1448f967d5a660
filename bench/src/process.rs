//! Server processes: what they use, and their end.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

/// A server and its workers; ended when dropped.
pub(crate) struct Server {
    child: Child,
}

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss_peak_kib: u64,
}

impl Server {
    pub(crate) fn start(command: &mut Command, log: &std::path::Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        #[expect(clippy::cast_possible_wrap, reason = "process ids are small")]
        let pid = Pid::from_raw(self.pid() as i32);
        kill(pid, signal).with_context(|| format!("{signal}"))
    }

    /// Of the process and its living and reaped descendants.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut total = Usage::default();
        let mut pending = vec![self.pid()];
        while let Some(pid) = pending.pop() {
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let (_, fields) = stat.rsplit_once(')').context("stat")?;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            // Of those that have ended, in ticks: cutime and cstime, fields 16 and 17 of
            // proc_pid_stat(5). Of the process itself to the nanosecond: a small upload is a
            // hundredth of a tick.
            let ticks: u64 = fields[13..15]
                .iter()
                .filter_map(|f| f.parse::<u64>().ok())
                .sum();
            total.cpu += Duration::from_millis(ticks * 1000 / ticks_per_second());
            total.cpu += cpu_time(pid).unwrap_or_default();
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok());
            total.rss_peak_kib += peak.unwrap_or(0);
            let tasks = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(tasks).unwrap_or_default();
            pending.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
        Ok(total)
    }

    /// Returns once it has used next to no CPU time for half a second; who polls is idle, too.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let before = self.usage()?.cpu;
            std::thread::sleep(Duration::from_millis(500));
            if self.usage()?.cpu.saturating_sub(before) <= Duration::from_millis(50) {
                return Ok(());
            }
            if deadline < Instant::now() {
                bail!("never idle");
            }
        }
    }

    pub(crate) fn wait_exit(&mut self, patience: Duration) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if deadline < Instant::now() {
                bail!("still running after {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        #[expect(clippy::cast_possible_wrap, reason = "process ids are small")]
        let pid = Pid::from_raw(self.child.id() as i32);
        // It may have ended by itself.
        kill(pid, Signal::SIGTERM).ok();
        if self.wait_exit(Duration::from_secs(5)).is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// User and system time of all threads of a process; `None` if it has gone. clock_getcpuclockid(3)
fn cpu_time(pid: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let clock = ClockId::pid_cpu_clock_id(pid).ok()?;
    Some(clock.now().ok()?.into())
}

fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten();
    ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100)
}

/// Waits until something listens on a port of this machine.
pub(crate) fn wait_listening(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if deadline < Instant::now() {
            bail!("nothing listens on port {port}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
