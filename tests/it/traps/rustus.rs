//! What rustus and @tus/server do.

use std::sync::Barrier;

use tests::failpoint::{Failpoint, Fault};
use tests::needs::{self, Need, sized};
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::programs::Program;

#[test]
fn a_body_is_held_in_memory() {
    let length: u64 = sized(96 << 20, 1 << 30);
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--durability", "none"]);
    let upload = ingest.tus().create(length, &[]);
    let mut connection = upload.begin_patch(0, length);
    let piece = vec![7; 1 << 20];
    for _ in 0..length >> 20 {
        connection.send(&piece).unwrap();
    }
    let answer = connection.receive("PATCH").unwrap().expect(204, []);
    assert_eq!(answer.number("Upload-Offset"), length);
    let peak = ingest.process.peak_resident_bytes();
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
}

#[test]
fn equal_patches_at_once_are_all_applied() {
    let pipeline = Pipeline::new();
    let ingests = [pipeline.ingest(&[]), pipeline.ingest(&[])];
    for _ in 0..sized(10, 50) {
        let upload = ingests[0].tus().create(100, &[]);
        let start = Barrier::new(4);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let patch = |n: usize| {
                let (upload, start) = (upload.at(&ingests[n % 2].tus()), &start);
                scope.spawn(move || {
                    start.wait();
                    upload.patch(0, &[7; 50]).status
                })
            };
            let all: Vec<_> = (0..4).map(patch).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let won = statuses.iter().filter(|&&status| status == 204).count();
        assert_eq!(won, 1, "{statuses:?}");
        assert!(
            statuses
                .iter()
                .all(|status| [204, 409, 423].contains(status)),
            "{statuses:?}"
        );
        assert_eq!(upload.offset(), 50);
        let data = pipeline.spool().path("uploads", upload.id());
        assert_eq!(std::fs::read(data).unwrap(), [7; 50]);
    }
}

#[test]
fn a_crash_between_data_and_record_makes_the_upload_longer_than_it_is() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    let pipeline = Pipeline::new();
    let dies = Failpoint::new("advance.data_synced", Fault::Kill);
    let mut ingest = pipeline.ingest_failing(&[], &[dies]);
    let upload = ingest.tus().create(10, &[]);
    assert!(upload.try_patch(0, b"hello").is_err());
    ingest.process.wait_killed();
    ingest.restart();
    assert_eq!(upload.offset(), 0);
    upload.patch(0, b"hello").expect(204, []);
    upload.patch(5, b"world").expect(204, []);
    let data = pipeline.spool().path("completed", upload.id());
    assert_eq!(std::fs::read(data).unwrap(), b"helloworld");
}

#[test]
fn a_patch_past_the_length_is_accepted() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    upload.patch(0, &[7; 20]).expect(413, []);
    assert_eq!(upload.offset(), 0);
    upload.patch(0, &[7; 10]).expect(204, []);
    upload.patch(10, &[7; 10]).expect(413, []);
    let data = pipeline.spool().path("completed", upload.id());
    assert_eq!(std::fs::metadata(data).unwrap().len(), 10);
}

#[test]
fn the_last_request_said_again_is_an_error() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    upload.patch(0, b"hello").expect(204, []);
    upload.patch(5, b"").expect(204, [("Upload-Offset", "5")]);
    upload
        .patch(0, b"hello")
        .expect(409, [("Upload-Offset", "5")]);
}

#[test]
fn tus_resumable_is_not_looked_at() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let mut connection = ingest.tus().connect().unwrap();
    connection
        .send(b"POST /files/ HTTP/1.1\r\nHost: x\r\nUpload-Length: 5\r\n\r\n")
        .unwrap();
    connection.receive("POST").unwrap().expect(412, []);
}

#[test]
fn a_connection_serves_one_request() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let mut connection = ingest.tus().connect().unwrap();
    for _ in 0..10 {
        connection
            .send(
                b"POST /files/ HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n\
                  Content-Type: application/offset+octet-stream\r\nContent-Length: 5\r\n\r\nhello",
            )
            .unwrap();
        connection.receive("POST").unwrap().expect(201, []);
    }
}

#[test]
fn a_concatenation_that_is_refused_leaves_a_file() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let whole = ingest.tus().create_with(b"hello", &[]);
    let before = pipeline.spool().listing();
    for list in [
        format!("final;{}", whole.path()),
        "final;/files/x".to_owned(),
    ] {
        let headers = [("Upload-Concat", list.as_str())];
        let refused = ingest.tus().request("POST", BASE_PATH, &headers, b"");
        refused.expect(400, []);
    }
    assert_eq!(pipeline.spool().listing(), before);
}

#[test]
fn an_empty_file_is_refused() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(0, &[]);
    upload.head().expect(200, [("Upload-Offset", "0")]);
    assert_eq!(pipeline.spool().data_in("completed"), [upload.id()]);
}

#[test]
fn cleaning_up_deletes_what_is_complete() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--expire-after", "1s"]);
    let upload = ingest.tus().create_with(b"hello", &[]);
    let stale = ingest.tus().create(5, &[]);
    tests::wait::wait_until("the other to expire", || {
        let remove = ["--stale-upload-age", "1s", "--expired", "delete"];
        pipeline.run(Program::Janitor, &remove).expect_code(0);
        (stale.head().status == 410 && pipeline.spool().data_in("uploads").is_empty()).then_some(())
    });
    upload.head().expect(200, [("Upload-Offset", "5")]);
    let data = pipeline.spool().path("completed", upload.id());
    assert_eq!(std::fs::read(data).unwrap(), b"hello");
}
