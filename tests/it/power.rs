//! The power goes: everything that was answered is still there, nothing that is shown is wrong,
//! and everything can be finished.
//!
//! `TUSPOOL_CUTS=200 cargo test -p tests --test it power -- --nocapture` is the full run.

use std::path::Path;
use std::time::Duration;

use shared::durable::Durability;
use tests::audit::{self, Audit, Loss, Offset, Promise};
use tests::client::Tus;
use tests::ledger::{Entry, Ledger, Shape};
use tests::load::{self, Load, Plan};
use tests::loop_fs::{self, Journal, Kind, LoopFs};
use tests::needs::{self, sized};
use tests::pipeline::{Pipeline, REBOOT_NEEDS};
use tests::process::Process;
use tests::programs::{Program, scratch_dir};
use tests::slips::{self, Slip};
use tests::wait::{happens, random_moment, wait_up_to};
use tests::write_back;

/// Size of the file systems. Loads end long before they are full.
const FS_BYTES: u64 = 1 << 30;

/// Cuts within which a planted mistake has to show. Most show in one of the first four; how many it
/// takes is luck.
const CUTS_TO_FIND_A_MISTAKE: u64 = 60;

/// How long the slowest of what is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn nothing_answered_is_lost_in_a_power_cut_on_ext4() {
    cut_the_power(Cut::of(Kind::Ext4), asked_or(sized(4, 16)));
}

#[test]
fn nothing_answered_is_lost_in_a_power_cut_on_xfs() {
    cut_the_power(Cut::of(Kind::Xfs), asked_or(sized(4, 16)));
}

#[test]
fn nothing_answered_is_lost_in_a_power_cut_on_btrfs() {
    cut_the_power(Cut::of(Kind::Btrfs), asked_or(sized(4, 16)));
}

#[test]
fn what_is_finished_survives_a_power_cut_where_patches_are_not_synced_on_ext4() {
    cut_the_power(Cut::on_finish(Kind::Ext4), asked_or(sized(4, 8)));
}

#[test]
fn what_is_finished_survives_a_power_cut_where_patches_are_not_synced_on_xfs() {
    cut_the_power(Cut::on_finish(Kind::Xfs), asked_or(sized(1, 8)));
}

#[test]
fn what_is_finished_survives_a_power_cut_where_patches_are_not_synced_on_btrfs() {
    cut_the_power(Cut::on_finish(Kind::Btrfs), asked_or(sized(1, 8)));
}

#[test]
fn no_offset_covers_a_wrong_byte_after_a_power_cut_where_nothing_is_synced() {
    for kind in sized(&Kind::ALL[..1], &Kind::ALL[..]) {
        let cut = Cut {
            durability: Durability::None,
            ..Cut::of(*kind)
        };
        cut_the_power(cut, asked_or(sized(2, 4)));
    }
}

/// Cuts that a run was asked to make, or `usually`.
fn asked_or(usually: u64) -> u64 {
    let asked = std::env::var("TUSPOOL_CUTS").ok();
    asked.and_then(|cuts| cuts.parse().ok()).unwrap_or(usually)
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what a long run is made for"
)]
fn cut_the_power(cut: Cut, cuts: u64) {
    if !needs::met(&loop_fs::NEEDS) || !needs::met(&REBOOT_NEEDS) {
        return;
    }
    let (mut uploads, mut complete, mut bytes) = (0, 0, 0);
    for seed in 0..cuts {
        // What is promised of every offset does not depend on the boot: a file system that was shut
        // down may also be mounted again in the same one.
        let reboots = cut.durability != Durability::EveryPatch || seed / 4 % 2 == 0;
        let cut = Cut {
            seed,
            reboots,
            ..cut
        };
        let seen = cut.make();
        assert!(
            seen.losses.is_empty(),
            "{cut:?}, cut {seed}: {:?}",
            seen.losses
        );
        let entries = &seen.acknowledged;
        uploads += entries.len();
        complete += entries.iter().filter(|entry| entry.complete).count();
        bytes += entries
            .iter()
            .map(|entry| entry.acknowledged)
            .sum::<usize>();
    }
    let (kind, mode) = (cut.kind, cut.mode());
    println!(
        "{kind:?}, {mode}: {cuts} cuts, {uploads} uploads, {complete} complete, {bytes} bytes \
         acknowledged: 0 lost"
    );
}

#[test]
fn every_planted_mistake_would_be_found() {
    if !needs::met(&loop_fs::NEEDS) || !needs::met(&REBOOT_NEEDS) || !needs::met(&[slips::NEEDS]) {
        return;
    }
    for mistake in sized(&Mistake::ALL[..2], &Mistake::ALL[..]) {
        for kind in sized(&Kind::ALL[..1], mistake.kinds()) {
            would_be_found(*kind, *mistake);
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what a long run is made for"
)]
fn would_be_found(kind: Kind, mistake: Mistake) {
    for seed in 0..CUTS_TO_FIND_A_MISTAKE {
        let cut = Cut {
            seed,
            ..mistake.in_a(Cut::of(kind))
        };
        let losses = cut.make().losses;
        if let Some(first) = losses.first() {
            println!(
                "| {} | {kind:?} | cut {} | {} losses, first: {first:?} |",
                mistake.name(),
                seed + 1,
                losses.len()
            );
            return;
        }
    }
    panic!("{} goes unnoticed on {kind:?}", mistake.name());
}

/// What a server could do wrong.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    /// About syncs.
    Slip(Slip),
    /// To take the file's size for the offset.
    FileSize,
    /// To believe, after a reboot, an offset that was not synced.
    OldBoot,
}

