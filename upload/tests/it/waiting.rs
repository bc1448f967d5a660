use serde_json::Value;

use crate::EVERYTHING;
use crate::client::{Client, Ended};
use crate::stub::{Fault, Stub};

fn waits(states: &[&'static str], arguments: &[&str]) -> Ended {
    let stub = Stub::start(EVERYTHING);
    stub.world().states = states.to_vec();
    let client = Client::of(stub.endpoint());
    client.file("file", b"12345");
    client.run(&[&["file"], arguments].concat())
}

#[test]
fn a_delivered_upload_is_success_with_its_result() {
    let states = [
        r#"{"state":"queued","offset":5}"#,
        r#"{"state":"processing"}"#,
        r#"{"state":"delivered","result":"stored as 17"}"#,
    ];
    let ended = waits(&states, &["--wait"]).expect(0);
    assert!(ended.out.contains("file: delivered"), "{}", ended.out);
    assert!(ended.out.contains("stored as 17"), "{}", ended.out);
    assert!(
        ended.err.contains("file: queued\nfile: processing\n"),
        "{}",
        ended.err
    );
}

#[test]
fn a_failed_removed_or_expired_upload_is_told_by_its_own_exit_code() {
    for (state, text) in [
        (
            r#"{"state":"failed","result":"infected"}"#,
            "the server says it is failed: infected",
        ),
        (
            r#"{"state":"failed","failure":{"error":"exit 65","at":"now"}}"#,
            "the server says it is failed: exit 65",
        ),
        (
            r#"{"state":"terminated"}"#,
            "the server says it is terminated",
        ),
        (r#"{"state":"expired"}"#, "the server says it is expired"),
    ] {
        let ended = waits(&[state], &["--wait"]).expect(5);
        assert!(ended.err.contains(text), "{}", ended.err);
    }
}

#[test]
fn what_a_server_tells_with_410_is_read_too() {
    let json = &[("Content-Type", "application/json")];
    let gone = Fault::Answer(410, json, r#"{"state":"expired"}"#);
    let stub = Stub::with_faults(EVERYTHING, &[("GET", gone)]);
    let client = Client::of(stub.endpoint());
    client.file("file", b"12345");
    let ended = client.run(&["file", "--wait"]).expect(5);
    assert!(
        ended.err.contains("the server says it is expired"),
        "{}",
        ended.err
    );
}

#[test]
fn waiting_ends_with_its_time() {
    let ended = waits(&[r#"{"state":"deferred"}"#], &["--wait=300ms"]).expect(6);
    assert!(ended.err.contains("not delivered after"), "{}", ended.err);
    assert!(ended.err.contains("deferred"), "{}", ended.err);
    waits(&[r#"{"state":"delivered"}"#], &["--wait=0s"]).expect(0);
    waits(&[r#"{"state":"queued"}"#], &["--wait=0s"]).expect(6);
}

#[test]
fn a_server_that_tells_no_states_cannot_be_waited_for() {
    let ended = waits(&[], &["--wait"]).expect(3);
    assert!(
        ended.err.contains("uploaded, but the server does not tell"),
        "{}",
        ended.err
    );
    waits(&["[]"], &["--wait"]).expect(3);
}

#[test]
fn a_busy_server_is_asked_again() {
    let stub = Stub::with_faults(EVERYTHING, &[("GET", Fault::Answer(503, &[], ""))]);
    stub.world().states = vec![r#"{"state":"delivered"}"#];
    let client = Client::of(stub.endpoint());
    client.file("file", b"12345");
    client.run(&["file", "--wait"]).expect(0);
}

#[test]
fn json_lines_tell_what_became_of_each() {
    let ended = waits(
        &[r#"{"state":"delivered","result":{"id":17}}"#],
        &["--wait", "--json"],
    );
    let line: Value = serde_json::from_str(ended.expect(0).out.trim()).unwrap();
    assert_eq!(line["state"], "delivered");
    assert_eq!(line["result"]["id"], 17);
    assert_eq!(line["bytes"], 5);
    let ended = waits(
        &[r#"{"state":"failed","result":"no"}"#],
        &["--wait", "--json"],
    )
    .expect(5);
    let line: Value = serde_json::from_str(ended.out.trim()).unwrap();
    assert_eq!(
        (&line["state"], &line["exit"]),
        (&Value::from("error"), &Value::from(5))
    );
    assert!(line["url"].as_str().unwrap().ends_with("/files/1"));
    assert_eq!(
        line["error"],
        "uploaded, but the server says it is failed: no"
    );
}

#[test]
fn an_upload_can_be_removed() {
    let stub = Stub::with_faults(EVERYTHING, &[("DELETE", Fault::Answer(423, &[], "locked"))]);
    let client = Client::of(stub.endpoint());
    client.file("file", b"12345");
    client.run(&["file"]).expect(0);
    let url = format!("{}1", stub.endpoint());
    let ended = client.run(&["--terminate", &url]).expect(0);
    assert_eq!(ended.out, format!("{url}: removed\n"));
    assert!(stub.world().uploads.is_empty());
    client.run(&["--terminate", &url]).expect(3);
}

#[test]
fn a_removal_whose_answer_was_lost_is_a_removal() {
    let stub = Stub::with_faults(EVERYTHING, &[("DELETE", Fault::LoseAnswer)]);
    let client = Client::of(stub.endpoint());
    client.file("file", b"12345");
    client.run(&["file"]).expect(0);
    client
        .run(&["--terminate", &format!("{}1", stub.endpoint())])
        .expect(0);
}
