//! A spool on GlusterFS, three replicas, mounted twice as by two hosts. Nothing there tells one
//! host of the other's changes, caches are a second old, and a restart of the bricks can drop a
//! lock that its holder believes to have.
//!
//! `TUSPOOL_LONG=1 cargo test -p tests --test it gluster` runs it; root and FUSE are needed.

mod volume;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

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
        return; // The volume takes a minute.
    }
    if !needs::met(&[Need::Root, Need::Tool("glusterd"), Need::Tool("gluster")]) {
        return;
    }
    if let Some(why) = volume::missing() {
        return needs::skip(&why);
    }
    // One volume for all: it takes longer than what is tried on it.
    let volume = Volume::start();
    a_file_from_the_other_host_is_found_without_an_event(&volume);
    each_upload_is_processed_exactly_once(&volume);
    a_living_claim_outlives_a_restart_of_every_brick(&volume);
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

/// Listings that may end between an upload's answer and its hook: one that was under way, the one
/// that finds it, and one more, since a name may take a moment to be seen on the other host. They
/// are at most 1.9 s apart (1.5 s and a quarter), which is how 2 s are kept.
const LISTINGS_MAX: usize = 3;

#[expect(clippy::print_stderr, reason = "the figure is for who looks at it")]
fn a_file_from_the_other_host_is_found_without_an_event(volume: &Volume) {
    let [here, there] = both(volume, "found");
    let ingest = here.ingest(&[]);
    let hook = Hook::new(&there, "hook", "");
    let consumer = consumer(&there, &hook, &["--log-level", "debug"]);
    let listings = || consumer.log().matches("listed completed/").count();
    wait_until("the first listing", || (0 < listings()).then_some(()));
    for n in 1..=5 {
        let upload = ingest.tus().create_with(&payload::bytes(n, 1000), &[]);
        let (answered, before) = (Instant::now(), listings());
        // How many there were when the hook ran, and not when that was seen.
        let claimed = |log: &str| {
            let claim = log
                .lines()
                .position(|line| line.contains("\"claimed\"") && line.contains(upload.id()))?;
            let earlier = log.lines().take(claim);
            Some(
                earlier
                    .filter(|line| line.contains("listed completed/"))
                    .count(),
            )
        };
        let found = wait_up_to(LIMIT, "the upload to be found", || claimed(&consumer.log()));
        eprintln!(
            "found on the other host after {:?} and {} listings",
            answered.elapsed(),
            found.saturating_sub(before)
        );
        assert!(found <= before + LISTINGS_MAX, "{}", consumer.log());
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
    let args = ["--lease", LEASE, "--log-level", "debug"];
    let rivals = [&here, &there].map(|view| consumer(view, &hook, &args));
    lose_the_lock(volume, &there);
    // The heartbeat goes on, and is all that speaks for the consumer.
    let looks = rivals.each_ref().map(looks_at_claims);
    wait_up_to(
        LIMIT,
        "every rival to look at the claim without a lock",
        || {
            let since = rivals
                .iter()
                .zip(looks)
                .map(|(rival, begun)| looks_at_claims(rival) - begun);
            (3 <= since.min()?).then_some(())
        },
    );
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

fn looks_at_claims(consumer: &Process) -> usize {
    consumer.log().matches("looked after claims").count()
}

/// Restarts one brick after the other until the lock of the one claim is free for the other host,
/// although its holder lives and works: without that, the rest would prove nothing.
fn lose_the_lock(volume: &Volume, there: &Pipeline) {
    let is_free = || {
        let mut names = there.spool().names("claimed").into_iter();
        let data = names.find(|name| !name.ends_with(".state")).unwrap();
        let data = there.spool().path("claimed", &data);
        let file = File::options().read(true).write(true).open(data).unwrap();
        file.try_lock().is_ok() // and free again at once
    };
    assert!(!is_free(), "there is no lock that could be lost");
    for _ in 0..3 {
        for brick in 0..3 {
            volume.restart_brick(brick);
        }
        if is_free() {
            return;
        }
    }
    panic!("the volume keeps its locks over restarts of all its bricks");
}

/// When the one claim last showed that it lives.
fn heartbeat(claimed: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(claimed).ok()?.filter_map(Result::ok);
    let mut states = entries.filter(|e| e.path().extension().is_some_and(|x| x == "state"));
    states.next()?.metadata().ok()?.modified().ok()
}
