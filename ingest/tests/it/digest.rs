use super::server::{BYTES, TUS, TestServer, head, patch, path_of, wait_until};

const HELLO_WORLD: &str = "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
/// `sha256` and the digest of `hello world` in hexadecimal, in Base64, as metadata.
const DECLARED: &str = "sha256 Yjk0ZDI3Yjk5MzRkM2UwOGE1MmU1MmQ3ZGE3ZGFiZmFjNDg0ZWZlMzdhNTM4MGVlOTA4OGY3YWNlMmVmY2RlOQ==";

fn create(server: &TestServer, fields: &str) -> String {
    let request = format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{fields}Upload-Length: 11\r\nContent-Length: 0\r\n\r\n"
    );
    path_of(
        server
            .ask(request)
            .expect(201, &[])
            .header("location")
            .unwrap(),
    )
}

fn digest(server: &TestServer, upload: &str) -> String {
    let id = upload.rsplit('/').next().unwrap();
    let record = std::fs::read(server.path("completed").join(format!("{id}.meta"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    record["digest"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_digest_of_the_whole_is_recorded_also_across_a_restart() {
    let mut server = TestServer::start(&["--digest", "sha256"]);
    let upload = create(&server, "");
    server.ask(patch(&upload, 0, b"hello ")).expect(204, &[]);
    server.ask(patch(&upload, 6, b"world")).expect(204, &[]);
    assert_eq!(digest(&server, &upload), HELLO_WORLD);
    let upload = create(&server, "");
    server.ask(patch(&upload, 0, b"hello ")).expect(204, &[]);
    server.stop();
    server.join();
    let server = server.beside(&["--digest", "sha256"]);
    server.ask(patch(&upload, 6, b"world")).expect(204, &[]);
    assert_eq!(digest(&server, &upload), HELLO_WORLD);
    let whole = format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}Upload-Length: 11\r\n\
         Content-Length: 11\r\n\r\nhello world"
    );
    let whole = server.ask(whole).expect(201, &[]);
    assert_eq!(
        digest(&server, &path_of(whole.header("location").unwrap())),
        HELLO_WORLD
    );
}

#[test]
fn what_a_client_declared_is_checked_before_the_hand_over() {
    let server = TestServer::start(&[]);
    let declared = format!("Upload-Metadata: {DECLARED}\r\n");
    let upload = create(&server, &declared);
    server.ask(patch(&upload, 0, b"hello ")).expect(204, &[]);
    server.ask(patch(&upload, 6, b"wOrld")).expect(460, &[]);
    server
        .ask(head(&upload))
        .expect(200, &[("Upload-Offset", "0")]);
    server
        .ask(patch(&upload, 0, b"hello world"))
        .expect(204, &[]);
    assert_eq!(digest(&server, &upload), HELLO_WORLD);
    let nonsense = "Upload-Metadata: sha256 eHl6\r\n";
    let request = format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{nonsense}Upload-Length: 11\r\nContent-Length: 0\r\n\r\n"
    );
    server.ask(request).expect(400, &[]);
}

#[test]
fn a_declared_digest_also_holds_for_parts_that_are_joined() {
    let server = TestServer::start(&[]);
    let request = |fields: &str| {
        format!("POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{fields}Content-Length: 0\r\n\r\n")
    };
    let part = |content: &[u8]| {
        let fields = format!(
            "Upload-Concat: partial\r\nUpload-Length: {}\r\n",
            content.len()
        );
        let part = path_of(server.ask(request(&fields)).header("location").unwrap());
        server.ask(patch(&part, 0, content)).expect(204, &[]);
        part
    };
    let (a, b) = (part(b"hello "), part(b"world"));
    let join = |parts: [&str; 2]| {
        let parts = parts.join(" ");
        let fields = format!("Upload-Metadata: {DECLARED}\r\nUpload-Concat: final;{parts}\r\n");
        path_of(
            server
                .ask(request(&fields))
                .expect(201, &[])
                .header("location")
                .unwrap(),
        )
    };
    let wrong = join([&b, &a]);
    wait_until("the wrong one is ended", || {
        server.ask(head(&wrong)).status == 410
    });
    let right = join([&a, &b]);
    wait_until("the right one is joined", || {
        server.ask(head(&right)).header("upload-offset") == Some("11")
    });
    assert_eq!(digest(&server, &right), HELLO_WORLD);
}

#[test]
fn a_draft_client_that_wants_the_digest_of_what_arrived_is_told() {
    let server = TestServer::start(&["--digest", "sha256"]);
    let wanted = "Want-Repr-Digest: sha-256=5, unixsum=10\r\n";
    let told = "sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:";
    let draft = |head: &str, fields: &str, body: &str| {
        let length = body.len();
        server.ask(format!(
            "{head} HTTP/1.1\r\nHost: x\r\nUpload-Draft-Interop-Version: 8\r\n{fields}\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    let begun = draft("POST /files/", "Upload-Complete: ?0\r\n", "");
    let upload = path_of(begun.expect(201, &[]).header("location").unwrap());
    let last = |offset: usize, complete: &str, more: &str| {
        format!(
            "Content-Type: application/partial-upload\r\nUpload-Offset: {offset}\r\n\
             Upload-Complete: {complete}\r\n{more}"
        )
    };
    let patch = format!("PATCH {upload}");
    let half = draft(&patch, &last(0, "?0", wanted), "hello ").expect(204, &[]);
    assert_eq!(half.header("repr-digest"), None);
    draft(&patch, &last(6, "?1", wanted), "world").expect(200, &[("Repr-Digest", told)]);
    let head = format!("HEAD {upload}");
    draft(&head, wanted, "").expect(204, &[("Repr-Digest", told)]);
    for other in [
        "",
        "Want-Repr-Digest: sha-256=0\r\n",
        "Want-Repr-Digest: md5=1\r\n",
    ] {
        let unasked = draft(&head, other, "").expect(204, &[]);
        assert_eq!(unasked.header("repr-digest"), None, "{other}");
    }
}
