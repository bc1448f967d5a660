//! Commands that misbehave: none of them harms the consumer, and none gets away.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::lookup::State;

use crate::bench::{Bench, finish, killed, lives, until};

#[test]
fn a_daemon_does_not_outlive_its_command() {
    let bench = Bench::new();
    let id = bench.upload();
    // It forks twice, leaves session and environment behind and closes nothing.
    let hook = "sh -c 'setsid env -i sh -c \"echo \\$\\$ > $D/pid; exec sleep 1000\" & \
                while ! [ -s $D/pid ]; do sleep 0.01; done'";
    assert_eq!(bench.run(&["--once", "--hook", hook]).code(), Some(0));
    assert!(
        !lives(&bench.read("pid")),
        "ended before the upload was settled"
    );
    assert_eq!(bench.state(id), State::Delivered);
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_and_the_attempt_is_a_timeout() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c 'trap \"\" TERM; echo $$ > $D/pid; while :; do sleep 0.1; done'";
    let limits = ["--hook-timeout", "500ms", "--kill-grace", "200ms"];
    let status = bench.run(&[&["--once", "--hook", hook][..], &limits].concat());
    assert_eq!(status.code(), Some(1));
    assert!(!lives(&bench.read("pid")));
    let record = bench.found(id).record;
    assert_eq!((bench.state(id), record.attempts), (State::Deferred, 1));
    assert!(record.rest.history[0].timeout);
}

#[test]
fn a_gigabyte_on_stderr_costs_bounded_memory_and_log() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c 'head -c 1000000000 /dev/zero | tr \"\\0\" \"x\" >&2; \
                head -c 50000000 /dev/zero | tr \"\\0\" \"\\n\" >&2; echo the end >&2; exit 65'";
    let mut consumer = bench.consumer(&["--once", "--hook", hook]).spawn().unwrap();
    let status = format!("/proc/{}/status", consumer.id());
    let mut peak_kib = 0;
    until("the consumer to end", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        consumer.try_wait().unwrap().is_some()
    });
    assert!(0 < peak_kib && peak_kib < 32 * 1024, "{peak_kib} KiB");
    assert_eq!(bench.state(id), State::Failed);
    let tail = &bench.found(id).record.rest.history[0].stderr_tail;
    assert!(tail.len() <= 8192 && tail.ends_with("the end\n"));
    let log = std::fs::metadata(bench.path("log")).unwrap().len();
    assert!(log < 300 << 20, "{log} bytes of log");
}

#[test]
fn a_command_that_kills_its_consumer_only_loses_its_attempt() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c '[ $UPLOAD_ATTEMPT = 2 ] || kill -9 $PPID'";
    let status = bench.run(&["--once", "--hook", hook]);
    assert!(killed(status), "{status}");
    assert_eq!(bench.run(&["--drain", "--hook", hook]).code(), Some(0));
    assert_eq!(
        (bench.state(id), bench.receipt(id).attempts),
        (State::Delivered, 2)
    );
}

#[test]
fn a_command_that_outlives_its_consumer_is_ended_at_its_deadline_by_another() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c 'echo $$ >> $D/pids; [ $UPLOAD_ATTEMPT = 2 ] || exec sleep 1000'";
    let limits = ["--hook-timeout", "1s", "--kill-grace", "1s"];
    let mut first = bench
        .consumer(&[&["--once", "--hook", hook][..], &limits].concat())
        .spawn()
        .unwrap();
    until("the command to start", || !bench.read("pids").is_empty());
    until("its group to be written down", || {
        let left = bench.left();
        let state = left.iter().find(|name| name.ends_with(".state"));
        state.is_some_and(|name| {
            bench
                .read(&format!("spool/{name}"))
                .contains("started_ticks")
        })
    });
    first.kill().unwrap();
    assert!(killed(finish(&mut first)));
    assert!(lives(&bench.read("pids")), "the lock is with it");
    assert_eq!(bench.run(&["--drain", "--hook", hook]).code(), Some(0));
    assert!(!lives(bench.read("pids").lines().next().unwrap()));
    assert_eq!(
        (bench.state(id), bench.receipt(id).attempts),
        (State::Delivered, 2)
    );
}

