use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Client, Ended};
use crate::sending::metadata;
use crate::stub::{Fault, Stub, World};
use crate::{EVERYTHING, noise};

/// The one upload of a thousand bytes arrives in spite of what goes wrong.
#[track_caller]
fn arrives(faults: &[(&'static str, Fault)], expected: &[&str]) {
    let stub = Stub::with_faults("creation", faults);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(1000));
    client.run(&["file"]).expect(0);
    assert_eq!(stub.requests(), expected);
    assert_eq!(stub.only_upload().data, noise(1000));
    assert_eq!(client.remembered(), 0);
}

const PLAIN: [&str; 3] = ["OPTIONS", "POST", "PATCH 0+1000"];

#[test]
fn a_cut_connection_is_resumed_at_the_servers_offset() {
    let resumed = ["HEAD", "PATCH 400+600"];
    let cut = ["OPTIONS", "POST", "PATCH 0+400"];
    arrives(
        &[("PATCH", Fault::CutBody(400))],
        &[&cut[..], &resumed].concat(),
    );
}

#[test]
fn a_connection_that_is_cut_again_and_again_gets_there_as_long_as_something_arrives() {
    let faults = vec![("PATCH", Fault::CutBody(80)); 12];
    let stub = Stub::with_faults("creation", &faults);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(1000));
    client.run(&["file", "--retries", "1"]).expect(0);
    assert_eq!(stub.only_upload().data, noise(1000));
}

#[test]
fn when_only_the_answer_was_lost_nothing_is_sent_again() {
    arrives(
        &[("PATCH", Fault::LoseAnswer)],
        &[&PLAIN[..], &["HEAD"]].concat(),
    );
}

#[test]
fn passing_refusals_are_waited_out() {
    for status in [408, 409, 423, 425, 429, 500, 502, 503, 504, 507] {
        let expected = [&PLAIN[..], &["HEAD", "PATCH 0+1000"]].concat();
        arrives(&[("PATCH", Fault::Answer(status, &[], "later"))], &expected);
        let expected = [&PLAIN[..2], &["POST", "PATCH 0+1000"]].concat();
        arrives(&[("POST", Fault::Answer(status, &[], "later"))], &expected);
        let again = Fault::Answer(status, &[("Retry-After", "0")], "later");
        let faults = [("PATCH", Fault::LoseAnswer), ("HEAD", again)];
        arrives(&faults, &[&PLAIN[..], &["HEAD", "HEAD"]].concat());
    }
}

#[test]
fn a_busy_options_is_asked_again_and_a_refused_one_does_not_matter() {
    let busy = [("OPTIONS", Fault::Answer(503, &[], ""))];
    arrives(&busy, &[&["OPTIONS"], &PLAIN[..]].concat());
    for status in [401, 403, 404, 405] {
        arrives(&[("OPTIONS", Fault::Answer(status, &[], ""))], &PLAIN);
    }
}

#[test]
fn bytes_that_the_server_lost_are_sent_again() {
    let stub = Stub::with_faults("creation", &[("PATCH", Fault::LoseBytes(100))]);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(1000));
    client.run(&["file", "--chunk-size", "500"]).expect(0);
    assert_eq!(stub.only_upload().data, noise(1000));
    // The answer said 500; the next request finds out.
    let expected = [
        "PATCH 0+500",
        "PATCH 500+500",
        "HEAD",
        "PATCH 400+500",
        "PATCH 900+100",
    ];
    assert_eq!(stub.requests()[2..], expected);
}

#[test]
fn an_upload_that_vanishes_is_begun_anew_once() {
    let expected = [&PLAIN[..], &["POST", "PATCH 0+1000"]].concat();
    arrives(&[("PATCH", Fault::Forget)], &expected);
    let forgetful = Stub::with_faults("creation", &vec![("PATCH", Fault::Forget); 9]);
    let client = Client::of(forgetful.endpoint());
    client.file("file", &noise(1000));
    let ended = client.run(&["file"]).expect(3);
    assert!(
        ended.err.contains("404: not-found: no upload"),
        "{}",
        ended.err
    );
    assert_eq!(
        forgetful.requests(),
        [&PLAIN[..], &["POST", "PATCH 0+1000"]].concat()
    );
}

