//! Creation and hand-over.

use tests::client::Upload;
use tests::failpoint::{Failpoint, Fault};
use tests::loop_fs::{self, Kind, LoopFs};
use tests::needs::{self, Need};
use tests::payload;
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};
use tests::programs::{Program, scratch_dir};
use tests::wait::wait_for;

use super::{IMPATIENT, body, deliver_all, kill_at, points};

/// How a client sends a whole upload.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// POST, then PATCH.
    Patch,
    /// One POST with everything.
    Whole,
}

#[test]
fn ingest_killed_at_any_step_of_a_creation_leaves_nothing_in_the_way() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("create") {
        let reached = [Shape::Patch, Shape::Whole].map(|shape| killed_in_creation(point, shape));
        assert!(reached.contains(&true), "no creation passes {point}");
    }
}

/// Whether a creation of this shape passes the point.
fn killed_in_creation(point: &str, shape: Shape) -> bool {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest_failing(&[], &kill_at(point));
    let body = body();
    let content: &[u8] = match shape {
        Shape::Patch => b"",
        Shape::Whole => &body,
    };
    let length = body.len().to_string();
    let headers = [
        ("Upload-Length", length.as_str()),
        ("Upload-Metadata", "filename YS5iaW4="), // a.bin
        ("Content-Type", "application/offset+octet-stream"),
    ];
    if ingest
        .tus()
        .try_request("POST", BASE_PATH, &headers, content)
        .is_ok()
    {
        return false;
    }
    ingest.process.wait_killed();
    ingest.restart();

    // The client was told of no upload, so it makes another one.
    let _upload = ingest.tus().create_with(&body, &[("filename", "a.bin")]);
    let tidy = [&IMPATIENT[..], &["--stale-upload-age", "0s"]].concat();
    pipeline.run(Program::Janitor, &tidy).expect_code(0);
    deliver_all(&pipeline);
    let left = pipeline.spool().listing();
    assert!(
        pipeline.spool().is_settled(),
        "{point}, {shape:?}: {left:?}"
    );
    for entry in std::fs::read_dir(pipeline.out()).unwrap() {
        assert!(
            std::fs::read(entry.unwrap().path()).unwrap() == body,
            "{point}, {shape:?}"
        );
    }
    true
}

/// Who comes after a killed ingest.
#[derive(Clone, Copy, Debug)]
enum Heir {
    /// The client asks a new ingest.
    Client,
    /// A new ingest, which nobody asks.
    Ingest,
    /// The janitor, without any ingest.
    Janitor,
}

#[test]
fn ingest_killed_at_any_step_of_a_hand_over_has_it_finished_by_whoever_comes_next() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("handover") {
        let mut reached = false;
        for heir in [Heir::Client, Heir::Ingest, Heir::Janitor] {
            for shape in [Shape::Patch, Shape::Whole] {
                reached |= killed_in_hand_over(point, heir, shape);
            }
        }
        assert!(reached, "no hand-over passes {point}");
    }
}

/// Whether a hand-over of this shape passes the point.
fn killed_in_hand_over(point: &str, heir: Heir, shape: Shape) -> bool {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest_failing(&[], &kill_at(point));
    let body = body();
    let Some(upload) = send_until_killed(&mut ingest, shape, &body) else {
        return false;
    };
    let what = format!("{point}, {heir:?}, {shape:?}");
    match heir {
        Heir::Client => {
            ingest.restart();
            if let Some(upload) = &upload {
                // What was not answered may have to be sent again, as by any client.
                let offset = usize::try_from(upload.offset()).unwrap();
                if offset < body.len() {
                    upload.patch(offset as u64, &body[offset..]).expect(204, []);
                }
                let length = body.len().to_string();
                upload
                    .head()
                    .expect(200, [("Upload-Offset", length.as_str())]);
            }
        }
        Heir::Ingest => ingest.restart(),
        Heir::Janitor => {
            pipeline.run(Program::Janitor, &IMPATIENT).expect_code(0);
        }
    }
    // It counts as received once its record says so; before that the client has to come back.
    let received = record_offset(&pipeline) == Some(body.len() as u64);
    let known = matches!((heir, &upload), (Heir::Client, Some(_)));
    if !received && !known {
        return true;
    }
    wait_for(&what, &1, || pipeline.spool().data_in("completed").len());
    deliver_all(&pipeline);
    let delivered = std::fs::read(pipeline.out().join("a.bin")).unwrap();
    assert!(delivered == body, "{what}");
    assert_eq!(
        std::fs::read_dir(pipeline.out()).unwrap().count(),
        1,
        "{what}"
    );
    assert!(
        pipeline.spool().is_settled(),
        "{what}: {:?}",
        pipeline.spool().listing()
    );
    true
}

