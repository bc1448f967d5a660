//! Traps (a) to (l).

use std::os::unix::fs::FileExt as _;

use serde_json::Value;
use tests::failpoint::{Failpoint, Fault};
use tests::needs::{self, Need, sized};
use tests::pipeline::{BASE_PATH, Pipeline, bare_command};
use tests::programs::Program;
use tests::wait::{PATIENCE, wait_for};

use super::processor_ticks;

#[test]
fn a_ids_with_encoded_separators_nul_or_backslash_leave_the_directory() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    std::fs::write(pipeline.path("outside.meta"), "{}").unwrap();
    let before = (
        pipeline.spool().listing(),
        std::fs::read_dir(pipeline.path("")).unwrap().count(),
    );
    for id in [
        "..%2f..%2foutside",
        "..%5coutside",
        "%00",
        "..\\..\\outside",
    ] {
        for method in ["HEAD", "GET", "PATCH", "DELETE"] {
            let path = format!("{BASE_PATH}{id}");
            let headers = [
                ("Upload-Offset", "0"),
                ("Content-Type", "application/offset+octet-stream"),
            ];
            let answer = ingest.tus().request(method, &path, &headers, b"");
            assert_eq!(answer.status, 404, "{method} {id}");
        }
    }
    let after = (
        pipeline.spool().listing(),
        std::fs::read_dir(pipeline.path("")).unwrap().count(),
    );
    assert_eq!(after, before);
    upload.head().expect(200, []);
}

/// Changes the record of an upload in `uploads/`, whose length in bytes stays.
fn rewrite(pipeline: &Pipeline, id: &str, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = pipeline.spool().path("uploads", &format!("{id}.meta"));
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text
        .find(from)
        .unwrap_or_else(|| panic!("{from} in {text}"));
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(to.as_bytes(), at as u64).unwrap();
}

#[test]
fn b_paths_in_the_record_are_trusted() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    // As wide as what it will be replaced by.
    let (name, path) = ("f".repeat(40), format!("../../{}", "x".repeat(34)));
    let upload = ingest.tus().create(5, &[("filename", &name)]);
    rewrite(&pipeline, upload.id(), &name, &path);
    upload.patch(0, b"hello").expect(204, []);
    let completed = pipeline.spool().path("completed", upload.id());
    assert_eq!(std::fs::read(completed).unwrap(), b"hello");
    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    let delivered: Vec<_> = std::fs::read_dir(&out).unwrap().collect();
    assert_eq!(delivered.len(), 1, "inside the destination: {delivered:?}");
    assert!(!pipeline.path(&"x".repeat(34)).try_exists().unwrap());
}

#[test]
fn c_max_size_is_bypassed_by_a_deferred_length() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--max-size", "1000"]);
    let open = [("Upload-Defer-Length", "1")];
    let upload = ingest
        .tus()
        .created(ingest.tus().request("POST", BASE_PATH, &open, b""));
    upload.patch(0, &[7; 5000]).expect(413, []);
    upload.patch(0, &[7; 1000]).expect(204, []);
    upload.patch(1000, b"!").expect(413, []);
    let data = pipeline.spool().path("uploads", upload.id());
    assert_eq!(std::fs::metadata(data).unwrap().len(), 1000);
}

#[test]
fn d_a_torn_record_makes_head_and_delete_fail_for_ever() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for (what, torn) in [("torn", ""), ("newer", "{\"format\":99}")] {
        let upload = ingest.tus().create(5, &[]);
        upload.patch(0, b"he").expect(204, []);
        let path = pipeline
            .spool()
            .path("uploads", &format!("{}.meta", upload.id()));
        let readable = std::fs::read(&path).unwrap();
        std::fs::write(&path, torn).unwrap();
        // It is there: neither "begin again" (404) nor "something broke" (5xx).
        for answer in [
            upload.head(),
            upload.patch(2, b"llo"),
            upload.delete(),
            ingest.tus().request("GET", upload.path(), &[], b""),
        ] {
            let answer = answer.expect(423, []);
            assert!(answer.header("Retry-After").is_some(), "{what}");
        }
        // And it goes on where it stood once the record is back.
        std::fs::write(&path, readable).unwrap();
        assert_eq!(upload.offset(), 2, "{what}");
        upload.patch(2, b"llo").expect(204, []);
        upload.delete().expect(204, []);
    }
}

