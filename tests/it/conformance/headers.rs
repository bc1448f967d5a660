//! Core protocol, Headers.

use tests::pipeline::{BASE_PATH, Pipeline};

use super::{BYTES, NOBODY, TUS, bare, extensions, patch, post};

const NO_INTEGERS: [&str; 9] = ["", "-1", "-0", "+5", "5.0", "0x5", "five", "5 5", "1e3"];

#[test]
fn the_upload_offset_must_be_a_non_negative_integer() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    for bad in NO_INTEGERS {
        let headers = [BYTES, ("Upload-Offset", bad)];
        let refused = ingest
            .tus()
            .request("PATCH", upload.path(), &headers, b"hello");
        assert_eq!(refused.status, 400, "{bad:?}");
        assert_eq!(upload.offset(), 0, "{bad:?}");
    }
    upload.patch(0, b"hello").expect(204, []);
}

#[test]
fn the_upload_length_must_be_a_non_negative_integer() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for bad in NO_INTEGERS {
        let refused = post(&ingest, &[("Upload-Length", bad)], b"");
        assert_eq!(refused.status, 400, "{bad:?}");
    }
    let empty = ingest.tus().create(0, &[]);
    empty.head().expect(200, [("Upload-Length", "0")]);
}

#[test]
fn tus_version_must_be_a_comma_separated_list_of_the_supported_versions_in_order_of_preference() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let told = bare(&ingest, "OPTIONS", BASE_PATH, &[], b"");
    let versions: Vec<&str> = told.header("Tus-Version").unwrap().split(',').collect();
    // One version is spoken, so there is one order.
    assert_eq!(versions, ["1.0.0"]);
}

#[test]
fn tus_resumable_must_be_included_in_every_response_with_the_servers_version() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--max-size", "100", "--expire-after", "1d"]);
    let tus = ingest.tus();
    let upload = tus.create(5, &[]);
    let ended = tus.create(5, &[]);
    ended.delete().expect(204, [TUS]);
    let part = post(
        &ingest,
        &[("Upload-Length", "0"), ("Upload-Concat", "partial")],
        b"",
    );
    let part = tus.created(part);
    let list = format!("final;{}", part.path());
    let whole = tus.created(post(&ingest, &[("Upload-Concat", &list)], b""));
    let wrong = [("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    let plain = [("Content-Type", "text/plain"), ("Upload-Offset", "0")];
    let responses = [
        (201, post(&ingest, &[("Upload-Length", "5")], b"")),
        (413, post(&ingest, &[("Upload-Length", "101")], b"")),
        (400, post(&ingest, &[], b"")),
        (200, upload.head()),
        (404, tus.upload(NOBODY).head()),
        (404, tus.upload("/files/nonsense").head()),
        (404, tus.upload("/elsewhere").head()),
        (404, tus.upload(NOBODY).patch(0, b"x")),
        (404, tus.upload(NOBODY).delete()),
        (410, ended.head()),
        (410, ended.patch(0, b"x")),
        (405, tus.request("PUT", upload.path(), &[], b"")),
        (405, tus.request("HEAD", BASE_PATH, &[], b"")),
        (415, tus.request("PATCH", upload.path(), &plain, b"hello")),
        (409, upload.patch(1, b"hell")),
        (403, whole.patch(0, b"x")),
        (460, patch(&ingest, &upload, 0, &wrong, b"hello")),
        (412, bare(&ingest, "HEAD", upload.path(), &[], b"")),
        (200, tus.request("GET", upload.path(), &[], b"")),
        (204, upload.patch(0, b"hello")),
        (204, tus.request("OPTIONS", BASE_PATH, &[], b"")),
    ];
    for (status, response) in responses {
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(
            response.header("Tus-Resumable"),
            Some("1.0.0"),
            "{response:?}"
        );
    }
}

/// Method, target, header fields, body.
type Request = (
    &'static str,
    String,
    Vec<(&'static str, &'static str)>,
    &'static [u8],
);

/// A request of each kind for an upload, without `Tus-Resumable`.
fn requests(path: &str) -> [Request; 4] {
    let patch = vec![BYTES, ("Upload-Offset", "0")];
    let length = vec![("Upload-Length", "5")];
    [
        ("POST", BASE_PATH.to_owned(), length, b""),
        ("HEAD", path.to_owned(), vec![], b""),
        ("PATCH", path.to_owned(), patch, b"hello"),
        ("DELETE", path.to_owned(), vec![], b""),
    ]
}

#[test]
fn tus_resumable_must_be_included_in_every_request_except_for_options() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    for (method, target, headers, body) in requests(upload.path()) {
        let refused = bare(&ingest, method, &target, &headers, body);
        refused.expect(412, [("Tus-Version", "1.0.0"), TUS]);
    }
    bare(&ingest, "OPTIONS", BASE_PATH, &[], b"").expect(204, []);
    bare(&ingest, "OPTIONS", upload.path(), &[], b"").expect(204, []);
}

