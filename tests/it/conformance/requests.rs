//! Core protocol, Requests: HEAD, PATCH and OPTIONS.

use tests::pipeline::{BASE_PATH, Pipeline};
use tests::wait::wait_for;

use super::{BYTES, NOBODY, TUS, bare, patch};

#[test]
fn head_must_always_include_the_upload_offset_even_if_0_or_completed() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    for (offset, more) in [(0, &b"he"[..]), (2, b"llo")] {
        let text = offset.to_string();
        upload
            .head()
            .expect(200, [("Upload-Offset", text.as_str())]);
        upload.patch(offset, more).expect(204, []);
    }
    upload.head().expect(200, [("Upload-Offset", "5")]);
}

#[test]
fn head_must_include_the_upload_length_if_it_is_known() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    upload.head().expect(200, [("Upload-Length", "5")]);
    upload.patch(0, b"hello").expect(204, []);
    upload.head().expect(200, [("Upload-Length", "5")]);
}

#[test]
fn head_should_answer_404_410_or_403_without_upload_offset_if_there_is_no_such_upload() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let ended = ingest.tus().create(5, &[]);
    ended.patch(0, b"he").expect(204, []);
    ended.delete().expect(204, []);
    for (path, status) in [(NOBODY, 404), ("/files/nonsense", 404), (ended.path(), 410)] {
        let told = ingest.tus().upload(path).head().expect(status, []);
        assert_eq!(told.header("Upload-Offset"), None);
    }
}

#[test]
fn head_must_prevent_caching_by_cache_control_no_store() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    let no_store = [("Cache-Control", "no-store")];
    upload.head().expect(200, no_store);
    upload.patch(0, b"hello").expect(204, []);
    upload.head().expect(200, no_store);
    upload.delete().expect(204, []);
    upload.head().expect(410, no_store);
    ingest.tus().upload(NOBODY).head().expect(404, no_store);
}

#[test]
fn patch_should_be_accepted_against_any_upload_url_and_apply_the_bytes_at_the_offset() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let known = ingest.tus().create(11, &[]);
    let deferred = [("Upload-Defer-Length", "1")];
    let open = ingest.tus().created(super::post(&ingest, &deferred, b""));
    let partial = [("Upload-Length", "11"), ("Upload-Concat", "partial")];
    let partial = ingest.tus().created(super::post(&ingest, &partial, b""));
    for upload in [&known, &open, &partial] {
        upload.patch(0, b"hello").expect(204, []);
        upload.patch(5, b" world").expect(204, []);
        assert_eq!(upload.offset(), 11);
    }
    let data = pipeline.spool().path("completed", known.id());
    assert_eq!(std::fs::read(data).unwrap(), b"hello world");
}

#[test]
fn patch_should_be_answered_with_415_unless_its_content_type_is_offset_octet_stream() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    for wrong in [
        None,
        Some(""),
        Some("application/octet-stream"),
        Some("application/offset+octet-streams"),
        Some("text/plain"),
        Some("multipart/form-data; boundary=x"),
    ] {
        let mut headers = vec![TUS, ("Upload-Offset", "0")];
        headers.extend(wrong.map(|media_type| ("Content-Type", media_type)));
        let refused = bare(&ingest, "PATCH", upload.path(), &headers, b"hello");
        assert_eq!(refused.status, 415, "{wrong:?}");
    }
    let twice = [
        TUS,
        BYTES,
        ("Content-Type", "text/plain"),
        ("Upload-Offset", "0"),
    ];
    bare(&ingest, "PATCH", upload.path(), &twice, b"hello").expect(415, []);
    assert_eq!(upload.offset(), 0);
}

#[test]
fn patch_must_be_answered_with_409_and_change_nothing_if_the_offsets_do_not_match() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    upload.patch(0, b"hello").expect(204, []);
    let data = pipeline.spool().path("uploads", upload.id());
    let before = (std::fs::read(&data).unwrap(), upload.head().headers.len());
    for offset in [0, 1, 4, 6, 10, 11, u64::MAX / 2] {
        let refused = upload.patch(offset, b"HELLO").expect(409, []);
        assert_eq!(refused.header("Upload-Offset"), Some("5"), "{offset}");
        // The same with nothing to write.
        upload.patch(offset, b"").expect(409, []);
    }
    assert_eq!(upload.offset(), 5);
    assert_eq!(
        (std::fs::read(&data).unwrap(), upload.head().headers.len()),
        before
    );
}

#[test]
fn patch_must_be_acknowledged_with_204_and_the_new_offset_which_is_the_sum() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    let mut offset = 0;
    for body in [&b"a"[..], b"", b"bcd", b"", b"efghij", b""] {
        let answer = upload.patch(offset, body);
        offset += body.len() as u64;
        let text = offset.to_string();
        let answer = answer.expect(204, [("Upload-Offset", text.as_str()), TUS]);
        assert!(answer.body.is_empty());
    }
}

