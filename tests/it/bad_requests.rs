//! Requests that no client should send: refused with 4xx, the connection goes on where HTTP allows
//! it, and nothing on disk is another afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tests::client::Upload;
use tests::http::{Connection, Response};
use tests::pipeline::{Ingest, Pipeline};

/// Values that no number has. A space before the digits is not among them: HTTP takes it away
/// before anybody sees it (RFC 9110 §5.5).
const NO_NUMBERS: [&str; 16] = [
    "",
    "+5",
    "-1",
    "-0",
    "5 5",
    "5,5",
    "5, 5",
    "5;5",
    "\u{a0}5",
    "\u{665}",
    "0x5",
    "5.0",
    "1e3",
    "9223372036854775808",
    "18446744073709551616",
    "1000000000000000000000000000000",
];

/// Every file below a directory with what is in it.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => drop(all.insert(path.clone(), std::fs::read(&path).unwrap())),
            }
        }
    }
    all
}

/// Sends a request on a connection of its own and reads the answer.
fn ask(ingest: &Ingest, request: &[u8]) -> (Connection, Response) {
    let mut connection = ingest.tus().connect().unwrap();
    connection.send(request).unwrap();
    let method = match request.starts_with(b"HEAD") {
        true => "HEAD",
        false => "GET",
    };
    let response = connection.receive(method).unwrap();
    (connection, response)
}

/// Refused, and the next request on the same connection is answered.
#[track_caller]
fn refused_and_alive(ingest: &Ingest, upload: &Upload, request: &[u8]) {
    let (mut connection, response) = ask(ingest, request);
    let what = request.escape_ascii();
    assert!(
        (400..500).contains(&response.status),
        "{what}: {response:?}"
    );
    let next = format!(
        "HEAD {} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n",
        upload.path()
    );
    connection.send(next.as_bytes()).unwrap();
    let next = connection.receive("HEAD");
    assert_eq!(next.map(|next| next.status).ok(), Some(200), "{what}");
}

/// A request with one field that is tried, once and twice.
fn tried(line: &str, fields: &str, tried: &str, value: &str) -> [Vec<u8>; 2] {
    let body = if line.starts_with("PATCH") {
        "hello"
    } else {
        ""
    };
    let request = |field: &str| {
        let length = body.len();
        format!(
            "{line} HTTP/1.1\r\nHost: x\r\n{fields}{field}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let once = format!("{tried}: {value}\r\n");
    [request(&once), request(&format!("{tried}: 0\r\n{once}"))]
}

#[test]
fn a_number_that_is_none_is_refused_in_every_header_field_and_changes_nothing() {
    const TUS: &str = "Tus-Resumable: 1.0.0\r\n";
    let bytes = format!("{TUS}Content-Type: application/offset+octet-stream\r\n");
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    let open = [("Upload-Defer-Length", "1")];
    let open = ingest.tus().request("POST", "/files/", &open, b"");
    let open = ingest.tus().created(open);
    let drafted = "Upload-Draft-Interop-Version: 8\r\nUpload-Complete: ?0\r\n\
                   Content-Type: application/partial-upload\r\n";
    let before = contents(pipeline.spool().root());
    let post = "POST /files/".to_owned();
    let patch = format!("PATCH {}", upload.path());
    let patch_open = format!("PATCH {}", open.path());
    let at_0 = format!("{bytes}Upload-Offset: 0\r\n");
    let complete = "Upload-Complete: ?0\r\n";
    for value in NO_NUMBERS {
        for (line, fields, name) in [
            (&post, TUS, "Upload-Length"),
            (&post, TUS, "Upload-Defer-Length"),
            (&patch, bytes.as_str(), "Upload-Offset"),
            (&patch, at_0.as_str(), "Upload-Length"),
            (&patch_open, at_0.as_str(), "Upload-Length"),
            (&patch, drafted, "Upload-Offset"),
            (&post, complete, "Upload-Draft-Interop-Version"),
        ] {
            // A structured field's integer may be minus nothing (RFC 9651 §3.3.1).
            if fields == drafted && value == "-0" {
                continue;
            }
            for request in tried(line, fields, name, value) {
                refused_and_alive(&ingest, &upload, &request);
            }
        }
    }
    // The same number twice is not one number either.
    for request in tried(&post, TUS, "Upload-Length", "0") {
        let twice = request.windows(13).filter(|w| w == b"Upload-Length");
        if twice.count() == 2 {
            refused_and_alive(&ingest, &upload, &request);
        }
    }
    assert_eq!(contents(pipeline.spool().root()), before);
}

#[test]
fn a_content_length_that_is_no_number_is_refused_and_no_byte_after_it_is_a_request() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    let before = contents(pipeline.spool().root());
    let smuggled = format!(
        "DELETE {} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n",
        upload.path()
    );
    for value in NO_NUMBERS {
        for field in [
            format!("Content-Length: {value}\r\n"),
            format!("Content-Length: 5\r\nContent-Length: {value}\r\n"),
        ] {
            let request = format!(
                "PATCH {} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 1\r\n\
                 Content-Type: application/offset+octet-stream\r\n{field}\r\n{smuggled}",
                upload.path()
            );
            let (mut connection, response) = ask(&ingest, request.as_bytes());
            assert!(
                (400..500).contains(&response.status),
                "{field:?}: {response:?}"
            );
            // Either the framing is clear and what follows was the body, or nothing follows.
            assert!(connection.is_closed().unwrap(), "{field:?}");
        }
    }
    assert_eq!(contents(pipeline.spool().root()), before);
}

#[test]
fn bytes_that_are_not_printable_are_refused_wherever_they_stand() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    let before = contents(pipeline.spool().root());
    let not_printable = (0..=u8::MAX).filter(|byte| !(0x20..=0x7e).contains(byte));
    for byte in not_printable {
        for (name, value) in [
            ("Upload-Metadata", &b"a Y\xffQ=="[..]),
            ("Upload-Metadata", b"a\xffb YQ=="),
            ("Upload-Length", b"5\xff5"),
            ("Upload-Concat", b"par\xfftial"),
            ("Tus-Resumable", b"1.0\xff.0"),
            ("X-HTTP-Method-Override", b"PO\xffST"),
        ] {
            let mut request = b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n".to_vec();
            for (other, good) in [("Tus-Resumable", "1.0.0"), ("Upload-Length", "5")] {
                if other != name {
                    request.extend_from_slice(format!("{other}: {good}\r\n").as_bytes());
                }
            }
            request.extend_from_slice(format!("{name}: ").as_bytes());
            request.extend(value.iter().map(|&b| if b == 0xff { byte } else { b }));
            request.extend_from_slice(b"\r\n\r\n");
            let response = ask(&ingest, &request).1;
            assert!(
                (400..500).contains(&response.status),
                "{}: {response:?}",
                request.escape_ascii()
            );
        }
    }
    assert_eq!(contents(pipeline.spool().root()), before);
    upload.head().expect(200, []);
}

