//! The power goes: everything that was answered is still there, nothing that is shown is wrong,
//! and everything can be finished.
//!
//! `TUSPOOL_CUTS=200 cargo test -p tests --test it power -- --nocapture` is the full run.

use std::path::Path;
use std::time::Duration;

use tests::audit::{self, Audit, Loss, Offset};
use tests::client::Tus;
use tests::ledger::{Entry, Ledger, Shape};
use tests::load::{self, Load, Plan};
use tests::loop_fs::{self, Journal, Kind, LoopFs};
use tests::needs::{self, sized};
use tests::pipeline::Pipeline;
use tests::process::Process;
use tests::programs::{Program, scratch_dir};
use tests::slips::{self, Slip};
use tests::wait::{happens, random_moment, wait_up_to};

/// Size of the file systems. Loads end long before they are full.
const FS_BYTES: u64 = 1 << 30;

/// Cuts within which a planted mistake has to show.
const CUTS_TO_FIND_A_SLIP: u64 = 20;

/// How long the slowest of what is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

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
    let cuts: u64 = asked.unwrap_or_else(|| sized(4, 16));
    let (mut uploads, mut complete, mut bytes, mut taken_back) = (0, 0, 0, 0);
    for seed in 0..cuts {
        let seen = Cut {
            kind,
            seed,
            slip: None,
            offset: Offset::Reported,
        }
        .make();
        assert!(
            seen.losses.is_empty(),
            "{kind:?}, cut {seed}: {:?}",
            seen.losses
        );
        taken_back += seen.taken_back;
        uploads += seen.acknowledged.len();
        complete += seen
            .acknowledged
            .iter()
            .filter(|entry| entry.complete)
            .count();
        bytes += seen
            .acknowledged
            .iter()
            .map(|entry| entry.acknowledged)
            .sum::<usize>();
    }
    println!(
        "{kind:?}: {cuts} cuts, {uploads} uploads, {complete} complete, {bytes} bytes: 0 lost \
         ({taken_back} offsets shown by HEAD during a PATCH taken back)"
    );
}

#[test]
fn the_loss_of_any_sync_would_be_found() {
    if !needs::met(&loop_fs::NEEDS) || !needs::met(&[slips::NEEDS]) {
        return;
    }
    for slip in sized(&Slip::ALL[..2], &Slip::ALL[..]) {
        for kind in sized(&Kind::ALL[..1], &Kind::ALL[..]) {
            would_be_found(*kind, Some(*slip), Offset::Reported);
        }
    }
}

#[test]
fn a_server_that_took_the_file_size_for_the_offset_would_be_found() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    would_be_found(Kind::Ext4, None, Offset::FileSize);
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what a long run is made for"
)]
fn would_be_found(kind: Kind, slip: Option<Slip>, offset: Offset) {
    for seed in 0..CUTS_TO_FIND_A_SLIP {
        let losses = Cut {
            kind,
            seed,
            slip,
            offset,
        }
        .make()
        .losses;
        if !losses.is_empty() {
            let losses = losses.len();
            println!(
                "{slip:?}, {offset:?}, {kind:?}: {losses} losses at cut {}",
                seed + 1
            );
            return;
        }
    }
    panic!("{slip:?} and {offset:?} go unnoticed on {kind:?}");
}

/// One power cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    kind: Kind,
    seed: u64,
    /// A mistake that ingest makes until the power goes.
    slip: Option<Slip>,
    /// What counts as the offset of an unfinished upload afterwards.
    offset: Offset,
}

/// What was known before a cut, and what of it was not so afterwards.
struct Seen {
    acknowledged: Vec<Entry>,
    losses: Vec<Loss>,
    /// Uploads whose offset a HEAD had shown before it was durable.
    taken_back: usize,
}

impl Cut {
    fn make(self) -> Seen {
        let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
        let mut fs = LoopFs::make(self.kind, dir.path(), "fs", FS_BYTES);
        let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
        let out = fs.mount_point().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::File::open(fs.mount_point())
            .unwrap()
            .sync_all()
            .unwrap();

        let acknowledged = self.work_until_the_cut(&mut fs, &pipeline, &out);
        fs.mount_again();
        let ingest = pipeline.ingest(&["--min-free", "0"]);
        let tus = &ingest.tus();
        let audit = Audit {
            tus,
            spool: pipeline.spool(),
            out: &out,
            offset: self.offset,
        };
        let mut losses = audit.acknowledged(&acknowledged);
        let taken_back = audit::taken_back(tus, &acknowledged);
        if losses.is_empty() {
            // What somebody was told after the cut was told by a machine without power.
            let ledger = Ledger::as_of(acknowledged.clone());
            let _others = others(&pipeline, &out);
            load::resume_all(tus, &ledger);
            happens(LIMIT, || pipeline.spool().is_idle());
            losses = audit::delivered_whole(&out, &ledger);
        }
        Seen {
            acknowledged,
            losses,
            taken_back,
        }
    }

    /// Runs the pipeline under load and cuts the power at a random moment; returns what clients
    /// had been told until then.
    fn work_until_the_cut(self, fs: &mut LoopFs, pipeline: &Pipeline, out: &Path) -> Vec<Entry> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        pipeline.plant(self.slip);
        let mut ingest = pipeline.ingest(&["--min-free", "0"]);
        pipeline.plant(None);
        let others = (!is_alone(self.seed)).then(|| others(pipeline, out));
        let plan = plan(&ingest.tus(), self.seed);
        let load = Load::start(&ingest.tus(), &plan, &Ledger::default());
        if plan.uploads_each.is_some() {
            wait_up_to(LIMIT, "the last upload", || load.is_over().then_some(()));
        }
        random_moment(
            &mut random,
            Duration::from_millis(200)..Duration::from_millis(2500),
        );

        let acknowledged = load.ledger().entries();
        fs.cut_power(if random.bool() {
            Journal::Lost
        } else {
            Journal::Flushed
        });
        ingest.process.kill();
        drop(others);
        load.stop();
        acknowledged
    }
}

/// What clients do. A sync that is missing is often made by somebody else's, so beside many
/// clients at once there are few that are done long before the cut, and one that is quite alone.
fn plan(tus: &Tus, seed: u64) -> Plan {
    let shapes = Shape::offered(tus);
    let (clients, length_max, uploads_each) = match seed % 4 {
        0 => (12, 300_000, None),
        1 => (3, 50_000, Some(2)),
        2 => (12, 4_000_000, None),
        _ => {
            return Plan {
                clients: 1,
                shapes: vec![Shape::Whole],
                length_max: 9000,
                uploads_each: Some(1),
                seed,
            };
        }
    };
    Plan {
        clients,
        shapes,
        length_max,
        uploads_each,
        seed,
    }
}

/// Whether the one client is alone: without consumers and janitor too.
fn is_alone(seed: u64) -> bool {
    seed % 4 == 3
}

/// Two consumers and the janitor.
fn others(pipeline: &Pipeline, out: &Path) -> [Process; 3] {
    let out = out.to_string_lossy();
    let consumer = || pipeline.consumer(&["--move-to", &out]);
    let janitor = ["--every", "1s", "--grace", "2s"];
    [
        consumer(),
        consumer(),
        pipeline.spawn(Program::Janitor, &janitor),
    ]
}
