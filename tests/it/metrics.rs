//! Metrics and health, as Prometheus and a container engine ask for them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::needs::{Need, met};
use tests::pipeline::{Pipeline, bare_command};
use tests::process::Process;
use tests::programs::{Program, workspace_dir};
use tests::wait::wait_until;

/// Asks for any address and waits for the log to tell which it was.
const ANY: &str = "127.0.0.1:0";

/// Where a program that was started with `--admin 127.0.0.1:0` answers.
fn admin_address(process: &Process) -> SocketAddr {
    wait_until("the admin listener", || {
        let log = process.log();
        let line = log
            .lines()
            .find(|line| line.contains("answering /metrics"))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["address"].as_str()?.parse().ok()
    })
}

/// Status and body.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn scrape(address: SocketAddr) -> String {
    let (status, text) = get(address, "/metrics").unwrap();
    assert_eq!(status, 200);
    text
}

fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample));
    let line = line.unwrap_or_else(|| panic!("{sample} in {text}"));
    line.trim().parse().unwrap()
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("tuspool_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_happens_is_counted_and_everything_that_is_shipped_finds_its_metrics() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--admin", ANY]);
    let out = pipeline.out();
    let consumer = pipeline.consumer(&["--admin", ANY, "--move-to", out.to_str().unwrap()]);
    let upload = ingest.tus().create(5, &[("filename", "five")]);
    upload.patch(0, b"fi").expect(204, []);
    upload.patch(1, b"ves").expect(409, []);
    upload.patch(2, b"ves").expect(204, []);
    let of_ingest = scrape(admin_address(&ingest.process));
    for (sample, expected) in [
        ("tuspool_ingest_uploads_total{event=\"created\"}", 1.0),
        ("tuspool_ingest_uploads_total{event=\"completed\"}", 1.0),
        ("tuspool_ingest_received_bytes_total", 5.0),
        ("tuspool_ingest_bodies_total{end=\"complete\"}", 2.0),
        (
            "tuspool_ingest_requests_total{method=\"PATCH\",status=\"204\"}",
            2.0,
        ),
        (
            "tuspool_ingest_requests_total{method=\"PATCH\",status=\"409\"}",
            1.0,
        ),
        ("tuspool_ingest_sync_failures_total", 0.0),
    ] {
        assert_eq!(value(&of_ingest, sample), expected, "{sample}");
    }
    assert!(1.0 <= value(&of_ingest, "tuspool_ingest_sync_duration_seconds_count"));
    let consumers = admin_address(&consumer);
    let of_consumer = wait_until("the delivery to be counted", || {
        let text = scrape(consumers);
        let delivered = "tuspool_consumer_attempts_total{outcome=\"delivered\"}";
        (value(&text, delivered) == 1.0).then_some(text)
    });
    assert_eq!(
        value(&of_consumer, "tuspool_consumer_delivered_bytes_total"),
        5.0
    );
    assert_eq!(
        value(&of_consumer, "tuspool_consumer_wait_seconds_count"),
        1.0
    );

    let told: BTreeSet<_> = names(&of_ingest)
        .union(&names(&of_consumer))
        .cloned()
        .collect();
    let deploy = workspace_dir().join("deploy");
    let read = |path: &str| std::fs::read_to_string(deploy.join(path)).unwrap();
    for path in [
        "prometheus/rules.yml",
        "grafana/dashboards/tuspool.json",
        "kubernetes/base/consumer.yaml",
        "kubernetes/keda/scaledobject.yaml",
        "README.md",
    ] {
        for name in names(&read(path)) {
            let of_janitor = name == "tuspool_janitor";
            let histogram = told.contains(&format!("{name}_bucket"));
            assert!(
                told.contains(&name) || histogram || of_janitor,
                "{path}: {name}"
            );
        }
    }
    let documented = names(&read("README.md"));
    for name in &told {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        assert!(
            documented.contains(family),
            "{name} is not in deploy/README.md"
        );
    }
    check_with_promtool(&of_ingest);
    check_with_promtool(&of_consumer);
}

