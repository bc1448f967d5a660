//! What the machine does to a consumer: events get lost or are not to be had, directories are
//! replaced, clocks are set. Nothing is missed, and the log says what happened.
//!
//! Polls are an hour apart here, so that what is found was found for another reason.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::durable;
use shared::id::UploadId;
use shared::layout::Dir;
use shared::lookup::State;
use shared::spool::{Options, Spool};

use crate::bench::{Bench, finish, lives, until};

const QUIET: [&str; 4] = ["--poll", "1h", "--move-to", "$D/out"];

fn pid(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).unwrap())
}

fn terminate(process: &mut Child) {
    kill(pid(process), Signal::SIGTERM).unwrap();
    assert_eq!(finish(process).code(), Some(0));
}

/// Whether a process watches a directory.
fn listens(process: &Child) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{}/fdinfo", process.id())) else {
        return false;
    };
    let texts = files
        .flatten()
        .map(|file| std::fs::read_to_string(file.path()));
    texts.flatten().any(|text| text.contains("inotify wd:"))
}

/// A consumer that has delivered all there was and waits for events.
fn idle_consumer(bench: &Bench) -> Child {
    let id = bench.upload();
    let consumer = bench.consumer(&QUIET).spawn().unwrap();
    until("the first delivery", || bench.state(id) == State::Delivered);
    until("the watch", || listens(&consumer));
    consumer
}

#[test]
fn events_that_the_kernel_drops_cost_no_upload() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: u32 = limit.trim().parse().unwrap();
    let bench = Bench::new();
    let mut consumer = idle_consumer(&bench);
    kill(pid(&consumer), Signal::SIGSTOP).unwrap();
    let stat = format!("/proc/{}/stat", consumer.id());
    until("the stop", || {
        std::fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    // An event each, and none like the one before it: equal ones in a row become one.
    let completed = bench.spool.layout().dir(Dir::Completed);
    let (here, there) = (completed.join("here"), completed.join("there"));
    std::fs::write(&here, "").unwrap();
    for _ in 0..=limit / 2 {
        durable::rename(&here, &there).unwrap();
        durable::rename(&there, &here).unwrap();
    }
    let id = bench.upload();
    kill(pid(&consumer), Signal::SIGCONT).unwrap();
    until("the delivery", || bench.state(id) == State::Delivered);
    until("a word about it", || {
        bench
            .read("log")
            .contains("too many events at once; some are lost")
    });
    terminate(&mut consumer);
    assert_eq!(std::fs::read(&here).unwrap(), b"", "foreign names stay");
}

/// A consumer in a user namespace of its own, in which a limit of inotify is used up.
fn without(bench: &Bench, limit: &str) -> Command {
    let consumer = bench.consumer(&QUIET);
    let script = format!("echo 0 > /proc/sys/user/{limit} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &script]);
    command
        .arg(consumer.get_program())
        .args(consumer.get_args());
    let log = std::fs::File::options()
        .append(true)
        .open(bench.path("log"));
    command.stderr(log.unwrap());
    command
}

/// Says that a test cannot run here. In CI, where everything is installed first, it has to.
#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
fn skip(why: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
    eprintln!("SKIPPED: {why}");
}

#[test]
fn without_instances_or_watches_the_spool_is_polled_often() {
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "test", "-w"])
        .arg("/proc/sys/user/max_inotify_instances")
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        return skip("only root may make user namespaces here");
    }
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let bench = Bench::new();
        let first = bench.upload();
        let mut consumer = without(&bench, limit).spawn().unwrap();
        until("the first delivery", || {
            bench.state(first) == State::Delivered
        });
        until("a word about it", || {
            bench
                .read("log")
                .contains("no events are to be had; only polling")
        });
        assert!(!listens(&consumer), "{limit}");
        for _ in 0..2 {
            let id = bench.upload();
            until("the delivery", || bench.state(id) == State::Delivered);
        }
        let words = bench.read("log").matches("no events are to be had").count();
        assert_eq!(words, 1, "{limit}: once is enough");
        terminate(&mut consumer);
    }
}

/// Another spool where the bench's was, which now lies at the path returned.
fn replace_spool(bench: &mut Bench) -> PathBuf {
    let away = bench.path("away");
    durable::rename(&bench.path("spool"), &away).unwrap();
    // For a moment there is none: a consumer must not make one.
    let lost = bench.path("spool");
    assert!(!lost.try_exists().unwrap());
    let staged = Spool::open(&bench.path("staged"), Options::default()).unwrap();
    drop(staged);
    durable::rename(&bench.path("staged"), &lost).unwrap();
    bench.open();
    away
}

#[test]
fn a_spool_that_takes_the_place_of_another_is_worked_on_and_the_other_when_it_returns() {
    let mut bench = Bench::new();
    let old = bench.upload();
    let hook = "sh -c 'echo $UPLOAD_ID >> $D/began; until [ -e $D/go-on ]; do sleep 0.05; done'";
    let mut consumer = bench
        .consumer(&["--poll", "1h", "--jobs", "2", "--hook", hook])
        .spawn()
        .unwrap();
    until("the command to start", || {
        bench.read("began").contains(&old.to_string())
    });
    let away = replace_spool(&mut bench);
    let new = bench.upload();
    until("the command of the new spool", || {
        bench.read("began").contains(&new.to_string())
    });
    assert!(
        bench
            .read("log")
            .contains("the directory was replaced; opening the spool anew")
    );
    std::fs::write(bench.path("go-on"), "").unwrap();
    until("the delivery", || bench.state(new) == State::Delivered);
    until("the loss to be told", || {
        bench.read("log").contains("cannot be settled")
            || bench.read("log").contains("claim was lost")
    });
    // It comes back as what a crash leaves: the claim is nobody's.
    durable::rename(&bench.path("spool"), &bench.path("other")).unwrap();
    durable::rename(&away, &bench.path("spool")).unwrap();
    bench.open();
    until("the delivery from the old spool", || {
        bench.state(old) == State::Delivered
    });
    assert_eq!(bench.receipt(old).attempts, 2);
    terminate(&mut consumer);
}

