//! Other people's servers, where `./check --long` has installed them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::noise;

/// Starting a server takes less.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running server and its directory.
struct Peer {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
    /// Below the directory.
    uploads: &'static str,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Past the capture of test output: a test that did not run must not look as if it had.
fn skip(what: &str, why: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci, "the client cannot be tried against {what}: {why}");
    writeln!(
        io::stderr(),
        "SKIPPED: the client was not tried against {what}: {why}"
    )
    .ok();
}

/// Something below the directory of `scripts/install-test-tools`.
fn installed(what: &str, path: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("test-tools").join(path);
    if path.try_exists().unwrap() {
        return Some(path);
    }
    skip(what, "`./check --long` installs it");
    None
}

fn tusd() -> Option<PathBuf> {
    installed("tusd", "tusd/tusd")
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Peer {
    /// Again with another port where somebody else took the one that was free.
    fn start(command: impl Fn(&str, &Path) -> Command) -> Self {
        let until = Instant::now() + DEADLINE;
        loop {
            let directory = tempfile::tempdir().unwrap();
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut command = command(&address.port().to_string(), directory.path());
            let quiet = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut peer = Self {
                process: quiet.spawn().unwrap(),
                address,
                directory,
                uploads: "",
            };
            while peer.process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return peer;
                }
                assert!(Instant::now() < until, "{command:?} does not listen");
                thread::sleep(Duration::from_millis(20));
            }
            assert!(Instant::now() < until, "{command:?} ends");
        }
    }

    fn tusd(binary: &Path) -> Self {
        Self::start(|port, directory| {
            let mut command = Command::new(binary);
            command.args(["-host", "127.0.0.1", "-port", port, "-base-path", "/files/"]);
            command.arg("-upload-dir").arg(directory);
            command
        })
    }

    fn node(script: &Path) -> Self {
        Self::start(|port, directory| {
            let mut command = Command::new("node");
            command.arg(script).arg(port).arg(directory);
            command
        })
    }

    /// This project's own server, if it was built beside the client.
    fn ingest(binary: &Path) -> Self {
        let mut peer = Self::start(|port, directory| {
            let mut command = Command::new(binary);
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--allow-overlay"]);
            command.arg("--spool").arg(directory);
            command
        });
        peer.uploads = "completed";
        peer
    }

    /// What the server has under the URL that the client tells.
    fn contents(&self, line: &str) -> Vec<u8> {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["url"]
            .as_str()
            .unwrap()
            .rsplit_once('/')
            .unwrap()
            .1
            .to_owned();
        let path = self.directory.path().join(self.uploads).join(id);
        // What came in parts may be put together after the answer.
        let until = Instant::now() + DEADLINE;
        while !path.try_exists().unwrap() {
            assert!(Instant::now() < until, "{} does not come", path.display());
            thread::sleep(Duration::from_millis(20));
        }
        fs::read(path).unwrap()
    }
}

/// Passes everything on, but cuts each of the first connections after some bytes from the client.
fn cutting_proxy(to: SocketAddr, cuts: &'static [u64]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let limits = cuts.iter().copied().chain(std::iter::repeat(u64::MAX));
        for (client, limit) in listener.incoming().flatten().zip(limits) {
            let server = TcpStream::connect(to).unwrap();
            let (mut back, mut out) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut back, &mut out).ok());
            thread::spawn(move || {
                io::copy(&mut (&client).take(limit), &mut &server).ok();
                for side in [&client, &server] {
                    side.shutdown(Shutdown::Both).ok();
                }
            });
        }
    });
    address
}

fn every_way_of_sending_works(peer: &Peer, extensions: &[&[&str]]) {
    let client = Client::of(format!("http://{}/files/", peer.address));
    client.file("large.bin", &noise(5_000_000));
    client.file("small.txt", &noise(1000));
    client.file("empty", b"");
    let plain: &[&[&str]] = &[
        &["large.bin"],
        &["large.bin", "--chunk-size", "1MiB"],
        &["small.txt", "--metadata", "note=a,b c"],
        &["small.txt", "--one-request", "0"],
        &["empty"],
    ];
    for arguments in [plain, extensions].concat() {
        let ended = client.run(&[arguments, &["--json"]].concat()).expect(0);
        let expected = fs::read(client.home.path().join(arguments[0])).unwrap();
        assert!(
            peer.contents(&ended.out) == expected,
            "{arguments:?} arrived otherwise"
        );
    }
    let stream = noise(3_000_000);
    for chunk in ["1MiB", "1000000", "8MiB"] {
        let ended = client
            .run_with_input(&["-", "--json", "-c", chunk], &stream)
            .expect(0);
        assert!(
            peer.contents(&ended.out) == stream,
            "a stream by {chunk} arrived otherwise"
        );
    }
}

