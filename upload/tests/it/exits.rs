use std::net::TcpListener;

use crate::client::Client;
use crate::stub::{Fault, Stub};
use crate::{EVERYTHING, noise};

#[test]
fn a_refusal_is_final_and_shown_in_the_servers_words() {
    for status in [400, 401, 403, 404, 405, 410, 412, 413, 415, 501] {
        let refusal = Fault::Answer(status, &[], "quota: not for you\r\nmore");
        let stub = Stub::with_faults("creation", &[("POST", refusal)]);
        let client = Client::of(stub.endpoint());
        client.file("file", &noise(10));
        let ended = client.run(&["file"]).expect(3);
        let expected = format!(
            "upload: file: the server refused to create the upload: {status}: quota: not for you\n"
        );
        assert_eq!(ended.err, expected);
        assert_eq!(stub.requests(), ["OPTIONS", "POST"]);
    }
}

#[test]
fn a_refused_patch_is_final() {
    let refusal = Fault::Answer(403, &[], "no");
    let stub = Stub::with_faults("creation", &[("PATCH", refusal)]);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(10));
    client.run(&["file"]).expect(3);
    assert_eq!(stub.requests(), ["OPTIONS", "POST", "PATCH 0+10"]);
}

#[test]
fn a_refusal_is_understood_although_the_data_is_still_on_its_way() {
    let stub = Stub::with_faults("creation", &[("PATCH", Fault::Early(413, "too-large: no"))]);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(20_000_000));
    let ended = client.run(&["file"]).expect(3);
    assert!(ended.err.contains("413: too-large: no"), "{}", ended.err);
}

#[test]
fn a_redirect_is_explained() {
    let redirect = Fault::Answer(301, &[("Location", "https://elsewhere/files/")], "");
    let stub = Stub::with_faults("creation", &[("OPTIONS", redirect)]);
    let ended = Client::of(stub.endpoint()).run(&[]).expect(3);
    assert!(
        ended.err.contains("https://elsewhere/files/"),
        "{}",
        ended.err
    );
}

#[test]
fn an_unreachable_server_is_given_up_after_the_retries() {
    // Bound and dropped: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = Client::of(format!("http://{address}/files/"));
    let ended = client.run(&["--retries", "2"]).expect(4);
    assert_eq!(
        ended.err.matches("trying again").count(),
        2,
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("gave up after 2 retries"),
        "{}",
        ended.err
    );
    client.run(&["--retries", "0"]).expect(4);
}

#[test]
fn a_server_that_stays_busy_is_given_up_after_the_retries() {
    let busy = Fault::Answer(503, &[], "draining");
    let stub = Stub::with_faults("creation", &vec![("POST", busy); 9]);
    let ended = Client::of(stub.endpoint())
        .run(&["--retries", "3"])
        .expect(4);
    assert!(
        ended
            .err
            .ends_with("gave up after 3 retries: 503 draining\n"),
        "{}",
        ended.err
    );
    assert_eq!(stub.requests(), ["OPTIONS", "POST", "POST", "POST", "POST"]);
}

#[test]
fn what_is_not_a_tus_server_is_not_taken_for_one() {
    let page = Fault::Answer(200, &[("Content-Type", "text/html")], "<html>Welcome");
    let stub = Stub::with_faults("creation", &vec![("POST", page); 9]);
    let ended = Client::of(stub.endpoint())
        .run(&["--retries", "1"])
        .expect(4);
    assert!(
        ended
            .err
            .contains("not the answer of a tus server: no Location"),
        "{}",
        ended.err
    );
}

#[test]
fn another_version_of_the_protocol_is_refused() {
    let old = Fault::Answer(204, &[("Tus-Version", "0.2.2")], "");
    let stub = Stub::with_faults("creation", &[("OPTIONS", old)]);
    let ended = Client::of(stub.endpoint()).run(&[]).expect(3);
    assert!(
        ended.err.contains("does not speak tus 1.0.0, but 0.2.2"),
        "{}",
        ended.err
    );
}

#[test]
fn what_the_server_cannot_take_or_verify_is_not_sent() {
    let stub = Stub::start(EVERYTHING);
    stub.world().max_size = Some(999);
    let client = Client::of(stub.endpoint());
    client.file("large", &noise(1000));
    client.file("small", &noise(999));
    let ended = client.run(&["large", "small"]).expect(3);
    assert!(
        ended.err.contains("more than the server takes (999 B)"),
        "{}",
        ended.err
    );
    assert_eq!(stub.only_upload().data, noise(999));
    let ended = client.run(&["small", "--checksum", "sha256"]).expect(3);
    assert!(
        ended
            .err
            .contains("does not verify sha256: it knows sha1, crc32"),
        "{}",
        ended.err
    );
}

#[test]
fn a_file_that_cannot_be_read_does_not_stop_the_others() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("there", &noise(10));
    let ended = client.run(&["missing", "there"]).expect(1);
    assert!(
        ended
            .err
            .contains("missing: failed to open it: No such file"),
        "{}",
        ended.err
    );
    assert_eq!(stub.only_upload().data, noise(10));
}

#[test]
fn a_mistake_on_the_command_line_is_one_line_and_nothing_is_sent() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(10));
    for mistake in [
        &["file", "--nonsense"][..],
        &["file", "--to", "nowhere"],
        &["file", "--size", "5"],
        &["file", "--retries", "many"],
        &["file", "--header", "x"],
        &["file", "--metadata", "a=1", "--metadata", "a=2"],
        &["file", "--wait=never"],
        &["file", "--checksum", "md4"],
        &["file", "--jobs", "0"],
    ] {
        let ended = client.run(mistake).expect(2);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert!(ended.out.is_empty());
    }
    assert!(stub.requests().is_empty());
}

#[test]
fn a_damaged_state_file_is_an_error_and_is_left_alone() {
    let stub = Stub::start("creation");
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(10));
    client.file("state.json", b"my notes");
    let ended = client.run(&["file"]).expect(1);
    assert!(ended.err.contains("state.json"), "{}", ended.err);
    assert_eq!(std::fs::read(client.state_file()).unwrap(), b"my notes");
    assert_eq!(stub.requests(), ["OPTIONS"]);
}
