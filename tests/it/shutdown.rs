//! SIGTERM: nothing that arrived is lost, and the programs end by themselves.

use nix::sys::signal::Signal;
use tests::hook::Hook;
use tests::pipeline::Pipeline;
use tests::programs::Program;
use tests::wait::{wait_for, wait_until};

#[test]
fn idle_programs_end_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let pipeline = Pipeline::new();
        let mut ingest = pipeline.ingest(&[]);
        let out = pipeline.out();
        let mut consumer = pipeline.consumer(&["--move-to", &out.to_string_lossy()]);
        let mut janitor = pipeline.spawn(Program::Janitor, &["--every", "1h"]);
        // A consumer and a janitor are up once they have said so in their logs.
        for process in [&consumer, &janitor] {
            process.wait_for_log();
        }
        for process in [&mut ingest.process, &mut consumer, &mut janitor] {
            process.signal(signal);
            assert_eq!(process.wait().code(), Some(0), "{}", process.log());
        }
    }
}

#[test]
fn an_upload_under_way_is_let_finish_within_the_drain_time() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&["--drain-timeout", "60s"]);
    let upload = ingest.tus().create(10, &[]);
    let mut connection = upload.begin_patch(0, 10);
    connection.send(b"hello").unwrap();
    wait_for("the first bytes", &5, || upload.offset());
    ingest.process.signal(Signal::SIGTERM);
    wait_until("new connections to be refused", || {
        ingest.tus().connect().err()
    });
    connection.send(b"world").unwrap();
    connection
        .receive("PATCH")
        .unwrap()
        .expect(204, [("Upload-Offset", "10")]);
    assert_eq!(ingest.process.wait().code(), Some(0));
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert_eq!(completed, b"helloworld");
}

#[test]
fn an_upload_that_outlasts_the_drain_time_keeps_its_bytes_and_is_told_to_come_back() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&["--drain-timeout", "1s"]);
    let upload = ingest.tus().create(10, &[]);
    let mut connection = upload.begin_patch(0, 10);
    connection.send(b"hello").unwrap();
    wait_for("the first bytes", &5, || upload.offset());
    ingest.process.signal(Signal::SIGTERM);
    let answer = connection.receive("PATCH").unwrap().expect(503, []);
    assert!(answer.header("Retry-After").is_some(), "{answer:#?}");
    let close = answer
        .header("Connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    assert!(close, "{answer:#?}");
    assert_eq!(ingest.process.wait().code(), Some(0));
    ingest.restart();
    assert_eq!(upload.offset(), 5);
}

#[test]
fn a_consumer_ends_its_hook_at_the_end_of_the_drain_time_and_gives_the_upload_back_uncounted() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let hook = Hook::new(&pipeline, "slow", "while :; do sleep 0.1; done");
    let upload = ingest
        .tus()
        .create_with(b"hello", &[("filename", "greeting")]);
    let args = ["--hook", &hook.command(), "--drain-timeout", "1s"];
    let mut consumer = pipeline.consumer(&args);
    wait_until("the hook to start", || hook.runs().first().cloned());
    assert_eq!(consumer.terminate().code(), Some(0));

    assert_eq!(
        pipeline.spool().places(upload.id()),
        ["completed/{id}", "completed/{id}.meta"]
    );
    let quick = Hook::new(&pipeline, "quick", "");
    let args = ["--drain", "--hook", &quick.command()];
    pipeline.run(Program::Consumer, &args).expect_code(0);
    assert_eq!(
        quick.runs()[0].attempt,
        1,
        "the attempt that we ended ourselves does not count"
    );
}