impl Mistake {
    const ALL: [Self; 6] = [
        Self::Slip(Slip::Data),
        Self::OldBoot,
        Self::FileSize,
        Self::Slip(Slip::Record),
        Self::Slip(Slip::Directory),
        Self::Slip(Slip::Order),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Slip(Slip::Data) => "data not synced",
            Self::Slip(Slip::Record) => "record not synced",
            Self::Slip(Slip::Directory) => "directory not synced",
            Self::Slip(Slip::Order) => "watermark before the data's sync",
            Self::FileSize => "file size as the offset",
            Self::OldBoot => "unsynced offset believed after a reboot",
        }
    }

    /// Where it does harm.
    const fn kinds(self) -> &'static [Kind] {
        match self {
            // On the others a file is as long as what has been written back of it, at most.
            Self::FileSize => &[Kind::Ext4],
            Self::Slip(_) | Self::OldBoot => &Kind::ALL,
        }
    }

    fn in_a(self, cut: Cut) -> Cut {
        match self {
            Self::Slip(slip) => Cut {
                slip: Some(slip),
                ..cut
            },
            Self::FileSize => Cut {
                offset: Offset::FileSize,
                ..cut
            },
            Self::OldBoot => Cut {
                durability: Durability::OnFinish,
                reboots: false,
                ..cut
            },
        }
    }
}

/// One power cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    kind: Kind,
    seed: u64,
    /// What ingest is told to promise.
    durability: Durability,
    /// A mistake that ingest makes until the power goes.
    slip: Option<Slip>,
    /// What counts as the offset of an unfinished upload afterwards.
    offset: Offset,
    /// Whether programs can see that the machine was booted meanwhile.
    reboots: bool,
}

/// What was known before a cut, and what of it was not so afterwards.
struct Seen {
    acknowledged: Vec<Entry>,
    losses: Vec<Loss>,
}

impl Cut {
    /// One without mistakes, in the mode that promises most.
    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            seed: 0,
            durability: Durability::EveryPatch,
            slip: None,
            offset: Offset::Reported,
            reboots: true,
        }
    }

    /// One where PATCHes are not synced.
    fn on_finish(kind: Kind) -> Self {
        Self {
            durability: Durability::OnFinish,
            ..Self::of(kind)
        }
    }

    fn promise(self) -> Promise {
        match self.durability {
            Durability::EveryPatch => Promise::EveryOffset,
            Durability::OnFinish => Promise::EveryCompletion,
            Durability::None => Promise::NoWrongByte,
        }
    }

    fn mode(self) -> &'static str {
        match self.durability {
            Durability::EveryPatch => "every-patch",
            Durability::OnFinish => "on-finish",
            Durability::None => "none",
        }
    }

    fn flags(self) -> [&'static str; 4] {
        ["--min-free", "0", "--durability", self.mode()]
    }

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
        if self.reboots {
            pipeline.reboot();
        }
        let losses = self.look_at_what_is_left(&pipeline, &out, &acknowledged);
        Seen {
            acknowledged,
            losses,
        }
    }

    /// What is missing or wrong of what was acknowledged, at once and after everybody has gone on.
    fn look_at_what_is_left(self, pipeline: &Pipeline, out: &Path, entries: &[Entry]) -> Vec<Loss> {
        let ingest = pipeline.ingest(&self.flags());
        let tus = &ingest.tus();
        let audit = Audit {
            tus,
            spool: pipeline.spool(),
            out,
            offset: self.offset,
            promise: self.promise(),
        };
        let losses = audit.acknowledged(entries);
        if !losses.is_empty() || self.promise() == Promise::NoWrongByte {
            return losses;
        }
        // What somebody was told after the cut was told by a machine without power.
        let mut entries = entries.to_vec();
        if self.promise() != Promise::EveryOffset {
            audit::begin_anew(tus, &mut entries);
        }
        let ledger = Ledger::as_of(entries);
        let _others = others(pipeline, out);
        load::resume_all(tus, &ledger);
        happens(LIMIT, || pipeline.spool().is_idle());
        audit::delivered_whole(out, &ledger)
    }

    /// Runs the pipeline under load and cuts the power at a random moment; returns what clients
    /// had been told until then.
    fn work_until_the_cut(self, fs: &mut LoopFs, pipeline: &Pipeline, out: &Path) -> Vec<Entry> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        pipeline.plant(self.slip);
        let mut ingest = pipeline.ingest(&self.flags());
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

        if self.durability != Durability::EveryPatch || self.offset == Offset::FileSize {
            write_back::records_and_some_pages(&pipeline.spool().path("uploads", ""), &mut random);
        }
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
        // Long enough to be written past the page cache.
        2 => (4, 12_000_000, None),
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