#[test]
fn e_a_creation_that_fails_leaves_its_data_file() {
    let pipeline = Pipeline::new();
    let (script, no) = (
        pipeline.path("no.sh"),
        "echo '{\"reject\": true}'\nexit 1\n",
    );
    std::fs::write(&script, no).unwrap();
    let refusing = pipeline.ingest(&["--on-create", &format!("/bin/sh {}", script.display())]);
    let refused = |headers: &[(&str, &str)], body: &[u8]| {
        let answer = refusing.tus().request("POST", BASE_PATH, headers, body);
        assert!(answer.status >= 400, "{answer:?}");
    };
    let bytes = ("Content-Type", "application/offset+octet-stream");
    refused(&[("Upload-Length", "5")], b"");
    refused(&[("Upload-Length", "5"), bytes], b"hello");
    let ingest = pipeline.ingest(&[]);
    let wrong = ("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    for (headers, body) in [
        (vec![("Upload-Length", "4"), bytes], &b"hello"[..]),
        (vec![("Upload-Length", "5")], b"hello"),
        (vec![("Upload-Concat", "final;/files/x")], b""),
        (
            vec![("Upload-Length", "5"), ("Upload-Metadata", "a !")],
            b"",
        ),
        (vec![("Upload-Length", "9223372036854775807")], b""),
    ] {
        let answer = ingest.tus().request("POST", BASE_PATH, &headers, body);
        assert!(answer.status >= 400, "{answer:?}");
    }
    assert!(pipeline.spool().listing().is_empty());
    // One whose bytes are wrong exists, empty, and says so to nobody: it expires.
    let headers = [("Upload-Length", "5"), bytes, wrong];
    let answer = ingest.tus().request("POST", BASE_PATH, &headers, b"hello");
    answer.expect(460, []);
    for id in pipeline.spool().data_in("uploads") {
        assert_eq!(pipeline.spool().record("uploads", &id)["offset"], 0);
    }
}

#[test]
fn f_error_texts_tell_absolute_paths() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    let pipeline = Pipeline::new();
    let broken = Failpoint::new("advance.data_synced", Fault::Error("EIO"));
    let ingest = pipeline.ingest_failing(&[], &[broken]);
    let upload = ingest.tus().create(10, &[]);
    let failed = upload.patch(0, b"hello");
    assert_eq!(failed.status, 500, "{failed:?}");
    let refused = upload.patch(7, b"x").expect(409, []);
    let missing = ingest.tus().upload("/files/nonsense").patch(0, b"x");
    for answer in [failed, refused, missing] {
        let text = answer.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        for inner in ["/", ".meta", "os error", "advance", ".rs"] {
            assert!(!text.contains(inner), "{text}");
        }
        assert!(!text.contains(pipeline.spool().root().to_str().unwrap()));
    }
}

#[test]
fn g_a_deadline_that_is_never_extended_cuts_who_is_slow_but_steady() {
    let pipeline = Pipeline::new();
    let timeouts = [
        "--stall-timeout",
        "2s",
        "--keep-alive-timeout",
        "2s",
        "--header-timeout",
        "2s",
    ];
    let ingest = pipeline.ingest(&timeouts);
    let upload = ingest.tus().create(1 << 20, &[]);
    let mut connection = upload.begin_patch(0, 1 << 20);
    let (begun, mut sent) = (std::time::Instant::now(), 0);
    // Byte after byte, each seen to arrive, for longer than all of the timeouts together.
    while begun.elapsed() < std::time::Duration::from_secs(7) {
        connection.send(b"x").unwrap();
        sent += 1;
        wait_for("the byte", &sent, || upload.offset());
    }
    connection
        .send(&vec![b'x'; (1 << 20) - usize::try_from(sent).unwrap()])
        .unwrap();
    let answer = connection.receive("PATCH").unwrap();
    answer.expect(204, [("Upload-Offset", "1048576")]);
}

