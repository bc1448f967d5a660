//! Real clients over a connection that keeps breaking: what they send arrives whole and once.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::hook::Hook;
use tests::needs::{self, Need, sized};
use tests::payload;
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::programs::Program;
use tests::proxy::{Plan, Proxy};
use tests::real_clients::{RealClient, tus_js_client};
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

/// The chunks in which clients send that do not send all at once.
fn chunk_bytes() -> u64 {
    sized(3 << 20, 50 << 20)
}

#[test]
fn tus_js_client_with_parallel_uploads_completes_over_a_broken_connection() {
    with_options(3, &json!({"parallelUploads": 4}));
}

#[test]
fn tus_js_client_with_data_during_creation_completes_over_a_broken_connection() {
    // In chunks: if the creation that brings everything were cut, or its answer lost, the client
    // would begin again and leave behind what it had sent.
    let options = json!({"uploadDataDuringCreation": true, "chunkSize": chunk_bytes()});
    with_options(4, &options);
}

#[test]
fn tus_js_client_with_a_deferred_length_completes_over_a_broken_connection() {
    let options = json!({"uploadLengthDeferred": true, "chunkSize": chunk_bytes()});
    with_options(5, &options);
}

#[test]
fn tus_js_client_with_ietf_draft_03_completes_over_a_broken_connection() {
    with_options(6, &json!({"protocol": "ietf-draft-03"}));
}

#[test]
fn tus_js_client_with_ietf_draft_05_completes_over_a_broken_connection() {
    with_options(7, &json!({"protocol": "ietf-draft-05"}));
}

#[test]
fn tus_js_client_with_ietf_draft_05_in_chunks_completes_over_a_broken_connection() {
    let options = json!({"protocol": "ietf-draft-05", "chunkSize": chunk_bytes()});
    with_options(8, &options);
}

/// What clients name their file.
const FILENAME: &str = "a file with blänks.bin";

fn arrives_once(client: RealClient, seed: u64) {
    sends_once(seed, |to, file| {
        client.upload(to, BASE_PATH, file, FILENAME)
    });
}

fn with_options(seed: u64, options: &serde_json::Value) {
    sends_once(seed, |to, file| {
        tus_js_client(to, BASE_PATH, file, FILENAME, options)
    });
}

/// Lets a client send a file through a proxy that cuts, to a whole pipeline.
fn sends_once(seed: u64, client: impl Fn(SocketAddr, &Path) -> Command) {
    if !needs::met(&[Need::RealClients]) {
        return;
    }
    let length = sized(32 << 20, 1 << 30);
    let filename = FILENAME;
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
    let upload = client(proxy.address(), &file);
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
fn names(out: &Path) -> Vec<String> {
    let names = std::fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}
