//! The table "Coming from tussi" of the README, row by row: what tussi 3.1.0 documents, and what
//! we do. Each test names its rows; what other files test is named there.

use serde_json::Value;
use tests::client::encode;
use tests::failpoint::{Failpoint, Fault};
use tests::http::Response;
use tests::needs::{self, Need};
use tests::pipeline::{BASE_PATH, Ingest, Pipeline, bare_command};
use tests::programs::Program;
use tests::wait::{PATIENCE, wait_for};

const BYTES: (&str, &str) = ("Content-Type", "application/offset+octet-stream");

fn post(ingest: &Ingest, headers: &[(&str, &str)]) -> Response {
    ingest.tus().request("POST", BASE_PATH, headers, b"")
}

/// POST for five bytes with this metadata.
fn with_metadata(ingest: &Ingest, metadata: &str) -> Response {
    let headers = [("Upload-Length", "5"), ("Upload-Metadata", metadata)];
    post(ingest, &headers)
}

fn record(pipeline: &Pipeline, directory: &str, id: &str) -> Value {
    pipeline.spool().record(directory, id)
}

#[test]
fn options_and_version_tell_capabilities_as_in_tussi() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&["--max-size", "100"]);
    let fields = [("Tus-Version", "1.0.0"), ("Tus-Max-Size", "100")];
    let told = ingest
        .tus()
        .request("OPTIONS", BASE_PATH, &[], b"")
        .expect(204, fields);
    assert!(told.header("Tus-Extension").unwrap().contains("creation"));
    // A version that is not spoken: 412 with those that are.
    let old = [("Upload-Length", "5"), ("Tus-Resumable", "0.2.2")];
    let mut connection = ingest.tus().connect().unwrap();
    connection
        .send(
            b"POST /files/ HTTP/1.1\r\nHost: x\r\nTus-Resumable: 0.2.2\r\nUpload-Length: 5\r\n\r\n",
        )
        .unwrap();
    let refused = connection.receive("POST").unwrap();
    refused.expect(412, [("Tus-Version", "1.0.0"), ("Tus-Resumable", "1.0.0")]);
    // Twice is no version at all.
    assert!(post(&ingest, &old).status >= 400);
}

#[test]
fn max_size_max_chunk_size_and_max_metadata_size_limit_as_in_tussi() {
    let pipeline = Pipeline::new();
    let args = [
        "--max-size",
        "100",
        "--max-chunk-size",
        "10",
        "--max-metadata-size",
        "40",
    ];
    let ingest = pipeline.ingest(&args);
    post(&ingest, &[("Upload-Length", "100")]).expect(201, []);
    post(&ingest, &[("Upload-Length", "101")]).expect(413, []);
    for bad in ["", "-1", "+5", "x", "1.5"] {
        post(&ingest, &[("Upload-Length", bad)]).expect(400, []);
    }
    post(&ingest, &[]).expect(400, []);
    let upload = ingest.tus().create(100, &[]);
    upload.patch(0, &[7; 11]).expect(413, []);
    upload
        .patch(0, &[7; 10])
        .expect(204, [("Upload-Offset", "10")]);
    with_metadata(&ingest, &encode(&[("filename", "a")])).expect(201, []);
    with_metadata(&ingest, &encode(&[("filename", &"a".repeat(60))])).expect(400, []);
}