/// Names and types by Prometheus' own rules.
fn check_with_promtool(text: &str) {
    if !met(&[Need::Tool("promtool")]) {
        return;
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let child = promtool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_health_check_needs_no_shell_and_a_draining_server_is_not_ready() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&["--admin", ANY, "--drain-timeout", "60s"]);
    let address = admin_address(&ingest.process);
    let healthcheck = || {
        let mut command = bare_command(Program::Ingest);
        command.args(["--healthcheck", "--spool", "/nowhere", "--admin"]);
        command.arg(address.to_string()).output().unwrap()
    };
    assert!(healthcheck().status.success());
    assert_eq!(get(address, "/readyz").unwrap().0, 200);
    // A body that goes on keeps the server alive while it drains.
    let upload = ingest.tus().create(10, &[]);
    let mut body = upload.begin_patch(0, 10);
    body.send(b"12345").unwrap();
    wait_until("the bytes to arrive", || {
        (upload.offset() == 5).then_some(())
    });
    ingest.process.signal(nix::sys::signal::Signal::SIGTERM);
    let said = wait_until("the server to tell that it drains", || {
        let (status, said) = get(address, "/readyz")?;
        (status == 503).then_some(said)
    });
    assert!(said.contains("failed running: draining"), "{said}");
    assert_eq!(get(address, "/healthz").unwrap().0, 200);
    let unhealthy = healthcheck();
    assert_eq!(unhealthy.status.code(), Some(1));
    let why = String::from_utf8_lossy(&unhealthy.stderr);
    assert_eq!(why, "ingest: not ready: failed running: draining\n");
    body.send(b"67890").unwrap();
    assert_eq!(body.receive("PATCH").unwrap().status, 204);
    assert!(ingest.process.wait().success());
}

#[test]
fn the_alert_rules_are_valid_and_each_of_them_fires_in_their_test() {
    if !met(&[Need::Tool("promtool")]) {
        return;
    }
    let root = workspace_dir();
    let rules = std::fs::read_to_string(root.join("deploy/prometheus/rules.yml")).unwrap();
    let tests = std::fs::read_to_string(root.join("tests/prometheus/rules_test.yml")).unwrap();
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!("alertname=\"{alert}\"")),
            "{alert} is not tested"
        );
    }
    for args in [
        ["check", "rules", "deploy/prometheus/rules.yml"],
        ["test", "rules", "tests/prometheus/rules_test.yml"],
    ] {
        tests::needs::run(Command::new("promtool").args(args).current_dir(&root));
    }
}

#[test]
fn a_real_prometheus_scrapes_ingest_and_consumer() {
    if !met(&[Need::Tool("prometheus")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--admin", ANY]);
    let out = pipeline.out();
    let consumer = pipeline.consumer(&["--admin", ANY, "--move-to", out.to_str().unwrap()]);
    let config = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n\
         - {{ job_name: ingest, static_configs: [{{ targets: ['{}'] }}] }}\n\
         - {{ job_name: consumer, static_configs: [{{ targets: ['{}'] }}] }}\n",
        admin_address(&ingest.process),
        admin_address(&consumer),
    );
    std::fs::write(pipeline.path("prometheus.yml"), config).unwrap();
    // Prometheus does not tell which port it took.
    let free = TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!(
            "--config.file={}",
            pipeline.path("prometheus.yml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            pipeline.path("tsdb").display()
        ))
        .arg(format!("--web.listen-address={free}"));
    let _prometheus = pipeline.start("prometheus", command);
    let _upload = ingest.tus().create(5, &[]);
    for (query, expected) in [
        (
            "tuspool_ingest_uploads_total%7Bevent%3D%22created%22%7D",
            "\"1\"",
        ),
        (
            "max(tuspool_spool_uploads%7Bdir%3D%22uploads%22%7D)",
            "\"1\"",
        ),
        ("tuspool_consumer_jobs_max", "\"1\""),
        ("sum(up)", "\"2\""),
    ] {
        wait_until(query, || {
            let (_, answer) = get(free, &format!("/api/v1/query?query={query}"))?;
            answer.contains(expected).then_some(())
        });
    }
}
