use serde_json::Value;

use crate::EVERYTHING;
use crate::client::Client;
use crate::stub::Stub;

fn offline() -> Client {
    Client::of("http://127.0.0.1:9/files/".to_owned())
}

#[test]
fn people_get_a_line_for_each_upload_and_a_sum() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("a", b"12345");
    client.file("b", b"12345");
    let ended = client.run(&["a", "b", "--jobs", "1"]).expect(0);
    let lines: Vec<_> = ended.out.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("a: uploaded, 5 B in "), "{}", lines[0]);
    assert!(lines[0].ends_with("/files/1"), "{}", lines[0]);
    assert!(
        ended.err.starts_with("2 of 2 files, 10 B in"),
        "{}",
        ended.err
    );
}

#[test]
fn programs_get_json_lines_on_standard_output_alone() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("a", b"12345");
    let ended = client.run(&["a", "missing", "--json"]).expect(1);
    let lines: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |file: &str| lines.iter().find(|line| line["file"] == file).unwrap();
    assert_eq!(of("a")["state"], "uploaded");
    assert_eq!(of("a")["bytes"], 5);
    assert_eq!(of("a")["exit"], 0);
    assert_eq!(of("missing")["state"], "error");
    assert_eq!(of("missing")["exit"], 1);
}

#[test]
fn quiet_says_nothing_but_errors() {
    let stub = Stub::start(EVERYTHING);
    let client = Client::of(stub.endpoint());
    client.file("a", b"12345");
    let ended = client.run(&["a", "missing", "--quiet"]).expect(1);
    assert!(ended.out.is_empty());
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[test]
fn nothing_to_do_is_success() {
    let client = offline();
    std::fs::create_dir(client.home.path().join("empty")).unwrap();
    let ended = client.run(&["empty"]).expect(0);
    assert_eq!(ended.err, "nothing to upload\n");
}

#[test]
fn help_tells_every_exit_code() {
    let ended = offline().run(&["--help"]).expect(0);
    for code in [
        "  0 ", "  1 ", "  2 ", "  3 ", "  4 ", "  5 ", "  6 ", "  130 ",
    ] {
        assert!(ended.out.contains(&format!("\n{code}")), "{code}");
    }
    assert!(offline().run(&["-h"]).expect(0).out.len() < ended.out.len());
}

#[test]
fn version_completions_and_man_page_are_printed() {
    let version = offline().run(&["--version"]).expect(0).out;
    assert_eq!(version, format!("upload {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = offline().run(&["--completions", shell]).expect(0).out;
        assert!(
            script.contains("--chunk-size") || script.contains("chunk-size"),
            "{shell}"
        );
    }
    let page = offline().run(&["--man"]).expect(0).out;
    assert!(page.contains(".TH upload 1"), "{page}");
}
