//! Broken connections and a killed server: what was answered is kept, and the rest goes on from
//! the offset that HEAD reports.

use std::time::{Duration, Instant};

use tests::payload;
use tests::pipeline::Pipeline;
use tests::wait::{wait_for, wait_until};

const MIB: usize = 1 << 20;

#[test]
fn what_was_answered_survives_a_sigkill_of_ingest() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[("filename", "greeting")]);
    upload
        .patch(0, b"hello")
        .expect(204, [("Upload-Offset", "5")]);

    ingest.kill_and_restart();
    upload
        .head()
        .expect(200, [("Upload-Offset", "5"), ("Upload-Length", "10")]);
    upload.patch(3, b"!").expect(409, [("Upload-Offset", "5")]);
    upload
        .patch(5, b"world")
        .expect(204, [("Upload-Offset", "10")]);

    ingest.kill_and_restart();
    upload
        .head()
        .expect(200, [("Upload-Offset", "10"), ("Upload-Length", "10")]);
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert_eq!(completed, b"helloworld");
}

#[test]
fn a_connection_that_closes_in_the_middle_keeps_every_byte_that_arrived() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let body = payload::bytes(1, MIB);
    let upload = ingest.tus().create(MIB as u64, &[]);
    let arrived = 300_001;
    let mut connection = upload.begin_patch(0, MIB as u64);
    connection.send(&body[..arrived]).unwrap();
    drop(connection);

    wait_for("the bytes to be kept", &(arrived as u64), || {
        upload.offset()
    });
    upload
        .patch(arrived as u64, &body[arrived..])
        .expect(204, []);
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert!(completed == body);
}

#[test]
fn the_first_head_tells_of_every_byte_that_has_arrived() {
    let pipeline = Pipeline::new();
    let length = 48 * MIB;
    let body = payload::bytes(5, length);
    let mut slow_syncs = 0;
    for durability in ["every-patch", "none"] {
        let ingest = pipeline.ingest(&["--durability", durability]);
        for round in 1..=8 {
            let upload = ingest.tus().create(length as u64, &[]);
            let mut connection = upload.begin_patch(0, length as u64);
            // Faster than the disk, or at least than the reader.
            let sent = round * 5 * MIB + 4321;
            connection.send(&body[..sent]).unwrap();
            connection.wait_arrived();
            let asked = Instant::now();
            let told = upload.offset() as usize;
            // HEAD waits for a sync, but for no more than a second.
            if told < sent && Duration::from_secs(1) <= asked.elapsed() {
                slow_syncs += 1;
                continue;
            }
            assert_eq!(told, sent, "{durability}");
            drop(connection);
            upload.patch(sent as u64, &body[sent..]).expect(204, []);
            let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
            assert!(completed == body);
        }
    }
    assert!(slow_syncs < 4, "{slow_syncs} syncs took a second");
}

#[test]
fn a_body_that_stalls_is_counted_and_survives_a_sigkill() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&[]);
    let length = 40 * MIB;
    let body = payload::bytes(2, length);
    let upload = ingest.tus().create(length as u64, &[]);
    let arrived = 37 * MIB + 4321;
    let mut connection = upload.begin_patch(0, length as u64);
    connection.send(&body[..arrived]).unwrap();
    // The watermark moves within a second of the last byte, the body still open.
    wait_for("the watermark", &(arrived as u64), || upload.offset());

    ingest.kill_and_restart();
    assert_eq!(upload.offset(), arrived as u64);
    upload
        .patch(arrived as u64, &body[arrived..])
        .expect(204, []);
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert!(completed == body);
}

#[test]
fn a_sigkill_in_a_running_body_costs_at_most_16_mib_of_what_arrived() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&[]);
    let length = 200 * MIB;
    let body = payload::bytes(3, length);
    let upload = ingest.tus().create(length as u64, &[]);
    let mut connection = upload.begin_patch(0, length as u64);
    let mut sent = 0;
    for piece in body[..150 * MIB].chunks(64 * 1024) {
        connection.send(piece).unwrap();
        sent += piece.len();
    }
    // Both sides' socket buffers may hold what ingest has not seen.
    let in_sockets = 8 * MIB;
    let seen = wait_until("the watermark to follow", || {
        let offset = usize::try_from(upload.offset()).unwrap();
        (sent - 16 * MIB - in_sockets <= offset).then_some(offset)
    });

    ingest.kill_and_restart();
    let kept = usize::try_from(upload.offset()).unwrap();
    assert!(
        seen <= kept && kept <= sent,
        "HEAD said {seen}, then {kept}; sent were {sent}"
    );
    upload.patch(kept as u64, &body[kept..]).expect(204, []);
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert!(completed == body);
}

#[test]
fn a_client_that_comes_back_takes_over_from_its_own_dead_connection() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    let mut silent = upload.begin_patch(0, 10);
    silent.send(b"hello").unwrap();
    wait_for("the watermark", &5, || upload.offset());

    upload
        .patch(5, b"world")
        .expect(204, [("Upload-Offset", "10")]);
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert_eq!(completed, b"helloworld");
    // What the old connection still sends reaches nobody. It may be closed by now.
    drop(silent.send(b"WORLD"));
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert_eq!(completed, b"helloworld");
}

#[test]
fn head_stays_true_after_delivery_and_termination() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let delivered = ingest
        .tus()
        .create_with(b"hello", &[("filename", "greeting")]);
    let done = pipeline.run(
        tests::programs::Program::Consumer,
        &["--drain", "--move-to", &pipeline.out().to_string_lossy()],
    );
    done.expect_code(0);
    assert_eq!(
        std::fs::read(pipeline.out().join("greeting")).unwrap(),
        b"hello"
    );
    let wanted = [("Upload-Offset", "5"), ("Upload-Length", "5")];
    delivered.head().expect(200, wanted);
    delivered
        .patch(5, b"")
        .expect(204, [("Upload-Offset", "5")]);
    delivered.delete().expect(410, []);

    let terminated = ingest.tus().create(5, &[]);
    terminated.delete().expect(204, []);
    terminated.head().expect(410, []);
    terminated.patch(0, b"hello").expect(410, []);
    let unknown = ingest
        .tus()
        .upload("/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b");
    unknown.head().expect(404, []);
}