fn cut_connections_are_resumed(peer: &Peer, extra: &[&str]) {
    let proxy = cutting_proxy(peer.address, &[700_000, 300_000, 1_500_000, 100]);
    let client = Client::of(format!("http://{proxy}/files/"));
    client.file("large.bin", &noise(5_000_000));
    let arguments = [&["large.bin", "--json", "--backoff", "200ms"], extra].concat();
    let ended = client.run(&arguments).expect(0);
    assert!(ended.err.contains("trying again"), "{}", ended.err);
    assert!(
        peer.contents(&ended.out) == noise(5_000_000),
        "it arrived otherwise"
    );
}

#[test]
fn tusd_gets_every_file_whole() {
    let Some(binary) = tusd() else { return };
    let peer = Peer::tusd(&binary);
    every_way_of_sending_works(&peer, &[&["large.bin", "--parallel", "3"]]);
    cut_connections_are_resumed(&peer, &[]);
    cut_connections_are_resumed(&peer, &["--parallel", "2"]);
}

#[test]
fn the_node_server_gets_every_file_whole() {
    let Some(script) = installed("@tus/server", "tus_node_server.mjs") else {
        return;
    };
    let peer = Peer::node(&script);
    every_way_of_sending_works(&peer, &[]);
    cut_connections_are_resumed(&peer, &[]);
}

#[test]
fn ingest_gets_every_file_whole() {
    let binary = Path::new(env!("CARGO_BIN_EXE_upload")).with_file_name("ingest");
    if !binary.is_file() {
        return skip("ingest", "it was not built; cargo build -p ingest does it");
    }
    let peer = Peer::ingest(&binary);
    let arguments: &[&[&str]] = &[
        &["large.bin", "--parallel", "3"],
        &["large.bin", "--checksum", "sha1"],
        &["large.bin", "--checksum", "sha256", "--chunk-size", "1MB"],
        &["large.bin", "--checksum", "sha512"],
        &["large.bin", "--checksum", "blake3"],
        &["large.bin", "--checksum", "md5"],
        &["large.bin", "--checksum", "crc32"],
    ];
    every_way_of_sending_works(&peer, arguments);
    cut_connections_are_resumed(&peer, &[]);
    cut_connections_are_resumed(&peer, &["--parallel", "2"]);
    cut_connections_are_resumed(&peer, &["--checksum", "crc32", "--chunk-size", "1MB"]);
}

/// A certificate for this computer, and its key.
fn certificate(directory: &Path) -> [PathBuf; 2] {
    let paths = ["certificate.pem", "key.pem"].map(|name| directory.join(name));
    must(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([
                "-out".as_ref(),
                paths[0].as_os_str(),
                "-keyout".as_ref(),
                paths[1].as_os_str(),
            ]),
    );
    paths
}

#[test]
fn a_certificate_must_be_trusted_or_waived() {
    let Some(binary) = tusd() else { return };
    let keys = tempfile::tempdir().unwrap();
    let [certificate, key] = certificate(keys.path());
    let peer = Peer::start(|port, directory| {
        let mut command = Command::new(&binary);
        command.args(["-host", "127.0.0.1", "-port", port, "-base-path", "/files/"]);
        command
            .arg("-tls-certificate")
            .arg(&certificate)
            .arg("-tls-key")
            .arg(&key);
        command.arg("-upload-dir").arg(directory);
        command
    });
    let client = Client::of(format!("https://{}/files/", peer.address));
    client.file("file", &noise(500_000));
    let ended = client.run(&["file"]).expect(4);
    assert!(ended.err.contains("certificate"), "{}", ended.err);
    assert!(!ended.err.contains("trying again"), "{}", ended.err);
    for trust in [
        &["--cacert", certificate.to_str().unwrap()][..],
        &["--insecure"],
    ] {
        let ended = client.run(&[&["file", "--json"], trust].concat()).expect(0);
        assert!(
            peer.contents(&ended.out) == noise(500_000),
            "it arrived otherwise"
        );
    }
}

#[test]
fn uploads_are_removed_from_other_servers_and_their_states_are_not_waited_for() {
    let Some(binary) = tusd() else { return };
    let peer = Peer::tusd(&binary);
    let client = Client::of(format!("http://{}/files/", peer.address));
    client.file("small.json", b"{\"state\": 1}");
    let ended = client.run(&["small.json", "--json", "--wait"]).expect(3);
    let line: Value = serde_json::from_str(&ended.out).unwrap();
    let url = line["url"].as_str().unwrap();
    client.run(&["--terminate", url]).expect(0);
    client.run(&["--terminate", url]).expect(3);
}
