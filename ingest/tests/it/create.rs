use super::server::{BYTES, TUS, TestServer, head, patch, path_of, wait_until};

fn post(fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{fields}Content-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn an_upload_is_created_filled_and_handed_over_whole() {
    let server = TestServer::start(&[]);
    let upload = server.create(11);
    server
        .ask(head(&upload))
        .expect(200, &[("Upload-Offset", "0"), ("Upload-Length", "11")]);
    server
        .ask(patch(&upload, 0, b"hello"))
        .expect(204, &[("Upload-Offset", "5")]);
    server
        .ask(patch(&upload, 3, b"lo"))
        .expect(409, &[("Upload-Offset", "5")]);
    server
        .ask(patch(&upload, 5, b" world"))
        .expect(204, &[("Upload-Offset", "11")]);
    assert_eq!(server.completed(&upload), b"hello world");
    server
        .ask(head(&upload))
        .expect(200, &[("Upload-Offset", "11"), ("Upload-Length", "11")]);
    server
        .ask(patch(&upload, 11, b""))
        .expect(204, &[("Upload-Offset", "11")]);
}

#[test]
fn an_upload_may_come_with_its_creation_in_whole_or_in_part() {
    for durability in ["every-patch", "on-finish", "none"] {
        let server = TestServer::start(&["--durability", durability]);
        let whole = server.ask(post(&format!("{BYTES}Upload-Length: 5\r\n"), "hello"));
        let whole = whole.expect(201, &[("Upload-Offset", "5")]);
        assert_eq!(
            server.completed(&path_of(whole.header("location").unwrap())),
            b"hello"
        );
        let part = server.ask(post(&format!("{BYTES}Upload-Length: 5\r\n"), "hel"));
        let part = part.expect(201, &[("Upload-Offset", "3")]);
        let part = path_of(part.header("location").unwrap());
        server.ask(patch(&part, 3, b"lo")).expect(204, &[]);
        assert_eq!(server.completed(&part), b"hello");
        let empty = server
            .ask(post("Upload-Length: 0\r\n", ""))
            .expect(201, &[]);
        assert_eq!(
            server.completed(&path_of(empty.header("location").unwrap())),
            b""
        );
    }
}

#[test]
fn a_creation_that_is_refused_for_what_came_along_leaves_no_upload() {
    let server = TestServer::start(&[]);
    let nothing_is_left = || {
        wait_until("nothing is left", || {
            std::fs::read_dir(server.path("uploads")).unwrap().count() == 0
        });
    };
    let wrong = "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let fields = format!("{BYTES}Upload-Length: 10\r\nUpload-Checksum: {wrong}\r\n");
    server.ask(post(&fields, "hello")).expect(460, &[]);
    nothing_is_left();
    // Whoever sent this was never told where it is.
    let mut cut = server.connect();
    cut.send(
        post(&format!("{BYTES}Upload-Length: 10\r\n"), "helloworld")
            .strip_suffix("world")
            .unwrap(),
    );
    cut.finish_sending();
    cut.response().expect(400, &[]);
    nothing_is_left();
}

#[test]
fn a_length_may_be_told_later_and_then_not_be_changed() {
    let server = TestServer::start(&[]);
    let created = server
        .ask(post("Upload-Defer-Length: 1\r\n", ""))
        .expect(201, &[]);
    let upload = path_of(created.header("location").unwrap());
    server
        .ask(head(&upload))
        .expect(200, &[("Upload-Defer-Length", "1")]);
    server
        .ask(patch(&upload, 0, b"abc"))
        .expect(204, &[("Upload-Offset", "3")]);
    let telling = |at: usize, length: usize, body: &str| {
        format!(
            "PATCH {upload} HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}Upload-Offset: {at}\r\n\
             Upload-Length: {length}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    server.ask(telling(3, 2, "")).expect(413, &[]);
    server
        .ask(telling(3, 6, ""))
        .expect(204, &[("Upload-Offset", "3")]);
    server
        .ask(head(&upload))
        .expect(200, &[("Upload-Length", "6")]);
    server.ask(telling(3, 7, "defg")).expect(400, &[]);
    server
        .ask(telling(3, 6, "def"))
        .expect(204, &[("Upload-Offset", "6")]);
    assert_eq!(server.completed(&upload), b"abcdef");
}

#[test]
fn metadata_is_kept_echoed_and_written_for_the_consumer() {
    let server = TestServer::start(&[]);
    let metadata = "filename d29ybGQucGRm,empty,bin /w==";
    let created = server.ask(post(
        &format!("Upload-Length: 0\r\nUpload-Metadata: {metadata}\r\n"),
        "",
    ));
    let upload = path_of(created.expect(201, &[]).header("location").unwrap());
    server
        .ask(head(&upload))
        .expect(200, &[("Upload-Metadata", metadata)]);
    let id = upload.rsplit('/').next().unwrap();
    let record = std::fs::read(server.path("completed").join(format!("{id}.meta"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["metadata"]["filename"], "world.pdf");
    assert_eq!(record["metadata"]["empty"], "");
    assert_eq!(record["metadata_base64"]["bin"], "/w==");
}

#[test]
fn a_terminated_upload_is_gone() {
    let server = TestServer::start(&[]);
    let upload = server.create(5);
    server.ask(patch(&upload, 0, b"hel")).expect(204, &[]);
    let delete = format!("DELETE {upload} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n");
    server
        .ask(&delete)
        .expect(204, &[("Tus-Resumable", "1.0.0")]);
    server.ask(&delete).expect(410, &[]);
    server.ask(head(&upload)).expect(410, &[]);
    server.ask(patch(&upload, 3, b"lo")).expect(410, &[]);
    assert_eq!(
        std::fs::read_dir(server.path("uploads")).unwrap().count(),
        0
    );
}

#[test]
fn what_does_not_exist_is_not_found_and_says_so_in_tus() {
    let server = TestServer::start(&[]);
    for path in [
        "/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "/files/0193A5F0-1C2D-7E3F-8A4B-5C6D7E8F9A0B",
        "/files/..%2f..%2fetc",
        "/files/x",
        "/elsewhere",
    ] {
        server
            .ask(head(path))
            .expect(404, &[("Tus-Resumable", "1.0.0")]);
    }
}

#[test]
fn while_the_spool_is_away_no_upload_counts_as_gone() {
    let server = TestServer::start(&[]);
    let upload = server.create(10);
    server.ask(patch(&upload, 0, b"hello")).expect(204, &[]);
    let spool = server.path("");
    let away = spool.with_file_name("away");
    let rename = |from, to| {
        #[expect(clippy::disallowed_methods, reason = "what an operator does")]
        std::fs::rename(from, to).unwrap();
    };
    let ask = |method: &str| {
        server.ask(format!(
            "{method} {upload} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n"
        ))
    };
    rename(&spool, &away);
    // As under a mount point whose filesystem is gone.
    std::fs::create_dir(&spool).unwrap();
    for method in ["HEAD", "GET", "DELETE"] {
        ask(method).expect(423, &[]);
    }
    server.ask(patch(&upload, 5, b"world")).expect(423, &[]);
    std::fs::remove_dir(&spool).unwrap();
    rename(&away, &spool);
    server.ask(patch(&upload, 5, b"world")).expect(204, &[]);
    assert_eq!(server.completed(&upload), b"helloworld");
}

#[test]
fn an_upload_that_would_not_fit_is_refused_before_it_exists() {
    let server = TestServer::start(&["--max-size", "10"]);
    server
        .ask(post("Upload-Length: 11\r\n", ""))
        .expect(413, &[]);
    let server = TestServer::start(&["--min-free", "8EiB"]);
    server
        .ask(post("Upload-Length: 11\r\n", ""))
        .expect(507, &[]);
    let huge = format!("Upload-Length: {}\r\n", i64::MAX);
    TestServer::start(&[]).ask(post(&huge, "")).expect(507, &[]);
    assert_eq!(
        std::fs::read_dir(server.path("uploads")).unwrap().count(),
        0
    );
}

#[test]
fn a_method_may_be_overridden() {
    let server = TestServer::start(&[]);
    let upload = server.create(5);
    let request = format!(
        "POST {upload} HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}X-HTTP-Method-Override: PATCH\r\n\
         Upload-Offset: 0\r\nContent-Length: 5\r\n\r\nhello"
    );
    server.ask(request).expect(204, &[("Upload-Offset", "5")]);
}

#[test]
fn the_location_is_absolute_unless_an_unknown_proxy_stands_between() {
    let server = TestServer::start(&[]);
    let location = |fields: &str| {
        let request = post(&format!("{fields}Upload-Length: 1\r\n"), "");
        server
            .ask(request)
            .expect(201, &[])
            .header("location")
            .unwrap()
            .to_owned()
    };
    assert!(
        location("").starts_with("http://x/files/"),
        "{}",
        location("")
    );
    let relative = location("X-Forwarded-Proto: https\r\n");
    assert!(!relative.contains("//"), "{relative}");
    let trusting = TestServer::start(&["--trusted-proxies", "127.0.0.0/8"]);
    let request = post("X-Forwarded-Proto: https\r\nUpload-Length: 1\r\n", "");
    let response = trusting.ask(request).expect(201, &[]);
    assert!(
        response
            .header("location")
            .unwrap()
            .starts_with("https://x/files/")
    );
}

#[test]
fn an_idle_upload_says_when_it_goes_and_is_gone_then() {
    let server = TestServer::start(&["--expire-after", "1s"]);
    let created = server
        .ask(post("Upload-Length: 5\r\n", ""))
        .expect(201, &[]);
    assert!(created.header("upload-expires").unwrap().ends_with("GMT"));
    let upload = path_of(created.header("location").unwrap());
    let answer = server.ask(patch(&upload, 0, b"hel")).expect(204, &[]);
    assert!(answer.header("upload-expires").is_some());
    wait_until("it is gone", || server.ask(head(&upload)).status == 410);
    server.ask(patch(&upload, 3, b"lo")).expect(410, &[]);
    // A complete one never is.
    let whole = server
        .ask(post(&format!("{BYTES}Upload-Length: 2\r\n"), "ab"))
        .expect(201, &[]);
    assert_eq!(whole.header("upload-expires"), None);
}

#[test]
fn a_page_of_a_listed_origin_may_upload() {
    let server = TestServer::start(&["--cors-origin", "https://a.example,https://b.example"]);
    let preflight = |origin: &str| {
        server.ask(format!(
            "OPTIONS /files/ HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\n\r\n"
        ))
    };
    let allowed = preflight("https://b.example").expect(204, &[]);
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://b.example")
    );
    assert!(
        allowed
            .header("access-control-allow-headers")
            .unwrap()
            .contains("Upload-Offset")
    );
    let other = preflight("https://c.example").expect(204, &[("Vary", "Origin")]);
    assert_eq!(other.header("access-control-allow-origin"), None);
    let created = server.ask(post(
        "Origin: https://a.example\r\nUpload-Length: 1\r\n",
        "",
    ));
    let exposed = created.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("Location"));
}
