//! `GET {upload}`: the state as JSON, from the disk alone.

use std::path::PathBuf;

use serde_json::Value;
use shared::record::{self, Attempt, Place, Record};

use super::http::Response;
use super::server::{TestServer, head, patch, patch_head, wait_until};

/// No `Tus-Resumable`: a browser's address bar sends none.
fn get(server: &TestServer, path: &str) -> Response {
    server.ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

fn state(server: &TestServer, upload: &str, status: u16) -> Value {
    let fields = [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ];
    let answer = get(server, upload).expect(status, &fields);
    serde_json::from_str(&answer.body).unwrap()
}

/// The record of an upload in one of the directories.
fn record_path(server: &TestServer, dir: &str, upload: &str) -> PathBuf {
    let id = upload.rsplit('/').next().unwrap();
    server.path(dir).join(format!("{id}.meta"))
}

/// Moves the record of a completed upload as a consumer would, with what it says changed.
fn settle(server: &TestServer, upload: &str, to: &str, change: impl Fn(&mut Record)) {
    let from = record_path(server, "completed", upload);
    let mut record = record::read(&from).unwrap();
    change(&mut record);
    std::fs::write(record_path(server, to, upload), record.to_bytes()).unwrap();
    if to != "completed" {
        std::fs::remove_file(from).unwrap();
    }
}

#[test]
fn an_upload_tells_its_state_from_its_first_byte_to_its_end() {
    let server = TestServer::start(&[]);
    let upload = server.create(11);
    let told = state(&server, &upload, 200);
    assert_eq!(told["state"], "receiving");
    assert_eq!((&told["offset"], &told["length"]), (&0.into(), &11.into()));
    assert_eq!(told["id"], upload.rsplit('/').next().unwrap());
    server.ask(patch(&upload, 0, b"hello")).expect(204, &[]);
    assert_eq!(state(&server, &upload, 200)["offset"], 5);
    server.ask(patch(&upload, 5, b" world")).expect(204, &[]);
    // Another process on the same spool knows as much.
    let other = server.beside(&[]);
    for server in [&server, &other] {
        let told = state(server, &upload, 200);
        assert_eq!(
            (&told["state"], &told["offset"]),
            (&"queued".into(), &11.into())
        );
        assert!(
            told["finished_at"].as_str().unwrap().ends_with('Z'),
            "{told}"
        );
    }
    settle(&server, &upload, "completed", |record| {
        record.place = Place::Deferred;
        record.attempts = 2;
        record.not_before = Some(1_900_000_000);
    });
    let told = state(&server, &upload, 200);
    assert_eq!(
        (&told["state"], &told["attempts"]),
        (&"deferred".into(), &2.into())
    );
    assert_eq!(told["next_attempt_at"], "2030-03-17T17:46:40.000000Z");
    settle(&server, &upload, "receipts", |record| {
        record.set_ending(Place::Delivered, record.last_write);
        record.rest.result = Some(serde_json::json!({"album": 7}));
        record.rest.destination = Some("/srv/private".into());
    });
    let told = state(&server, &upload, 200);
    assert_eq!(
        (&told["state"], &told["result"]["album"]),
        (&"delivered".into(), &7.into())
    );
    assert!(!told.to_string().contains("private"), "{told}");
}

#[test]
fn why_processing_failed_is_told_only_if_the_operator_says_so() {
    let server = TestServer::start(&[]);
    let open = server.beside(&["--show-failures"]);
    let upload = server.create(0);
    settle(&server, &upload, "failed", |record| {
        record.place = Place::Failed;
        record.rest.history.push(Attempt {
            n: 1,
            stage: "check".into(),
            exit: Some(65),
            error: "exit code 65".into(),
            stderr_tail: "/srv/private: virus".into(),
            ..Attempt::default()
        });
    });
    let told = state(&server, &upload, 200);
    assert_eq!(told["state"], "failed");
    assert!(told.get("failure").is_none(), "{told}");
    let told = state(&open, &upload, 200);
    assert_eq!(
        (&told["failure"]["stage"], &told["failure"]["exit"]),
        (&"check".into(), &65.into())
    );
    assert!(!told.to_string().contains("private"), "{told}");
}

#[test]
fn an_upload_that_ended_undelivered_is_gone_and_says_how() {
    let server = TestServer::start(&[]);
    for place in [Place::Terminated, Place::Expired] {
        let upload = server.create(0);
        settle(&server, &upload, "receipts", |record| {
            record.set_ending(place, record.last_write)
        });
        assert_eq!(state(&server, &upload, 410)["state"], place.name());
        server.ask(head(&upload)).expect(410, &[]);
    }
    let upload = server.create(3);
    assert!(
        state(&server, &upload, 200)["expires_at"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let strict = server.beside(&["--expire-after", "1ms"]);
    wait_until("it has been idle for too long", || {
        get(&strict, &upload).status == 410
    });
    assert_eq!(state(&strict, &upload, 410)["state"], "expired");
    let deleted = format!("DELETE {upload} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n");
    server.ask(deleted).expect(204, &[]);
    assert_eq!(state(&server, &upload, 410)["state"], "terminated");
}

#[test]
fn what_there_never_was_is_404_and_the_root_names_the_service() {
    let server = TestServer::start(&[]);
    for path in [
        "/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "/files/..%2fFORMAT",
        "/FORMAT",
        "/uploads/",
    ] {
        get(&server, path).expect(404, &[]);
    }
    get(&server, "/files/").expect(405, &[("allow", "OPTIONS, POST")]);
    assert!(get(&server, "/").expect(200, &[]).body.contains("tus"));
}

#[test]
fn asking_neither_disturbs_a_writer_nor_shows_what_is_written() {
    let server = TestServer::start(&[]);
    let upload = server.create(10);
    let mut writer = server.connect();
    writer.send(patch_head(&upload, 0, 10));
    writer.send(b"SECRE");
    wait_until("what arrived counts", || {
        state(&server, &upload, 200)["offset"] == 5
    });
    assert!(!get(&server, &upload).body.contains("SECRE"));
    writer.send(b"TBYTE");
    writer.response().expect(204, &[("Upload-Offset", "10")]);
    assert!(!get(&server, &upload).body.contains("SECRE"));
    assert_eq!(server.completed(&upload), b"SECRETBYTE");
}
