//! Events: told to a command and to a signed endpoint, `completed` at least once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use shared::ending::{self, End};
use shared::record::Place;
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

use super::server::{BYTES, TUS, TestServer, patch, path_of, wait_until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A command that writes down what it is told, one message a line.
struct Notebook {
    dir: tempfile::TempDir,
}

impl Notebook {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("messages")
    }

    /// The command, with `then` at its end.
    fn command(&self, then: &str) -> String {
        // One write per message: two commands at once do not mix their lines.
        let script = format!("m=$(cat); echo \"$m\" >>{}; {then}", self.path().display());
        format!("/bin/sh -c {}", shell_words::quote(&script))
    }

    fn messages(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path()).unwrap_or_default();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Types of the messages about an upload, in order.
    fn types(&self, upload: &str) -> Vec<String> {
        let id = upload.rsplit('/').next().unwrap();
        let about = self
            .messages()
            .into_iter()
            .filter(|m| m["data"]["upload_id"] == id);
        about
            .map(|m| m["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// An endpoint that writes down requests and gives the same answer to all.
struct Endpoint {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<&'static str>>,
}

impl Endpoint {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let answers = Arc::clone(&answer);
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, heard) = (stream.unwrap(), Arc::clone(&heard));
                let answers = Arc::clone(&answers);
                std::thread::spawn(move || {
                    let mut request = String::new();
                    let mut buffer = [0; 4096];
                    while !request.ends_with("}}") {
                        match stream.read(&mut buffer) {
                            Ok(n @ 1..) => {
                                request.push_str(std::str::from_utf8(&buffer[..n]).unwrap())
                            }
                            _ => return,
                        }
                    }
                    let answer = *answers.lock().unwrap();
                    heard.lock().unwrap().push(request);
                    stream.write_all(answer.as_bytes()).ok();
                    if answer.is_empty() {
                        // Hangs until the caller has had enough.
                        stream.read_to_end(&mut Vec::new()).ok();
                    }
                });
            }
        });
        Self {
            address,
            requests,
            answer,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/told", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

const NO: &str = "HTTP/1.1 503 Later\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

fn outbox(server: &TestServer) -> usize {
    std::fs::read_dir(server.path("outbox")).unwrap().count()
}

/// An upload of five bytes, whole in one request.
fn post(server: &TestServer) -> String {
    let created = server.ask(format!(
        "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}Upload-Length: 5\r\n\
         Upload-Metadata: filename YQ==\r\nContent-Length: 5\r\n\r\nhello"
    ));
    let created = created.expect(201, &[]);
    path_of(created.header("location").unwrap())
}

fn delete(server: &TestServer, upload: &str) {
    server
        .ask(format!("DELETE {upload} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n"))
        .expect(204, &[]);
}

#[test]
fn a_command_is_told_what_happens_in_its_order() {
    let notebook = Notebook::new();
    let server = TestServer::start(&["--on-event", &notebook.command("")]);
    let upload = server.create(11);
    server.ask(patch(&upload, 0, b"hello")).expect(204, &[]);
    server.ask(patch(&upload, 5, b" world")).expect(204, &[]);
    let whole = post(&server);
    let ended = server.create(3);
    delete(&server, &ended);
    let all = [
        (&upload, "completed"),
        (&whole, "completed"),
        (&ended, "terminated"),
    ];
    wait_until("everything is told", || {
        all.iter()
            .all(|(upload, last)| notebook.types(upload).last().is_some_and(|l| l == last))
    });
    for upload in [&upload, &whole] {
        assert_eq!(notebook.types(upload), ["created", "progress", "completed"]);
    }
    assert_eq!(notebook.types(&ended), ["created", "terminated"]);
    wait_until("nothing is owed", || outbox(&server) == 0);
    let messages = notebook.messages();
    let of = |kind: &str, upload: &str| {
        let id = upload.rsplit('/').next().unwrap();
        let found = messages
            .iter()
            .find(|m| m["type"] == kind && m["data"]["upload_id"] == id);
        found.unwrap()["data"].clone()
    };
    // Told after the first bytes; those that came within the same second come with the next.
    assert_eq!(of("progress", &upload)["bytes_written"], 5);
    assert_eq!(of("progress", &upload)["offset"], 5);
    let completed = of("completed", &whole);
    assert_eq!(
        (&completed["offset"], &completed["length"]),
        (&5.into(), &5.into())
    );
    assert_eq!(completed["metadata"]["filename"], "a");
    assert!(completed["finished_at"].as_str().unwrap().ends_with('Z'));
    assert!(completed["duration"].as_str().unwrap().starts_with("PT"));
    assert!(completed["created_at"].as_f64().unwrap() > 1.6e9);
}

#[test]
fn an_endpoint_can_tell_by_the_signature_that_a_message_is_ours() {
    let endpoint = Endpoint::start(OK);
    let flags = ["--event-url", &endpoint.url(), "--event-secret", SECRET];
    let server = TestServer::start(&flags);
    let upload = post(&server);
    let id = upload.rsplit('/').next().unwrap();
    wait_until("both are told", || 3 <= endpoint.requests().len());
    for request in endpoint.requests() {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let field = |name: &str| {
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap().to_owned()
        };
        let message: Value = serde_json::from_str(body).unwrap();
        let kind = message["type"].as_str().unwrap();
        let event = field("webhook-id");
        assert!(event.starts_with(&format!("{id}-{kind}")), "{event}");
        let key = STANDARD
            .decode(SECRET.strip_prefix("whsec_").unwrap())
            .unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{event}.{}.{body}", field("webhook-timestamp")).as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(field("webhook-signature"), expected);
        assert!(!request.contains(SECRET));
    }
    wait_until("nothing is owed", || outbox(&server) == 0);
}

#[test]
fn completed_is_told_again_until_it_is_heard_and_to_nobody_twice() {
    let notebook = Notebook::new();
    let endpoint = Endpoint::start(NO);
    let url = endpoint.url();
    let flags = [
        "--event-url",
        &url,
        "--event-secret",
        SECRET,
        "--events",
        "completed",
    ];
    let server = TestServer::start(&[&flags[..], &["--on-event", &notebook.command("")]].concat());
    let upload = post(&server);
    wait_until("both were told", || {
        notebook.types(&upload) == ["completed"] && !endpoint.requests().is_empty()
    });
    assert_eq!(outbox(&server), 1);
    *endpoint.answer.lock().unwrap() = OK;
    wait_until("the endpoint has heard", || outbox(&server) == 0);
    assert!(2 <= endpoint.requests().len());
    assert_eq!(notebook.types(&upload), ["completed"]);
}

#[test]
fn what_was_owed_when_a_server_stopped_is_told_by_the_next_also_if_the_upload_is_gone() {
    let server = TestServer::start(&["--on-event", "false", "--events", "completed"]);
    let (kept, ended) = (post(&server), post(&server));
    delete(&server, &ended);
    assert_eq!(outbox(&server), 2);
    let notebook = Notebook::new();
    let _next = server.beside(&["--on-event", &notebook.command(""), "--events", "completed"]);
    for upload in [&kept, &ended] {
        wait_until("it is told", || notebook.types(upload) == ["completed"]);
    }
    wait_until("nothing is owed", || outbox(&server) == 0);
}

#[test]
fn an_upload_that_the_janitor_let_expire_is_told_of() {
    let server = TestServer::start(&["--on-event", "false"]);
    let upload = server.create(5);
    let spool = Spool::open(&server.path(""), Options::default()).unwrap();
    let id = upload.rsplit('/').next().unwrap().parse().unwrap();
    let ended = ending::end(&spool, id, Place::Expired, UnixTime::now()).unwrap();
    assert_eq!(ended, End::Ended);
    assert_eq!(outbox(&server), 1);
    let notebook = Notebook::new();
    let next = server.beside(&["--on-event", &notebook.command("")]);
    wait_until("it is told", || notebook.types(&upload) == ["expired"]);
    wait_until("nothing is owed", || outbox(&next) == 0);
}

#[test]
fn listeners_that_hang_crash_or_talk_without_end_hold_up_no_upload() {
    let silent = Endpoint::start("");
    let cases = [
        "sleep 1000",
        "kill -SEGV $$",
        "yes",
        "yes >&2",
        "head -c 100000000 /dev/zero",
    ];
    for script in cases {
        let command = format!("/bin/sh -c {}", shell_words::quote(script));
        let url = silent.url();
        let hung = [
            "--event-url",
            &url,
            "--event-secret",
            SECRET,
            "--event-timeout",
            "1h",
        ];
        let server = TestServer::start(&[&hung[..], &["--on-event", &command]].concat());
        // Many more events than the queue has room for, each told to nobody.
        for _ in 0..40 {
            let upload = post(&server);
            assert_eq!(server.completed(&upload), b"hello");
        }
        // What is owed stays owed.
        assert_eq!(outbox(&server), 40, "{script}");
    }
}

#[test]
fn without_listeners_nothing_is_owed() {
    let server = TestServer::start(&[]);
    post(&server);
    assert_eq!(outbox(&server), 0);
    let progress = server.beside(&["--on-event", "true", "--events", "created,progress"]);
    post(&progress);
    assert_eq!(outbox(&server), 0);
}
