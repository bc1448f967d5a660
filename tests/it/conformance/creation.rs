//! Extension Creation, with Upload-Defer-Length and Upload-Metadata.

use tests::client::encode;
use tests::pipeline::{BASE_PATH, Pipeline};

use super::{BYTES, TUS, bare, extensions, patch, post};

#[test]
fn creation_must_be_in_tus_extension() {
    let pipeline = Pipeline::new();
    let on = pipeline.ingest(&[]);
    assert!(extensions(&on).contains(&"creation".to_owned()));
    let off = pipeline.ingest(&["--disable-extensions", "creation"]);
    assert!(!extensions(&off).contains(&"creation".to_owned()));
    let refused = post(&off, &[("Upload-Length", "5")], b"");
    assert!((400..500).contains(&refused.status), "{refused:?}");
}

#[test]
fn creation_must_be_acknowledged_with_201_and_the_location_of_an_upload_at_offset_0() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let created = post(&ingest, &[("Upload-Length", "100")], b"").expect(201, [TUS]);
    let upload = ingest.tus().created(created);
    upload
        .head()
        .expect(200, [("Upload-Offset", "0"), ("Upload-Length", "100")]);
    let other = ingest.tus().create(100, &[]);
    assert_ne!(upload.path(), other.path());
}

#[test]
fn a_location_may_be_absolute_or_relative() {
    let pipeline = Pipeline::new();
    for (form, absolute) in [("absolute", true), ("relative", false)] {
        let ingest = pipeline.ingest(&["--location", form]);
        let created = post(&ingest, &[("Upload-Length", "5")], b"").expect(201, []);
        let location = created.header("Location").unwrap();
        assert_eq!(location.starts_with("http://127.0.0.1/files/"), absolute);
        // A relative reference is one to the URL that was posted to: `/files/`.
        let id = location.rsplit('/').next().unwrap();
        let upload = ingest.tus().upload(&format!("{BASE_PATH}{id}"));
        assert!(absolute || location == id || location == upload.path());
        upload.head().expect(200, []);
    }
}

#[test]
fn creation_must_include_the_length_or_defer_it() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    post(&ingest, &[], b"").expect(400, []);
    let both = [("Upload-Length", "5"), ("Upload-Defer-Length", "1")];
    post(&ingest, &both, b"").expect(400, []);
    post(&ingest, &both[..1], b"").expect(201, []);
    post(&ingest, &both[1..], b"").expect(201, []);
}

#[test]
fn upload_defer_length_must_be_1_or_the_answer_should_be_400() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for bad in ["0", "2", "", "true", "01", "+1", "-1", "1,1", "1 1"] {
        let refused = post(&ingest, &[("Upload-Defer-Length", bad)], b"");
        assert_eq!(refused.status, 400, "{bad:?}");
    }
    assert!(pipeline.spool().listing().is_empty());
}

#[test]
fn upload_defer_length_must_be_omitted_if_the_length_is_not_deferred() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    assert_eq!(upload.head().header("Upload-Defer-Length"), None);
}

#[test]
fn head_must_say_upload_defer_length_1_as_long_as_the_length_is_not_known() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest
        .tus()
        .created(post(&ingest, &[("Upload-Defer-Length", "1")], b""));
    for offset in 0..2 {
        let told = upload.head().expect(200, [("Upload-Defer-Length", "1")]);
        assert_eq!(told.number("Upload-Offset"), offset);
        assert_eq!(told.header("Upload-Length"), None);
        upload.patch(offset, b"x").expect(204, []);
    }
    patch(&ingest, &upload, 2, &[("Upload-Length", "5")], b"x").expect(204, []);
    let told = upload
        .head()
        .expect(200, [("Upload-Length", "5"), ("Upload-Offset", "3")]);
    assert_eq!(told.header("Upload-Defer-Length"), None);
}

#[test]
fn a_length_once_set_must_not_be_changed() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let known = ingest.tus().create(5, &[]);
    let open = ingest
        .tus()
        .created(post(&ingest, &[("Upload-Defer-Length", "1")], b""));
    patch(&ingest, &open, 0, &[("Upload-Length", "5")], b"").expect(204, []);
    for upload in [&known, &open] {
        for other in ["4", "6", "0"] {
            let refused = patch(&ingest, upload, 0, &[("Upload-Length", other)], b"x");
            assert_eq!(refused.status, 400, "{other}");
        }
        upload
            .head()
            .expect(200, [("Upload-Length", "5"), ("Upload-Offset", "0")]);
        // Said again, it is the same.
        patch(&ingest, upload, 0, &[("Upload-Length", "5")], b"hello").expect(204, []);
    }
    // And it is never shorter than what is there.
    let open = ingest
        .tus()
        .created(post(&ingest, &[("Upload-Defer-Length", "1")], b""));
    open.patch(0, b"hello").expect(204, []);
    let refused = patch(&ingest, &open, 5, &[("Upload-Length", "4")], b"");
    assert!((400..500).contains(&refused.status), "{refused:?}");
    open.head().expect(200, [("Upload-Defer-Length", "1")]);
}

