use super::server::{TUS, TestServer, head, patch, path_of, wait_until};

fn post(server: &TestServer, fields: &str) -> super::http::Response {
    server.ask(format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{fields}Content-Length: 0\r\n\r\n"
    ))
}

fn part(server: &TestServer, content: &[u8]) -> String {
    let length = content.len();
    let created = post(
        server,
        &format!("Upload-Concat: partial\r\nUpload-Length: {length}\r\n"),
    );
    let part = path_of(created.expect(201, &[]).header("location").unwrap());
    if !content.is_empty() {
        server.ask(patch(&part, 0, content)).expect(204, &[]);
    }
    part
}

fn join(server: &TestServer, parts: &[&str]) -> String {
    let created = post(
        server,
        &format!("Upload-Concat: final;{}\r\n", parts.join(" ")),
    );
    path_of(created.expect(201, &[]).header("location").unwrap())
}

#[test]
fn parts_become_one_upload_and_none_of_them_is_handed_over_by_itself() {
    let server = TestServer::start(&[]);
    let (a, b) = (part(&server, b"hello "), part(&server, b"world"));
    server
        .ask(head(&a))
        .expect(200, &[("Upload-Concat", "partial"), ("Upload-Offset", "6")]);
    let absolute = format!("http://x{b}");
    let whole = join(&server, &[&a, &absolute]);
    wait_until("it is joined", || {
        server.ask(head(&whole)).header("upload-offset") == Some("11")
    });
    server
        .ask(head(&whole))
        .expect(200, &[("Upload-Length", "11")]);
    assert_eq!(server.completed(&whole), b"hello world");
    server.ask(patch(&whole, 11, b"")).expect(403, &[]);
    assert_eq!(
        std::fs::read_dir(server.path("completed")).unwrap().count(),
        2
    );
}

#[test]
fn a_final_upload_waits_for_unfinished_parts_also_across_a_restart() {
    let mut server = TestServer::start(&[]);
    let a = part(&server, b"hello ");
    let created = post(&server, "Upload-Concat: partial\r\nUpload-Length: 5\r\n");
    let b = path_of(created.header("location").unwrap());
    let whole = join(&server, &[&a, &b]);
    assert_eq!(
        server
            .ask(head(&whole))
            .expect(200, &[])
            .header("upload-offset"),
        None
    );
    // A part that is still needed is not removed.
    let delete = format!("DELETE {a} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n");
    server.ask(&delete).expect(423, &[]);
    server.stop();
    server.join();
    let server = server.beside(&[]);
    server.ask(patch(&b, 0, b"world")).expect(204, &[]);
    wait_until("it is joined", || {
        server.ask(head(&whole)).header("upload-offset") == Some("11")
    });
    assert_eq!(server.completed(&whole), b"hello world");
    server.ask(&delete).expect(204, &[]);
}

#[test]
fn what_is_no_part_cannot_be_joined() {
    let server = TestServer::start(&[]);
    let whole = server.create(5);
    for url in [
        whole.as_str(),
        "/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "http://y/files/x",
    ] {
        post(&server, &format!("Upload-Concat: final;{url}\r\n")).expect(400, &[]);
    }
}
