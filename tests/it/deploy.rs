//! What `deploy/` ships says what the programs do: flags, variables, values and times.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::needs::{Need, met, run};
use tests::pipeline::bare_command;
use tests::programs::{Program, workspace_dir};
use tests::real_clients::test_tool;

const ACTIONLINT: &str = "actionlint/actionlint";
/// What a connection may need after the drain time (`LAST_WORDS` of ingest).
const LAST_WORDS_SECONDS: u64 = 7;

fn deploy(path: &str) -> PathBuf {
    workspace_dir().join("deploy").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn program(name: &str) -> Program {
    match name {
        "ingest" => Program::Ingest,
        "consumer" => Program::Consumer,
        "janitor" => Program::Janitor,
        other => panic!("{other} is no program"),
    }
}

fn help(program: Program) -> String {
    let output = bare_command(program).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A program reads its flags, with their values, before it comes to `--help`.
fn accepts(command: &mut Command) {
    let output = command.arg("--help").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// The flags of the manifests' containers (`- --flag=value`) and of the units' `ExecStart=`.
fn command_lines() -> Vec<(PathBuf, String, Vec<String>)> {
    let mut found = Vec::new();
    let mut lines = Vec::new();
    files(&deploy(""), &mut found);
    for path in found {
        let text = read(&path);
        for line in text.lines().map(str::trim) {
            let Some(command) = line.strip_prefix("ExecStart=/usr/bin/") else {
                continue;
            };
            let mut words = command.split(' ').map(str::to_owned);
            lines.push((path.clone(), words.next().unwrap(), words.collect()));
        }
        let image = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("command: [/usr/bin/"));
        if let Some(name) = image.and_then(|rest| rest.strip_suffix(']')) {
            let flags = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("- --"));
            let flags = flags.map(|flag| format!("--{flag}")).collect();
            lines.push((path, name.to_owned(), flags));
        }
    }
    lines
}

#[test]
fn every_command_line_is_accepted_by_its_program() {
    let lines = command_lines();
    assert_eq!(lines.len(), 6, "three manifests and three units: {lines:?}");
    for (_, name, flags) in lines {
        assert!(!flags.is_empty());
        accepts(bare_command(program(&name)).args(flags));
    }
}

#[test]
fn every_variable_is_one_of_its_program() {
    let mut found = Vec::new();
    files(&deploy(""), &mut found);
    let mut count = 0;
    for name in ["ingest", "consumer", "janitor"] {
        let help = help(program(name));
        let prefix = format!("{}_", name.to_uppercase());
        for path in &found {
            let text = read(path);
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for variable in words.filter(|word| word.starts_with(&prefix)) {
                count += 1;
                let known = help.contains(&format!("[env: {variable}="));
                assert!(known, "{}: {variable}", path.display());
            }
        }
    }
    assert!(15 <= count, "only {count} variables found");
}

/// The seconds of `90s`, `20` or `1m`.
fn seconds(text: &str) -> u64 {
    if let Some(minutes) = text.trim().strip_suffix('m') {
        return 60 * seconds(minutes);
    }
    let digits = text.trim().trim_end_matches('s');
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number of seconds"))
}

/// What follows `key` on its first line.
fn after<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.split_once(key));
    found.unwrap_or_else(|| panic!("{key} in {text}")).1
}

/// A flag's default, by `--help`.
fn default_seconds(program: Program, flag: &str) -> u64 {
    let help = help(program);
    let (_, from_flag) = help.split_once(&format!("{flag} <")).unwrap();
    let (_, value) = from_flag.split_once("[default: ").unwrap();
    seconds(value.split(']').next().unwrap())
}

