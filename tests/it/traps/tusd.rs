//! What tusd does.

use tests::client::encode;
use tests::loop_fs::MemoryFs;
use tests::needs::{self, Need};
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::programs::Program;
use tests::wait::wait_for;

#[test]
fn a_head_ends_a_running_patch() {
    let pipeline = Pipeline::new();
    let (ingest, other) = (pipeline.ingest(&[]), pipeline.ingest(&[]));
    let upload = ingest.tus().create(10, &[]);
    let mut writing = upload.begin_patch(0, 10);
    writing.send(b"hello").unwrap();
    wait_for("the bytes", &5, || upload.offset());
    for tus in [ingest.tus(), other.tus()] {
        upload.at(&tus).head().expect(200, []);
        tus.request("GET", upload.path(), &[], b"").expect(200, []);
    }
    writing.send(b"world").unwrap();
    let answer = writing.receive("PATCH").unwrap();
    answer.expect(204, [("Upload-Offset", "10")]);
}

#[test]
fn who_is_replaced_is_told_400_and_does_not_come_back() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    let mut silent = upload.begin_patch(0, 10);
    silent.send(b"hello").unwrap();
    wait_for("the bytes", &5, || upload.offset());
    wait_for("the take-over", &204, || upload.patch(5, b"world").status);
    // 423 is what clients come back after; a closed connection is as well.
    if let Ok(told) = silent.receive("PATCH") {
        assert_eq!(told.status, 423, "{told:?}");
    }
}

#[test]
fn a_lock_outlives_the_process_that_held_it() {
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(10, &[]);
    let mut writing = upload.begin_patch(0, 10);
    writing.send(b"hello").unwrap();
    wait_for("the bytes", &5, || upload.offset());
    ingest.kill_and_restart();
    let offset = upload.offset();
    let rest = b"helloworld"
        .get(usize::try_from(offset).unwrap()..)
        .unwrap();
    upload.patch(offset, rest).expect(204, []);
}

#[test]
fn two_servers_on_one_directory_take_each_others_locks_for_dead() {
    let pipeline = Pipeline::new();
    let (one, other) = (pipeline.ingest(&[]), pipeline.ingest(&[]));
    let upload = one.tus().create(4000, &[]);
    let mut writing = upload.begin_patch(0, 4000);
    writing.send(&[7; 1000]).unwrap();
    wait_for("the bytes", &1000, || upload.offset());
    // The other is either told to come again, or goes on from a holder that fell silent.
    let stolen = upload.at(&other.tus()).patch(1000, &[8; 3000]).status;
    writing.send(&[7; 3000]).ok();
    let kept = writing.receive("PATCH").map(|answer| answer.status);
    assert_ne!((stolen, kept.ok()), (204, Some(204)));
    wait_for("an offset within the length", &true, || {
        upload.offset() <= 4000
    });
    let places = ["uploads", "completed"].map(|dir| pipeline.spool().path(dir, upload.id()));
    let length = places
        .iter()
        .find_map(|path| Some(std::fs::metadata(path).ok()?.len()));
    assert!(length.unwrap() <= 4000);
}

#[test]
fn metadata_that_is_no_base64_or_comes_twice_is_dropped_in_silence() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for bad in ["filename !!!", "a YQ== YQ==", "a YQ==,a Yg=="] {
        let headers = [("Upload-Length", "5"), ("Upload-Metadata", bad)];
        let refused = ingest.tus().request("POST", BASE_PATH, &headers, b"");
        assert_eq!(refused.status, 400, "{bad}");
    }
}

#[test]
fn head_tells_the_upload_length_as_its_content_length() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    let told = upload.head().expect(200, []);
    assert!(
        [None, Some("0")].contains(&told.header("Content-Length")),
        "{told:?}"
    );
}

