//! nginx, HAProxy and Caddy in front of ingest, configured as `deploy/` ships them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use tests::client::{Address, Tus, Upload};
use tests::needs::{Need, met};
use tests::payload;
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};
use tests::process::Process;
use tests::programs::workspace_dir;
use tests::wait::wait_until;

/// More than any proxy buffers.
const LARGE: usize = 24 << 20;

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A shipped configuration with other words in some places, each of which must be there.
fn adapted(pipeline: &Pipeline, name: &str, changes: &[(&str, String)]) -> String {
    let mut text = fs::read_to_string(workspace_dir().join("deploy").join(name)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, to);
    }
    let path = pipeline.path(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Creates an upload and follows its Location as a client does: relative to the endpoint.
fn create(tus: &Tus) -> Upload {
    let length = LARGE.to_string();
    let created = tus.request("POST", BASE_PATH, &[("Upload-Length", &length)], b"");
    let created = created.expect(201, []);
    let location = created.header("Location").unwrap();
    assert!(!location.contains("://"), "{location} names a server");
    match location.starts_with('/') {
        true => tus.upload(location),
        false => tus.upload(&format!("{BASE_PATH}{location}")),
    }
}

fn check(pipeline: &Pipeline, ingest: &Ingest<'_>, at: SocketAddr, _proxy: Process) {
    let tus = Tus::new(&Address::new(at), BASE_PATH);
    wait_until("the proxy", || {
        let answered = tus.try_request("OPTIONS", BASE_PATH, &[], b"").ok()?;
        (answered.status == 204).then_some(())
    });
    let bytes = payload::bytes(7, LARGE);

    // Location leads through the proxy, and a large body passes.
    let upload = create(&tus);
    upload.patch(0, &bytes).expect(204, []);
    assert_eq!(upload.offset(), LARGE as u64);

    // What came before the connection was cut is there, and the rest goes on from it.
    let upload = create(&tus);
    let half = LARGE / 2;
    let mut body = upload.begin_patch(0, LARGE as u64);
    body.send(&bytes[..half]).unwrap();
    wait_until("the first half to arrive", || {
        (upload.offset() == half as u64).then_some(())
    });
    body.reset();
    let resumed = wait_until("the upload to be free", || {
        let resumed = upload.try_patch(half as u64, &bytes[half..]).ok()?;
        (resumed.status != 423).then_some(resumed)
    });
    resumed.expect(204, []);
    let data = pipeline.spool().root().join("completed").join(upload.id());
    assert!(fs::read(data).unwrap() == bytes, "other bytes arrived");

    // An early error reaches the client, and the proxy stays usable.
    let upload = create(&tus);
    upload.patch(5, &bytes[..1 << 16]).expect(409, []);
    assert_eq!(upload.offset(), 0);
    upload.delete().expect(204, []);
    assert_eq!(upload.at(&ingest.tus()).head().status, 410);
}

#[test]
fn nginx_passes_uploads_on() {
    if !met(&[Need::Tool("nginx"), Need::Root]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--location", "relative"]);
    let at = free_address();
    let dir = pipeline.path("");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}{name};\n", dir.display()))
        .collect();
    let changes = [
        ("resolver 127.0.0.11 ipv6=off valid=2s;", String::new()),
        ("ingest:1080", ingest.address().get().to_string()),
        ("listen 80;", format!("listen {at};")),
        ("http {", format!("http {{\n{temporary}")),
    ];
    let config = adapted(&pipeline, "nginx.conf", &changes);
    let mut command = Command::new("/usr/sbin/nginx");
    let global = format!(
        "daemon off; pid {}nginx.pid; error_log stderr;",
        dir.display()
    );
    command.args(["-c", &config, "-g", &global, "-p"]).arg(&dir);
    let proxy = pipeline.start("nginx", command);
    check(&pipeline, &ingest, at, proxy);
}

#[test]
fn haproxy_passes_uploads_on() {
    if !met(&[Need::Tool("haproxy")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--location", "relative"]);
    let at = free_address();
    let check_port = ingest.address().get().port();
    // Both names are one server here: who passes on does not know.
    let changes = [
        ("bind :80", format!("bind {at}")),
        ("ingest-1:1080", ingest.address().get().to_string()),
        ("ingest-2:1080", ingest.address().get().to_string()),
        ("check port 9091", format!("check port {check_port}")),
        ("GET /readyz?exclude=space", "GET /".to_owned()),
    ];
    let config = adapted(&pipeline, "haproxy.cfg", &changes);
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f", &config]);
    let proxy = pipeline.start("haproxy", command);
    check(&pipeline, &ingest, at, proxy);
}

#[test]
fn caddy_passes_uploads_on() {
    if !met(&[Need::Tool("caddy")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--location", "relative"]);
    let at = free_address();
    let changes = [
        (":80 {", format!("{{\n\tadmin off\n}}\nhttp://{at} {{")),
        ("ingest:1080", ingest.address().get().to_string()),
    ];
    let config = adapted(&pipeline, "Caddyfile", &changes);
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config", &config]);
    command.env("HOME", pipeline.path(""));
    let proxy = pipeline.start("caddy", command);
    check(&pipeline, &ingest, at, proxy);
}
