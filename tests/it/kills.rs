//! SIGKILL at any moment, again and again, under load: nothing is lost, nothing is stuck.
//!
//! `TUSPOOL_KILLS=1000 cargo test -p tests --test it kills -- --nocapture` is the full run.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::audit::{self, Audit, Offset, Promise};
use tests::hook::Hook;
use tests::ledger::{Ledger, Shape};
use tests::load::{self, Load, Plan};
use tests::needs::sized;
use tests::pipeline::{Ingest, Pipeline};
use tests::process::Process;
use tests::programs::Program;
use tests::wait::{random_moment, wait_up_to};

/// Kills between two audits.
const KILLS_A_ROUND: u32 = 20;

#[test]
fn random_kills_of_all_programs_lose_nothing_and_leave_nothing_behind() {
    let asked = std::env::var("TUSPOOL_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok());
    let kills: u32 = asked.unwrap_or_else(|| sized(20, 200));
    let mut uploads = 0;
    for round in 0..kills.div_ceil(KILLS_A_ROUND) {
        uploads += Round::begin(u64::from(round)).run(kills.min(KILLS_A_ROUND));
    }
    println!("{kills} kills, {uploads} uploads, 0 lost, 0 stuck");
}

struct Round {
    pipeline: Pipeline,
    random: fastrand::Rng,
    hook: Hook,
}

impl Round {
    fn begin(seed: u64) -> Self {
        let pipeline = Pipeline::new();
        let hook = Hook::new(&pipeline, "hook", "sleep 0.0$(( $$ % 10 ))");
        Self {
            pipeline,
            random: fastrand::Rng::with_seed(seed),
            hook,
        }
    }

    fn consumer(&self) -> Process {
        let out = self.pipeline.out();
        let args = [
            "--hook",
            &self.hook.command(),
            "--move-to",
            &out.to_string_lossy(),
        ];
        self.pipeline.consumer(&args)
    }

    fn janitor(&self) -> Process {
        self.pipeline
            .spawn(Program::Janitor, &["--every", "1s", "--grace", "2s"])
    }

    /// Returns how many uploads there were.
    fn run(mut self, kills: u32) -> usize {
        let (mut one, mut other) = (self.pipeline.ingest(&[]), self.pipeline.ingest(&[]));
        let mut consumers = [self.consumer(), self.consumer()];
        let mut janitor = self.janitor();
        let ledger = Ledger::default();
        let load = |tus, seed| {
            let shapes = Shape::offered(tus);
            Load::start(
                tus,
                &Plan {
                    clients: 3,
                    shapes,
                    length_max: 400_000,
                    uploads_each: None,
                    seed,
                },
                &ledger,
            )
        };
        let loads = [load(&one.tus(), 1), load(&other.tus(), 2)];
        for _ in 0..kills {
            random_moment(
                &mut self.random,
                Duration::from_millis(20)..Duration::from_millis(400),
            );
            match self.random.u8(0..5) {
                0 => one.kill_and_restart(),
                1 => other.kill_and_restart(),
                n @ (2 | 3) => {
                    let consumer = &mut consumers[usize::from(n - 2)];
                    consumer.kill();
                    *consumer = self.consumer();
                }
                _ => {
                    janitor.kill();
                    janitor = self.janitor();
                }
            }
        }
        loads.into_iter().for_each(Load::stop);
        self.settle(&one, &ledger)
    }

    /// Lets everything come to its end and looks at what is there.
    fn settle(&self, ingest: &Ingest, ledger: &Ledger) -> usize {
        let entries = ledger.entries();
        let out = self.pipeline.out();
        let spool = self.pipeline.spool();
        let tus = &ingest.tus();
        let audit = Audit {
            tus,
            spool,
            out: &out,
            offset: Offset::Reported,
            promise: Promise::EveryOffset,
        };
        let losses = audit.acknowledged(&entries);
        assert!(losses.is_empty(), "{losses:?}");
        load::resume_all(tus, ledger);
        // Uploads that no client knows of (their 201 was lost) stay begun, as they should.
        let limit = Duration::from_secs(60);
        wait_up_to(limit, "the last delivery", || spool.is_idle().then_some(()));
        wait_up_to(limit, "the last temporary file to go", || {
            spool.temporary().is_empty().then_some(())
        });
        let losses = audit::delivered_whole(&out, ledger);
        assert!(losses.is_empty(), "{losses:?}");
        self.check_attempts();
        entries.len()
    }

    /// A second run of a hook is told so: the same id and a higher attempt.
    fn check_attempts(&self) {
        let mut last: BTreeMap<String, u32> = BTreeMap::new();
        for run in self.hook.runs() {
            let before = last.insert(run.id.clone(), run.attempt);
            assert!(
                before.is_none_or(|before| before < run.attempt),
                "{run:?} after {before:?}"
            );
        }
    }
}
