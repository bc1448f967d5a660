//! Claim, hook and settlement.

use tests::client::Upload;
use tests::hook::Hook;
use tests::needs::{self, Need};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::programs::Program;
use tests::wait::{wait_for, wait_until};

use super::{IMPATIENT, all_names, body, kill_at, points};

/// How the hook of a killed consumer ended.
fn outcome_at(point: &str) -> &'static str {
    match point {
        "settle.reason_written" | "settle.data_failed" => "exit 65",
        // Only the first attempt fails, so that there is something to deliver in the end.
        "settle.retry_recorded" => "[ $ATTEMPT -gt 1 ]",
        _ => "",
    }
}

#[test]
fn a_consumer_killed_at_any_step_has_its_work_finished_by_another() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for operation in ["claim", "deliver", "hook", "settle"] {
        for point in points(operation) {
            killed_consumer(point);
        }
    }
}

fn killed_consumer(point: &str) {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let body = body();
    let upload = ingest.tus().create_with(&body, &[("filename", "a.bin")]);
    let hook = Hook::new(&pipeline, "hook", outcome_at(point));
    let (out, command) = (pipeline.out(), hook.command());
    let destination = out.to_string_lossy();
    let mut args = vec!["--backoff-base", "1ms", "--hook", &command];
    let dies = outcome_at(point) == "exit 65";
    if !dies {
        args.extend(["--move-to", &destination]);
    }
    pipeline
        .spawn_failing(Program::Consumer, &args, &kill_at(point))
        .wait_killed();
    upload.head().expect(200, [("Upload-Offset", "100000")]);

    let mut other = pipeline.consumer(&args);
    other.wait_for_log();
    let what = format!("{point}: the rest");
    wait_until(&what, || pipeline.spool().is_idle().then_some(()));
    assert_eq!(other.terminate().code(), Some(0));
    pipeline.run(Program::Janitor, &IMPATIENT).expect_code(0);
    upload.head().expect(200, [("Upload-Offset", "100000")]);
    let attempts: Vec<u32> = hook.runs().iter().map(|run| run.attempt).collect();
    assert!(attempts.is_sorted_by(|a, b| a < b), "{point}: {attempts:?}");
    let left = pipeline.spool().listing();
    if dies {
        let wanted = ["failed/{id}", "failed/{id}.meta", "failed/{id}.reason.json"];
        assert_eq!(
            pipeline.spool().places(upload.id()),
            wanted,
            "{point}: {left:?}"
        );
        return;
    }
    assert!(pipeline.spool().is_settled(), "{point}: {left:?}");
    assert_eq!(all_names(&out), ["a.bin"], "{point}");
    assert!(std::fs::read(out.join("a.bin")).unwrap() == body, "{point}");
}

#[test]
fn a_consumer_killed_while_it_takes_over_from_a_killed_one_is_followed_by_a_third() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("orphan") {
        let pipeline = Pipeline::new();
        let ingest = pipeline.ingest(&[]);
        let upload = ingest.tus().create_with(&body(), &[("filename", "a.bin")]);
        let out = pipeline.out();
        let args = ["--drain", "--move-to", &out.to_string_lossy()];
        for point in ["claim.state_written", point] {
            pipeline
                .spawn_failing(Program::Consumer, &args, &kill_at(point))
                .wait_killed();
        }
        pipeline.run(Program::Consumer, &args).expect_code(0);
        assert_eq!(
            pipeline.spool().places(upload.id()),
            ["receipts/{id}.meta"],
            "{point}"
        );
        assert!(
            std::fs::read(out.join("a.bin")).unwrap() == body(),
            "{point}"
        );
    }
}

#[test]
fn a_hook_that_outlives_its_consumer_is_not_joined_by_another() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let gate = pipeline.path("gate");
    let wait_for_gate = format!(
        "[ $NAME = quick ] || until [ -e {} ]; do sleep 0.02; done",
        gate.display()
    );
    let hook = Hook::new(&pipeline, "hook", &wait_for_gate);
    let args = ["--hook", &hook.command()];
    let slow = ingest.tus().create_with(b"slow", &[("filename", "slow")]);
    let mut first = pipeline.consumer(&args);
    wait_until("the hook to start", || hook.runs().first().cloned());
    first.kill();

    // The second consumer has looked around by the time it has processed something else.
    let _second = pipeline.consumer(&args);
    let quick = ingest.tus().create_with(b"quick", &[("filename", "quick")]);
    let ran = |upload: &Upload| {
        let runs = hook
            .runs()
            .into_iter()
            .filter(|run| run.ended && run.id == upload.id());
        runs.map(|run| run.attempt).collect::<Vec<_>>()
    };
    wait_for("the other upload", &vec![1], || ran(&quick));
    assert_eq!(
        hook.runs().iter().filter(|run| run.id == slow.id()).count(),
        1
    );

    std::fs::write(gate, "").unwrap();
    // The first hook's end was seen by nobody who could have written it down. `Hook::runs` fails
    // the test if there ever are two at once.
    wait_for("the second attempt", &vec![1, 2], || ran(&slow));
    wait_for("the end", &true, || pipeline.spool().is_settled());
}

#[test]
fn a_consumer_killed_again_and_again_delivers_in_the_end_and_leaves_no_second_copy() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let out = pipeline.out();
    let hook = Hook::new(&pipeline, "hook", "sleep 0.05");
    let args = [
        "--hook",
        &hook.command(),
        "--move-to",
        &out.to_string_lossy(),
    ];
    let uploads: Vec<_> = (0..20)
        .map(|n| {
            ingest.tus().create_with(
                &payload::bytes(n, 1000),
                &[("filename", &format!("{n:02}"))],
            )
        })
        .collect();
    for n in 1..=8 {
        let mut consumer = pipeline.consumer(&args);
        wait_until("another hook", || {
            (n < hook.runs().len() || pipeline.spool().is_settled()).then_some(())
        });
        consumer.kill();
    }
    pipeline
        .run(Program::Consumer, &[&args[..], &["--drain"]].concat())
        .expect_code(0);
    // One that was killed while it wrote a file has left it.
    pipeline.run(Program::Janitor, &IMPATIENT).expect_code(0);
    assert!(
        pipeline.spool().is_settled(),
        "{:?}",
        pipeline.spool().listing()
    );
    let names: Vec<_> = (0..20).map(|n| format!("{n:02}")).collect();
    assert_eq!(all_names(&out), names);
    for (n, upload) in uploads.iter().enumerate() {
        let delivered = std::fs::read(out.join(&names[n])).unwrap();
        assert!(
            delivered == payload::bytes(n as u64, 1000),
            "{}",
            upload.id()
        );
    }
}