#[test]
fn a_server_that_confirms_without_moving_is_given_up() {
    let nothing = Fault::Answer(204, &[("Upload-Offset", "0")], "");
    let stub = Stub::with_faults("creation", &vec![("PATCH", nothing); 9]);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(1000));
    let ended = client.run(&["file", "--retries", "3"]).expect(4);
    assert!(
        ended.err.contains("the offset did not move"),
        "{}",
        ended.err
    );
}

#[test]
fn a_server_that_goes_silent_is_left_and_asked_again() {
    let stub = Stub::with_faults("creation", &[("PATCH", Fault::Hold(400))]);
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(1000));
    client.run(&["file", "--timeout", "300ms"]).expect(0);
    stub.open_gate();
    assert_eq!(stub.only_upload().data, noise(1000));
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Starts, is interrupted after `kept` bytes of each of its parts have arrived.
fn interrupted(stub: &Stub, client: &Client, arguments: &[&str], kept: usize, parts: usize) {
    stub.world().faults = vec![("PATCH", Fault::Hold(kept)); parts];
    let child = client.start(arguments);
    let begun = |world: &World| world.uploads.values().filter(|it| it.offset > 0).count();
    stub.wait_until("some of each arrived", |world| begun(world) == parts);
    signal(&child, Signal::SIGINT);
    let ended = Ended::of(child.wait_with_output().unwrap()).expect(130);
    assert!(
        ended.err.contains("the same command goes on from here"),
        "{}",
        ended.err
    );
    stub.open_gate();
    assert_eq!(client.remembered(), 1);
}

fn after_interruption(kept: usize) -> (Stub, Client) {
    let stub = Stub::start("creation");
    let client = Client::of(stub.endpoint());
    client.file("file", &noise(1000));
    interrupted(&stub, &client, &["file"], kept, 1);
    (stub, client)
}

#[test]
fn the_next_run_goes_on_where_the_interrupted_one_stopped() {
    let (stub, client) = after_interruption(400);
    let ended = client.run(&["file"]).expect(0);
    assert!(
        ended.err.contains("resuming at 400 B of 1000 B"),
        "{}",
        ended.err
    );
    assert_eq!(stub.requests()[3..], ["OPTIONS", "HEAD", "PATCH 400+600"]);
    assert_eq!(stub.only_upload().data, noise(1000));
    assert_eq!(client.remembered(), 0);
}

#[test]
fn a_file_whose_name_is_not_text_is_resumed_and_called_by_what_is_left_of_its_name() {
    let stub = Stub::start("creation");
    let client = Client::of(stub.endpoint());
    let dir = client.home.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"a\xff\nb")), noise(1000)).unwrap();
    interrupted(&stub, &client, &["dir"], 400, 1);
    client.run(&["dir"]).expect(0);
    assert_eq!(stub.requests()[3..], ["OPTIONS", "HEAD", "PATCH 400+600"]);
    let sent = stub.only_upload();
    assert_eq!(sent.data, noise(1000));
    let name = ("filename".to_owned(), "a\u{fffd}_b".to_owned());
    assert!(metadata(&sent.metadata).contains(&name));
}

#[test]
fn json_tells_where_an_upload_was_resumed() {
    let (_stub, client) = after_interruption(400);
    let ended = client.run(&["file", "--json"]).expect(0);
    let line: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(
        (&line["bytes"], &line["resumed_at"]),
        (&1000.into(), &400.into())
    );
}

#[test]
fn the_same_file_is_found_by_another_name_for_it() {
    let (stub, client) = after_interruption(400);
    std::os::unix::fs::symlink("file", client.home.path().join("link")).unwrap();
    client.run(&["./link"]).expect(0);
    assert_eq!(stub.requests()[3..], ["OPTIONS", "HEAD", "PATCH 400+600"]);
}

#[test]
fn another_file_other_metadata_or_another_server_is_another_upload() {
    let (stub, client) = after_interruption(400);
    let fresh = ["OPTIONS", "POST", "PATCH 0+1000"];
    client.run(&["file", "--metadata", "a=b"]).expect(0);
    assert_eq!(stub.requests()[3..], fresh);
    client.run(&["file", "--no-resume"]).expect(0);
    assert_eq!(stub.requests()[6..], fresh);
    client
        .run(&[
            "file",
            "--to",
            &stub.endpoint().replace("/files/", "/other/"),
        ])
        .expect(0);
    assert_eq!(stub.requests()[9..], fresh);
    let touched = File::options()
        .append(true)
        .open(client.home.path().join("file"))
        .unwrap();
    touched
        .set_modified(SystemTime::now() + Duration::from_secs(9))
        .unwrap();
    client.run(&["file"]).expect(0);
    assert_eq!(stub.requests()[12..], fresh);
}