#[test]
fn who_ends_the_programs_leaves_them_the_time_to_drain() {
    let ingest = read(&deploy("kubernetes/base/ingest.yaml"));
    let needed = seconds(after(&ingest, "seconds: "))
        + seconds(after(&ingest, "--drain-timeout="))
        + LAST_WORDS_SECONDS;
    assert!(needed < seconds(after(&ingest, "terminationGracePeriodSeconds: ")));

    let consumer = read(&deploy("kubernetes/base/consumer.yaml"));
    let needed =
        seconds(after(&consumer, "--drain-timeout=")) + seconds(after(&consumer, "--kill-grace="));
    assert!(needed < seconds(after(&consumer, "terminationGracePeriodSeconds: ")));

    let compose = read(&deploy("compose.yaml"));
    let needed = seconds(after(&compose, "INGEST_DRAIN_TIMEOUT: ")) + LAST_WORDS_SECONDS;
    let (_, ingest) = compose.split_once("x-ingest:").unwrap();
    assert!(needed < seconds(after(ingest, "stop_grace_period: ")));
    let (_, consumer) = compose.split_once("\n  consumer:").unwrap();
    let needed = seconds(after(consumer, "CONSUMER_DRAIN_TIMEOUT: "))
        + seconds(after(consumer, "CONSUMER_KILL_GRACE: "));
    assert!(needed < seconds(after(consumer, "stop_grace_period: ")));

    let unit = read(&deploy("systemd/ingest.service"));
    let needed = default_seconds(Program::Ingest, "--drain-timeout") + LAST_WORDS_SECONDS;
    assert!(needed < seconds(after(&unit, "TimeoutStopSec=")));
    let unit = read(&deploy("systemd/consumer.service"));
    let needed = default_seconds(Program::Consumer, "--drain-timeout")
        + default_seconds(Program::Consumer, "--kill-grace");
    assert!(needed < seconds(after(&unit, "TimeoutStopSec=")));
}

#[test]
fn proxies_wait_longer_than_a_stalled_upload_may_last() {
    let stall = default_seconds(Program::Ingest, "--stall-timeout");
    let nginx = read(&deploy("nginx.conf"));
    for key in [
        "client_body_timeout ",
        "proxy_send_timeout ",
        "proxy_read_timeout ",
    ] {
        assert!(
            stall < seconds(after(&nginx, key).trim_end_matches(';')),
            "{key}"
        );
    }
    let haproxy = read(&deploy("haproxy.cfg"));
    for key in ["timeout client ", "timeout server "] {
        assert!(stall < seconds(after(&haproxy, key)), "{key}");
    }
}

#[test]
fn the_workflows_follow_their_schema() {
    if !met(&[Need::RealClients]) {
        return;
    }
    let mut found = Vec::new();
    files(&workspace_dir().join(".github/workflows"), &mut found);
    assert_eq!(found.len(), 2, "{found:?}");
    let check = test_tool("venv/bin/check-jsonschema");
    run(Command::new(check)
        .args(["--builtin-schema", "vendor.github-workflows"])
        .args(found));
}

/// actionlint knows what the schema cannot: expressions, contexts, which job needs which.
#[test]
fn the_workflows_mean_something() {
    if !met(&[Need::TestTool(ACTIONLINT)]) {
        return;
    }
    let mut found = Vec::new();
    files(&workspace_dir().join(".github/workflows"), &mut found);
    run(Command::new(test_tool(ACTIONLINT)).args(found));
}

#[test]
fn man_pages_and_completions_come_for_every_program() {
    for name in ["ingest", "consumer", "janitor"] {
        let page = |args: &[&str]| {
            let output = bare_command(program(name)).args(args).output().unwrap();
            assert!(output.status.success(), "{name} {args:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(page(&["--man"]).contains(&format!(".TH {name} 1")));
        for shell in ["bash", "zsh", "fish"] {
            assert!(
                page(&["--completions", shell]).contains("log-level"),
                "{name} {shell}"
            );
        }
    }
}

#[test]
fn the_operators_words_have_pages_and_completions_too() {
    let page = |args: &[&str]| {
        let output = bare_command(Program::Consumer).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (man, bash) = (page(&["--man"]), page(&["--completions", "bash"]));
    let help = page(&["help"]);
    let (_, words) = help.split_once("Commands:\n").unwrap();
    let words = words
        .lines()
        .map_while(|line| line.split_whitespace().next());
    let words: Vec<&str> = words.filter(|word| *word != "help").collect();
    assert_eq!(words.len(), 9, "{words:?}");
    for word in words {
        assert!(page(&[word, "--man"]).contains(&format!(".TH consumer-{word} 1")));
        assert!(page(&[word, "--help"]).contains("Exit codes:"), "{word}");
        assert!(man.contains(&format!("consumer\\-{word}(1)")), "{word}");
        assert!(bash.contains(&format!("consumer,{word}")), "{word}");
    }
}
