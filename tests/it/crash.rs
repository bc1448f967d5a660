//! SIGKILL between any two steps: the state that is left is put right by whoever comes next.
//!
//! The programs kill themselves at their failpoints, so every step is tried, and only that one.

mod assembler;
mod consumer;
mod ingest;

use std::path::Path;

use shared::failpoint::Failpoint as Point;
use shared::layout::Dir;
use tests::failpoint::{Failpoint, Fault};
use tests::needs::{self, Need};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::programs::Program;

/// The operations that the tests below walk through, by the part of the name before the dot.
const WALKED: [&str; 11] = [
    "create", "append", "advance", "assemble", "handover", "end", "claim", "deliver", "hook",
    "settle", "orphan",
];

/// Walked elsewhere: `janitor` and `probe` below in tests of their own, `back` (an operator's
/// retry) beside its code, since it is not part of the flow.
const OTHERS: [&str; 3] = ["janitor", "probe", "back"];

/// A janitor that takes nothing for young.
const IMPATIENT: [&str; 2] = ["--grace", "0s"];

#[test]
fn every_failpoint_is_walked_by_a_test_of_this_file() {
    for point in Point::ALL {
        let operation = point.name().split('.').next().unwrap();
        assert!(
            WALKED.contains(&operation) || OTHERS.contains(&operation),
            "no test walks {}",
            point.name()
        );
    }
}

fn points(operation: &str) -> Vec<&'static str> {
    let prefix = format!("{operation}.");
    let points: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
    let points: Vec<_> = points
        .into_iter()
        .filter(|name| name.starts_with(&prefix))
        .collect();
    assert!(!points.is_empty(), "{operation} has no failpoints");
    points
}

fn kill_at(point: &str) -> [Failpoint; 1] {
    [Failpoint::new(point, Fault::Kill)]
}

fn body() -> Vec<u8> {
    payload::bytes(1, 100_000)
}

#[test]
fn a_janitor_killed_at_any_step_is_followed_by_one_that_does_the_rest() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("janitor") {
        let pipeline = Pipeline::new();
        let ingest = pipeline.ingest(&[]);
        let stale = ingest.tus().create(10, &[]);
        stale.patch(0, b"hello").expect(204, []);
        let finished = ingest.tus().create_with(b"hello", &[]);
        let args = [&IMPATIENT[..], &["--stale-upload-age", "0s"]].concat();
        pipeline
            .spawn_failing(Program::Janitor, &args, &kill_at(point))
            .wait_killed();

        pipeline.run(Program::Janitor, &args).expect_code(0);
        stale.head().expect(410, []);
        finished.head().expect(200, []);
        let wanted = ["completed/{id}", "completed/{id}.meta"];
        assert_eq!(pipeline.spool().places(finished.id()), wanted, "{point}");
        assert_eq!(
            pipeline.spool().places(stale.id()),
            ["receipts/{id}.meta"],
            "{point}"
        );
    }
}

#[test]
fn a_program_killed_while_it_tries_out_the_spool_leaves_nothing_for_good() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    let pipeline = Pipeline::new();
    drop(pipeline.ingest(&[]));
    let carried = Failpoint::new("probe.carried", Fault::Kill);
    for (n, dir) in (1..).zip(Dir::ALL.iter().filter(|dir| **dir != Dir::Uploads)) {
        let kill = [carried.clone().at_passage(n)];
        pipeline
            .spawn_failing(Program::Janitor, &IMPATIENT, &kill)
            .wait_killed();
        let left = pipeline.spool().temporary();
        assert!(
            left.len() == 1 && left[0].starts_with(dir.name()),
            "{left:?}"
        );

        pipeline.run(Program::Janitor, &IMPATIENT).expect_code(0);
        let left = pipeline.spool().temporary();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn deliver_all(pipeline: &Pipeline) {
    let out = pipeline.out();
    let args = ["--drain", "--move-to", &out.to_string_lossy()];
    pipeline.run(Program::Consumer, &args).expect_code(0);
}

/// All names in a directory, hidden ones too: unfinished copies must not be left either.
fn all_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
