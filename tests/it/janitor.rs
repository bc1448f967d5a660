//! The janitor: what is old or broken goes, what is young, locked or foreign stays.

use serde_json::Value;
use tests::client::Upload;
use tests::pipeline::{Ingest, Pipeline, bare_command};
use tests::programs::Program;
use tests::wait::wait_for;

/// Takes nothing for young, whatever it is.
const EVERYTHING_IS_OLD: [&str; 8] = [
    "--grace",
    "0s",
    "--stale-upload-age",
    "0s",
    "--completed-file-age",
    "0s",
    "--receipt-age",
    "0s",
];

/// Takes nothing for being done at this moment.
const NO_GRACE: [&str; 2] = ["--grace", "0s"];

fn tidy(pipeline: &Pipeline, args: &[&str]) {
    pipeline.run(Program::Janitor, args).expect_code(0);
}

fn begun(ingest: &Ingest) -> Upload {
    let upload = ingest.tus().create(10, &[]);
    upload.patch(0, b"hello").expect(204, []);
    upload
}

fn places(pipeline: &Pipeline, upload: &Upload) -> Vec<String> {
    pipeline.spool().places(upload.id())
}

#[test]
fn an_idle_upload_is_removed_and_its_client_is_told_410() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = begun(&ingest);
    tidy(&pipeline, &NO_GRACE);
    assert_eq!(
        places(&pipeline, &upload),
        ["uploads/{id}", "uploads/{id}.meta"]
    );
    upload.head().expect(200, [("Upload-Offset", "5")]);

    tidy(&pipeline, &["--stale-upload-age", "0s"]);
    assert_eq!(places(&pipeline, &upload), ["receipts/{id}.meta"]);
    upload.head().expect(410, []);
}

#[test]
fn an_upload_that_is_being_received_is_never_idle() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    let mut connection = upload.begin_patch(0, 10);
    // Each byte makes the holder hold the lock again, should its silence have made it let go.
    for n in 1..=10 {
        connection.send(b"x").unwrap();
        wait_for("the byte", &true, || n <= upload.offset());
        if n < 10 {
            tidy(&pipeline, &["--stale-upload-age", "1h", "--grace", "0s"]);
        }
    }
    connection
        .receive("PATCH")
        .unwrap()
        .expect(204, [("Upload-Offset", "10")]);
}

#[test]
fn a_finished_upload_that_nobody_claims_becomes_a_dead_letter_unless_told_otherwise() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create_with(b"hello", &[]);
    tidy(&pipeline, &NO_GRACE);
    assert_eq!(
        places(&pipeline, &upload),
        ["completed/{id}", "completed/{id}.meta"]
    );
    tidy(&pipeline, &["--grace", "0s", "--completed-file-age", "0s"]);
    let dead = ["failed/{id}", "failed/{id}.meta", "failed/{id}.reason.json"];
    assert_eq!(places(&pipeline, &upload), dead);

    let unwanted = ingest.tus().create_with(b"hello", &[]);
    tidy(
        &pipeline,
        &[
            "--grace",
            "0s",
            "--completed-file-age",
            "0s",
            "--expired",
            "delete",
        ],
    );
    assert_eq!(places(&pipeline, &unwanted), ["receipts/{id}.meta"]);
    unwanted.head().expect(410, []);
    assert_eq!(places(&pipeline, &upload), dead, "dead letters stay");
}

#[test]
fn halves_of_an_upload_are_removed_after_their_grace() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let spool = pipeline.spool();
    let (without_data, without_record) = (begun(&ingest), begun(&ingest));
    let whole = begun(&ingest);
    std::fs::remove_file(spool.path("uploads", without_data.id())).unwrap();
    std::fs::remove_file(spool.path("uploads", &format!("{}.meta", without_record.id()))).unwrap();
    let temporary = format!(".tmp-{}-{}", whole.id(), "0".repeat(32));
    std::fs::write(spool.path("uploads", &temporary), "half").unwrap();
    let before = spool.listing();

    tidy(&pipeline, &[]);
    assert_eq!(spool.listing(), before, "all of it is young");
    tidy(&pipeline, &NO_GRACE);
    assert_eq!(
        places(&pipeline, &whole),
        ["uploads/{id}", "uploads/{id}.meta"]
    );
    for half in [without_data, without_record] {
        let left = places(&pipeline, &half);
        assert!(
            !left.iter().any(|place| place.starts_with("uploads/")),
            "{left:?}"
        );
    }
}

#[test]
fn finished_data_without_a_readable_record_is_kept_as_a_dead_letter() {
    for damage in ["remove", "tear"] {
        let pipeline = Pipeline::new();
        let ingest = pipeline.ingest(&[]);
        let upload = ingest.tus().create_with(b"hello", &[]);
        let record = pipeline
            .spool()
            .path("completed", &format!("{}.meta", upload.id()));
        if damage == "remove" {
            std::fs::remove_file(record).unwrap();
        } else {
            std::fs::write(record, "{\"length\": 5, ").unwrap();
        }
        tidy(&pipeline, &NO_GRACE);
        let left = places(&pipeline, &upload);
        assert!(
            left.contains(&"failed/{id}".to_owned()),
            "{damage}: {left:?}"
        );
        assert!(
            left.contains(&"failed/{id}.reason.json".to_owned()),
            "{damage}: {left:?}"
        );
        let data = std::fs::read(pipeline.spool().path("failed", upload.id())).unwrap();
        assert_eq!(data, b"hello");
    }
}

#[test]
fn old_receipts_go_and_with_them_all_that_is_known_of_the_upload() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    upload.delete().expect(204, []);
    tidy(&pipeline, &NO_GRACE);
    upload.head().expect(410, []);
    tidy(&pipeline, &["--receipt-age", "0s"]);
    assert_eq!(places(&pipeline, &upload), Vec::<String>::new());
    upload.head().expect(404, []);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let _begun = begun(&ingest);
    let _finished = ingest.tus().create_with(b"hello", &[]);
    ingest.tus().create(5, &[]).delete().expect(204, []);
    let before = pipeline.spool().listing();
    let args = [&EVERYTHING_IS_OLD[..], &["--dry-run", "--json"]].concat();
    let said = pipeline.run(Program::Janitor, &args).expect_code(0).stdout;
    assert_eq!(pipeline.spool().listing(), before);
    assert_eq!(said.lines().count(), 1, "{said}");
    let counts: Value = serde_json::from_str(&said).unwrap();
    assert!(counts.is_object(), "{counts}");

    let args = [&EVERYTHING_IS_OLD[..], &["--json"]].concat();
    let done = pipeline.run(Program::Janitor, &args).expect_code(0).stdout;
    assert_ne!(pipeline.spool().listing(), before);
    assert_eq!(done.lines().count(), 1, "{done}");
}

#[test]
fn a_dry_run_makes_no_spool_of_a_directory_that_is_none() {
    let pipeline = Pipeline::new();
    let other = pipeline.path("photos");
    std::fs::create_dir(&other).unwrap();
    for dir in [&other, &pipeline.path("mistyped")] {
        let mut command = bare_command(Program::Janitor);
        command.args(["--dry-run", "--spool"]).arg(dir);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, format!("janitor: {} is no spool\n", dir.display()));
    }
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
    assert!(!pipeline.path("mistyped").try_exists().unwrap());
}
