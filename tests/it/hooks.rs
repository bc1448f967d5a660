//! A failing hook deletes nothing: it is tried again, then the upload is a dead letter that says
//! why.

use serde_json::Value;
use tests::client::Upload;
use tests::hook::Hook;
use tests::pipeline::{Ingest, Pipeline};
use tests::programs::Program;
use tests::wait::{wait_for, wait_until};

/// Three attempts, one right after the other.
const THREE_QUICK: [&str; 4] = ["--max-attempts", "3", "--backoff-base", "1ms"];

fn uploaded(ingest: &Ingest) -> Upload {
    ingest
        .tus()
        .create_with(b"hello", &[("filename", "greeting")])
}

/// Lets a consumer work until nothing waits any more, not even for another attempt.
fn work(pipeline: &Pipeline, hook: &Hook) {
    let command = hook.command();
    let mut consumer = pipeline.consumer(&[&["--hook", &command][..], &THREE_QUICK].concat());
    wait_until("the last attempt", || {
        pipeline.spool().is_idle().then_some(())
    });
    assert_eq!(consumer.terminate().code(), Some(0));
}

fn attempts(hook: &Hook) -> Vec<u32> {
    hook.runs().iter().map(|run| run.attempt).collect()
}

/// The reason of a dead letter, which lies in `failed/` with its data and its record.
fn reason(pipeline: &Pipeline, upload: &Upload) -> Value {
    let wanted = ["failed/{id}", "failed/{id}.meta", "failed/{id}.reason.json"];
    assert_eq!(pipeline.spool().places(upload.id()), wanted);
    let data = std::fs::read(pipeline.spool().path("failed", upload.id())).unwrap();
    assert_eq!(data, b"hello");
    pipeline
        .spool()
        .json("failed", &format!("{}.reason.json", upload.id()))
}

#[test]
fn a_hook_that_keeps_failing_ends_as_a_dead_letter_with_exit_code_times_and_stderr() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = uploaded(&ingest);
    let hook = Hook::new(
        &pipeline,
        "hook",
        "echo \"no such album $ATTEMPT\" >&2; exit 7",
    );
    work(&pipeline, &hook);
    assert_eq!(attempts(&hook), [1, 2, 3]);

    let reason = reason(&pipeline, &upload);
    let attempts = reason["attempts"]
        .as_array()
        .unwrap_or_else(|| panic!("{reason:#}"));
    assert_eq!(attempts.len(), 3, "{reason:#}");
    for (n, attempt) in (1..).zip(attempts) {
        assert_eq!(
            (&attempt["n"], &attempt["exit"]),
            (&Value::from(n), &Value::from(7))
        );
        let stderr = attempt["stderr_tail"].as_str().unwrap();
        assert_eq!(stderr.trim_end(), format!("no such album {n}"));
        let time = |name: &str| {
            attempt[name]
                .as_f64()
                .unwrap_or_else(|| panic!("{attempt:#}"))
        };
        assert!(1.6e9 < time("started_at") && time("started_at") <= time("ended_at"));
    }
    upload.head().expect(200, [("Upload-Offset", "5")]);
}

#[test]
fn a_hook_that_fails_twice_is_run_a_third_time() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = uploaded(&ingest);
    let hook = Hook::new(&pipeline, "hook", "[ $ATTEMPT -eq 3 ]");
    work(&pipeline, &hook);
    assert_eq!(attempts(&hook), [1, 2, 3]);
    assert_eq!(pipeline.spool().places(upload.id()), ["receipts/{id}.meta"]);
    upload.head().expect(200, [("Upload-Offset", "5")]);
}

#[test]
fn an_exit_code_for_bad_data_is_a_dead_letter_at_once() {
    for code in [65, 100] {
        let pipeline = Pipeline::new();
        let ingest = pipeline.ingest(&[]);
        let upload = uploaded(&ingest);
        let hook = Hook::new(&pipeline, "hook", &format!("exit {code}"));
        work(&pipeline, &hook);
        assert_eq!(attempts(&hook), [1], "{code}");
        assert_eq!(reason(&pipeline, &upload)["attempts"][0]["exit"], code);
    }
}

#[test]
fn a_hook_ended_by_a_signal_or_by_its_time_limit_is_tried_again() {
    for (what, body) in [("signal", "kill -KILL $$"), ("timeout", "sleep 60 & wait")] {
        let pipeline = Pipeline::new();
        let ingest = pipeline.ingest(&[]);
        let upload = uploaded(&ingest);
        let once = format!("[ $ATTEMPT -gt 1 ] || {{ {body}; }}");
        let hook = Hook::new(&pipeline, "hook", &format!("trap - EXIT; {once}"));
        let command = hook.command();
        let args = ["--once", "--hook-timeout", "1s", "--hook", &command];
        let args = [&args[..], &THREE_QUICK].concat();
        pipeline.run(Program::Consumer, &args).expect_code(1);
        pipeline.run(Program::Consumer, &args).expect_code(0);
        assert_eq!(
            pipeline.spool().places(upload.id()),
            ["receipts/{id}.meta"],
            "{what}"
        );
    }
}

#[test]
fn a_hook_that_cannot_be_started_counts_no_attempt_and_stops_the_consumer_with_78() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = uploaded(&ingest);
    // It is there when the consumer looks at its flags, and gone when it is to be run.
    let program = pipeline.path("program");
    std::fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let args = ["--drain", "--hook", &program.to_string_lossy()];
    pipeline.run(Program::Consumer, &args).expect_code(78);
    assert_eq!(
        pipeline.spool().places(upload.id()),
        ["completed/{id}", "completed/{id}.meta"]
    );

    let hook = Hook::new(&pipeline, "hook", "");
    work(&pipeline, &hook);
    assert_eq!(attempts(&hook), [1]);
}

#[test]
fn two_files_of_one_name_are_both_delivered() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    for content in [b"one", b"two"] {
        let _upload = ingest
            .tus()
            .create_with(content, &[("filename", "../a.txt")]);
    }
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    let mut contents = Vec::new();
    for name in ["a.txt", "a_1.txt"] {
        contents.push(std::fs::read_to_string(out.join(name)).unwrap());
    }
    contents.sort();
    assert_eq!(contents, ["one", "two"]);
}

#[test]
fn once_says_by_its_exit_code_what_came_of_it() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let once = |hook: &str, code: i32| {
        let args = [
            "--once",
            "--timeout",
            "1s",
            "--max-attempts",
            "1",
            "--hook",
            hook,
        ];
        pipeline.run(Program::Consumer, &args).expect_code(code);
    };
    once("true", 3);
    let delivered = uploaded(&ingest);
    once("true", 0);
    let failed = uploaded(&ingest);
    once("false", 1);
    assert_eq!(
        pipeline.spool().places(delivered.id()),
        ["receipts/{id}.meta"]
    );
    wait_for("the dead letter", &vec![failed.id().to_owned()], || {
        pipeline.spool().data_in("failed")
    });
}