#[test]
fn a_version_that_is_not_supported_must_be_answered_with_412_and_tus_version() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    for version in ["0.2.2", "1.0.1", "1.0", "2.0.0", "", "1.0.0,0.2.2", "v1"] {
        for path in [upload.path(), NOBODY, "/files/nonsense"] {
            for (method, target, mut headers, body) in requests(path) {
                headers.push(("Tus-Resumable", version));
                let refused = bare(&ingest, method, &target, &headers, body);
                assert_eq!(refused.status, 412, "{method} {target} {version:?}");
                assert_eq!(refused.header("Tus-Version"), Some("1.0.0"));
                assert_eq!(refused.header("Upload-Offset"), None);
            }
        }
    }
}

#[test]
fn a_request_of_a_version_that_is_not_supported_must_not_be_processed() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    let before = pipeline.spool().listing();
    for version in [None, Some("0.2.2")] {
        for (method, target, mut headers, body) in requests(upload.path()) {
            headers.extend(version.map(|version| ("Tus-Resumable", version)));
            bare(&ingest, method, &target, &headers, body).expect(412, []);
        }
        let overridden = [
            ("X-HTTP-Method-Override", "DELETE"),
            ("Tus-Resumable", version.unwrap_or("0.2.2")),
        ];
        bare(&ingest, "POST", upload.path(), &overridden, b"").expect(412, []);
    }
    assert_eq!(pipeline.spool().listing(), before);
    assert_eq!(upload.offset(), 0);
}

#[test]
fn tus_extension_must_be_a_comma_separated_list_of_the_supported_extensions() {
    let pipeline = Pipeline::new();
    let all = pipeline.ingest(&["--expire-after", "1d"]);
    let mut told = extensions(&all);
    told.sort();
    let wanted = [
        "checksum",
        "checksum-trailer",
        "concatenation",
        "concatenation-unfinished",
        "creation",
        "creation-defer-length",
        "creation-with-upload",
        "expiration",
        "termination",
    ];
    assert_eq!(told, wanted);
    let fewer = pipeline.ingest(&["--disable-extensions", "checksum,concatenation"]);
    let told = extensions(&fewer);
    assert!(
        !told
            .iter()
            .any(|name| name.starts_with("c") && name.contains("ch")),
        "{told:?}"
    );
    assert!(
        !told.iter().any(|name| name.starts_with("conc")),
        "{told:?}"
    );
}

#[test]
fn tus_extension_must_be_omitted_if_no_extensions_are_supported() {
    let pipeline = Pipeline::new();
    let off = "creation,termination,checksum,expiration";
    let ingest = pipeline.ingest(&["--disable-extensions", off]);
    let told = bare(&ingest, "OPTIONS", BASE_PATH, &[], b"");
    assert_eq!(told.header("Tus-Extension"), None, "{told:?}");
}

#[test]
fn tus_max_size_must_be_a_non_negative_integer_and_should_be_set_if_there_is_a_hard_limit() {
    let pipeline = Pipeline::new();
    let none = pipeline.ingest(&[]);
    let told = bare(&none, "OPTIONS", BASE_PATH, &[], b"");
    assert_eq!(told.header("Tus-Max-Size"), None);
    let limited = pipeline.ingest(&["--max-size", "1GiB"]);
    let told = bare(&limited, "OPTIONS", BASE_PATH, &[], b"");
    assert_eq!(told.header("Tus-Max-Size"), Some("1073741824"));
}

#[test]
fn x_http_method_override_must_be_interpreted_as_the_method_and_the_actual_one_ignored() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for actual in ["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] {
        let upload = ingest.tus().create(5, &[]);
        let ask = |method: &str, more: &[(&str, &str)], body: &[u8]| {
            let mut headers = vec![TUS, ("X-HTTP-Method-Override", method)];
            headers.extend_from_slice(more);
            bare(&ingest, actual, upload.path(), &headers, body)
        };
        let body: &[u8] = b"hello";
        ask("PATCH", &[BYTES, ("Upload-Offset", "0")], body).expect(204, [("Upload-Offset", "5")]);
        ask("DELETE", &[], b"").expect(204, []);
        upload.head().expect(410, []);
        // Also where it takes a request back to a method that is wrong here.
        ask("POST", &[], b"").expect(405, []);
    }
}
