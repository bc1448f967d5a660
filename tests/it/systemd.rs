//! The units of `deploy/systemd`, by systemd's own judgement, and sockets that it hands over.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use tests::client::{Address, Tus};
use tests::needs::{Need, met, run};
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::programs::{Program, workspace_dir};
use tests::wait::wait_until;

/// The units as they would be installed, with the programs where they have been built.
fn units(pipeline: &Pipeline) -> Vec<String> {
    let shipped = workspace_dir().join("deploy/systemd");
    let mut units = Vec::new();
    for name in [
        "ingest.socket",
        "ingest.service",
        "consumer.service",
        "janitor.service",
        "janitor.timer",
    ] {
        let mut text = fs::read_to_string(shipped.join(name)).unwrap();
        for program in [Program::Ingest, Program::Consumer, Program::Janitor] {
            let installed = format!("/usr/bin/{} ", program.name());
            let built = format!("{} ", program.path().display());
            text = text.replace(&installed, &built);
        }
        let path = pipeline.path(name);
        fs::write(&path, text).unwrap();
        units.push(path.to_str().unwrap().to_owned());
    }
    units
}

#[test]
fn systemd_accepts_the_units() {
    if !met(&[Need::Tool("systemd-analyze")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args(units(&pipeline));
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("pipeline-"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn the_services_are_exposed_to_little() {
    if !met(&[Need::Tool("systemd-analyze")]) {
        return;
    }
    let pipeline = Pipeline::new();
    for unit in units(&pipeline)
        .iter()
        .filter(|unit| unit.ends_with(".service"))
    {
        let mut security = Command::new("systemd-analyze");
        // In tenths.
        security.args([
            "security",
            "--no-pager",
            "--offline=true",
            "--threshold=20",
            unit,
        ]);
        run(&mut security);
    }
}

#[test]
fn a_socket_that_systemd_holds_is_taken_over() {
    if !met(&[Need::Tool("systemd-socket-activate")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (uploads, admin) = (free(), free());
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg("--fdname=uploads:admin")
        .args(["-l", &uploads.to_string(), "-l", &admin.to_string()])
        .arg(Program::Ingest.path())
        .arg("--spool")
        .arg(pipeline.spool().root());
    let _ingest = pipeline.start("systemd-socket-activate", command);
    let tus = Tus::new(&Address::new(uploads), BASE_PATH);
    // The first client waits in the socket's queue while ingest starts.
    wait_until("the socket", || tus.connect().ok());
    let upload = tus.create_with(b"whole", &[]);
    assert_eq!(upload.offset(), 5);
    let health = Tus::new(&Address::new(admin), "/");
    let ready = health.request("GET", "/readyz", &[], b"");
    ready.expect(200, []);
}