#[test]
fn a_replaced_completed_directory_is_watched_in_the_place_of_the_old_one() {
    let bench = Bench::new();
    let mut consumer = idle_consumer(&bench);
    let completed = bench.spool.layout().dir(Dir::Completed);
    for emptied in [false, true] {
        let told = bench.read("log").matches("opening the spool anew").count();
        if emptied {
            std::fs::remove_dir_all(&completed).unwrap();
        } else {
            durable::rename(&completed, &bench.path("away")).unwrap();
        }
        until("the consumer to make or find another", || {
            told < bench.read("log").matches("opening the spool anew").count()
                && completed.try_exists().unwrap()
        });
        until("the new watch", || listens(&consumer));
        let id = bench.upload();
        until("the delivery", || bench.state(id) == State::Delivered);
    }
    terminate(&mut consumer);
}

#[test]
fn no_spool_is_made_where_one_was_unmounted() {
    let mut bench = Bench::new();
    let mut consumer = idle_consumer(&bench);
    let away = bench.path("away");
    durable::rename(&bench.path("spool"), &away).unwrap();
    std::fs::create_dir(bench.path("spool")).unwrap();
    // What is there after an unmount is an empty directory; `completed/` says that it is looked at.
    std::fs::create_dir(bench.path("spool/completed")).unwrap();
    until("a word about it", || bench.read("log").contains("FORMAT"));
    let names: Vec<_> = std::fs::read_dir(bench.path("spool")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    std::fs::remove_dir_all(bench.path("spool")).unwrap();
    durable::rename(&away, &bench.path("spool")).unwrap();
    bench.open();
    let id = bench.upload();
    until("the delivery", || bench.state(id) == State::Delivered);
    terminate(&mut consumer);
}

/// libfaketime, which gives a process another wall clock.
fn faketime() -> Option<PathBuf> {
    let multiarch = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut dirs: Vec<_> = multiarch.map(|entry| entry.path()).collect();
    dirs.extend(["/usr/lib", "/usr/local/lib"].map(PathBuf::from));
    let mut found = dirs.iter().map(|dir| dir.join("faketime/libfaketime.so.1"));
    found.find(|path| path.is_file())
}

/// A consumer whose wall clock is told by the file `clock`, as seconds from the true one.
fn with_clock(bench: &Bench, library: &Path, args: &[&str]) -> Command {
    let mut command = bench.consumer(args);
    command.env("LD_PRELOAD", library);
    command.env("FAKETIME_TIMESTAMP_FILE", bench.path("clock"));
    command.env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.env("NO_FAKE_STAT", "1");
    command
}

/// At once, as the readers of `clock` see it.
fn set_clock(bench: &Bench, offset: &str) {
    std::fs::write(bench.path("clock.new"), format!("{offset}\n")).unwrap();
    durable::rename(&bench.path("clock.new"), &bench.path("clock")).unwrap();
}

fn upload_of_kind(bench: &Bench, kind: &str) -> UploadId {
    bench.upload_with(|record| {
        let metadata = &mut record.rest.metadata;
        metadata.insert("kind".to_owned(), kind.to_owned());
    })
}

/// Returns once a consumer has looked at all claims from the first to the last.
fn whole_look(bench: &Bench) {
    let looks = || bench.read("log").matches("looked after claims").count();
    // The next one to end may have begun before.
    let begun = looks();
    until("another look", || begun + 2 <= looks());
}

#[test]
fn a_clock_that_is_set_an_hour_back_or_forward_delays_and_ends_nothing() {
    let Some(library) = faketime() else {
        return skip("libfaketime is not installed");
    };
    for offset in ["-3600", "+3600"] {
        let bench = Bench::new();
        set_clock(&bench, "+0");
        let hook = "sh -c 'case {metadata.kind} in \
                    fails) [ -e $D/works ] || exit 75;; \
                    hangs) echo $$ > $D/pid; until [ -e $D/go-on ]; do sleep 0.05; done;; \
                    esac'";
        let args = [
            &[
                "--poll",
                "1h",
                "--jobs",
                "2",
                "--hook",
                hook,
                "--hook-timeout",
                "10m",
            ][..],
            &["--backoff-base", "14m", "--backoff-cap", "15m"],
            &["--log-level", "debug"],
        ];
        let mut consumer = with_clock(&bench, &library, &args.concat())
            .spawn()
            .unwrap();
        let hangs = upload_of_kind(&bench, "hangs");
        until("the command to hang", || !bench.read("pid").is_empty());
        let fails = upload_of_kind(&bench, "fails");
        until("the failure", || bench.state(fails) == State::Deferred);
        std::fs::write(bench.path("works"), "").unwrap();
        set_clock(&bench, offset);
        // Whatever wakes the consumer makes it look at its clock.
        let fresh = upload_of_kind(&bench, "fresh");
        until("the fresh one", || bench.state(fresh) == State::Delivered);
        // Due: by the new clock its time is over, or was not written by this clock.
        until("the retry", || bench.state(fails) == State::Delivered);
        whole_look(&bench);
        assert!(lives(&bench.read("pid")), "{offset}: ended before its time");
        std::fs::write(bench.path("go-on"), "").unwrap();
        until("the last one", || bench.state(hangs) == State::Delivered);
        assert_eq!(bench.receipt(hangs).attempts, 1, "{offset}");
        terminate(&mut consumer);
    }
}
