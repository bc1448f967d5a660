//! The program as it is started by cron, by hand and as a service.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const ID: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";
const OTHER: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0c";
const DAYS: Duration = Duration::from_secs(3 * 86_400);

struct TestSpool(tempfile::TempDir);

impl TestSpool {
    fn new() -> Self {
        let spool = Self(tempfile::tempdir().unwrap());
        assert!(spool.run(&[]).status.success());
        spool
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("spool")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
        command
            .env_clear()
            .arg("--spool")
            .arg(self.root())
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A file that nobody has touched for so long.
    fn write(&self, name: &str, content: &str, age: Duration) {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    /// An upload as a tussi server leaves it, three bytes of five.
    fn tussi_upload(&self, id: &str, age: Duration) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let then = (now - age).as_secs_f64();
        let record = format!(
            "{{\"length\": 5, \"offset\": 3, \"metadata\": {{\"filename\": \"a.txt\"}}, \
             \"server_metadata\": {{}}, \"created_at\": {then}, \"last_write\": {then}, \
             \"finished_at\": null, \"duration\": null}}"
        );
        self.write(&format!("uploads/{id}"), "hel", age);
        self.write(&format!("uploads/{id}.meta"), &record, age);
    }
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

#[test]
fn one_pass_is_one_line_and_exit_0() {
    let spool = TestSpool::new();
    spool.tussi_upload(ID, DAYS);
    spool.tussi_upload(OTHER, Duration::from_secs(60));
    let output = spool.run(&[]);
    assert_eq!(output.status.code(), Some(0));
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains("1 stale removed"), "{line}");
    assert!(!exists(&spool.path(&format!("uploads/{ID}"))));
    assert!(exists(&spool.path(&format!("receipts/{ID}.meta"))));
    assert!(exists(&spool.path(&format!("uploads/{OTHER}"))));
}

#[test]
fn the_environment_says_the_same_as_flags() {
    let spool = TestSpool::new();
    spool.tussi_upload(ID, DAYS);
    let output = spool
        .command(&[])
        .env("JANITOR_STALE_UPLOAD_AGE", "30d")
        .env("JANITOR_JSON", "true")
        .env("JANITOR_EVERY", "")
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["stale_removed"], 0);
    assert_eq!(spool.json(&[])["stale_removed"], 1);
}

#[test]
fn what_is_left_over_the_limit_makes_exit_1() {
    let spool = TestSpool::new();
    spool.tussi_upload(ID, DAYS);
    spool.tussi_upload(OTHER, DAYS);
    let output = spool.run(&["--max-delete", "1", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["stale_removed"], &report["over_limit"]),
        (&1.into(), &1.into())
    );
    assert_eq!(report["complete"], false);
}

#[test]
fn an_upload_that_cannot_be_dealt_with_is_told_and_the_others_are_dealt_with() {
    let spool = TestSpool::new();
    spool.tussi_upload(ID, DAYS);
    spool.tussi_upload(OTHER, DAYS);
    // Its receipt's name is taken by a directory that is not empty: no rename can go there.
    std::fs::create_dir_all(spool.path(&format!("receipts/{ID}.meta/x"))).unwrap();
    let output = spool.run(&["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 1, "{report}");
    assert_eq!(report["stale_removed"], 1, "{report}");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("WARN") && log.contains(ID), "{log}");
}

#[test]
fn figures_are_written_for_prometheus() {
    let spool = TestSpool::new();
    spool.tussi_upload(ID, DAYS);
    let textfile = spool.path("../janitor.prom");
    let output = spool.run(&["--textfile", textfile.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&textfile).unwrap();
    let line = "tuspool_janitor_last_pass_results{what=\"stale_removed\"} 1";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("tuspool_janitor_last_pass_bytes{dir=\"uploads\"} 3"),
        "{text}"
    );
}

#[test]
fn bad_flags_are_one_line_and_exit_2_and_touch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = TestSpool(dir);
    let nowhere = spool.path("../none/janitor.prom");
    let cases: [&[&str]; 6] = [
        &["--every", "0"],
        &["--max-delete", "-1"],
        &["--grace", "soon"],
        &["--zombies", "eat"],
        &["--textfile", nowhere.to_str().unwrap()],
        &["--textfile", "/"],
    ];
    for args in cases {
        let output = spool.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.starts_with("janitor: "), "{args:?}: {said}");
        assert!(output.stdout.is_empty());
        assert!(!exists(&spool.root()), "{args:?} touched the spool");
    }
}

#[test]
fn it_stays_and_makes_passes_until_it_is_asked_to_stop() {
    let spool = TestSpool::new();
    let mut child = spool
        .command(&["--every", "10ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("entries"), "{line}");
    }
    spool.tussi_upload(ID, DAYS);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !lines.next().unwrap().unwrap().contains("1 stale removed") {
        assert!(Instant::now() < deadline, "the upload is still there");
    }
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    for line in lines {
        line.unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