#[test]
fn what_a_command_leaves_behind_that_outlived_its_consumer_does_not_keep_the_upload_for_ever() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c '[ $UPLOAD_ATTEMPT = 2 ] && exit; setsid sleep 1000 & echo $! > $D/left; \
                echo $$ > $D/pid; until [ -e $D/go ]; do sleep 0.1; done'";
    let limits = ["--hook-timeout", "1s", "--kill-grace", "1s"];
    let mut first = bench
        .consumer(&[&["--once", "--hook", hook][..], &limits].concat())
        .spawn()
        .unwrap();
    until("the command to start", || !bench.read("pid").is_empty());
    first.kill().unwrap();
    assert!(killed(finish(&mut first)));
    std::fs::write(bench.path("go"), "").unwrap();
    until("the command to end", || !lives(&bench.read("pid")));
    assert!(lives(&bench.read("left")), "the lock is with it");
    assert_eq!(bench.run(&["--drain", "--hook", hook]).code(), Some(0));
    assert!(!lives(&bench.read("left")));
    assert_eq!(
        (bench.state(id), bench.receipt(id).attempts),
        (State::Delivered, 2)
    );
}

#[test]
fn a_second_signal_ends_command_and_consumer_at_once_and_counts_nothing() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c 'trap \"\" TERM; echo $$ > $D/pid; while :; do sleep 0.1; done'";
    let limits = ["--drain-timeout", "1h", "--kill-grace", "1h"];
    let mut consumer = bench
        .consumer(&[&["--hook", hook][..], &limits].concat())
        .spawn()
        .unwrap();
    until("the command to start", || !bench.read("pid").is_empty());
    let pid = Pid::from_raw(i32::try_from(consumer.id()).unwrap());
    for _ in 0..2 {
        // Two at once are one to the kernel, so the second waits until the first was heard.
        let asked = bench.read("log").matches("asked to stop").count();
        kill(pid, Signal::SIGTERM).unwrap();
        until("the signal to arrive", || {
            asked < bench.read("log").matches("asked to stop").count()
                || consumer.try_wait().unwrap().is_some()
        });
    }
    assert_eq!(finish(&mut consumer).code(), Some(0));
    assert!(!lives(&bench.read("pid")));
    assert_eq!(
        (bench.state(id), bench.found(id).record.attempts),
        (State::Queued, 0)
    );
}

#[test]
fn what_a_command_says_and_leaves_reaches_log_and_receipt() {
    let bench = Bench::new();
    let id = bench.upload_with(|record| {
        record
            .rest
            .metadata
            .insert("filename".to_owned(), "-x .txt".to_owned());
    });
    let hook = "sh -c 'cat > $D/stdin; echo said; echo \"{{\\\"pages\\\": 3}}\" > $UPLOAD_RESULT; \
                echo \"$UPLOAD_FILENAME|$UPLOAD_LENGTH|$UPLOAD_MAX_ATTEMPTS|$EXTRA|$1\" > $D/env' \
                sh {metadata.filename|none}-{attempt}";
    let args = [
        "--once",
        "--hook",
        hook,
        "--hook-env",
        "EXTRA=1",
        "--check",
        "test -s {file}",
    ];
    assert_eq!(
        bench.run(&args).code(),
        Some(1),
        "a client's `-x` is no option"
    );
    assert_eq!(bench.state(id), State::Failed);
    let id = bench.upload_with(|record| {
        record
            .rest
            .metadata
            .insert("filename".to_owned(), "a b.txt".to_owned());
    });
    assert_eq!(bench.run(&args).code(), Some(0));
    assert_eq!(bench.read("env").trim(), "a b.txt|5|10|1|a b.txt-1");
    let stdin: serde_json::Value = serde_json::from_str(&bench.read("stdin")).unwrap();
    assert_eq!(stdin["id"], id.to_string());
    assert_eq!(stdin["metadata"]["filename"], "a b.txt");
    assert_eq!(
        bench.receipt(id).rest.result,
        Some(serde_json::json!({"pages": 3}))
    );
    let line = bench.read("log");
    let line = line.lines().find(|line| line.contains("\"said\"")).unwrap();
    assert!(line.contains(&id.to_string()), "{line}");
    assert!(
        bench.left().iter().all(|name| name.starts_with("failed/")),
        "{:?}",
        bench.left()
    );
}

