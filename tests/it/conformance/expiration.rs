//! Extension Expiration.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::http::Response;
use tests::needs::run;
use tests::pipeline::Pipeline;
use tests::programs::Program;
use tests::wait::wait_until;

use super::{BYTES, extensions, patch, post};

/// `Upload-Expires` in Unix seconds; it has to be in the form that RFC 9110 prefers, which date(1)
/// reads and writes.
#[track_caller]
fn expires(response: &Response) -> u64 {
    let date = |time: &str, format: &str| {
        let mut command = Command::new("date");
        command.args(["-u", "-d", time, format]).env("LC_ALL", "C");
        run(&mut command).trim().to_owned()
    };
    let text = response.header("Upload-Expires");
    let text = text.unwrap_or_else(|| panic!("no Upload-Expires in {response:#?}"));
    let seconds = date(text, "+%s");
    let again = date(&format!("@{seconds}"), "+%a, %d %b %Y %H:%M:%S GMT");
    assert_eq!(again, text);
    seconds.parse().unwrap()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn expiration_must_be_announced_where_uploads_expire_and_only_there() {
    let pipeline = Pipeline::new();
    let name = "expiration".to_owned();
    assert!(extensions(&pipeline.ingest(&["--expire-after", "1d"])).contains(&name));
    let never = pipeline.ingest(&["--expire-after", "0"]);
    assert!(!extensions(&never).contains(&name));
    let created = post(&never, &[("Upload-Length", "5")], b"").expect(201, []);
    assert_eq!(created.header("Upload-Expires"), None);
}

#[test]
fn upload_expires_must_be_in_the_answer_to_the_creation_in_http_date_format() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--expire-after", "1d"]);
    let begun = now();
    for (headers, body) in [
        (vec![("Upload-Length", "5")], &b""[..]),
        (vec![("Upload-Length", "5"), BYTES], b"he"),
        (vec![("Upload-Defer-Length", "1")], b""),
        (
            vec![("Upload-Length", "5"), ("Upload-Concat", "partial")],
            b"",
        ),
    ] {
        let created = post(&ingest, &headers, body).expect(201, []);
        let day = 24 * 3600;
        assert!((begun + day..=now() + day).contains(&expires(&created)));
    }
    // A finished upload does not expire in this sense: there is nothing to resume.
    let whole = post(&ingest, &[("Upload-Length", "5"), BYTES], b"hello").expect(201, []);
    assert_eq!(whole.header("Upload-Expires"), None);
}

#[test]
fn upload_expires_must_be_in_every_answer_to_patch_while_the_upload_is_going_to_expire() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--expire-after", "1d"]);
    let upload = ingest.tus().create(5, &[]);
    expires(&upload.head());
    expires(&upload.patch(0, b"he").expect(204, []));
    expires(&upload.patch(0, b"he").expect(409, []));
    expires(&upload.patch(2, b"too long").expect(413, []));
    let wrong = [("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    expires(&patch(&ingest, &upload, 2, &wrong, b"llo").expect(460, []));
    let unknown = [("Upload-Checksum", "sha9 AAAA")];
    expires(&patch(&ingest, &upload, 2, &unknown, b"llo").expect(400, []));
    let last = upload.patch(2, b"llo").expect(204, []);
    assert_eq!(last.header("Upload-Expires"), None);
}

#[test]
fn an_upload_that_has_expired_should_be_410_gone() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--expire-after", "1s"]);
    let upload = ingest.tus().create(5, &[]);
    upload.patch(0, b"he").expect(204, []);
    let gone = wait_until("the upload to expire", || {
        Some(upload.head()).filter(|told| told.status != 200)
    });
    assert_eq!(gone.status, 410);
    assert_eq!(gone.header("Upload-Offset"), None);
    upload.patch(2, b"llo").expect(410, []);
    // Also once it has been removed.
    let remove = ["--stale-upload-age", "1s", "--expired", "delete"];
    wait_until("the removal", || {
        pipeline.run(Program::Janitor, &remove).expect_code(0);
        pipeline.spool().data_in("uploads").is_empty().then_some(())
    });
    upload.head().expect(410, []);
    upload.patch(2, b"llo").expect(410, []);
}
