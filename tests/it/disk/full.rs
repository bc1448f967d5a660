//! A full disk, or none, seen by those who come after ingest: parts that are to be joined, consumers, and
//! who listens to events.

use tests::client::request_head;
use tests::failpoint::{Failpoint, Fault};
use tests::hook::Hook;
use tests::loop_fs::{self, Kind, LoopFs, MemoryFs};
use tests::needs::{self, Need};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::programs::scratch_dir;
use tests::wait::{wait_for, wait_until};

use super::{Ballast, KIB, MIB};
use crate::events::{completed, notebook};

#[test]
fn parts_wait_for_space_to_be_joined_in() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let fs = LoopFs::make(Kind::Ext4, dir.path(), "fs", 24 * MIB);
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    let ingest = pipeline.ingest(&["--min-free", "0"]);
    let tus = ingest.tus();
    let body = payload::bytes(1, 400 * KIB);
    let (first, second) = body.split_at(200 * KIB);
    let part = |bytes: &[u8]| {
        let length = bytes.len().to_string();
        let headers = [("Upload-Length", &*length), ("Upload-Concat", "partial")];
        let upload = tus.created(tus.request("POST", tus.base_path(), &headers, b""));
        upload.patch(0, bytes).expect(204, []);
        upload
    };
    let (one, two) = (part(first), part(second));
    let concat = format!("final;{} {}", one.path(), two.path());
    let metadata = tests::client::encode(&[("filename", "joined")]);
    let join = || {
        let headers = [
            ("Upload-Concat", concat.as_str()),
            ("Upload-Metadata", metadata.as_str()),
        ];
        tus.request("POST", tus.base_path(), &headers, b"")
    };

    let path = fs.mount_point().join("ballast");
    // Room for a record and a name, not for the bytes.
    let ballast = Ballast::fill(&path, 64 * KIB);
    let refused = join();
    assert_eq!(refused.status, 507, "{refused:#?}");
    one.head().expect(200, []);
    two.head().expect(200, []);
    drop(ballast);

    let answer = wait_until("space", || Some(join()).filter(|a| a.status == 201));
    let joined = tus.created(answer);
    let length = body.len().to_string();
    wait_for("the join", &Some(length), || {
        joined.head().header("Upload-Offset").map(ToOwned::to_owned)
    });
    let completed = pipeline.spool().path("completed", joined.id());
    assert!(std::fs::read(completed).unwrap() == body);
}

#[test]
fn where_nothing_can_be_set_aside_each_upload_is_promised_space_until_its_end() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let _fs = MemoryFs::mount(dir.path(), 24 * MIB);
    let pipeline = Pipeline::with_spool(&dir.path().join("spool"));
    let ingest = pipeline.ingest(&["--min-free", "0"]);
    let tus = ingest.tus();
    // Two of these do not fit, whoever wants the second.
    let body = payload::bytes(1, 13 * MIB as usize);
    let length = body.len().to_string();
    let with_length = ("Upload-Length", length.as_str());
    let bytes = ("Content-Type", "application/offset+octet-stream");
    let post =
        |headers: &[(&str, &str)], body: &[u8]| tus.request("POST", tus.base_path(), headers, body);
    let is_full = || post(&[with_length], b"").expect(507, []);

    let terminated = tus.created(post(&[with_length], b""));
    is_full();
    terminated.delete().expect(204, []);

    let wrong = ("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    post(&[with_length, bytes, wrong], &body[..MIB as usize]).expect(460, []);

    let deferred = tus.created(post(&[("Upload-Defer-Length", "1")], b""));
    let told = [("Upload-Offset", "0"), with_length, bytes];
    let tells = request_head("PATCH", deferred.path(), &told, Some(13 * MIB));
    let mut sends = tus.connect().unwrap();
    sends.send(&[&tells, &body[..1000]].concat()).unwrap();
    wait_for("the first bytes", &1000, || deferred.offset());
    is_full();
    sends.reset();
    wait_for("the end of the request", &204, || deferred.delete().status);

    let last = tus.created(post(&[with_length], b""));
    is_full();
    last.patch(0, &body).expect(204, []);
    // What it has it was promised; the rest is free for another.
    let rest = (8 * MIB).to_string();
    post(&[("Upload-Length", &rest)], b"").expect(201, []);
}

#[test]
fn what_has_come_of_an_upload_is_not_kept_free_for_it_once_more() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let body = payload::bytes(1, 16 * MIB as usize);
    let (most, last) = body.split_at(12 * MIB as usize);
    let length = body.len().to_string();
    // Whether the length comes with the creation, or with the bytes.
    for creation in [("Upload-Length", &*length), ("Upload-Defer-Length", "1")] {
        let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
        let _fs = MemoryFs::mount(dir.path(), 24 * MIB);
        let pipeline = Pipeline::with_spool(&dir.path().join("spool"));
        let ingest = pipeline.ingest(&["--min-free", "0"]);
        let tus = ingest.tus();
        let post = |name, value: &str| tus.request("POST", tus.base_path(), &[(name, value)], b"");
        let create = |bytes: u64| post("Upload-Length", &bytes.to_string());

        let upload = tus.created(post(creation.0, creation.1));
        let headers = [
            ("Upload-Offset", "0"),
            ("Upload-Length", &*length),
            ("Content-Type", "application/offset+octet-stream"),
        ];
        let patch = request_head("PATCH", upload.path(), &headers, Some(16 * MIB));
        let mut sends = tus.connect().unwrap();
        sends.send(&[&patch, most].concat()).unwrap();
        wait_for("most of it", &(12 * MIB), || upload.offset());
        // 12 MiB are free, and 4 of them are still to come here.
        create(9 * MIB).expect(507, []);
        create(6 * MIB).expect(201, []);
        create(3 * MIB).expect(507, []);
        sends.send(last).unwrap();
        sends.receive("PATCH").unwrap().expect(204, []);
        create(3 * MIB).expect(507, []);
        create(MIB).expect(201, []);
    }
}

