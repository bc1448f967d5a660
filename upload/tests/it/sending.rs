use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::client::Client;
use crate::stub::{Fault, Stub};
use crate::{EVERYTHING, noise};

pub(crate) fn metadata(header: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).unwrap();
        (key.to_owned(), value)
    };
    header.split(',').map(pair).collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn a_file_arrives_whole_with_its_name_and_type() {
    for absolute in [false, true] {
        let stub = Stub::start("creation");
        stub.world().absolute_location = absolute;
        let client = Client::of(stub.endpoint());
        client.file("photo.jpg", &noise(300_000));
        client.run(&["photo.jpg"]).expect(0);
        assert_eq!(stub.requests(), ["OPTIONS", "POST", "PATCH 0+300000"]);
        let upload = stub.only_upload();
        assert_eq!(upload.data, noise(300_000));
        let expected = [
            pair("filename", "photo.jpg"),
            pair("filetype", "image/jpeg"),
        ];
        assert_eq!(metadata(&upload.metadata), expected);
        assert_eq!(client.remembered(), 0);
    }
}

#[test]
fn a_small_file_takes_one_request_where_the_server_offers_it() {
    for (extensions, extra, expected) in [
        (EVERYTHING, &[][..], &["OPTIONS", "POST +1000"][..]),
        ("creation", &[], &["OPTIONS", "POST", "PATCH 0+1000"]),
        (
            EVERYTHING,
            &["--one-request", "999"],
            &["OPTIONS", "POST", "PATCH 0+1000"],
        ),
        (
            EVERYTHING,
            &["--one-request", "0"],
            &["OPTIONS", "POST", "PATCH 0+1000"],
        ),
        (
            EVERYTHING,
            &["--chunk-size", "600"],
            &["OPTIONS", "POST", "PATCH 0+600", "PATCH 600+400"],
        ),
    ] {
        let stub = Stub::start(extensions);
        let client = Client::of(stub.endpoint());
        client.file("small", &noise(1000));
        client.run(&[&["small"], extra].concat()).expect(0);
        assert_eq!(stub.requests(), expected);
        assert_eq!(stub.only_upload().data, noise(1000));
    }
}

#[test]
fn an_empty_file_is_an_upload_too() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("empty", b"");
    client.run(&["empty"]).expect(0);
    assert_eq!(stub.requests(), ["OPTIONS", "POST"]);
    assert_eq!(stub.only_upload().length, Some(0));
}

#[test]
fn a_directory_is_walked_and_its_paths_are_sent() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    for name in ["album/a.png", "album/sub/b.txt", "album/sub/deeper/c"] {
        client.file(name, name.as_bytes());
    }
    client.run(&["album"]).expect(0);
    let world = stub.world();
    let mut found: Vec<_> = world
        .uploads
        .values()
        .map(|upload| {
            let pairs = metadata(&upload.metadata);
            let path = pairs
                .iter()
                .find(|(key, _)| key == "relativePath")
                .unwrap()
                .1
                .clone();
            assert_eq!(upload.data, path.as_bytes());
            path
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        ["album/a.png", "album/sub/b.txt", "album/sub/deeper/c"]
    );
}

#[test]
fn random_data_has_the_size_that_was_asked_for() {
    for (arguments, length) in [(&[][..], 1 << 20), (&["--size", "300KiB"][..], 300 << 10)] {
        let stub = Stub::start(EVERYTHING);
        Client::of(stub.endpoint()).run(arguments).expect(0);
        let upload = stub.only_upload();
        assert_eq!(upload.data.len(), length);
        assert!(upload.data.iter().any(|byte| *byte != upload.data[0]));
    }
}

