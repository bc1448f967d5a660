use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use shared::startup::shutdown::Trigger;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A shell command in a fresh directory, and what may be changed about its run.
struct Case {
    dir: tempfile::TempDir,
    data: File,
    claim: ClaimId,
    timeout: Duration,
    grace: Duration,
    stdin: Vec<u8>,
    drained: CancellationToken,
    trigger: Trigger,
    shutdown: Shutdown,
}

impl Case {
    fn new() -> Self {
        adopt_orphans().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let data = File::create_new(dir.path().join("data")).unwrap();
        let (trigger, shutdown) = Shutdown::manual();
        Self {
            dir,
            data,
            claim: ClaimId::generate(),
            timeout: LONG,
            grace: LONG,
            stdin: Vec::new(),
            drained: CancellationToken::new(),
            trigger,
            shutdown,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `script` with `$D` as its directory.
    fn sh(&self, script: &str) -> Report {
        self.run(&["/bin/sh", "-c", script])
    }

    fn run(&self, argv: &[&str]) -> Report {
        self.run_until(argv, async {})
    }

    /// Runs `argv`, and `meanwhile` beside it.
    fn run_until(&self, argv: &[&str], meanwhile: impl Future<Output = ()>) -> Report {
        let environment = [
            ("PATH", std::env::var("PATH").unwrap()),
            ("D", self.dir.path().to_str().unwrap().to_owned()),
            (CLAIM_VARIABLE, self.claim.to_string()),
        ];
        let run = Run {
            argv: argv.iter().map(Into::into).collect(),
            environment: environment.map(|(n, v)| (n.into(), v.into())).into(),
            stdin: self.stdin.clone(),
            claim: self.claim,
            lock: self.data.as_fd(),
            timeout: self.timeout,
            grace: self.grace,
        };
        let stop = Stop {
            drained: self.drained.clone(),
            shutdown: self.shutdown.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::join!(super::run(run, &stop, |_| Ok(())), meanwhile).0 })
    }

    /// Waits until the command has made the file `name`.
    async fn appears(&self, name: &str) {
        until(|| self.path(name).try_exists().unwrap()).await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process lives (a zombie does not).
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn exit_codes_and_signals_come_through() {
    let case = Case::new();
    for code in [0, 1, 65, 75, 127, 255] {
        assert_eq!(case.sh(&format!("exit {code}")).end, End::Exited(code));
    }
    // Not SIGHUP, SIGINT or SIGQUIT: whoever runs this in the background may have them ignored,
    // and commands inherit that, as everywhere.
    for signal in [9, 10, 15, 40] {
        assert_eq!(
            case.sh(&format!("kill -{signal} $$")).end,
            End::Signalled(signal)
        );
    }
}

#[test]
fn a_command_that_cannot_be_started_says_why() {
    let case = Case::new();
    assert_eq!(
        case.run(&["/nonexistent/hook"]).end,
        End::NotStarted(nix::libc::ENOENT)
    );
    let data = case.path("data");
    let end = case.run(&[data.to_str().unwrap()]).end;
    assert_eq!(end, End::NotStarted(nix::libc::EACCES));
    assert_eq!(case.run(&[]).end, End::NotStarted(nix::libc::EINVAL));
}

#[test]
fn the_environment_is_what_was_given_and_the_input_is_read_to_its_end() {
    let mut case = Case::new();
    case.stdin = vec![b'x'; 300_000];
    assert_eq!(
        case.sh("env > $D/env; wc -c > $D/count").end,
        End::Exited(0)
    );
    let names: Vec<_> = case
        .read("env")
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.to_owned()))
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()))
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(case.read("count").trim(), "300000");
}

#[test]
fn a_command_need_not_read_its_input() {
    let mut case = Case::new();
    case.stdin = vec![b'x'; 1 << 20];
    assert_eq!(case.sh("exit 0").end, End::Exited(0));
}

