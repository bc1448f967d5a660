//! Several processes on one spool: one wins, nothing is mixed, nothing is done twice.

use std::collections::BTreeMap;
use std::sync::Barrier;

use tests::client::Tus;
use tests::hook::Hook;
use tests::http::Connection;
use tests::needs::sized;
use tests::payload;
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::wait::{wait_for, wait_up_to};

#[test]
fn an_upload_started_on_one_ingest_goes_on_on_another() {
    let pipeline = Pipeline::new();
    let (one, other) = (pipeline.ingest(&[]), pipeline.ingest(&[]));
    let here = one.tus().create(15, &[]);
    let there = here.at(&other.tus());
    here.patch(0, b"hello")
        .expect(204, [("Upload-Offset", "5")]);
    there.head().expect(200, [("Upload-Offset", "5")]);
    there
        .patch(5, b"world")
        .expect(204, [("Upload-Offset", "10")]);
    here.patch(10, b"again")
        .expect(204, [("Upload-Offset", "15")]);
    let completed = std::fs::read(pipeline.spool().path("completed", here.id())).unwrap();
    assert_eq!(completed, b"helloworldagain");
}

#[test]
fn a_client_that_comes_back_to_another_ingest_takes_over_from_its_dead_connection() {
    let pipeline = Pipeline::new();
    let (one, other) = (pipeline.ingest(&[]), pipeline.ingest(&[]));
    let here = one.tus().create(10, &[]);
    let there = here.at(&other.tus());
    let mut silent = here.begin_patch(0, 10);
    silent.send(b"hello").unwrap();
    wait_for("the watermark", &5, || there.offset());
    // 423 until the silent holder has let go, which it does after half a second.
    wait_for("the take-over", &204, || there.patch(5, b"world").status);
    let completed = std::fs::read(pipeline.spool().path("completed", here.id())).unwrap();
    assert_eq!(completed, b"helloworld");
}

#[test]
fn of_two_simultaneous_patches_one_wins_and_no_bytes_are_mixed() {
    let pipeline = Pipeline::new();
    let (one, other) = (pipeline.ingest(&[]), pipeline.ingest(&[]));
    let rounds = sized(20, 200);
    for round in 0..rounds {
        let length = 1 + (round * 131_071) % (3 << 20);
        // In every other round both meet in one process.
        let rival = if round % 2 == 0 {
            other.tus()
        } else {
            one.tus()
        };
        race(&pipeline, &one.tus(), &rival, length);
    }
}

/// Two clients send `length` different bytes each to one upload at offset 0.
fn race(pipeline: &Pipeline, one: &Tus, other: &Tus, length: usize) {
    let upload = one.create(length as u64, &[]);
    let start = Barrier::new(2);
    let send = |tus: &Tus, byte: u8| {
        let body = vec![byte; length];
        start.wait();
        upload.at(tus).patch(0, &body).status
    };
    let statuses = std::thread::scope(|scope| {
        let a = scope.spawn(|| send(one, b'a'));
        let b = scope.spawn(|| send(other, b'b'));
        [a.join().unwrap(), b.join().unwrap()]
    });
    let winner = match statuses {
        [204, 409 | 423] => b'a',
        [409 | 423, 204] => b'b',
        _ => panic!("{statuses:?} for {length} bytes"),
    };
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert_eq!(completed.len(), length);
    assert!(completed.iter().all(|byte| *byte == winner), "mixed bytes");
}

#[test]
fn eight_consumers_process_each_upload_exactly_once() {
    let count = sized(400, 3000);
    let pipeline = Pipeline::new();
    // What is looked at is who claims what, not what survives a power cut.
    let ingest = pipeline.ingest(&["--durability", "none"]);
    let hook = Hook::new(&pipeline, "hook", "");
    let consumers: Vec<_> = (0..8)
        .map(|_| pipeline.consumer(&["--jobs", "2", "--hook", &hook.command()]))
        .collect();

    // Half of them come while the consumers run, half were there before they looked again.
    let mut expected: BTreeMap<String, u32> = BTreeMap::new();
    let mut connection = ingest.tus().connect().unwrap();
    for n in 0..count {
        expected.insert(upload_small(&mut connection, &ingest.tus(), n), 1);
    }
    let limit = std::time::Duration::from_secs(300);
    wait_up_to(limit, "the last delivery", || {
        pipeline.spool().is_settled().then_some(())
    });
    for mut consumer in consumers {
        assert!(consumer.terminate().success());
    }
    let mut processed: BTreeMap<String, u32> = BTreeMap::new();
    for run in hook.runs() {
        assert!(run.ended && run.attempt == 1, "{run:?}");
        *processed.entry(run.id).or_default() += 1;
    }
    assert!(
        processed == expected,
        "{} uploads processed",
        processed.len()
    );
}

/// One whole upload in one request on a connection that stays open; returns its id.
fn upload_small(connection: &mut Connection, tus: &Tus, n: u64) -> String {
    let body = payload::bytes(n, usize::try_from(100 + n % 900).unwrap());
    let length = body.len().to_string();
    let headers = [
        ("Upload-Length", length.as_str()),
        ("Content-Type", "application/offset+octet-stream"),
    ];
    let head = tests::client::request_head("POST", BASE_PATH, &headers, Some(body.len() as u64));
    connection.send(&[head, body].concat()).unwrap();
    let response = connection.receive("POST").unwrap();
    tus.created(response).id().to_owned()
}