#[test]
fn standard_input_is_sent_while_its_length_is_unknown() {
    let stub = Stub::start("creation,creation-defer-length");
    let client = Client::of(stub.endpoint());
    let arguments = ["-", "--chunk-size", "400", "--metadata", "filename=log"];
    client.run_with_input(&arguments, &noise(1000)).expect(0);
    let expected = [
        "OPTIONS",
        "POST",
        "PATCH 0+400",
        "PATCH 400+400",
        "PATCH 800+200",
    ];
    assert_eq!(stub.requests(), expected);
    let told = |index: usize| {
        stub.world().log[index]
            .headers
            .get("upload-length")
            .cloned()
    };
    assert_eq!(
        (told(1), told(2), told(3), told(4)),
        (None, None, None, Some("1000".to_owned()))
    );
    let upload = stub.only_upload();
    assert_eq!(upload.data, noise(1000));
    assert_eq!(metadata(&upload.metadata), [pair("filename", "log")]);
}

#[test]
fn a_stream_survives_cut_connections_and_lost_answers() {
    let stub = Stub::with_faults(
        "creation,creation-defer-length",
        &[
            ("PATCH", Fault::CutBody(100)),
            ("PATCH", Fault::LoseAnswer),
            ("PATCH", Fault::LoseAnswer),
            ("PATCH", Fault::LoseAnswer),
        ],
    );
    let client = Client::of(stub.endpoint());
    client
        .run_with_input(&["-", "--chunk-size", "400"], &noise(1000))
        .expect(0);
    let upload = stub.only_upload();
    assert_eq!((upload.data, upload.length), (noise(1000), Some(1000)));
}

#[test]
fn bytes_of_a_stream_that_the_server_lost_after_confirming_them_end_it() {
    let faults = [("PATCH", Fault::LoseBytes(1))];
    let stub = Stub::with_faults("creation,creation-defer-length", &faults);
    let client = Client::of(stub.endpoint());
    let ended = client
        .run_with_input(&["-", "--chunk-size", "400"], &noise(1000))
        .expect(4);
    assert!(ended.err.contains("cannot be read again"), "{}", ended.err);
}

#[test]
fn a_stream_without_the_extension_is_kept_until_its_length_is_known() {
    let stub = Stub::start("creation");
    let client = Client::of(stub.endpoint());
    client
        .run_with_input(&["-", "--chunk-size", "400"], &noise(1000))
        .expect(0);
    assert_eq!(stub.world().log[1].headers["upload-length"], "1000");
    assert_eq!(stub.only_upload().data, noise(1000));
}

#[test]
fn a_short_stream_is_an_ordinary_upload() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.run_with_input(&["-"], &noise(1000)).expect(0);
    assert_eq!(stub.requests(), ["OPTIONS", "POST +1000"]);
    client.run_with_input(&["-"], b"").expect(0);
    assert_eq!(stub.world().uploads["/files/2"].length, Some(0));
}

#[test]
fn parts_are_sent_at_once_and_joined() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("big", &noise(1_000_000));
    client.run(&["big", "--parallel", "3"]).expect(0);
    let upload = stub.only_upload();
    assert_eq!(upload.data, noise(1_000_000));
    assert_eq!(upload.concat, "final");
    assert_eq!(metadata(&upload.metadata), [pair("filename", "big")]);
    let world = stub.world();
    let parts: Vec<_> = world
        .uploads
        .values()
        .filter(|it| it.concat == "partial")
        .collect();
    assert_eq!(parts.len(), 3);
    assert!(
        parts
            .iter()
            .all(|part| part.metadata.is_empty() && part.data.len() > 333_000)
    );
}

#[test]
fn every_part_finds_its_way_through_failures() {
    let faults = [
        ("PATCH", Fault::CutBody(70_000)),
        ("PATCH", Fault::LoseAnswer),
        ("PATCH", Fault::Answer(503, &[], "")),
        ("POST", Fault::Answer(500, &[], "")),
    ];
    let stub = Stub::with_faults(EVERYTHING, &faults);
    let client = Client::of(stub.endpoint());
    client.file("big", &noise(1_000_000));
    client
        .run(&["big", "--parallel", "4", "--chunk-size", "100000"])
        .expect(0);
    assert_eq!(stub.only_upload().data, noise(1_000_000));
}

