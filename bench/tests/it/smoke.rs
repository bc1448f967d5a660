//! The benchmark itself, so that it does not rot: every scenario, tiny. Nothing is timed.

use std::process::Command;

use tests::needs::{self, Need};
use tests::programs::Program;

#[test]
fn every_scenario_runs_to_its_end_and_finds_every_byte() {
    let needs = [Need::Root, Need::LoopDevices, Need::Tool("mkfs.ext4")];
    if !needs::long() || !needs::met(&needs) {
        return;
    }
    // Beside the benchmark, where it looks for them.
    for program in [Program::Ingest, Program::Consumer, Program::Janitor] {
        assert!(program.path().is_file());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["big", "patches", "sixteen", "small", "slow", "cut"])
        .args(["hand-over", "claim", "janitor", "growth"])
        .args(["--alone", "--rounds", "1", "--divide", "256"])
        .args(["--connections", "1,16"])
        .output()
        .unwrap();
    let (figures, error) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{figures}\n{error}");
    assert_eq!(figures.matches("\n## ").count(), 12, "{figures}");
}