#[test]
fn every_decoded_byte_is_metadata_except_in_a_filename() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--durability", "none"]);
    let create = |text: &str| {
        let headers = [("Upload-Length", "5"), ("Upload-Metadata", text)];
        ingest.tus().request("POST", "/files/", &headers, b"")
    };
    let every: Vec<u8> = (0..=u8::MAX).collect();
    let text = format!("note {}", STANDARD.encode(&every));
    let upload = ingest.tus().created(create(&text));
    upload.head().expect(200, [("Upload-Metadata", &*text)]);
    let record = pipeline.spool().record("uploads", upload.id());
    assert_eq!(record["metadata_base64"]["note"], STANDARD.encode(&every));
    for byte in every {
        let answer = create(&format!("filename {}", STANDARD.encode([byte])));
        let wanted = match (0x20..=0x7e).contains(&byte) {
            true => 201,
            false => 400,
        };
        assert_eq!(answer.status, wanted, "{byte:#x}");
    }
    for bad in [
        "filename Y",
        "filename YQ=",
        "filename !",
        "filename YQ==YQ==",
        "note \u{e4}",
    ] {
        assert_eq!(create(bad).status, 400, "{bad}");
    }
}

#[test]
fn an_id_that_is_none_of_ours_is_404_for_every_method_and_reaches_no_file() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[("filename", "x")]);
    upload.patch(0, b"he").expect(204, []);
    for outside in ["x", "x.meta", "x.info", "x.lock"] {
        std::fs::write(pipeline.path(outside), "not ours").unwrap();
    }
    let root = pipeline.spool().root().parent().unwrap();
    let (logs, before) = (root.join("logs"), contents(root));
    let id = upload.id();
    let upper = id.to_uppercase();
    let mut ids: Vec<Vec<u8>> = [
        "..%2f..%2fx",
        "..%2F..%2Fx",
        "%2e%2e%2f%2e%2e%2fx",
        "..%252fx",
        "../../x",
        "..",
        ".",
        "%2e%2e",
        "..%5c..%5cx",
        "..\\..\\x",
        "%00",
        "%c0%ae%c0%ae%c0%afx",
        "..;/x",
        "\u{ff10}193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "%d0%b0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "\u{430}193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "FORMAT",
        ".tmp-0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b-abcd",
        &upper,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for more in [
        "%00", "/", ".meta", "%2f", "%20", "~", "\\", "x", "%0a", "%0d%0a", "//", "/.", "/..",
    ] {
        ids.push(format!("{id}{more}").into_bytes());
        ids.push(format!("{more}{id}").into_bytes());
    }
    ids.push([id.as_bytes(), b"\0"].concat());
    ids.push([b"\xff\xfe".as_slice(), id.as_bytes()].concat());
    ids.push("a".repeat(10_000).into_bytes());
    for bad in ids {
        for method in ["HEAD", "GET", "PATCH", "DELETE", "POST", "PUT"] {
            let mut request = format!("{method} /files/").into_bytes();
            request.extend_from_slice(&bad);
            request.extend_from_slice(
                b" HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 2\r\n\
                  Content-Type: application/offset+octet-stream\r\nContent-Length: 3\r\n\r\nllo",
            );
            let (_, response) = ask(&ingest, &request);
            // Bytes that no request line may have are HTTP's own business: 400.
            let allowed = [404, 400, 414];
            assert!(
                allowed.contains(&response.status),
                "{}: {response:?}",
                request.escape_ascii()
            );
        }
    }
    let concat = format!("final;/files/..%2f{id}");
    let headers = [("Upload-Concat", concat.as_str())];
    let refused = ingest.tus().request("POST", "/files/", &headers, b"");
    refused.expect(400, []);
    let same = |files: BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
        let kept = files.into_iter();
        kept.filter(|(path, _)| !path.starts_with(&logs)).collect()
    };
    assert_eq!(same(contents(root)), same(before));
    upload.head().expect(200, [("Upload-Offset", "2")]);
}