#[test]
fn a_rejected_upload_is_delivered_nowhere() {
    let bench = Bench::new();
    let id = bench.upload();
    let check = "sh -c 'echo infected >&2; exit 65'";
    let args = [
        "--once",
        "--check",
        check,
        "--move-to",
        "$D/out",
        "--hook",
        "touch $D/ran",
    ];
    assert_eq!(bench.run(&args).code(), Some(1));
    assert_eq!(bench.state(id), State::Failed);
    assert!(!bench.path("ran").try_exists().unwrap());
    assert_eq!(std::fs::read_dir(bench.path("out")).unwrap().count(), 0);
    let reason = std::fs::read_to_string(bench.spool.layout().reason(id)).unwrap();
    let reason: serde_json::Value = serde_json::from_str(&reason).unwrap();
    assert_eq!(reason["attempts"][0]["stage"], "check");
    assert_eq!(reason["attempts"][0]["stderr_tail"], "infected\n");
}

#[test]
fn a_command_may_move_the_data_away_if_it_succeeds_and_else_leaves_a_dead_letter_without_it() {
    for (ending, state, code) in [
        ("exit 0", State::Delivered, 0),
        ("exit 1", State::Failed, 1),
        ("sleep 1000", State::Failed, 1),
    ] {
        let bench = Bench::new();
        let id = bench.upload();
        let hook = format!("sh -c 'mv $UPLOAD_FILE $D/out/taken; {ending}'");
        let limits = ["--hook-timeout", "2s", "--kill-grace", "1s"];
        let status = bench.run(&[&["--once", "--hook", &hook][..], &limits].concat());
        assert_eq!(status.code(), Some(code), "{ending}");
        assert_eq!(bench.state(id), state, "{ending}");
        assert_eq!(bench.run(&["--drain", "--hook", "true"]).code(), Some(0));
        let left = match state {
            State::Delivered => vec![],
            _ => vec![
                format!("failed/{id}.meta"),
                format!("failed/{id}.reason.json"),
            ],
        };
        assert_eq!(bench.left(), left, "{ending}");
        assert_eq!(bench.read("out/taken"), "hello", "{ending}");
        // There is nothing to try again with, but something to remove.
        for words in [["retry", "--all"], ["drop", "--failed"]] {
            assert_eq!(bench.run(&words).code(), Some(0), "{ending}");
        }
        let left = bench.left();
        assert_eq!(left, [""; 0], "{ending}");
    }
}

/// The claim's state, as long as there is one.
fn state_file(bench: &Bench) -> Option<std::path::PathBuf> {
    let left = bench.left();
    let state = left.iter().find(|name| name.ends_with(".state"))?;
    Some(bench.path("spool").join(state))
}

#[test]
fn a_claim_shows_again_and_again_that_it_lives() {
    let bench = Bench::new();
    bench.upload();
    let hook = "sh -c 'until [ -e $D/go-on ]; do sleep 0.05; done'";
    let args = ["--once", "--lease", "1s", "--hook", hook];
    let mut consumer = bench.consumer(&args).spawn().unwrap();
    let mut beats = std::collections::BTreeSet::new();
    until("five beats", || {
        let metadata = state_file(&bench).and_then(|path| std::fs::metadata(path).ok());
        beats.extend(metadata.map(|metadata| metadata.modified().unwrap()));
        5 <= beats.len()
    });
    std::fs::write(bench.path("go-on"), "").unwrap();
    assert_eq!(finish(&mut consumer).code(), Some(0));
}

#[test]
fn when_the_time_for_draining_is_over_what_runs_is_ended_and_not_counted() {
    let bench = Bench::new();
    let id = bench.upload();
    let hook = "sh -c 'echo $$ > $D/pid; exec sleep 1000'";
    let limits = ["--drain-timeout", "100ms", "--kill-grace", "1s"];
    let mut consumer = bench
        .consumer(&[&["--hook", hook][..], &limits].concat())
        .spawn()
        .unwrap();
    until("the command to start", || !bench.read("pid").is_empty());
    let pid = Pid::from_raw(i32::try_from(consumer.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(finish(&mut consumer).code(), Some(0));
    assert!(!lives(&bench.read("pid")));
    assert_eq!(
        (bench.state(id), bench.found(id).record.attempts),
        (State::Queued, 0)
    );
}
