//! However many uploads wait for their next attempt, a fresh one has its turn soon: counted in
//! claims, not in time, which a busy machine makes as long as it likes. The time is printed.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::id::UploadId;
use shared::layout::{DataAt, RecordAt};
use shared::lookup::State;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::time::UnixTime;

use crate::bench::{Bench, finish, until};

/// Uploads that wait: all that are promised in the long form of the tests.
fn backlog() -> usize {
    let long = std::env::var("TUSPOOL_LONG").is_ok_and(|value| value == "1");
    if long { 50_000 } else { 5_000 }
}

/// Deferred ones that may be claimed between a fresh upload's arrival and its own claim. Its turn
/// comes after one; the rest is for the time that an event needs to be heard on a busy machine.
const BETWEEN_MAX: usize = 200;

fn defer(bench: &Bench, n: usize, not_before: u64) {
    let layout = bench.spool.layout();
    let mut record = Record::new(Some(Length(5)), UnixTime::now());
    record.offset = Offset(5);
    record.attempts = 1;
    record.set_place(DataAt::Deferred(not_before));
    let record = record.to_bytes();
    for _ in 0..n {
        let id = UploadId::generate();
        std::fs::write(layout.record(id, RecordAt::Completed), &record).unwrap();
        std::fs::write(layout.data(id, DataAt::Deferred(not_before)), "hello").unwrap();
    }
}

/// Names each upload in the order of their claims. Nothing cheaper than a link is a command.
const NAMES: [&str; 6] = [
    "--durability",
    "none",
    "--hook",
    "ln -s {id} $D/out/{id}",
    "--jobs",
    "2",
];

fn named(bench: &Bench) -> usize {
    std::fs::read_dir(bench.path("out")).unwrap().count()
}

#[expect(clippy::print_stderr, reason = "the figure is for who looks at it")]
fn check(what: &str, bench: &Bench, wait_for: usize, left: usize) {
    let args = [&NAMES[..], &["--poll", "1h"]].concat();
    let mut consumer = bench.consumer(&args).spawn().unwrap();
    until("the consumer to be at work", || wait_for <= named(bench));
    let mut most = 0;
    for _ in 0..5 {
        let (before, began) = (named(bench), Instant::now());
        let id = bench.upload();
        until("the fresh one", || {
            bench.path(&format!("out/{id}")).is_symlink()
        });
        let (between, took) = (named(bench) - before - 1, began.elapsed());
        eprintln!("{what}: {between} claims and {took:?} before the fresh one");
        most = most.max(between);
        until("its delivery", || bench.state(id) == State::Delivered);
    }
    assert!(most <= BETWEEN_MAX, "{what}: {most} claims in between");
    assert!(left <= bench.deferred(), "{what}: the backlog was over");
    kill(
        Pid::from_raw(i32::try_from(consumer.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(finish(&mut consumer).code(), Some(0));
}

#[test]
fn a_backlog_of_deferred_uploads_lets_a_fresh_one_pass() {
    let bench = Bench::new();
    let now = UnixTime::now().as_secs();
    defer(&bench, backlog(), now + 600);
    // Something fresh first, so that there is a sign of the consumer being at work.
    let first = bench.upload();
    check("not due", &bench, 1, backlog());
    assert_eq!(bench.state(first), State::Delivered);
    assert_eq!(named(&bench), 6, "and none before its time");
    drop(bench);
    let bench = Bench::new();
    defer(&bench, backlog(), now - 1);
    check("due", &bench, 20, 1);
}
