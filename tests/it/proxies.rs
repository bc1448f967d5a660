//! nginx, HAProxy, Caddy and Traefik in front of ingest, configured as `deploy/` ships them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use tests::client::{Address, Tus, Upload};
use tests::needs::{Need, met};
use tests::payload;
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};
use tests::process::Process;
use tests::programs::workspace_dir;
use tests::real_clients::test_tool;
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

/// Two ingests on one spool, behind a proxy that sends each request to any of them.
fn check_two(pipeline: &Pipeline, mut ingests: [Ingest<'_>; 2], at: SocketAddr, _proxy: Process) {
    let tus = Tus::new(&Address::new(at), BASE_PATH);
    wait_until("the proxy", || {
        let answered = tus.try_request("OPTIONS", BASE_PATH, &[], b"").ok()?;
        (answered.status == 204).then_some(())
    });
    let bytes = payload::bytes(8, LARGE);
    let upload = create(&tus);
    let step = LARGE / 16;
    for n in 0..8 {
        let part = &bytes[n * step..(n + 1) * step];
        upload.patch((n * step) as u64, part).expect(204, []);
    }
    for ingest in &ingests {
        wait_until("both to have received a part", || {
            ingest.process.log().contains("\"PATCH\"").then_some(())
        });
    }

    // One dies while it, or the other one, receives; what it had is not lost, nor is the rest.
    let half = LARGE / 2;
    let mut body = upload.begin_patch(half as u64, half as u64);
    body.send(&bytes[half..half + step]).unwrap();
    wait_until("a part to arrive", || {
        let head = tus.try_request("HEAD", upload.path(), &[], b"").ok()?;
        (head.status == 200 && half as u64 <= head.number("Upload-Offset")).then_some(())
    });
    ingests[0].process.kill();
    body.reset();
    wait_until("the rest to be taken by the other one", || {
        let head = tus.try_request("HEAD", upload.path(), &[], b"").ok()?;
        if head.status != 200 {
            return None;
        }
        let offset = head.number("Upload-Offset");
        let rest = &bytes[usize::try_from(offset).unwrap()..];
        let sent = upload.try_patch(offset, rest).ok()?;
        (sent.status == 204).then_some(())
    });
    let data = pipeline.spool().root().join("completed").join(upload.id());
    assert!(fs::read(data).unwrap() == bytes, "other bytes arrived");
}

/// nginx with an address that it passes on to, and more that belongs into its `http` block.
fn nginx(pipeline: &Pipeline, at: SocketAddr, ingest: &str, more: &str) -> Process {
    let dir = pipeline.path("");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}{name};\n", dir.display()))
        .collect();
    let changes = [
        ("resolver 127.0.0.11 ipv6=off valid=2s;", String::new()),
        ("ingest:1080", ingest.to_owned()),
        ("listen 80;", format!("listen {at};")),
        ("http {", format!("http {{\n{temporary}{more}")),
    ];
    let config = adapted(pipeline, "nginx.conf", &changes);
    let mut command = Command::new("/usr/sbin/nginx");
    let global = format!(
        "daemon off; pid {}nginx.pid; error_log stderr;",
        dir.display()
    );
    command.args(["-c", &config, "-g", &global, "-p"]).arg(&dir);
    pipeline.start("nginx", command)
}

/// Health is asked where requests go: what `--admin` says is tested elsewhere.
fn haproxy(pipeline: &Pipeline, at: SocketAddr, ingests: [SocketAddr; 2]) -> Process {
    let server = |n: usize| {
        let (shipped, at) = (format!("ingest-{n}:1080 check port 9091"), ingests[n - 1]);
        (shipped, format!("{at} check port {}", at.port()))
    };
    let servers = [server(1), server(2)];
    let mut changes = vec![
        ("bind :80", format!("bind {at}")),
        ("GET /readyz?exclude=space", "GET /".to_owned()),
    ];
    changes.extend(servers.iter().map(|(from, to)| (from.as_str(), to.clone())));
    let config = adapted(pipeline, "haproxy.cfg", &changes);
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f", &config]);
    pipeline.start("haproxy", command)
}

#[test]
fn any_ingest_behind_nginx_resumes_any_upload() {
    if !met(&[Need::Tool("nginx"), Need::Root]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingests = [0, 1].map(|_| pipeline.ingest(&["--location", "relative"]));
    let [one, two] = ingests.each_ref().map(|ingest| ingest.address().get());
    let at = free_address();
    let upstream = format!("upstream both {{ server {one}; server {two}; }}\n");
    let proxy = nginx(&pipeline, at, "both", &upstream);
    check_two(&pipeline, ingests, at, proxy);
}

#[test]
fn any_ingest_behind_haproxy_resumes_any_upload() {
    if !met(&[Need::Tool("haproxy")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingests = [0, 1].map(|_| pipeline.ingest(&["--location", "relative"]));
    let addresses = ingests.each_ref().map(|ingest| ingest.address().get());
    let at = free_address();
    let proxy = haproxy(&pipeline, at, addresses);
    check_two(&pipeline, ingests, at, proxy);
}

#[test]
fn nginx_passes_uploads_on() {
    if !met(&[Need::Tool("nginx"), Need::Root]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--location", "relative"]);
    let at = free_address();
    let address = ingest.address().get().to_string();
    let proxy = nginx(&pipeline, at, &address, "");
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
    // Both names are one server here: who passes on does not know.
    let proxy = haproxy(&pipeline, at, [ingest.address().get(); 2]);
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

/// What does not belong into the shipped file, which configures what changes while Traefik runs, is
/// said as the file's comment has it.
#[test]
fn traefik_passes_uploads_on() {
    const TRAEFIK: &str = "traefik/traefik";
    if !met(&[Need::TestTool(TRAEFIK)]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--location", "relative"]);
    let at = free_address();
    let address = ingest.address().get();
    let changes = [
        ("ingest:1080", address.to_string()),
        ("port: 9091", format!("port: {}", address.port())),
        ("/readyz?exclude=space", "/".to_owned()),
    ];
    let config = adapted(&pipeline, "traefik.yaml", &changes);
    let mut command = Command::new(test_tool(TRAEFIK));
    command.args([
        format!("--entryPoints.web.address={at}"),
        "--entryPoints.web.transport.respondingTimeouts.readTimeout=0s".to_owned(),
        format!("--providers.file.filename={config}"),
    ]);
    let proxy = pipeline.start("traefik", command);
    check(&pipeline, &ingest, at, proxy);
}
