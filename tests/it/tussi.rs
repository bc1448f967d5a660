//! tussi 3.1.0 on our directories and we on its: `completed/` is understood by both.

use serde_json::Value;
use tests::client::{Address, Tus};
use tests::needs::{self, Need};
use tests::payload;
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::programs::Program;
use tests::real_clients::{tussi_server, tussi_worker};
use tests::wait::{PATIENCE, wait_until};

#[test]
fn a_tussi_worker_consumes_what_ingest_completed() {
    if !needs::met(&[Need::RealClients]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let tus = ingest.tus();
    let body = payload::bytes(1, 100_000);
    // Whole in one request, and in pieces: the two ways to hand over.
    let whole = tus.create_with(&body, &[("filename", "whole.bin"), ("owner", "grace")]);
    let pieces = tus.create(body.len() as u64, &[("filename", "pieces.bin")]);
    pieces.patch(0, &body[..1000]).expect(204, []);
    pieces.patch(1000, &body[1000..]).expect(204, []);

    let worker = tussi_worker(pipeline.spool().root(), &pipeline.out(), 2);
    let took = pipeline
        .start("tussi-worker", worker)
        .finish(PATIENCE)
        .expect_code(0);
    for (upload, name) in [(&whole, "whole.bin"), (&pieces, "pieces.bin")] {
        let line = took.stdout.lines().find(|line| line.contains(upload.id()));
        let line = line.unwrap_or_else(|| panic!("{name} was not taken: {took:?}"));
        let seen: Value = serde_json::from_str(line).unwrap();
        assert_eq!(seen["filename"], name);
        assert_eq!(
            (&seen["length"], &seen["offset"]),
            (&100_000.into(), &100_000.into())
        );
        assert_eq!(seen["finished"], true);
        assert!(
            seen["duration"]
                .as_f64()
                .is_some_and(|seconds| 0.0 <= seconds),
            "{seen}"
        );
        assert!(std::fs::read(pipeline.out().join(name)).unwrap() == body);
    }
    assert_eq!(pipeline.spool().names("completed"), Vec::<String>::new());
}

#[test]
fn our_programs_go_on_with_a_spool_that_tussi_left() {
    if !needs::met(&[Need::RealClients]) {
        return;
    }
    let pipeline = Pipeline::new();
    let spool = pipeline.spool().root();
    for directory in ["uploads", "completed"] {
        std::fs::create_dir_all(spool.join(directory)).unwrap();
    }
    let ready = pipeline.path("tussi-ready");
    let mut server = pipeline.start("tussi-server", tussi_server(spool, &ready));
    let address = wait_until("tussi to listen", || {
        std::fs::read_to_string(&ready).ok()?.parse().ok()
    });
    let tussi = Tus::new(&Address::new(address), BASE_PATH);
    let body = payload::bytes(2, 50_000);
    let completed = tussi.create(body.len() as u64, &[("filename", "completed.bin")]);
    completed.patch(0, &body).expect(204, []);
    let unfinished = tussi.create(body.len() as u64, &[("filename", "unfinished.bin")]);
    unfinished.patch(0, &body[..20_000]).expect(204, []);
    server.kill();

    // The half is taken up by ingest where tussi's record says that it stands.
    let ingest = pipeline.ingest(&[]);
    let ours = unfinished.at(&ingest.tus());
    assert_eq!(ours.offset(), 20_000);
    ours.patch(20_000, &body[20_000..]).expect(204, []);

    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    for name in ["completed.bin", "unfinished.bin"] {
        assert!(std::fs::read(out.join(name)).unwrap() == body, "{name}");
    }
}