#[test]
fn deferring_must_be_announced_as_creation_defer_length() {
    let pipeline = Pipeline::new();
    let on = pipeline.ingest(&[]);
    assert!(extensions(&on).contains(&"creation-defer-length".to_owned()));
    let off = pipeline.ingest(&["--disable-extensions", "creation-defer-length"]);
    assert!(!extensions(&off).contains(&"creation-defer-length".to_owned()));
    post(&off, &[("Upload-Defer-Length", "1")], b"").expect(400, []);
}

/// The creation of five bytes with this metadata, as bytes on the wire.
fn with_metadata(ingest: &tests::pipeline::Ingest, value: &[u8]) -> tests::http::Response {
    let mut request = b"POST /files/ HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\
                        Upload-Length: 5\r\nUpload-Metadata: "
        .to_vec();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n\r\n");
    let mut connection = ingest.tus().connect().unwrap();
    connection.send(&request).unwrap();
    connection.receive("POST").unwrap()
}

#[test]
fn upload_metadata_must_be_pairs_of_a_unique_key_and_a_base64_value_which_may_be_empty() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for good in [
        "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential",
        "is_confidential",
        "a,b,c YQ==",
        "is_confidential ,b YQ==",
        "key~!#$%&'*+-.^_`|:;<>?@[]{}() YQ==",
    ] {
        let created = with_metadata(&ingest, good.as_bytes());
        assert_eq!(created.status, 201, "{good}");
    }
    let bad: [&[u8]; 14] = [
        b",",
        b"a YQ==,",
        b",a YQ==",
        b"a YQ==,,b YQ==",
        b"a YQ==,a Yg==",
        b"a,a",
        b"a Y",
        b"a YQ",
        b"a !!!!",
        b"a YQ== YQ==",
        b"a YQ==\x80",
        b"\xc3\xa4 YQ==",
        b"a\tYQ==",
        b"a YR==",
    ];
    for bad in bad {
        let refused = with_metadata(&ingest, bad);
        assert_eq!(refused.status, 400, "{}", bad.escape_ascii());
    }
}

#[test]
fn head_must_include_upload_metadata_as_the_client_specified_it() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let text = encode(&[("filename", "world_domination_plan.pdf")]);
    for value in [
        &text,
        "is_confidential",
        "b YQ==,a YQ==,is_confidential",
        "is_confidential ,filename YQ==",
        "binary AAECA//+/Q==",
    ] {
        let upload = ingest
            .tus()
            .created(with_metadata(&ingest, value.as_bytes()));
        upload.head().expect(200, [("Upload-Metadata", value)]);
        upload.patch(0, b"hello").expect(204, []);
        upload.head().expect(200, [("Upload-Metadata", value)]);
    }
    let without = ingest.tus().create(5, &[]);
    assert_eq!(without.head().header("Upload-Metadata"), None);
}

#[test]
fn metadata_values_should_be_kept_from_smuggling_header_fields() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let smuggled = encode(&[("note", "x\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 200 OK")]);
    let upload = ingest
        .tus()
        .created(with_metadata(&ingest, smuggled.as_bytes()));
    for method in ["HEAD", "GET"] {
        let told = ingest.tus().request(method, upload.path(), &[], b"");
        assert_eq!(told.header("Set-Cookie"), None, "{told:?}");
    }
    // In a name, which ends up in other places than headers, nothing of the kind is taken.
    let named = encode(&[("filename", "x\r\nSet-Cookie: a=b")]);
    with_metadata(&ingest, named.as_bytes()).expect(400, []);
}

#[test]
fn a_length_beyond_the_maximum_must_be_answered_with_413() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--max-size", "10"]);
    post(&ingest, &[("Upload-Length", "11")], b"").expect(413, []);
    post(&ingest, &[("Upload-Length", "10")], b"").expect(201, []);
    let upload = ingest
        .tus()
        .created(post(&ingest, &[("Upload-Defer-Length", "1")], b""));
    upload.patch(0, &[7; 11]).expect(413, []);
    patch(&ingest, &upload, 0, &[("Upload-Length", "11")], b"x").expect(413, []);
    // Also where the body does not say how long it is.
    let headers = [
        TUS,
        BYTES,
        ("Upload-Offset", "0"),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut connection = super::send(&ingest, "PATCH", upload.path(), &headers, b"");
    connection
        .send(&tests::http::chunked(&[&[7; 11]], &[]))
        .unwrap();
    connection.receive("PATCH").unwrap().expect(413, []);
    assert!(upload.offset() <= 10);
}

#[test]
fn the_creation_url_has_no_other_methods() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for method in ["GET", "HEAD", "PATCH", "PUT", "DELETE"] {
        let refused = bare(&ingest, method, BASE_PATH, &[TUS], b"").expect(405, []);
        assert_eq!(refused.header("Allow"), Some("OPTIONS, POST"), "{method}");
    }
}