#[test]
fn a_server_that_cannot_join_gets_the_file_in_one_piece() {
    let stub = Stub::start("creation");
    let client = Client::of(stub.endpoint());
    client.file("big", &noise(1_000_000));
    let ended = client.run(&["big", "--parallel", "3"]).expect(0);
    assert!(ended.err.contains("cannot join parts"), "{}", ended.err);
    assert_eq!(stub.requests(), ["OPTIONS", "POST", "PATCH 0+1000000"]);
}

#[test]
fn a_chunk_that_was_falsified_on_its_way_is_sent_again() {
    let stub = Stub::with_faults(EVERYTHING, &[("PATCH", Fault::Corrupt)]);
    let client = Client::of(stub.endpoint());
    client.file("precious", &noise(1000));
    client
        .run(&["precious", "--checksum", "crc32", "--chunk-size", "600"])
        .expect(0);
    let expected = [
        "OPTIONS",
        "POST",
        "PATCH 0+600",
        "HEAD",
        "PATCH 0+600",
        "PATCH 600+400",
    ];
    assert_eq!(stub.requests(), expected);
    assert_eq!(stub.only_upload().data, noise(1000));
}

#[test]
fn headers_and_credentials_go_with_every_request() {
    let stub = Stub::start("creation");
    let endpoint = stub.endpoint().replace("http://", "http://me:secret@");
    let client = Client::of(endpoint);
    client.file("file", b"12345");
    let ended = client
        .run(&["file", "-H", "X-Tenant: 7", "--json"])
        .expect(0);
    assert!(!ended.out.contains("secret"), "{}", ended.out);
    let world = stub.world();
    let expected = format!("Basic {}", BASE64_STANDARD.encode("me:secret"));
    for logged in &world.log {
        assert_eq!(logged.headers["authorization"], expected);
        assert_eq!(logged.headers["x-tenant"], "7");
    }
}

#[test]
fn settings_come_from_the_environment_one_a_line() {
    let stub = Stub::start("creation");
    let client = Client::of(stub.endpoint());
    client.file("file", b"12345");
    let mut command = client.command(&["file"]);
    command
        .env("UPLOAD_METADATA", "filename=x\nnote=a=b\n")
        .env("UPLOAD_HEADER", "A: 1\nB: 2");
    command.env("UPLOAD_QUIET", "yes");
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    let expected = [pair("filename", "x"), pair("note", "a=b")];
    assert_eq!(metadata(&stub.only_upload().metadata), expected);
    assert_eq!(stub.world().log[0].headers["b"], "2");
}

#[test]
fn a_proxy_named_by_the_environment_is_used() {
    let proxy = Stub::start(EVERYTHING);
    let client = Client::of("http://nowhere.invalid/files/".to_owned());
    client.file("file", &noise(300_000));
    let mut command = client.command(&["file"]);
    command.env("HTTP_PROXY", format!("http://{}", proxy.address));
    assert!(command.output().unwrap().status.success());
    assert_eq!(proxy.only_upload().data, noise(300_000));
    assert_eq!(proxy.world().log[0].headers["host"], "nowhere.invalid");
}

#[test]
fn a_file_of_any_size_takes_little_memory() {
    let stub = Stub::with_faults("creation", &[("PATCH", Fault::Delay)]);
    stub.world().discards = true;
    let client = Client::of(stub.endpoint());
    let path = client.file("huge", b"");
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(400 << 20)
        .unwrap();
    let child = client.start(&["huge"]);
    stub.wait_until("all is sent", |world| {
        world.log.iter().any(|it| it.body == 400 << 20)
    });
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    stub.open_gate();
    assert!(child.wait_with_output().unwrap().status.success());
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(
        kibibytes < 64 << 10,
        "{kibibytes} KiB for a file of 400 MiB"
    );
}