#[test]
fn patch_should_be_answered_with_404_against_a_resource_that_does_not_exist() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for path in [NOBODY, "/files/nonsense"] {
        ingest.tus().upload(path).patch(0, b"x").expect(404, []);
    }
    assert!(pipeline.spool().listing().is_empty());
}

#[test]
fn a_timeout_should_be_handled_by_closing_the_connection() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--stall-timeout", "1s"]);
    let upload = ingest.tus().create(10, &[]);
    let mut connection = upload.begin_patch(0, 10);
    connection.send(b"hello").unwrap();
    // Nothing more is sent; the server has to end it.
    let answer = connection.receive("PATCH");
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(upload.offset(), 5);
    upload.patch(5, b"world").expect(204, []);
}

#[test]
fn as_much_of_the_received_data_as_possible_should_be_stored() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for reset in [false, true] {
        let upload = ingest.tus().create(100_000, &[]);
        let mut connection = upload.begin_patch(0, 100_000);
        connection.send(&[7; 54_321]).unwrap();
        wait_for("the bytes to arrive", &54_321, || upload.offset());
        match reset {
            true => connection.reset(),
            false => drop(connection),
        }
        assert_eq!(upload.offset(), 54_321);
        upload.patch(54_321, &[7; 45_679]).expect(204, []);
    }
    // Also of a body that says nothing about its length, and stops in the middle of a chunk.
    let upload = ingest.tus().create(100, &[]);
    let headers = [
        TUS,
        BYTES,
        ("Upload-Offset", "0"),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut connection = super::send(&ingest, "PATCH", upload.path(), &headers, b"");
    connection.send(b"5\r\nhello\r\n6\r\n wor").unwrap();
    connection.finish_sending().unwrap();
    wait_for("the bytes before the cut", &9, || upload.offset());
}

#[test]
fn more_bytes_than_the_upload_has_are_not_stored() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    upload.patch(0, b"hello!").expect(413, []);
    assert_eq!(upload.offset(), 0);
    let chunked = [("Transfer-Encoding", "chunked")];
    let headers = [&[TUS, BYTES, ("Upload-Offset", "0")][..], &chunked].concat();
    let mut connection = super::send(&ingest, "PATCH", upload.path(), &headers, b"");
    connection
        .send(&tests::http::chunked(&[b"hello", b"!"], &[]))
        .unwrap();
    let refused = connection.receive("PATCH").unwrap();
    assert!((400..500).contains(&refused.status), "{refused:?}");
    let length = std::fs::metadata(pipeline.spool().path("completed", upload.id()))
        .or_else(|_| std::fs::metadata(pipeline.spool().path("uploads", upload.id())));
    assert!(length.unwrap().len() <= 5);
}

#[test]
fn options_must_contain_tus_version_with_204_or_200_and_may_tell_the_rest() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--max-size", "100"]);
    let upload = ingest.tus().create(5, &[]);
    for path in [BASE_PATH, "/files", upload.path(), NOBODY] {
        let told = bare(&ingest, "OPTIONS", path, &[], b"");
        let told = told.expect(204, [("Tus-Version", "1.0.0"), ("Tus-Max-Size", "100")]);
        assert!(told.header("Tus-Extension").is_some());
    }
}

#[test]
fn options_must_ignore_tus_resumable() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let without = bare(&ingest, "OPTIONS", BASE_PATH, &[], b"");
    for version in ["1.0.0", "0.2.2", "", "nonsense"] {
        let headers = [("Tus-Resumable", version)];
        let told = bare(&ingest, "OPTIONS", BASE_PATH, &headers, b"").expect(204, []);
        for name in ["Tus-Version", "Tus-Extension", "Tus-Resumable"] {
            assert_eq!(told.header(name), without.header(name), "{name}");
        }
    }
    let twice = [("Tus-Resumable", "0.2.2"), ("Tus-Resumable", "1.0.0")];
    bare(&ingest, "OPTIONS", BASE_PATH, &twice, b"").expect(204, []);
}

#[test]
fn a_body_need_not_say_how_long_it_is() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(11, &[]);
    let headers = [
        TUS,
        BYTES,
        ("Upload-Offset", "0"),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut connection = super::send(&ingest, "PATCH", upload.path(), &headers, b"");
    connection
        .send(&tests::http::chunked(&[b"hello", b" world"], &[]))
        .unwrap();
    let answer = connection.receive("PATCH").unwrap();
    answer.expect(204, [("Upload-Offset", "11")]);
    // And one that is empty keeps its connection.
    patch(&ingest, &upload, 11, &[], b"").expect(204, [("Upload-Offset", "11")]);
}
