//! Real clients over a connection that keeps breaking: what they send arrives whole and once.

use tests::hook::Hook;
use tests::needs::{self, Need, sized};
use tests::payload;
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::programs::Program;
use tests::proxy::{Plan, Proxy};
use tests::real_clients::RealClient;
use tests::wait::wait_for;

use std::time::Duration;

/// Cuts that are planned; two may fall on one connection, so not all of them happen.
const CUTS_PLANNED: u32 = 16;
/// Cuts that have to have happened.
const CUTS_LEAST: u64 = 10;

#[test]
fn a_file_sent_by_tus_js_client_over_a_broken_connection_arrives_once() {
    arrives_once(RealClient::TusJsClient, 1);
}

#[test]
fn a_file_sent_by_tuspy_over_a_broken_connection_arrives_once() {
    arrives_once(RealClient::Tuspy, 2);
}

fn arrives_once(client: RealClient, seed: u64) {
    if !needs::met(&[Need::RealClients]) {
        return;
    }
    let length = sized(32 << 20, 1 << 30);
    let filename = "a file with blänks.bin";
    let pipeline = Pipeline::new();
    let hook = Hook::new(&pipeline, "hook", "");
    let out = pipeline.out();
    let ingest = pipeline.ingest(&[]);
    let deliver = [
        "--move-to",
        &out.to_string_lossy(),
        "--hook",
        &hook.command(),
    ];
    let _consumers = [pipeline.consumer(&deliver), pipeline.consumer(&deliver)];
    let _janitor = pipeline.spawn(Program::Janitor, &["--every", "1s"]);

    let file = pipeline.path("file");
    let digest = payload::write_file(&file, seed, length).unwrap();
    let proxy = Proxy::start(ingest.address(), Plan::random(seed, CUTS_PLANNED, length));
    let upload = client.upload(proxy.address(), BASE_PATH, &file, filename);
    let sent = pipeline
        .start("client", upload)
        .finish(Duration::from_secs(600))
        .expect_code(0);

    assert!(
        CUTS_LEAST <= proxy.cuts(),
        "{} cuts, {sent:?}",
        proxy.cuts()
    );
    let delivered = || names(&out);
    wait_for("the delivery", &vec![filename.to_owned()], delivered);
    assert_eq!(payload::sha256_file(&out.join(filename)).unwrap(), digest);
    wait_for("an empty queue", &true, || {
        pipeline.spool().data_in("completed").is_empty()
    });
    let attempts: Vec<u32> = hook.runs().iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1], "the hook ran exactly once");
}

/// Names in a destination, without those that are still being written.
fn names(out: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}