#[test]
fn a_hook_that_is_missing_lets_everything_pass() {
    let pipeline = Pipeline::new();
    let script = pipeline.path("create.sh");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--on-create", "/no/such/program"];
    pipeline.run(Program::Ingest, &listen).expect_code(2);
    let refused = |ingest: &tests::pipeline::Ingest| {
        let headers = [("Upload-Length", "5")];
        let refused = ingest.tus().request("POST", BASE_PATH, &headers, b"");
        assert!(refused.status >= 500, "{refused:?}");
    };
    // Whether there is an interpreter shows when it is needed: then nothing passes.
    refused(&pipeline.ingest(&["--on-create", script.to_str().unwrap()]));
    // One that goes away later refuses with a status after which clients come again.
    std::fs::write(&script, "#!/bin/sh\necho '{}'\n").unwrap();
    let ingest = pipeline.ingest(&["--on-create", script.to_str().unwrap()]);
    ingest.tus().create(5, &[]).head().expect(200, []);
    std::fs::remove_file(&script).unwrap();
    refused(&ingest);
}

#[test]
fn an_event_is_lost_with_the_process_that_should_have_told_it() {
    let pipeline = Pipeline::new();
    let (script, notes) = (pipeline.path("note.sh"), pipeline.path("notes"));
    // Hangs as long as the file is there.
    let hang = pipeline.path("hang");
    std::fs::write(&hang, "").unwrap();
    let text = format!(
        "m=$(cat); while [ -e {} ]; do sleep 0.05; done; echo \"$m\" >>{}\n",
        hang.display(),
        notes.display()
    );
    std::fs::write(&script, text).unwrap();
    let command = format!("/bin/sh {}", script.display());
    let args = ["--on-event", &command, "--events", "completed"];
    let mut ingest = pipeline.ingest(&args);
    let upload = ingest.tus().create_with(b"hello", &[]);
    assert_eq!(pipeline.spool().names("outbox"), [upload.id()]);
    ingest.process.kill();
    std::fs::remove_file(&hang).unwrap();
    ingest.restart();
    wait_for("the event", &true, || {
        let notes = std::fs::read_to_string(&notes).unwrap_or_default();
        notes.contains(upload.id())
    });
}

#[test]
fn an_upload_larger_than_the_disk_is_created() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let headers = [("Upload-Length", "1152921504606846976")];
    let refused = ingest.tus().request("POST", BASE_PATH, &headers, b"");
    refused.expect(507, []);
    assert!(pipeline.spool().listing().is_empty());
}

#[test]
fn on_a_full_disk_nobody_can_ask_resume_or_delete() {
    if !needs::met(&[Need::Root]) {
        return;
    }
    let pipeline = Pipeline::new();
    let spool = pipeline.path("small");
    std::fs::create_dir(&spool).unwrap();
    let disk = MemoryFs::mount(&spool, 4 << 20);
    let small = Pipeline::with_spool(&spool.join("spool"));
    let ingest = small.ingest(&["--min-free", "0"]);
    let uploads = [0, 1].map(|_| ingest.tus().create(10, &[]));
    uploads[0].patch(0, b"hello").expect(204, []);
    let ballast = spool.join("ballast");
    assert!(std::fs::write(&ballast, vec![7; 5 << 20]).is_err());
    for (upload, offset) in uploads.iter().zip([5, 0]) {
        assert_eq!(upload.offset(), offset);
        ingest
            .tus()
            .request("GET", upload.path(), &[], b"")
            .expect(200, []);
        upload.delete().expect(204, []);
    }
    drop(ingest);
    drop(small);
    drop(disk);
}

#[test]
fn the_name_of_a_file_breaks_the_header_that_tells_it() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let metadata = encode(&[("filename", "a\"; x=\"\u{e4}.txt")]);
    let headers = [("Upload-Length", "5"), ("Upload-Metadata", &*metadata)];
    let upload = ingest
        .tus()
        .created(ingest.tus().request("POST", BASE_PATH, &headers, b""));
    upload.head().expect(200, [("Upload-Metadata", &*metadata)]);
    // Contents are served by nobody, so no header has to tell their name.
    let state = ingest.tus().request("GET", upload.path(), &[], b"");
    assert_eq!(state.header("Content-Disposition"), None);
    assert_eq!(state.header("Content-Type"), Some("application/json"));
}
