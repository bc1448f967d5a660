//! What URLSession and tus-js-client send when they speak the draft.

use super::server::{TUS, TestServer, head, patch, path_of, wait_until};

fn post(version: u32, complete: &str, fields: &str, length: usize) -> String {
    format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\nUpload-Draft-Interop-Version: {version}\r\n\
         {complete}\r\n{fields}Content-Length: {length}\r\n\r\n"
    )
}

fn append(upload: &str, offset: usize, complete: &str, body: &str) -> String {
    format!(
        "PATCH {upload} HTTP/1.1\r\nHost: x\r\nUpload-Draft-Interop-Version: 6\r\n\
         Content-Type: application/partial-upload\r\nUpload-Offset: {offset}\r\n{complete}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn draft_head(upload: &str) -> String {
    format!("HEAD {upload} HTTP/1.1\r\nHost: x\r\nUpload-Draft-Interop-Version: 6\r\n\r\n")
}

#[test]
fn a_client_learns_where_its_upload_is_before_its_body_is_read_and_resumes_there() {
    let server = TestServer::start(&[]);
    for (version, complete) in [
        (3, "Upload-Incomplete: ?0"),
        (5, "Upload-Complete: ?1"),
        (6, "Upload-Complete: ?1"),
        (8, "Upload-Complete: ?1"),
    ] {
        let mut connection = server.connect();
        connection.send(post(version, complete, "", 10));
        let interim = connection.response().expect(104, &[]);
        let version = version.to_string();
        assert_eq!(
            interim.header("upload-draft-interop-version"),
            Some(version.as_str())
        );
        let upload = path_of(interim.header("location").unwrap());
        connection.send("hello");
        wait_until("the bytes have arrived", || {
            let told = server
                .ask(draft_head(&upload))
                .expect(204, &[("Upload-Complete", "?0")]);
            told.header("upload-offset") == Some("5")
        });
        drop(connection);
        let done = server.ask(append(&upload, 5, "Upload-Complete: ?1", "world"));
        let done = done.expect(200, &[("Upload-Complete", "?1"), ("Upload-Offset", "10")]);
        assert_eq!(done.header("tus-resumable"), None);
        assert_eq!(server.completed(&upload), b"helloworld");
        server
            .ask(draft_head(&upload))
            .expect(204, &[("Upload-Complete", "?1")]);
    }
}

#[test]
fn a_body_that_comes_whole_is_answered_with_201_after_the_104() {
    let server = TestServer::start(&[]);
    let mut connection = server.connect();
    let named = "Content-Disposition: inline; filename=\"a b.txt\"\r\n";
    connection.send(post(8, "Upload-Complete: ?1", named, 5));
    connection.send("hello");
    let interim = connection.response().expect(104, &[]);
    let done = connection
        .response()
        .expect(201, &[("Upload-Complete", "?1")]);
    assert_eq!(interim.header("location"), done.header("location"));
    let upload = path_of(done.header("location").unwrap());
    assert_eq!(server.completed(&upload), b"hello");
    let id = upload.rsplit('/').next().unwrap();
    let record = std::fs::read(server.path("completed").join(format!("{id}.meta"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["metadata"]["filename"], "a b.txt");
}

#[test]
fn the_104_can_be_switched_off_and_is_sent_to_nobody_who_cannot_know_it() {
    let server = TestServer::start(&["--no-interim"]);
    let whole = post(8, "Upload-Complete: ?1", "", 5) + "hello";
    server.ask(whole).expect(201, &[]);
    let server = TestServer::start(&["--draft", "all"]);
    let whole =
        "POST /files/ HTTP/1.1\r\nHost: x\r\nUpload-Complete: ?1\r\nContent-Length: 5\r\n\r\nhello";
    server.ask(whole).expect(201, &[("Upload-Complete", "?1")]);
}

#[test]
fn length_and_offset_do_not_complete_an_upload_of_the_draft_but_its_flag_does() {
    let server = TestServer::start(&[]);
    let created = server.ask(post(6, "Upload-Complete: ?0", "Upload-Length: 5\r\n", 0));
    let upload = path_of(created.expect(201, &[]).header("location").unwrap());
    server
        .ask(append(&upload, 0, "Upload-Complete: ?0", "hello"))
        .expect(204, &[]);
    server
        .ask(draft_head(&upload))
        .expect(204, &[("Upload-Complete", "?0")]);
    let id = upload.rsplit('/').next().unwrap();
    assert!(!server.path("completed").join(id).is_file());
    server
        .ask(append(&upload, 5, "Upload-Complete: ?1", ""))
        .expect(200, &[]);
    assert_eq!(server.completed(&upload), b"hello");
}

#[test]
fn an_upload_begun_in_one_protocol_can_be_finished_in_the_other() {
    let server = TestServer::start(&[]);
    let begun = server.ask(post(6, "Upload-Complete: ?0", "Upload-Length: 10\r\n", 5) + "hello");
    assert_eq!(begun.status, 104);
    let upload = path_of(begun.header("location").unwrap());
    wait_until("five bytes are kept", || {
        server.ask(head(&upload)).header("upload-offset") == Some("5")
    });
    server
        .ask(patch(&upload, 5, b"world"))
        .expect(204, &[("Upload-Offset", "10")]);
    assert_eq!(server.completed(&upload), b"helloworld");

    let upload = server.create(10);
    server.ask(patch(&upload, 0, b"hello")).expect(204, &[]);
    server
        .ask(append(&upload, 5, "Upload-Complete: ?1", "world"))
        .expect(200, &[]);
    assert_eq!(server.completed(&upload), b"helloworld");
}

#[test]
fn refusals_are_problem_details_and_a_version_not_spoken_is_never_412() {
    let server = TestServer::start(&[]);
    let upload = server.create(10);
    let refused = server.ask(append(&upload, 7, "Upload-Complete: ?0", "x"));
    let refused = refused.expect(409, &[("Upload-Offset", "0"), ("Upload-Complete", "?0")]);
    let problem: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(problem["expected-offset"], 0);
    assert_eq!(problem["provided-offset"], 7);
    server
        .ask(post(99, "Upload-Complete: ?1", "", 0))
        .expect(400, &[]);
    let cancel =
        format!("DELETE {upload} HTTP/1.1\r\nHost: x\r\nUpload-Draft-Interop-Version: 8\r\n\r\n");
    server.ask(cancel).expect(204, &[]);
    server.ask(draft_head(&upload)).expect(410, &[]);
    let off = TestServer::start(&["--draft", "off"]);
    off.ask(post(8, "Upload-Complete: ?1", "", 0))
        .expect(412, &[]);
}

#[test]
fn bytes_beyond_the_length_deactivate_an_upload_of_the_draft() {
    let server = TestServer::start(&[]);
    let created = server.ask(post(8, "Upload-Complete: ?0", "Upload-Length: 3\r\n", 0));
    let upload = path_of(created.header("location").unwrap());
    let refused = server.ask(append(&upload, 0, "Upload-Complete: ?1", "hello"));
    assert!((400..500).contains(&refused.status), "{refused:?}");
    let told = server.ask(format!("HEAD {upload} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n"));
    assert!(matches!(told.status, 200 | 410), "{told:?}");
}