#[test]
fn h_gauges_that_count_up_and_down_drift_over_restarts() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&[]);
    let uploads: Vec<_> = (0..3).map(|_| ingest.tus().create(5, &[])).collect();
    ingest.kill_and_restart();
    let _other = pipeline.ingest(&[]);
    uploads[0].patch(0, b"hello").expect(204, []);
    uploads[1].delete().expect(204, []);
    // What is told is counted on disk, by whoever is asked.
    let mut count = bare_command(Program::Consumer);
    count
        .args(["stats", "--json", "--spool"])
        .arg(pipeline.spool().root());
    let counted = pipeline
        .start("stats", count)
        .finish(PATIENCE)
        .expect_code(0);
    let counted: Value = serde_json::from_str(counted.stdout.trim()).unwrap();
    for (state, uploads) in [("receiving", 1), ("queued", 1), ("terminated", 1)] {
        assert_eq!(counted["states"][state]["uploads"], uploads, "{counted}");
    }
}

#[test]
fn i_waiting_for_a_lock_is_busy() {
    let pipeline = Pipeline::new();
    let (holder, asker) = (pipeline.ingest(&[]), pipeline.ingest(&[]));
    let upload = holder.tus().create(1 << 30, &[]);
    let mut writing = upload.begin_patch(0, 1 << 30);
    writing.send(&[7; 1000]).unwrap();
    wait_for("the bytes", &1000, || upload.offset());
    let there = upload.at(&asker.tus());
    let before = processor_ticks(&asker);
    for round in 1..=5 {
        // The holder goes on receiving, so that its upload is not given to anybody else; who asks
        // waits for about a second and is told to come again.
        writing.send(&[7; 1000]).unwrap();
        wait_for("the bytes", &(1000 + 1000 * round), || upload.offset());
        let answer = there.patch(1000 + 1000 * round, b"x");
        assert!([423, 409, 204].contains(&answer.status), "{answer:?}");
        if answer.status == 204 {
            return; // The machine was so slow that the holder counted as silent.
        }
    }
    let used = processor_ticks(&asker) - before;
    // Five waits of a second: a busy one would have used 500.
    assert!(used < 200, "{used} ticks");
}

#[test]
fn j_every_request_leaves_something_behind_for_seconds() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--durability", "none"]);
    let mut connection = ingest.tus().connect().unwrap();
    let mut ask = |times: u32| {
        for _ in 0..times {
            let head = b"HEAD /files/0193a5f0 HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n";
            connection.send(head).unwrap();
            connection.receive("HEAD").unwrap().expect(404, []);
        }
    };
    ask(1000);
    let before = ingest.process.peak_resident_bytes();
    ask(sized(10_000, 100_000));
    let grown = ingest.process.peak_resident_bytes() - before;
    assert!(grown < 8 << 20, "{} KiB more", grown >> 10);
}

#[test]
fn k_a_reset_by_the_client_ends_the_process() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(100, &[]);
    ingest.tus().connect().unwrap().reset();
    for begun in [
        "P",
        "PATCH /files/ HTTP/1.1\r\nHo",
        "POST /files/ HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut connection = ingest.tus().connect().unwrap();
        connection.send(begun.as_bytes()).unwrap();
        connection.reset();
    }
    for n in 0..5 {
        let mut connection = upload.begin_patch(n, 100 - n);
        connection.send(b"x").unwrap();
        wait_for("the byte", &(n + 1), || upload.offset());
        connection.reset();
    }
    upload.patch(5, &[7; 95]).expect(204, []);
    assert!(!ingest.process.log().contains("panicked"));
}

#[test]
fn l_expiry_is_counted_from_the_creation() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--expire-after", "1h"]);
    let upload = ingest.tus().create(5, &[]);
    upload.patch(0, b"he").expect(204, []);
    // Begun eleven days ago, written to just now.
    let created = pipeline.spool().record("uploads", upload.id())["created_at"].to_string();
    let (seconds, rest) = created.split_at(10);
    let earlier = seconds.parse::<u64>().unwrap() - 1_000_000;
    rewrite(
        &pipeline,
        upload.id(),
        &created,
        &format!("{earlier}{rest}"),
    );
    assert_eq!(upload.offset(), 2);
    let remove = ["--stale-upload-age", "1h", "--expired", "delete"];
    pipeline.run(Program::Janitor, &remove).expect_code(0);
    upload.patch(2, b"llo").expect(204, []);
    let data = pipeline.spool().path("completed", upload.id());
    assert_eq!(std::fs::read(data).unwrap(), b"hello");
}