#[test]
fn status_codes_of_patch_and_head_are_tussis_but_for_those_that_the_table_names() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    // tussi answers HEAD with 204; the protocol's examples and clients want 200.
    upload
        .head()
        .expect(200, [("Upload-Offset", "0"), ("Cache-Control", "no-store")]);
    upload.patch(3, b"lo").expect(409, [("Upload-Offset", "0")]);
    upload.patch(0, b"hello!").expect(413, []);
    let plain = [("Upload-Offset", "0"), ("Content-Type", "text/plain")];
    ingest
        .tus()
        .request("PATCH", upload.path(), &plain, b"hello")
        .expect(415, []);
    ingest
        .tus()
        .request("PATCH", upload.path(), &[BYTES], b"hello")
        .expect(400, []);
    for bad in ["-1", "x", ""] {
        let headers = [BYTES, ("Upload-Offset", bad)];
        ingest
            .tus()
            .request("PATCH", upload.path(), &headers, b"hello")
            .expect(400, []);
    }
    assert_eq!(upload.offset(), 0);
    // An id that is none: 404 for every method (tussi: 400 for PATCH).
    for id in ["nonsense", "00000000-0000-4000-8000-000000000000"] {
        let other = ingest.tus().upload(&format!("{BASE_PATH}{id}"));
        other.head().expect(404, []);
        other.patch(0, b"hello").expect(404, []);
    }
    let patched = [
        BYTES,
        ("Upload-Offset", "0"),
        ("X-HTTP-Method-Override", "PATCH"),
    ];
    ingest
        .tus()
        .request("POST", upload.path(), &patched, b"hello")
        .expect(204, []);
    // tussi's hand-over takes HEAD's answer away; ours stays.
    upload
        .head()
        .expect(200, [("Upload-Offset", "5"), ("Upload-Length", "5")]);
    ingest
        .tus()
        .request("PUT", upload.path(), &[], b"")
        .expect(405, []);
}

#[test]
fn files_is_files_slash_and_location_is_absolute_as_in_tussi() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for path in ["/files", "/files/"] {
        let created = ingest
            .tus()
            .request("POST", path, &[("Upload-Length", "5")], b"");
        let created = created.expect(201, []);
        let location = created.header("Location").unwrap();
        assert!(
            location.starts_with("http://127.0.0.1/files/"),
            "{location}"
        );
    }
}

#[test]
fn metadata_rules_are_the_protocols_where_tussis_lose_what_the_client_sent() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let text = encode(&[("filename", "a b.txt"), ("Key_1-x", "ä")]);
    let upload = ingest.tus().created(with_metadata(&ingest, &text));
    upload
        .head()
        .expect(200, [("Upload-Metadata", text.as_str())]);
    let kept = record(&pipeline, "uploads", upload.id());
    assert_eq!(
        kept["metadata"],
        serde_json::json!({"filename": "a b.txt", "Key_1-x": "ä"})
    );
    assert_eq!(kept["server_metadata"], serde_json::json!({}));
    // A key without a value, and one with characters that tussi does not take: kept.
    let upload = ingest
        .tus()
        .created(with_metadata(&ingest, "is_public,a.b YQ=="));
    let kept = record(&pipeline, "uploads", upload.id());
    assert_eq!(
        kept["metadata"],
        serde_json::json!({"is_public": "", "a.b": "a"})
    );
    // Bad Base64: refused; tussi drops the pair and goes on without it.
    with_metadata(&ingest, "filename !!!").expect(400, []);
    with_metadata(&ingest, "a YQ==,a YQ==").expect(400, []);
}

#[test]
fn a_filename_is_ascii_only_on_request_and_never_a_path_in_the_spool() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let strict = pipeline.ingest(&["--filename", "ascii"]);
    for (name, lax, tight) in [("a.txt", 201, 201), ("ä.txt", 201, 400), ("a\nb", 400, 400)] {
        let text = encode(&[("filename", name)]);
        with_metadata(&ingest, &text).expect(lax, []);
        with_metadata(&strict, &text).expect(tight, []);
    }
    let upload = ingest
        .tus()
        .create_with(b"hello", &[("filename", "../../x")]);
    assert_eq!(
        pipeline.spool().places(upload.id()),
        ["completed/{id}", "completed/{id}.meta"]
    );
}

