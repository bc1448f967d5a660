//! Events of real processes: `completed` outlives a SIGKILL, and what cannot work is told at start.

use std::path::PathBuf;

use serde_json::Value;
use tests::failpoint::{Failpoint, Fault};
use tests::needs::{self, Need};
use tests::pipeline::Pipeline;
use tests::programs::Program;
use tests::wait::wait_for;

/// A command that writes down what it is told, and where.
pub(crate) fn notebook(pipeline: &Pipeline) -> (String, PathBuf) {
    let (script, notes) = (pipeline.path("note.sh"), pipeline.path("notes"));
    let text = format!("m=$(cat); echo \"$m\" >>{}\n", notes.display());
    std::fs::write(&script, text).unwrap();
    (format!("/bin/sh {}", script.display()), notes)
}

/// The uploads that a notebook was told `completed` of.
pub(crate) fn completed(notes: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    let messages = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    messages
        .filter(|message| message["type"] == "completed")
        .map(|message| message["data"]["upload_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn completed_is_told_after_a_kill_at_any_step_of_the_hand_over() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in [
        "handover.record_synced",
        "handover.record_moved",
        "handover.data_moved",
    ] {
        let pipeline = Pipeline::new();
        let (command, notes) = notebook(&pipeline);
        let args = ["--on-event", &command, "--events", "completed"];
        let mut ingest = pipeline.ingest_failing(&args, &[Failpoint::new(point, Fault::Kill)]);
        let upload = ingest.tus().create(5, &[]);
        assert!(
            upload.try_patch(0, b"hello").is_err(),
            "{point} was not passed"
        );
        ingest.process.wait_killed();
        assert_eq!(completed(&notes), Vec::<String>::new(), "{point}");
        ingest.restart();
        wait_for("the event", &vec![upload.id().to_owned()], || {
            completed(&notes)
        });
        wait_for("an empty outbox", &Vec::new(), || {
            pipeline.spool().names("outbox")
        });
    }
}

#[test]
fn completed_is_told_by_the_next_process_if_the_listener_failed_and_ingest_was_killed() {
    let pipeline = Pipeline::new();
    let (command, notes) = notebook(&pipeline);
    let mut failing = pipeline.ingest(&["--on-event", "false", "--events", "completed"]);
    let upload = failing.tus().create_with(b"hello", &[]);
    failing.process.kill();
    let _next = pipeline.ingest(&["--on-event", &command, "--events", "completed"]);
    wait_for("the event", &vec![upload.id().to_owned()], || {
        completed(&notes)
    });
}

#[test]
fn what_happened_last_before_a_stop_is_told_or_still_owed() {
    let pipeline = Pipeline::new();
    let (command, notes) = notebook(&pipeline);
    let mut ingest = pipeline.ingest(&["--on-event", &command]);
    let upload = ingest.tus().create_with(b"hello", &[]);
    assert_eq!(ingest.process.terminate().code(), Some(0));
    let owed = pipeline.spool().names("outbox");
    assert!(
        completed(&notes) == [upload.id()] || owed == [upload.id()],
        "{owed:?}"
    );
}

#[test]
fn hooks_that_can_never_work_are_one_line_and_exit_2_and_secrets_are_not_shown() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let url = "http://no-such-host.invalid/";
    let cases: [&[&str]; 5] = [
        &["--on-create", "no-such-program-x"],
        &["--on-create", url],
        &["--on-event", "/no/such/program"],
        &["--event-url", url, "--event-secret", secret],
        &["--event-url", "http://127.0.0.1:1/"],
    ];
    for args in cases {
        let pipeline = Pipeline::new();
        let ended = pipeline.run(Program::Ingest, args).expect_code(2);
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(!pipeline.spool().root().is_dir(), "{args:?}");
    }
    let pipeline = Pipeline::new();
    let mut help = pipeline.command(Program::Ingest, &["--help"]);
    help.env("INGEST_EVENT_SECRET", secret);
    let shown = pipeline
        .start("help", help)
        .finish(tests::wait::PATIENCE)
        .expect_code(0);
    assert!(shown.stdout.contains("--event-secret") && !shown.stdout.contains(secret));
}

#[test]
fn an_endpoint_within_the_machine_needs_no_certificates() {
    let pipeline = Pipeline::new();
    let ready = pipeline.path("ready");
    let args = [
        "--on-create",
        "http://127.0.0.1:1/",
        "--listen",
        "127.0.0.1:0",
    ];
    let mut command = pipeline.command(Program::Ingest, &args);
    command.arg("--ready-file").arg(&ready);
    command
        .env("SSL_CERT_FILE", "/no/such")
        .env("SSL_CERT_DIR", "/no/such");
    let mut ingest = pipeline.start("ingest", command);
    wait_for("ingest to be ready", &true, || ready.is_file());
    assert_eq!(ingest.terminate().code(), Some(0));
}
