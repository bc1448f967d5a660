//! `--on-create`: the operator's word on every upload, whatever his program does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use serde_json::Value;
use shared::record;

use super::http::Response;
use super::server::{BYTES, PATIENCE, TUS, TestServer, head, path_of};

fn create(server: &TestServer, fields: &str) -> Response {
    server.ask(format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}Upload-Length: 5\r\n{fields}\r\n"
    ))
}

/// Whether there is anything of any upload.
fn is_empty(server: &TestServer) -> bool {
    ["uploads", "completed", "receipts"].iter().all(|dir| {
        std::fs::read_dir(server.path(dir))
            .unwrap()
            .next()
            .is_none()
    })
}

fn shell(script: &str) -> String {
    format!("/bin/sh -c {}", shell_words::quote(script))
}

/// An endpoint that gives the same answer to every request and tells what it was asked.
struct Endpoint {
    address: SocketAddr,
    asked: mpsc::Receiver<String>,
}

impl Endpoint {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                let mut buffer = [0; 4096];
                while !request.ends_with('}') {
                    let n = stream.read(&mut buffer).unwrap();
                    request.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
                }
                stream.write_all(answer.as_bytes()).ok();
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}/create", self.address)
    }
}

#[test]
fn what_the_command_returns_is_kept_in_the_record_and_told_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let script = format!(
        "cat >{}; echo '{{\"server_metadata\": {{\"user\": \"grace\"}}}}'",
        seen.display()
    );
    let server = TestServer::start(&["--on-create", &shell(&script)]);
    let fields = "Upload-Metadata: filename YS50eHQ=\r\nAuthorization: Bearer 7\r\n";
    let created = create(&server, fields).expect(201, &[]);
    let upload = path_of(created.header("location").unwrap());
    let id = upload.rsplit('/').next().unwrap();

    let asked: Value = serde_json::from_slice(&std::fs::read(seen).unwrap()).unwrap();
    assert_eq!((&asked["id"], &asked["length"]), (&id.into(), &5.into()));
    assert_eq!(asked["metadata"]["filename"], "a.txt");
    assert_eq!(asked["headers"]["authorization"], "Bearer 7");
    assert_eq!(asked["path"], "/files/");
    assert!(asked["remote"].as_str().unwrap().starts_with("127.0.0.1:"));

    let record = record::read(&server.path("uploads").join(format!("{id}.meta"))).unwrap();
    assert_eq!(record.rest.server_metadata["user"], "grace");
    assert_eq!(record.rest.metadata["filename"], "a.txt");
    for method in ["HEAD", "GET"] {
        let asked = format!("{method} {upload} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n");
        assert!(!format!("{:?}", server.ask(asked)).contains("grace"));
    }
}

#[test]
fn an_endpoint_is_asked_in_the_same_words() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 36\r\nConnection: close\r\n\r\n\
                  {\"server_metadata\": {\"user\": \"lin\"}}";
    let endpoint = Endpoint::start(answer);
    let server = TestServer::start(&["--on-create", &endpoint.url()]);
    let created = create(&server, "X-Token: 7\r\n").expect(201, &[]);
    let upload = path_of(created.header("location").unwrap());
    let id = upload.rsplit('/').next().unwrap();
    let request = endpoint.asked.recv_timeout(PATIENCE).unwrap();
    assert!(
        request.starts_with("POST /create HTTP/1.1\r\n"),
        "{request}"
    );
    let body = request.split("\r\n\r\n").nth(1).unwrap();
    let asked: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&asked["id"], &asked["headers"]["x-token"]),
        (&id.into(), &"7".into())
    );
    let record = record::read(&server.path("uploads").join(format!("{id}.meta"))).unwrap();
    assert_eq!(record.rest.server_metadata["user"], "lin");
}

#[test]
fn a_no_comes_with_its_status_and_text_before_a_byte_of_the_body() {
    let script = r#"echo '{"reject": {"status": 402, "text": "pay first"}}'"#;
    let server = TestServer::start(&["--on-create", &shell(script)]);
    let refused = create(&server, "").expect(402, &[("Tus-Resumable", "1.0.0")]);
    assert_eq!(refused.body, "rejected: pay first\n");
    let mut connection = server.connect();
    connection.send(format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}Upload-Length: 5\r\n\
         Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    ));
    connection.response().expect(402, &[]);
    assert!(is_empty(&server));

    let endpoint =
        Endpoint::start("HTTP/1.1 401 Who\r\nContent-Length: 6\r\nConnection: close\r\n\r\nlog in");
    let server = TestServer::start(&["--on-create", &endpoint.url()]);
    assert_eq!(
        create(&server, "").expect(401, &[]).body,
        "rejected: log in\n"
    );
    assert!(is_empty(&server));
}

#[test]
fn a_command_that_crashes_hangs_or_talks_nonsense_refuses_and_the_server_goes_on() {
    let cases = [
        "exit 1",
        "kill -SEGV $$",
        "echo garbage",
        "echo '{\"server_metadata\": {\"a\": 1}}'",
        "head -c 100000000 /dev/zero",
        "yes",
        "cat >/dev/null; sleep 1000",
        "sleep 1000 & sleep 1000",
    ];
    for script in cases {
        let flags = ["--on-create", &shell(script), "--on-create-timeout", "1s"];
        let server = TestServer::start(&flags);
        let refused = create(&server, "").expect(503, &[("retry-after", "1")]);
        assert!(
            refused.body.starts_with("undecided: "),
            "{script}: {refused:?}"
        );
        assert!(is_empty(&server), "{script}");
    }
}

#[test]
fn an_endpoint_that_fails_hangs_or_talks_nonsense_refuses_and_the_server_goes_on() {
    let cases = [
        "",
        "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 404 Where\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 302 There\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ngarbage",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n{}",
        "\0\0\0\0",
    ];
    for answer in cases {
        let endpoint = Endpoint::start(answer);
        let flags = ["--on-create", &endpoint.url(), "--on-create-timeout", "1s"];
        let server = TestServer::start(&flags);
        create(&server, "").expect(503, &[]);
        assert!(is_empty(&server), "{answer}");
    }
}

#[test]
fn one_that_hangs_holds_up_nobody_who_does_not_create() {
    let server = TestServer::start(&[]);
    let upload = server.create(5);
    let strict = server.beside(&["--on-create", "sleep 1000", "--on-create-jobs", "1"]);
    // More than have a turn; none is answered while the others are.
    let mut waiting: Vec<_> = (0..3).map(|_| strict.connect()).collect();
    for connection in &mut waiting {
        connection.send(format!(
            "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}Upload-Length: 5\r\n\r\n"
        ));
    }
    strict.ask(head(&upload)).expect(200, &[]);
    strict
        .ask(super::server::patch(&upload, 0, b"hello"))
        .expect(204, &[]);
}

#[test]
fn those_who_wait_for_their_turn_are_answered_in_time_too() {
    let jobs = ["--on-create-jobs", "1", "--on-create-timeout", "1s"];
    let server = TestServer::start(&[&["--on-create", "sleep 1000"][..], &jobs].concat());
    // One after the other they would take longer than the client waits for any answer.
    let mut waiting: Vec<_> = (0..30).map(|_| server.connect()).collect();
    for connection in &mut waiting {
        connection.send(format!(
            "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}Upload-Length: 5\r\n\r\n"
        ));
    }
    for connection in &mut waiting {
        connection.response().expect(503, &[]);
    }
}