/// Sends one upload; `None` if ingest outlives it, else the upload, if the client knows its URL.
fn send_until_killed(ingest: &mut Ingest, shape: Shape, body: &[u8]) -> Option<Option<Upload>> {
    let metadata = [("filename", "a.bin")];
    let upload = match shape {
        Shape::Patch => {
            let upload = ingest.tus().create(body.len() as u64, &metadata);
            upload.try_patch(0, body).is_err().then_some(Some(upload))
        }
        Shape::Whole => {
            let length = body.len().to_string();
            let metadata = tests::client::encode(&metadata);
            let headers = [
                ("Upload-Length", length.as_str()),
                ("Upload-Metadata", metadata.as_str()),
                ("Content-Type", "application/offset+octet-stream"),
            ];
            let answer = ingest.tus().try_request("POST", BASE_PATH, &headers, body);
            answer.is_err().then_some(None)
        }
    }?;
    ingest.process.wait_killed();
    Some(upload)
}

/// The offset in the only record of a spool.
fn record_offset(pipeline: &Pipeline) -> Option<u64> {
    let spool = pipeline.spool();
    ["completed", "uploads"].iter().find_map(|directory| {
        let name = spool
            .names(directory)
            .into_iter()
            .find(|name| name.ends_with(".meta"))?;
        spool.json(directory, &name)["offset"].as_u64()
    })
}

#[test]
fn ingest_killed_while_the_watermark_moves_has_the_old_or_the_new_one() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("advance") {
        let pipeline = Pipeline::new();
        let mut ingest = pipeline.ingest_failing(&[], &[at_passage(point, 2)]);
        let body = body();
        let upload = ingest
            .tus()
            .create(body.len() as u64, &[("filename", "a.bin")]);
        upload
            .patch(0, &body[..30_000])
            .expect(204, [("Upload-Offset", "30000")]);
        assert!(
            upload.try_patch(30_000, &body[30_000..60_000]).is_err(),
            "{point}"
        );
        ingest.process.wait_killed();
        ingest.restart();

        let offset = usize::try_from(upload.offset()).unwrap();
        assert!([30_000, 60_000].contains(&offset), "{point}: {offset}");
        upload.patch(offset as u64, &body[offset..]).expect(204, []);
        deliver_all(&pipeline);
        assert!(
            std::fs::read(pipeline.out().join("a.bin")).unwrap() == body,
            "{point}"
        );
    }
}

#[test]
fn ingest_killed_after_a_write_past_the_page_cache_goes_on_where_its_watermark_is() {
    if !needs::met(&[Need::Failpoints]) || !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    // One that is known to take such writes.
    let fs = LoopFs::make(Kind::Ext4, dir.path(), "fs", 512 << 20);
    // More than is received between two watermarks, twice.
    let body = payload::bytes(1, 40 << 20);
    for point in points("append") {
        for passage in [1, 30] {
            let what = format!("{point}, passage {passage}");
            let spool = fs.mount_point().join(format!("spool-{passage}"));
            let pipeline = Pipeline::with_spool(&spool);
            let mut ingest = pipeline.ingest_failing(&[], &[at_passage(point, passage)]);
            let length = body.len() as u64;
            let upload = ingest.tus().create(length, &[("filename", "a.bin")]);
            assert!(upload.try_patch(0, &body).is_err(), "{what}");
            ingest.process.wait_killed();
            ingest.restart();

            let offset = usize::try_from(upload.offset()).unwrap();
            assert!(offset < body.len(), "{what}: {offset}");
            upload.patch(offset as u64, &body[offset..]).expect(204, []);
            deliver_all(&pipeline);
            let delivered = std::fs::read(pipeline.out().join("a.bin")).unwrap();
            assert!(delivered == body, "{what}: not what was sent");
        }
    }
}

fn at_passage(point: &str, n: u32) -> Failpoint {
    Failpoint::new(point, Fault::Kill).at_passage(n)
}

#[test]
fn ingest_killed_at_any_step_of_a_termination_has_it_finished_by_whoever_comes_next() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("end") {
        for sent in [1000, body().len()] {
            for heir in [Heir::Client, Heir::Janitor] {
                killed_in_termination(point, heir, sent);
            }
        }
    }
}

/// `sent` bytes have arrived, some or all.
fn killed_in_termination(point: &str, heir: Heir, sent: usize) {
    let what = format!("{point}, {heir:?}, {sent} bytes");
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest_failing(&[], &kill_at(point));
    let body = body();
    let upload = ingest.tus().create(body.len() as u64, &[]);
    upload.patch(0, &body[..sent]).expect(204, []);
    assert!(
        ingest
            .tus()
            .try_request("DELETE", upload.path(), &[], b"")
            .is_err(),
        "{what}"
    );
    ingest.process.wait_killed();

    if matches!(heir, Heir::Janitor) {
        pipeline.run(Program::Janitor, &IMPATIENT).expect_code(0);
        assert_eq!(
            pipeline.spool().places(upload.id()),
            ["receipts/{id}.meta"],
            "{what}"
        );
    }
    ingest.restart();
    upload.head().expect(410, []);
    upload.delete().expect(410, []);
    deliver_all(&pipeline);
    pipeline.run(Program::Janitor, &IMPATIENT).expect_code(0);
    assert_eq!(
        pipeline.spool().places(upload.id()),
        ["receipts/{id}.meta"],
        "{what}"
    );
    assert_eq!(
        std::fs::read_dir(pipeline.out()).unwrap().count(),
        0,
        "{what}"
    );
}