#[test]
fn the_command_alone_inherits_the_lock() {
    let case = Case::new();
    let list = "for f in /proc/self/fd/*; do readlink $f; done | sort > $D/fds";
    assert_eq!(case.sh(list).end, End::Exited(0));
    let data = case.path("data");
    let open = case.read("fds");
    assert!(open.lines().any(|line| Path::new(line) == data), "{open}");
    let flags = nix::fcntl::fcntl(case.data.as_fd(), nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(
        flags,
        nix::libc::FD_CLOEXEC,
        "it stays closed for everybody else"
    );
    let other = Case::new();
    other.sh(list);
    let open = other.read("fds");
    assert!(!open.lines().any(|line| Path::new(line) == data), "{open}");
}

#[test]
fn the_command_leads_its_own_session() {
    let case = Case::new();
    case.sh("cut -d' ' -f5,6 /proc/$$/stat > $D/ids; echo $$ > $D/pid");
    let pid = case.read("pid").trim().to_owned();
    assert_eq!(case.read("ids").trim(), format!("{pid} {pid}"));
}

#[test]
fn what_takes_too_long_is_ended_with_all_its_children() {
    let mut case = Case::new();
    case.timeout = Duration::from_secs(2);
    let report = case.sh("sleep 1000 & echo $! > $D/child; sleep 1000");
    assert_eq!(report.end, End::TimedOut);
    assert!(!lives(&case.read("child")));
}

#[test]
fn what_ignores_sigterm_is_killed_after_the_grace() {
    let mut case = Case::new();
    case.timeout = Duration::from_secs(2);
    case.grace = Duration::from_millis(100);
    let script = "trap '' TERM; echo $$ > $D/pid; while :; do sleep 0.1; done";
    assert_eq!(case.sh(script).end, End::TimedOut);
    assert!(!lives(&case.read("pid")));
}

#[test]
fn a_polite_exit_after_the_timeout_is_still_a_timeout() {
    let mut case = Case::new();
    case.timeout = Duration::from_secs(2);
    let script = "trap 'touch $D/trapped; exit 0' TERM; while :; do sleep 0.01; done";
    assert_eq!(case.sh(script).end, End::TimedOut);
    assert!(
        case.path("trapped").try_exists().unwrap(),
        "it had its grace"
    );
}

#[test]
fn a_stopped_command_is_ended_too() {
    let mut case = Case::new();
    case.timeout = Duration::from_secs(2);
    assert_eq!(case.sh("kill -STOP $$").end, End::TimedOut);
}

#[test]
fn daemons_do_not_outlive_their_command() {
    let scripts = [
        // In its group; in a session of its own; without anything that tells whose it is.
        "sleep 1000 & echo $! > $D/pid",
        "setsid sh -c 'echo $$ > $D/pid; exec sleep 1000' & ",
        "setsid env -i sh -c 'echo $$ > '$D'/pid; exec sleep 1000' & ",
    ];
    for script in scripts {
        let case = Case::new();
        let waits = "; while ! [ -s $D/pid ]; do sleep 0.01; done; exit 7";
        let end = case
            .sh(&format!("{script}\n{}", waits.trim_start_matches("; ")))
            .end;
        assert_eq!(end, End::Exited(7), "{script}");
        // Other tests' commands run beside this one: one that hides may have to wait for them.
        let pid = case.read("pid");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(until(|| {
            sweep();
            !lives(&pid)
        }));
    }
}

#[test]
fn a_daemon_that_keeps_the_output_open_does_not_hold_up_the_end() {
    let mut case = Case::new();
    case.timeout = LONG;
    let script = "setsid sleep 1000 & exit 0";
    let begun = Instant::now();
    assert_eq!(case.sh(script).end, End::Exited(0));
    assert!(
        begun.elapsed() < LONG,
        "not before the daemon's end or the timeout"
    );
}

#[test]
fn a_flood_on_stderr_leaves_only_its_end() {
    let case = Case::new();
    let script = "head -c 50000000 /dev/zero >&2; echo the end >&2; exit 65";
    let report = case.sh(script);
    assert_eq!(report.end, End::Exited(65));
    assert_eq!(report.stderr_tail.len(), TAIL_BYTES);
    assert!(report.stderr_tail.ends_with("the end\n"));
}

#[test]
fn the_end_of_the_drain_interrupts_with_grace() {
    let case = Case::new();
    let script =
        "trap 'touch $D/trapped; exit 0' TERM; touch $D/ready; while :; do sleep 0.01; done";
    let report = case.run_until(&["/bin/sh", "-c", script], async {
        case.appears("ready").await;
        case.drained.cancel();
    });
    assert_eq!(
        report.end,
        End::Interrupted,
        "exit 0 after our signal is no success"
    );
    assert!(case.path("trapped").try_exists().unwrap());
}

#[test]
fn a_second_signal_ends_without_grace_even_within_one() {
    let case = Case::new();
    let script = "trap 'touch $D/trapped' TERM; touch $D/ready; while :; do sleep 0.01; done";
    let report = case.run_until(&["/bin/sh", "-c", script], async {
        case.appears("ready").await;
        case.drained.cancel();
        case.appears("trapped").await;
        case.trigger.next();
        case.trigger.next();
    });
    assert_eq!(report.end, End::Interrupted);
}

#[test]
fn a_command_is_found_by_its_claim() {
    let case = Case::new();
    let script = "touch $D/ready; sleep 1000";
    let report = case.run_until(&["/bin/sh", "-c", script], async {
        case.appears("ready").await;
        assert_eq!(end_by_claim(ClaimId::generate()), 0);
        assert!(0 < end_by_claim(case.claim));
    });
    assert_eq!(report.end, End::Signalled(9));
}

#[test]
fn a_command_that_cannot_be_written_down_is_not_left_running() {
    let case = Case::new();
    let run = Run {
        argv: ["/bin/sleep", "1000"].map(Into::into).into(),
        environment: Vec::new(),
        stdin: Vec::new(),
        claim: case.claim,
        lock: case.data.as_fd(),
        timeout: LONG,
        grace: LONG,
    };
    let stop = Stop {
        drained: case.drained.clone(),
        shutdown: case.shutdown.clone(),
    };
    let mut process = None;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let report = runtime.block_on(super::run(run, &stop, |pid| {
        process = Some(pid);
        Err(io::Error::other("disk full"))
    }));
    assert_eq!(report.end, End::Interrupted);
    assert!(!lives(&process.unwrap().to_string()));
}