#[test]
fn the_record_has_tussis_fields_in_tussis_forms() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[("filename", "a")]);
    upload.patch(0, b"hel").expect(204, []);
    let open = record(&pipeline, "uploads", upload.id());
    assert_eq!((&open["length"], &open["offset"]), (&5.into(), &3.into()));
    assert!(open["finished_at"].is_null() && open["duration"].is_null());
    upload.patch(3, b"lo").expect(204, []);
    let done = record(&pipeline, "completed", upload.id());
    assert_eq!((&done["length"], &done["offset"]), (&5.into(), &5.into()));
    assert_eq!(done["metadata"]["filename"], "a");
    assert!(done["server_metadata"].is_object());
    let (created, last) = (done["created_at"].as_f64(), done["last_write"].as_f64());
    assert!(Some(1.6e9) < created && created <= last, "{done}");
    assert!(
        done["finished_at"].as_str().unwrap().ends_with('Z'),
        "{done}"
    );
    assert!(
        done["duration"].as_str().unwrap().starts_with("PT"),
        "{done}"
    );
}

#[test]
fn on_create_sees_headers_and_metadata_and_its_answer_is_server_metadata() {
    let pipeline = Pipeline::new();
    let script = pipeline.path("create.sh");
    let seen = pipeline.path("seen");
    let text = format!(
        "cat >{}\necho '{{\"server_metadata\": {{\"uploaded_by\": \"7\"}}}}'\n",
        seen.display()
    );
    std::fs::write(&script, text).unwrap();
    let ingest = pipeline.ingest(&["--on-create", &format!("/bin/sh {}", script.display())]);
    let metadata = encode(&[("filename", "a")]);
    let headers = [
        ("Upload-Length", "5"),
        ("Upload-Metadata", metadata.as_str()),
        ("AUTHORIZATION", "Bearer x"),
    ];
    let upload = ingest.tus().created(post(&ingest, &headers));
    let asked: Value = serde_json::from_slice(&std::fs::read(seen).unwrap()).unwrap();
    assert_eq!(asked["headers"]["authorization"], "Bearer x");
    assert_eq!(asked["metadata"]["filename"], "a");
    let kept = record(&pipeline, "uploads", upload.id());
    assert_eq!(kept["server_metadata"]["uploaded_by"], "7");
    assert_eq!(kept["metadata"], serde_json::json!({"filename": "a"}));
}

#[test]
fn the_four_events_have_tussis_names_and_fields() {
    let pipeline = Pipeline::new();
    let (script, notes) = (pipeline.path("note.sh"), pipeline.path("notes"));
    std::fs::write(
        &script,
        format!("m=$(cat); echo \"$m\" >>{}\n", notes.display()),
    )
    .unwrap();
    let ingest = pipeline.ingest(&["--on-event", &format!("/bin/sh {}", script.display())]);
    let upload = ingest.tus().create(5, &[("filename", "a")]);
    upload.patch(0, b"hello").expect(204, []);
    let messages = || -> Vec<Value> {
        let text = std::fs::read_to_string(&notes).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let types = || -> Vec<String> {
        messages()
            .iter()
            .map(|m| m["type"].as_str().unwrap().to_owned())
            .collect()
    };
    wait_for(
        "three events",
        &["created", "progress", "completed"]
            .map(String::from)
            .to_vec(),
        types,
    );
    for message in messages() {
        let data = &message["data"];
        assert_eq!(
            (&data["upload_id"], &data["length"]),
            (&upload.id().into(), &5.into())
        );
        assert_eq!(data["metadata"]["filename"], "a");
        assert!(
            data["created_at"].is_f64() && data["last_write"].is_f64(),
            "{message}"
        );
        assert_eq!(
            message["type"] == "progress",
            data["bytes_written"] == 5,
            "{message}"
        );
    }
}

#[test]
fn a_finished_upload_is_saved_under_its_name_and_with_its_record_by_the_consumer() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create_with(b"hello", &[("filename", "a.txt")]);
    let out = pipeline.out();
    let deliver = [
        "--drain",
        "--keep-record",
        "--move-to",
        &out.to_string_lossy(),
    ];
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    assert_eq!(std::fs::read(out.join("a.txt")).unwrap(), b"hello");
    let saved: Value =
        serde_json::from_slice(&std::fs::read(out.join("a.txt.meta")).unwrap()).unwrap();
    assert_eq!(
        (&saved["length"], &saved["metadata"]["filename"]),
        (&5.into(), &"a.txt".into())
    );
    // Nothing of it is left to be taken a second time, and the client still hears of it.
    assert_eq!(pipeline.spool().names("completed"), Vec::<String>::new());
    upload.head().expect(200, [("Upload-Offset", "5")]);
}