#[test]
fn an_upload_that_the_server_no_longer_has_is_begun_anew() {
    for status in [403, 404, 410] {
        let (stub, client) = after_interruption(400);
        stub.world().faults = vec![("HEAD", Fault::Answer(status, &[], ""))];
        let ended = client.run(&["file"]).expect(0);
        assert!(ended.err.contains("beginning anew"), "{}", ended.err);
        assert_eq!(
            stub.requests()[3..],
            ["OPTIONS", "HEAD", "POST", "PATCH 0+1000"]
        );
        assert_eq!(client.remembered(), 0);
    }
}

#[test]
fn no_trouble_of_the_server_makes_a_resumable_upload_begin_anew() {
    for status in [409, 423, 500, 502, 503] {
        let (stub, client) = after_interruption(400);
        stub.world().faults = vec![("HEAD", Fault::Answer(status, &[], "")); 9];
        client.run(&["file", "--retries", "2"]).expect(4);
        assert_eq!(stub.requests()[3..], ["OPTIONS", "HEAD", "HEAD", "HEAD"]);
        assert_eq!(client.remembered(), 1);
    }
}

#[test]
fn interrupted_parts_are_resumed_each_at_its_own_offset() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("big", &noise(1_000_000));
    interrupted(&stub, &client, &["big", "--parallel", "2"], 150_000, 2);
    // How many parts the second run would make does not matter.
    client.run(&["big"]).expect(0);
    assert_eq!(stub.only_upload().data, noise(1_000_000));
    let world = stub.world();
    assert_eq!(
        world
            .uploads
            .values()
            .filter(|it| it.concat == "partial")
            .count(),
        2
    );
}

/// Runs on a terminal where a person types `keys`; the answer is what the terminal showed.
fn on_a_terminal(client: &Client, arguments: &[&str], keys: &str) -> String {
    let terminal = openpty(None, None).unwrap();
    let side = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut command = client.command(arguments);
    let mut child = command
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap();
    drop((command, terminal.slave));
    let mut master = File::from(terminal.master);
    master.write_all(keys.as_bytes()).unwrap();
    let mut shown = Vec::new();
    // Linux ends a terminal whose other side is closed with EIO.
    master.read_to_end(&mut shown).ok();
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn on_a_terminal_the_user_is_asked() {
    for (keys, expected) in [
        ("y\n", &["OPTIONS", "HEAD", "PATCH 400+600"][..]),
        ("\n", &["OPTIONS", "HEAD", "PATCH 400+600"]),
        ("n\n", &["OPTIONS", "HEAD", "POST", "PATCH 0+1000"]),
    ] {
        let (stub, client) = after_interruption(400);
        let shown = on_a_terminal(&client, &["file"], keys);
        assert!(
            shown.contains("file was uploaded to 40 % before. Resume? [Y/n]"),
            "{shown}"
        );
        assert_eq!(stub.requests()[3..], *expected);
        assert_eq!(client.remembered(), 0);
    }
}

#[test]
fn with_yes_nobody_is_asked() {
    let (stub, client) = after_interruption(400);
    let shown = on_a_terminal(&client, &["file", "--yes"], "n\n");
    assert!(!shown.contains("[Y/n]"), "{shown}");
    assert_eq!(stub.requests()[3..], ["OPTIONS", "HEAD", "PATCH 400+600"]);
}

#[test]
fn a_file_that_changes_while_it_is_sent_never_becomes_a_complete_upload() {
    let stub = Stub::with_faults("creation", &[("PATCH", Fault::CutBody(400_000))]);
    stub.world().faults.push(("HEAD", Fault::Delay));
    let client = Client::of(stub.endpoint());
    let path = client.file("file", &noise(1_000_000));
    let child = client.start(&["file"]);
    stub.wait_until("HEAD", |world| {
        world.log.iter().any(|it| it.method == "HEAD")
    });
    fs::write(&path, vec![0; 1_000_000]).unwrap();
    File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .set_modified(SystemTime::now() + Duration::from_secs(9))
        .unwrap();
    stub.open_gate();
    let ended = Ended::of(child.wait_with_output().unwrap()).expect(1);
    assert!(
        ended.err.contains("file changed while it was being sent"),
        "{}",
        ended.err
    );
    assert!(stub.only_upload().offset < 1_000_000);
}
