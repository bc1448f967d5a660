//! A spool on GlusterFS, three replicas, mounted twice as by two hosts. Nothing there tells one
//! host of the other's changes, caches are a second old, and a restart of the bricks can drop a
//! lock that its holder believes to have.
//!
//! `TUSPOOL_LONG=1 cargo test -p tests --test it gluster` runs it; root and FUSE are needed.

mod volume;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tests::hook::Hook;
use tests::needs::{self, Need, sized};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::process::Process;
use tests::programs::Program;
use tests::wait::{wait_until, wait_up_to};

use volume::Volume;

/// How long the slowest step may take: everything is a round trip to three processes.
const LIMIT: Duration = Duration::from_secs(240);

/// How long a silent consumer keeps its claims, in the test of living ones.
const LEASE: &str = "4s";

#[test]
fn a_spool_on_a_shared_filesystem_keeps_its_promises() {
    if !needs::long() {
        skip("the volume takes a minute; TUSPOOL_LONG=1 runs it");
        return;
    }
    if !needs::met(&[Need::Root, Need::Tool("glusterd"), Need::Tool("gluster")]) {
        return;
    }
    if let Some(why) = volume::missing() {
        skip(&why);
        return;
    }
    // One volume for all: it takes longer than what is tried on it.
    let volume = Volume::start();
    a_file_from_the_other_host_is_found_without_an_event(&volume);
    each_upload_is_processed_exactly_once(&volume);
    a_living_claim_outlives_a_restart_of_every_brick(&volume);
}

#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
fn skip(why: &str) {
    eprintln!("SKIPPED gluster: {why}");
}

/// A spool seen through both mounts.
fn both(volume: &Volume, name: &str) -> [Pipeline; 2] {
    [0, 1].map(|n| Pipeline::with_spool(&volume.mount(n).join(name)))
}

/// With its own idea of how often to look: a local spool is looked at every 30 s.
fn consumer(pipeline: &Pipeline, hook: &Hook, more: &[&str]) -> Process {
    let command = hook.command();
    pipeline.spawn(Program::Consumer, &[&["--hook", &command], more].concat())
}

fn a_file_from_the_other_host_is_found_without_an_event(volume: &Volume) {
    let [here, there] = both(volume, "found");
    let ingest = here.ingest(&[]);
    let hook = Hook::new(&there, "hook", "");
    let consumer = consumer(&there, &hook, &[]);
    consumer.wait_for_log();
    for n in 1..=3 {
        let upload = ingest.tus().create_with(&payload::bytes(n, 1000), &[]);
        // 2 s is what is promised; less than 30 s proves that it was the poll of shared spools.
        wait_up_to(Duration::from_secs(20), "the upload to be found", || {
            hook.runs()
                .iter()
                .any(|run| run.id == upload.id())
                .then_some(())
        });
    }
}

fn each_upload_is_processed_exactly_once(volume: &Volume) {
    let [here, there] = both(volume, "once");
    let ingest = here.ingest(&["--durability", "none"]);
    let hook = Hook::new(&here, "hook", "");
    let consumers: Vec<_> = (0..8)
        .map(|n| {
            consumer(
                if n % 2 == 0 { &here } else { &there },
                &hook,
                &["--jobs", "2"],
            )
        })
        .collect();
    let mut expected = BTreeMap::new();
    for n in 0..sized(100, 500) {
        let upload = ingest.tus().create_with(&payload::bytes(n, 100), &[]);
        expected.insert(upload.id().to_owned(), 1);
    }
    wait_up_to(LIMIT, "the last delivery", || {
        here.spool().is_settled().then_some(())
    });
    for mut consumer in consumers {
        assert!(consumer.terminate().success(), "{}", consumer.log());
    }
    let mut processed: BTreeMap<String, u32> = BTreeMap::new();
    for run in hook.runs() {
        assert!(run.ended && run.attempt == 1, "{run:?}");
        *processed.entry(run.id).or_default() += 1;
    }
    assert!(
        processed == expected,
        "{} of {}",
        processed.len(),
        expected.len()
    );
}

fn a_living_claim_outlives_a_restart_of_every_brick(volume: &Volume) {
    let [here, there] = both(volume, "restart");
    let ingest = here.ingest(&[]);
    let go_on = here.path("go-on");
    let body = format!("until [ -e {} ]; do sleep 0.2; done", go_on.display());
    let hook = Hook::new(&here, "hook", &body);
    let upload = ingest.tus().create_with(b"hello", &[]);
    let first = consumer(&here, &hook, &["--lease", LEASE]);
    wait_until("the hook to run", || {
        (!hook.runs().is_empty()).then_some(())
    });
    let rivals = [&here, &there].map(|view| consumer(view, &hook, &["--lease", LEASE]));
    for brick in 0..3 {
        volume.restart_brick(brick);
    }
    // The lock may be gone by now. The rivals look at the claim every other second; the heartbeat
    // goes on, and is all that speaks for the consumer.
    let claimed = here.spool().root().join("claimed");
    let mut beats = Vec::new();
    wait_up_to(LIMIT, "ten more heartbeats", || {
        assert_eq!(
            hook.runs().len(),
            1,
            "a second consumer took a living claim"
        );
        if let Some(beat) = heartbeat(&claimed).filter(|beat| Some(beat) != beats.last()) {
            beats.push(beat);
        }
        (10 < beats.len()).then_some(())
    });
    std::fs::write(&go_on, "").unwrap();
    wait_up_to(LIMIT, "the delivery", || {
        here.spool().is_settled().then_some(())
    });
    upload.head().expect(200, []);
    let runs = hook.runs();
    assert!(runs.len() == 1 && runs[0].ended, "{runs:?}");
    drop((first, rivals));
}

/// When the one claim last showed that it lives.
fn heartbeat(claimed: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(claimed).ok()?.filter_map(Result::ok);
    let mut states = entries.filter(|e| e.path().extension().is_some_and(|x| x == "state"));
    states.next()?.metadata().ok()?.modified().ok()
}
