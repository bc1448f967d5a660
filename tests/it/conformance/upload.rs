//! Extension Creation With Upload.

use tests::pipeline::{BASE_PATH, Pipeline};

use super::{BYTES, TUS, extensions, post, send};

#[test]
fn creation_with_upload_must_be_announced_and_not_without_creation() {
    let pipeline = Pipeline::new();
    let name = "creation-with-upload".to_owned();
    assert!(extensions(&pipeline.ingest(&[])).contains(&name));
    for off in ["creation", "creation-with-upload"] {
        let ingest = pipeline.ingest(&["--disable-extensions", off]);
        assert!(!extensions(&ingest).contains(&name), "{off}");
        let headers = [BYTES, ("Upload-Length", "5")];
        let refused = post(&ingest, &headers, b"hello");
        assert!((400..500).contains(&refused.status), "{refused:?}");
    }
}

#[test]
fn the_answer_must_include_the_offset_after_the_accepted_bytes() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for (body, offset) in [(&b"h"[..], "1"), (b"hell", "4"), (b"hello", "5")] {
        let headers = [BYTES, ("Upload-Length", "5")];
        let created = post(&ingest, &headers, body).expect(201, [("Upload-Offset", offset), TUS]);
        let upload = ingest.tus().created(created);
        upload.head().expect(200, [("Upload-Offset", offset)]);
        upload
            .patch(body.len() as u64, &b"hello"[body.len()..])
            .expect(204, []);
        let data = pipeline.spool().path("completed", upload.id());
        assert_eq!(std::fs::read(data).unwrap(), b"hello");
    }
}

#[test]
fn a_part_of_a_deferred_upload_may_come_along() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let headers = [BYTES, ("Upload-Defer-Length", "1")];
    let created = post(&ingest, &headers, b"hello").expect(201, [("Upload-Offset", "5")]);
    let upload = ingest.tus().created(created);
    upload
        .head()
        .expect(200, [("Upload-Offset", "5"), ("Upload-Defer-Length", "1")]);
}

#[test]
fn the_content_type_must_be_that_of_upload_bytes_as_with_patch() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for wrong in [
        &[("Upload-Length", "5")][..],
        &[("Upload-Length", "5"), ("Content-Type", "text/plain")],
    ] {
        post(&ingest, wrong, b"hello").expect(415, []);
    }
    assert!(pipeline.spool().listing().is_empty());
    // Without a body it labels nothing.
    post(&ingest, &[("Upload-Length", "5"), BYTES], b"").expect(201, []);
    let other = [("Upload-Length", "5"), ("Content-Type", "text/plain")];
    post(&ingest, &other, b"").expect(201, []);
}

#[test]
fn as_many_bytes_as_possible_should_be_accepted_also_without_a_content_length() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let headers = [
        TUS,
        BYTES,
        ("Upload-Length", "5"),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut connection = send(&ingest, "POST", BASE_PATH, &headers, b"");
    connection
        .send(&tests::http::chunked(&[b"hel", b"lo"], &[]))
        .unwrap();
    let created = connection.receive("POST").unwrap();
    created.expect(201, [("Upload-Offset", "5")]);
}

#[test]
fn more_bytes_than_the_length_are_refused_as_with_patch() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    post(&ingest, &[BYTES, ("Upload-Length", "4")], b"hello").expect(413, []);
    assert!(pipeline.spool().listing().is_empty());
}

#[test]
fn expect_100_continue_is_answered_before_the_first_byte_is_sent() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--max-size", "10"]);
    let announced = |length: &str| {
        let headers = [
            TUS,
            BYTES,
            ("Upload-Length", length),
            ("Content-Length", length),
            ("Expect", "100-continue"),
        ];
        send(&ingest, "POST", BASE_PATH, &headers, b"")
    };
    let mut welcome = announced("5");
    let interim = welcome.receive_head().unwrap();
    assert_eq!(interim.status, 100);
    welcome.send(b"hello").unwrap();
    let created = welcome.receive("POST").unwrap();
    created.expect(201, [("Upload-Offset", "5")]);
    let refused = announced("11").receive("POST").unwrap().expect(413, []);
    assert!(refused.interim.is_empty(), "{refused:?}");
}
