//! A server on a port of its own over a spool of its own, ended with the test.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser as _;
use ingest::config::{Args, Config};
use ingest::server::Server;
use shared::startup::Shutdown;
use shared::startup::shutdown::Trigger;

use super::http::{Connection, Response};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const TUS: &str = "Tus-Resumable: 1.0.0\r\n";
pub(crate) const BYTES: &str = "Content-Type: application/offset+octet-stream\r\n";

pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    spool: Arc<tempfile::TempDir>,
    trigger: Trigger,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_on(Arc::new(tempfile::tempdir().unwrap()), flags)
    }

    /// Another server over the same spool, as if in another process: they share nothing else.
    pub(crate) fn beside(&self, flags: &[&str]) -> Self {
        Self::start_on(Arc::clone(&self.spool), flags)
    }

    fn start_on(spool: Arc<tempfile::TempDir>, flags: &[&str]) -> Self {
        let dir = spool.path().join("spool");
        let fixed = ["ingest", "--spool", dir.to_str().unwrap()];
        let args = Args::try_parse_from(fixed.iter().chain(flags)).unwrap();
        let server = Server::open(Config::try_from(args).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = Shutdown::manual();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(4)
                .enable_all()
                .build()
                .unwrap();
            let listeners = ingest::net::listen::Listeners {
                uploads: listener,
                admin: None,
            };
            runtime.block_on(server.run(listeners, shutdown)).unwrap();
        });
        Self {
            address,
            spool,
            trigger,
            thread: Some(thread),
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        let mut connection = self.connect();
        connection.send(request);
        connection.response()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.spool.path().join("spool").join(name)
    }

    /// What a finished upload consists of.
    pub(crate) fn completed(&self, upload: &str) -> Vec<u8> {
        let id = upload.rsplit('/').next().unwrap();
        std::fs::read(self.path("completed").join(id)).unwrap()
    }

    pub(crate) fn create(&self, length: usize) -> String {
        let response = self.ask(format!(
            "POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}Upload-Length: {length}\r\n\r\n"
        ));
        assert_eq!(response.status, 201, "{response:?}");
        path_of(response.header("location").unwrap())
    }

    pub(crate) fn offset(&self, upload: &str) -> u64 {
        let response = self.ask(head(upload));
        assert_eq!(response.status, 200, "{response:?}");
        response.header("upload-offset").unwrap().parse().unwrap()
    }

    /// Asks the server to stop; [`Self::join`] waits for it.
    pub(crate) fn stop(&self) {
        self.trigger.next();
    }

    pub(crate) fn join(&mut self) {
        let thread = self.thread.take().unwrap();
        wait_until("the server has stopped", || thread.is_finished());
        thread.join().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.trigger.next();
        self.trigger.next();
    }
}

/// The path of a URL, absolute or not.
pub(crate) fn path_of(location: &str) -> String {
    let rest = location.strip_prefix("http://").unwrap_or(location);
    rest.split_at(rest.find('/').unwrap()).1.to_owned()
}

pub(crate) fn head(upload: &str) -> String {
    format!("HEAD {upload} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n")
}

/// The head of a PATCH for `length` bytes at `offset`.
pub(crate) fn patch_head(upload: &str, offset: usize, length: usize) -> String {
    format!(
        "PATCH {upload} HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}Upload-Offset: {offset}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// A whole PATCH.
pub(crate) fn patch(upload: &str, offset: usize, body: &[u8]) -> Vec<u8> {
    [patch_head(upload, offset, body.len()).as_bytes(), body].concat()
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
