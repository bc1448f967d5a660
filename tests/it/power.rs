//! The power goes: everything that was answered is still there, nothing that is shown is wrong,
//! and everything can be finished.
//!
//! `TUSPOOL_CUTS=200 cargo test -p tests --test it power -- --nocapture` is the full run.

use std::time::Duration;

use tests::audit::{self, Loss};
use tests::ledger::{Ledger, Shape};
use tests::load::{self, Load, Plan};
use tests::loop_fs::{self, Journal, Kind, LoopFs};
use tests::needs::{self, sized};
use tests::pipeline::Pipeline;
use tests::process::Process;
use tests::programs::{Program, scratch_dir};
use tests::wait::{random_moment, wait_up_to};

/// Size of the file systems. Loads end long before they are full.
const FS_BYTES: u64 = 1 << 30;

#[test]
fn nothing_answered_is_lost_in_a_power_cut_on_ext4() {
    cut_the_power_of(Kind::Ext4);
}

#[test]
fn nothing_answered_is_lost_in_a_power_cut_on_xfs() {
    cut_the_power_of(Kind::Xfs);
}

#[test]
fn nothing_answered_is_lost_in_a_power_cut_on_btrfs() {
    cut_the_power_of(Kind::Btrfs);
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what a long run is made for"
)]
fn cut_the_power_of(kind: Kind) {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let asked = std::env::var("TUSPOOL_CUTS")
        .ok()
        .and_then(|cuts| cuts.parse().ok());
    let cuts: u64 = asked.unwrap_or_else(|| sized(2, 12));
    let mut all = Figures::default();
    for seed in 0..cuts {
        let figures = cut_once(kind, seed);
        assert!(
            figures.losses.is_empty(),
            "{kind:?}, cut {seed}: {:?}",
            figures.losses
        );
        all.uploads += figures.uploads;
        all.complete += figures.complete;
        all.bytes += figures.bytes;
    }
    println!(
        "{kind:?}: {cuts} power cuts, {} uploads begun, {} completed, {} bytes acknowledged, 0 lost",
        all.uploads, all.complete, all.bytes
    );
}

#[derive(Default)]
struct Figures {
    uploads: usize,
    complete: usize,
    bytes: usize,
    losses: Vec<Loss>,
}

/// What clients do: many at once, or few that are done long before the cut. A sync that is
/// missing is often made by somebody else's, but not when nobody else is there.
fn plan(seed: u64) -> Plan {
    let shapes = Shape::ALL.to_vec();
    if seed.is_multiple_of(2) {
        let length_max = if seed.is_multiple_of(4) {
            300_000
        } else {
            4_000_000
        };
        Plan {
            clients: 12,
            shapes,
            length_max,
            uploads_each: None,
            seed,
        }
    } else {
        Plan {
            clients: 3,
            shapes,
            length_max: 50_000,
            uploads_each: Some(2),
            seed,
        }
    }
}

fn cut_once(kind: Kind, seed: u64) -> Figures {
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let mut fs = LoopFs::make(kind, dir.path(), "fs", FS_BYTES);
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    let out = fs.mount_point().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::File::open(fs.mount_point())
        .unwrap()
        .sync_all()
        .unwrap();

    let mut ingest = pipeline.ingest(&["--min-free", "0"]);
    let others = others(&pipeline, &out);
    let plan = plan(seed);
    let ledger = Ledger::default();
    let load = Load::start(&ingest.tus(), &plan, &ledger);
    if plan.uploads_each.is_some() {
        let limit = Duration::from_secs(60);
        wait_up_to(limit, "the last upload", || load.is_over().then_some(()));
    }
    random_moment(
        &mut random,
        Duration::from_millis(200)..Duration::from_millis(2500),
    );

    let acknowledged = ledger.entries();
    let journal = if random.bool() {
        Journal::Lost
    } else {
        Journal::Flushed
    };
    fs.cut_power(journal);
    ingest.process.kill();
    drop(others);
    load.stop();
    fs.mount_again();

    // What somebody was told after the cut was told by a machine without power.
    let ledger = Ledger::as_of(acknowledged.clone());
    ingest.restart();
    let tus = ingest.tus();
    let mut losses = audit::acknowledged(&tus, pipeline.spool(), &out, &acknowledged);
    let _others = self::others(&pipeline, &out);
    load::resume_all(&tus, &ledger);
    let limit = Duration::from_secs(60);
    wait_up_to(limit, "the last delivery", || {
        queue_is_empty(&pipeline).then_some(())
    });
    losses.extend(audit::delivered_whole(&out, &ledger));
    Figures {
        uploads: acknowledged.len(),
        complete: acknowledged.iter().filter(|entry| entry.complete).count(),
        bytes: acknowledged.iter().map(|entry| entry.acknowledged).sum(),
        losses,
    }
}

/// Two consumers and the janitor.
fn others(pipeline: &Pipeline, out: &std::path::Path) -> [Process; 3] {
    let out = out.to_string_lossy();
    let consumer = || pipeline.consumer(&["--move-to", &out]);
    let janitor = ["--every", "1s", "--grace", "2s"];
    [
        consumer(),
        consumer(),
        pipeline.spawn(Program::Janitor, &janitor),
    ]
}

/// Parts of concatenations stay in `uploads/` for a while; everything else has to move on.
fn queue_is_empty(pipeline: &Pipeline) -> bool {
    let queues = ["completed", "claimed", "deferred"];
    queues
        .iter()
        .all(|directory| pipeline.spool().names(directory).is_empty())
}