#[test]
fn consumers_lose_nothing_on_a_full_disk_and_go_on_when_there_is_space() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let fs = LoopFs::make(Kind::Ext4, dir.path(), "fs", 24 * MIB);
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    let ingest = pipeline.ingest(&["--min-free", "0"]);
    let body = payload::bytes(2, 30_000);
    let names = ["good", "rejected"];
    for name in names {
        let upload = ingest.tus().create_with(&body, &[("filename", name)]);
        upload.head().expect(200, []);
    }
    let path = fs.mount_point().join("ballast");
    let ballast = Ballast::fill(&path, 0);

    // The second has to become a dead letter, whose reason needs space; every claim does, too. No
    // consumer has run before and kept any.
    let hook = Hook::new(
        &pipeline,
        "judge",
        "case $UPLOAD_FILENAME in good) ;; *) exit 65 ;; esac",
    );
    let consumer = pipeline.consumer(&["--hook", &hook.command(), "--breaker", "0"]);
    let pause = "no space in the spool; claiming pauses";
    let log = wait_until("the consumer to meet the full disk", || {
        let log = consumer.log();
        log.contains(pause).then_some(log)
    });
    let before = log.split(pause).next().unwrap();
    assert_eq!(before.matches("cannot be claimed").count(), 1, "{log}");
    for name in ["uploads", "failed", "receipts"] {
        assert!(pipeline.spool().names(name).is_empty(), "{name}");
    }
    let waiting = pipeline.spool().listing();
    drop(ballast);
    wait_for("both to be settled", &(1, 1), || {
        let failed = pipeline.spool().data_in("failed").len();
        (failed, pipeline.spool().names("receipts").len())
    });
    assert!(pipeline.spool().is_idle(), "{waiting:?}");
    let attempts = hook.runs().into_iter().map(|run| run.attempt);
    assert_eq!(attempts.collect::<Vec<_>>(), [1, 1]);
}

/// No file can be made, and no byte written: the marker of the owed event has to be a second name
/// of the record.
#[test]
fn completed_is_told_over_a_kill_where_neither_an_inode_nor_a_block_was_left_to_note_it() {
    let needs = [&loop_fs::NEEDS[..], &[Need::Failpoints]].concat();
    if !needs::met(&needs) {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let fs = LoopFs::make(Kind::Ext4, dir.path(), "fs", 24 * MIB);
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    let (command, notes) = notebook(&pipeline);
    let args = [
        "--min-free",
        "0",
        "--on-event",
        &command,
        "--events",
        "completed",
    ];
    let kill = Failpoint::new("handover.record_moved", Fault::Kill);
    let mut ingest = pipeline.ingest_failing(&args, &[kill]);
    // Long enough for its space to be set aside when it is created.
    let half = 1 << 20;
    let body = payload::bytes(3, 2 * half);
    let (first, second) = body.split_at(half);
    let upload = ingest.tus().create(body.len() as u64, &[]);
    upload.patch(0, first).expect(204, []);

    let files = fs.mount_point().join("files");
    std::fs::create_dir(&files).unwrap();
    let made = (0..).take_while(|n| std::fs::File::create(files.join(n.to_string())).is_ok());
    std::fs::remove_file(files.join((made.count() - 1).to_string())).unwrap();
    let path = fs.mount_point().join("ballast");
    let _ballast = Ballast::fill(&path, 0);

    assert!(upload.try_patch(half as u64, second).is_err());
    ingest.process.wait_killed();
    assert_eq!(completed(&notes), Vec::<String>::new());
    ingest.restart();
    wait_for("the event", &vec![upload.id().to_owned()], || {
        completed(&notes)
    });
    wait_for("an empty outbox", &Vec::new(), || {
        pipeline.spool().names("outbox")
    });
    let received = pipeline.spool().path("completed", upload.id());
    assert!(std::fs::read(received).unwrap() == body);
}

/// The directory that is left where a file system was mounted is none that anybody looks into.
#[test]
fn nothing_is_delivered_where_the_destination_is_no_longer_mounted() {
    if !needs::met(&[Need::Root, Need::Tool("nsenter")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let inbox = pipeline.path("share");
    std::fs::create_dir(&inbox).unwrap();
    let share = MemoryFs::mount(&inbox, MIB);
    let args = [
        "--move-to",
        inbox.to_str().unwrap(),
        "--backoff-cap",
        "100ms",
    ];
    let consumer = pipeline.consumer(&args);
    let send = |name| ingest.tus().create_with(b"content", &[("filename", name)]);
    send("before");
    wait_until("the first", || {
        inbox.join("before").try_exists().unwrap().then_some(())
    });

    drop(share);
    send("after");
    wait_until("the consumer to meet it", || {
        consumer
            .log()
            .contains("what was mounted there is gone")
            .then_some(())
    });
    assert_eq!(std::fs::read_dir(&inbox).unwrap().count(), 0);

    let _share = MemoryFs::mount(&inbox, MIB);
    wait_until("the second", || {
        inbox.join("after").try_exists().unwrap().then_some(())
    });
    wait_until("the queue to be empty", || {
        pipeline.spool().is_idle().then_some(())
    });
}