#[test]
fn what_raises_failed_is_a_write_error_and_a_digest_that_does_not_fit() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    let pipeline = Pipeline::new();
    let (script, notes) = (pipeline.path("note.sh"), pipeline.path("notes"));
    let text = format!("m=$(cat); echo \"$m\" >>{}\n", notes.display());
    std::fs::write(&script, text).unwrap();
    let command = format!("/bin/sh {}", script.display());
    let broken = Failpoint::new("advance.data_synced", Fault::Error("EIO"));
    let args = ["--on-event", &command, "--events", "failed"];
    let ingest = pipeline.ingest_failing(&args, &[broken.at_passage(1)]);
    let written = ingest.tus().create(10, &[]);
    written.patch(0, b"hello").expect(500, []);
    let digest = "00".repeat(32);
    let declared = ingest.tus().create(5, &[("sha256", &digest)]);
    declared.patch(0, b"hello").expect(460, []);
    // A PATCH to what does not exist is a 404 and no event.
    let nobody = format!("{BASE_PATH}00000000-0000-4000-8000-000000000000");
    ingest.tus().upload(&nobody).patch(0, b"x").expect(404, []);
    let failed = || {
        let text = std::fs::read_to_string(&notes).unwrap_or_default();
        let messages = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut told: Vec<String> = messages
            .map(|message: Value| {
                assert_eq!(message["type"], "failed");
                format!(
                    "{} {}",
                    message["data"]["upload_id"].as_str().unwrap(),
                    message["data"]["error"]["code"].as_str().unwrap()
                )
            })
            .collect();
        told.sort();
        told
    };
    let mut wanted = vec![
        format!("{} internal_error", written.id()),
        format!("{} checksum_mismatch", declared.id()),
    ];
    wanted.sort();
    wait_for("both failures", &wanted, failed);
}

#[test]
fn a_second_file_of_the_same_name_is_saved_beside_the_first_and_none_is_saved_twice() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    for body in [b"first", b"other"] {
        let upload = ingest.tus().create_with(body, &[("filename", "a.txt")]);
        for _ in 0..2 {
            pipeline.run(Program::Consumer, &deliver).expect_code(0);
        }
        upload.head().expect(200, [("Upload-Offset", "5")]);
    }
    let mut saved: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    saved.sort();
    assert_eq!(saved, [b"first".to_vec(), b"other".to_vec()]);
}

#[test]
fn the_client_without_arguments_sends_1_mib_of_random_data() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for _ in 0..2 {
        let mut upload = bare_command(Program::Upload);
        let endpoint = format!("http://{}{BASE_PATH}", ingest.address().get());
        upload.env("UPLOAD_TO", endpoint);
        pipeline
            .start("upload", upload)
            .finish(PATIENCE)
            .expect_code(0);
    }
    let ids = pipeline.spool().data_in("completed");
    let sent: Vec<_> = ids
        .iter()
        .map(|id| std::fs::read(pipeline.spool().path("completed", id)).unwrap())
        .collect();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|data| data.len() == 1 << 20));
    assert!(sent[0] != sent[1], "random");
}

#[test]
fn contents_are_served_to_nobody() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let secret = b"what the client sent";
    let whole = ingest.tus().create_with(secret, &[]);
    let open = ingest.tus().create(100, &[]);
    open.patch(0, secret).expect(204, []);
    for upload in [whole, open] {
        for path in [
            upload.path().to_owned(),
            format!("{}.meta", upload.path()),
            format!("/uploads/{}", upload.id()),
            format!("/completed/{}", upload.id()),
        ] {
            let told = ingest.tus().request("GET", &path, &[], b"");
            assert!(!told.text().contains("what the client sent"), "{told:?}");
        }
    }
}
