use super::server::{BYTES, TUS, TestServer, patch, patch_head};

/// SHA-1 of `hello` and CRC-32 of it, in Base64.
const HELLO: [&str; 2] = ["sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=", "crc32 NhCmhg=="];
const WRONG: &str = "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn checked(upload: &str, checksum: &str, body: &str) -> String {
    let field = format!("\r\nUpload-Checksum: {checksum}\r\n\r\n");
    patch_head(upload, 0, body.len()).replace("\r\n\r\n", &field) + body
}

fn chunked(upload: &str, announced: bool, checksum: &str) -> String {
    let announce = if announced {
        "Trailer: Upload-Checksum\r\n"
    } else {
        ""
    };
    format!(
        "PATCH {upload} HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}{announce}Upload-Offset: 0\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nUpload-Checksum: {checksum}\r\n\r\n"
    )
}

#[test]
fn bytes_count_only_if_their_checksum_is_right() {
    let server = TestServer::start(&[]);
    for checksum in HELLO {
        let upload = server.create(5);
        server
            .ask(checked(&upload, WRONG, "hello"))
            .expect(460, &[]);
        server
            .ask(checked(&upload, checksum, "hellO"))
            .expect(460, &[]);
        assert_eq!(server.offset(&upload), 0);
        server
            .ask(checked(&upload, "rot13 aGVsbG8=", "hello"))
            .expect(400, &[]);
        server
            .ask(checked(&upload, checksum, "hello"))
            .expect(204, &[("Upload-Offset", "5")]);
        assert_eq!(server.completed(&upload), b"hello");
    }
}

#[test]
fn a_checksum_may_follow_the_body_announced_or_not() {
    let server = TestServer::start(&[]);
    for announced in [true, false] {
        for checksum in HELLO {
            let upload = server.create(5);
            server
                .ask(chunked(&upload, announced, WRONG))
                .expect(460, &[]);
            assert_eq!(server.offset(&upload), 0);
            server
                .ask(chunked(&upload, announced, checksum))
                .expect(204, &[]);
            assert_eq!(server.completed(&upload), b"hello");
        }
    }
}

#[test]
fn a_body_that_breaks_off_before_its_checksum_could_be_right_leaves_nothing() {
    let server = TestServer::start(&[]);
    let upload = server.create(10);
    server.ask(patch(&upload, 0, b"he")).expect(204, &[]);
    let mut connection = server.connect();
    let head = checked(&upload, HELLO[0], "").replace("Offset: 0", "Offset: 2");
    connection.send(head.replace("Content-Length: 0", "Content-Length: 8"));
    connection.send("llo");
    connection.finish_sending();
    connection.response().expect(400, &[]);
    assert_eq!(server.offset(&upload), 2);
}

#[test]
fn an_upload_of_which_only_the_checked_part_is_missing_is_not_handed_over_early() {
    let server = TestServer::start(&[]);
    let upload = server.create(5);
    let mut silent = server.connect();
    silent.send(checked(&upload, WRONG, "hello"));
    silent.response().expect(460, &[]);
    assert!(
        !server
            .path("completed")
            .join(upload.rsplit('/').next().unwrap())
            .is_file()
    );
    server.ask(patch(&upload, 0, b"HELLO")).expect(204, &[]);
    assert_eq!(server.completed(&upload), b"HELLO");
}
