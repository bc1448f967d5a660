//! The image and the compose file as they are shipped, on a Docker engine of this test's own.
//!
//! Local stand-ins take the public names of the base images, so that no image is fetched. Building
//! in release mode takes minutes: only under `TUSPOOL_LONG=1`.

mod engine;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::needs::{Need, long, met, run, skip};
use tests::payload;
use tests::pipeline::{BASE_PATH, Pipeline};
use tests::process::Process;
use tests::programs::{Program, workspace_dir};
use tests::real_clients::test_tool;
use tests::spool::SpoolView;
use tests::wait::{wait_for, wait_up_to};

use crate::readme::document::command;
use engine::Engine;

const FILES: u64 = 200;
/// What `deploy/Dockerfile` adds to its base.
const IMAGE_LIMIT_BYTES: u64 = 25 << 20;
const IMAGE: &str = "tuspool:latest";
const PROGRAMS: [&str; 4] = ["ingest", "consumer", "janitor", "upload"];
/// What they are links to.
const FILE: &str = "tuspool";
/// On two busy processors; alone it takes a few minutes.
const BUILD_WITHIN: Duration = Duration::from_secs(2400);
const DELIVER_WITHIN: Duration = Duration::from_secs(600);

/// Mostly small ones, and some that are worth cutting off.
fn length(n: u64) -> u64 {
    match n % 20 {
        0 => (24 << 20) + n,
        1..5 => 700_000 + n,
        5 => 0,
        _ => 1_000 + n,
    }
}

#[test]
fn two_hundred_files_arrive_once_while_containers_are_killed_and_restarted() {
    if !long() {
        return;
    }
    let tools = ["dockerd", "docker-compose", "debootstrap", "ip", "iptables"].map(Need::Tool);
    if !met(&tools) || !met(&[Need::Root]) {
        return;
    }
    let pipeline = Pipeline::new();
    let engine = match Engine::start(&pipeline) {
        Ok(engine) => engine,
        Err(why) => return skip(&format!("containers cannot run: {why}")),
    };
    let stand_ins = pipeline.path("stand-ins");
    let mut make = engine.command("scripts/make-stand-in-images");
    make.arg(&stand_ins);
    let made = pipeline.start("stand-ins", make).finish(BUILD_WITHIN);
    made.expect_code(0);
    fs::remove_dir_all(stand_ins).unwrap();
    if let Err(why) = engine.try_container(&image_of("compose.yaml", "image: nginx:")) {
        return skip(&format!("containers cannot run: {why}"));
    }
    // All by README: it builds the image, two ingests and three consumers run, and so on.
    let typed = |limit, part| engine.typed(limit, &command(part));
    typed(BUILD_WITHIN, "up -d --build --scale consumer=3");
    the_image_is_small_static_and_without_a_shell(&pipeline, &engine);
    every_container_is_confined_and_gets_healthy(&engine);
    what_readme_uploads_is_delivered(&pipeline, &engine);
    typed(DELIVER_WITHIN, "exec consumer consumer ls");
    typed(DELIVER_WITHIN, "exec consumer consumer stats");
    files_arrive_once_whatever_is_restarted(&pipeline, &engine);
    typed(DELIVER_WITHIN, "--profile cluster down");
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]), "");
}

/// The name that follows `FROM ` or `image: ` in a shipped file.
fn image_of(file: &str, key: &str) -> String {
    let text = fs::read_to_string(workspace_dir().join("deploy").join(file)).unwrap();
    let line = text.lines().map(str::trim).find(|l| l.starts_with(key));
    let line = line.unwrap_or_else(|| panic!("{file} has no {key}"));
    line.split(' ').nth(1).unwrap().to_owned()
}

fn the_image_is_small_static_and_without_a_shell(pipeline: &Pipeline, engine: &Engine<'_>) {
    let inspect = |image: &str, what: &str| {
        let format = format!("{{{{{what}}}}}");
        engine.docker(&["image", "inspect", "--format", &format, image])
    };
    let size = |image: &str| inspect(image, ".Size").parse::<u64>().unwrap();
    let base = image_of("Dockerfile", "FROM gcr.io/distroless");
    let added = size(IMAGE) - size(&base);
    assert!(added < IMAGE_LIMIT_BYTES, "it adds {added} bytes to {base}");
    assert_eq!(inspect(IMAGE, ".Config.User"), "65532:65532");
    assert_eq!(
        inspect(IMAGE, ".Config.Healthcheck.Test"),
        "[CMD /usr/bin/ingest --healthcheck]"
    );

    let container = engine.docker(&["create", IMAGE]);
    let (inside, copy) = (format!("{container}:/usr/bin/{FILE}"), pipeline.path(FILE));
    engine.docker(&["cp", &inside, copy.to_str().unwrap()]);
    engine.docker(&["rm", &container]);
    // It complains to standard error, and fails, where there is nothing dynamic at all.
    let ldd = Command::new("ldd").arg(&copy).output().unwrap();
    let said = [ldd.stdout, ldd.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let is_static = said.contains("statically linked") || said.contains("not a dynamic");
    assert!(is_static, "{said}");

    for name in PROGRAMS {
        let program = format!("/usr/bin/{name}");
        let version = engine.docker(&["run", "--rm", "--read-only", IMAGE, &program, "--version"]);
        let expected = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        assert!(version.starts_with(&expected), "{version}");
    }
    hooks_find_the_consumer_in_an_image_of_their_own(pipeline, engine);
    for shell in ["/bin/sh", "/bin/bash", "/busybox/sh"] {
        let mut command = engine.command("docker");
        let output = command.args(["run", "--rm", IMAGE, shell, "-c", "exit"]);
        // 127: there is no such program.
        assert_eq!(output.output().unwrap().status.code(), Some(127), "{shell}");
    }
}

/// As `deploy/Dockerfile` says.
fn hooks_find_the_consumer_in_an_image_of_their_own(pipeline: &Pipeline, engine: &Engine<'_>) {
    let context = pipeline.path("hooks");
    fs::create_dir(&context).unwrap();
    let base = image_of("compose.yaml", "image: nginx:");
    let shipped = fs::read_to_string(workspace_dir().join("deploy/Dockerfile")).unwrap();
    let copy = shipped
        .lines()
        .find_map(|line| line.strip_prefix("#   COPY "));
    let file = format!("FROM {base}\nCOPY {}\n", copy.unwrap());
    fs::write(context.join("Dockerfile"), file).unwrap();
    engine.docker(&["build", "--tag", "hooks", context.to_str().unwrap()]);
    let version = engine.docker(&["run", "--rm", "hooks", "consumer", "--version"]);
    assert!(version.starts_with("consumer "), "{version}");
}

fn ours() -> Vec<String> {
    let one = ["ingest", "ingest-2", "janitor"].map(|service| Engine::container(service, 1));
    let consumers = (1..=3).map(|n| Engine::container("consumer", n));
    one.into_iter().chain(consumers).collect()
}

fn every_container_is_confined_and_gets_healthy(engine: &Engine<'_>) {
    for container in ours() {
        let inspect = |what: &str| {
            let format = format!("{{{{{what}}}}}");
            engine.docker(&["inspect", "--format", &format, &container])
        };
        for (what, expected) in [
            (".HostConfig.ReadonlyRootfs", "true"),
            (".HostConfig.CapDrop", "[ALL]"),
            (".HostConfig.SecurityOpt", "[no-new-privileges:true]"),
            (".HostConfig.Privileged", "false"),
        ] {
            assert_eq!(inspect(what), expected, "{container} {what}");
        }
        // The janitor answers nobody.
        if container.contains("janitor") {
            wait_for("the janitor to run", &"running".to_owned(), || {
                inspect(".State.Status")
            });
        } else {
            wait_for(&container, &"healthy".to_owned(), || {
                inspect(".State.Health.Status")
            });
        }
    }
}

fn what_readme_uploads_is_delivered(pipeline: &Pipeline, engine: &Engine<'_>) {
    fs::write(pipeline.path("report.pdf"), "all is well").unwrap();
    let line = command("upload report.pdf --to http://localhost:8080/files/ --wait");
    let mut upload = engine.beside(Program::Upload.path());
    upload.args(line.split_whitespace().skip(1));
    upload.current_dir(pipeline.path(""));
    let uploaded = pipeline.start("upload", upload).finish(DELIVER_WITHIN);
    uploaded.expect_code(0);
    let delivered = engine.volume("delivered").join("report.pdf");
    assert_eq!(fs::read_to_string(&delivered).unwrap(), "all is well");
    fs::remove_file(delivered).unwrap();
}

/// Names and digests of what is sent.
fn write_files(dir: &Path) -> BTreeMap<String, String> {
    fs::create_dir(dir).unwrap();
    let files = (0..FILES).map(|n| {
        let name = format!("file-{n:03}");
        let digest = payload::write_file(&dir.join(&name), n, length(n)).unwrap();
        (name, digest)
    });
    files.collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn files_arrive_once_whatever_is_restarted(pipeline: &Pipeline, engine: &Engine<'_>) {
    let files = pipeline.path("files");
    let expected = write_files(&files);
    let mut client = engine.beside(Program::Upload.path());
    client
        .args(["--yes", "--no-resume", "--jobs", "2", "--retries", "100"])
        .args(["--to", &format!("http://127.0.0.1:8080{BASE_PATH}")])
        .arg(&files);
    let mut client = pipeline.start("upload", client);
    let delivered = engine.volume("delivered");
    wait_up_to(DELIVER_WITHIN, "the first files to arrive", || {
        (10 <= names(&delivered).len()).then_some(())
    });
    let rounds = restart_everything_while(engine, &mut client);
    assert!(1 <= rounds);
    client.finish(DELIVER_WITHIN).expect_code(0);

    let wanted: BTreeSet<String> = expected.keys().cloned().collect();
    let spool = engine.volume("spool");
    wait_up_to(DELIVER_WITHIN, "everything to arrive", || {
        let empty = ["uploads", "completed", "claimed", "deferred"]
            .iter()
            .all(|dir| SpoolView::new(&spool).data_in(dir).is_empty());
        (empty && names(&delivered).is_superset(&wanted)).then_some(())
    });
    assert_eq!(names(&delivered), wanted, "something arrived twice");
    assert_eq!(names(&spool.join("failed")), BTreeSet::new());
    for (name, digest) in expected {
        let arrived = payload::sha256_file(&delivered.join(&name)).unwrap();
        assert_eq!(arrived, digest, "{name} arrived otherwise");
    }
}

/// One ingest after the other is restarted, a consumer is killed, and the janitor passes; until
/// the client is done. Returns how often.
fn restart_everything_while(engine: &Engine<'_>, client: &mut Process) -> u32 {
    let (ingests, consumer) = (
        ["ingest", "ingest-2"].map(|service| Engine::container(service, 1)),
        Engine::container("consumer", 1),
    );
    let janitor = Engine::container("janitor", 1);
    let mut rounds = 0;
    while rounds == 0 || (client.poll().is_none() && rounds < 10) {
        engine.docker(&["restart", "--time", "35", &ingests[0]]);
        engine.docker(&["kill", "--signal", "KILL", &consumer]);
        // One pass at once: there, the janitor makes one every ten minutes.
        let once = [
            "exec",
            "--env",
            "JANITOR_EVERY=",
            &janitor,
            "/usr/bin/janitor",
        ];
        engine.docker(&once);
        engine.docker(&["restart", "--time", "35", &ingests[1]]);
        engine.docker(&["start", &consumer]);
        rounds += 1;
    }
    rounds
}

#[test]
fn the_compose_file_follows_the_specification() {
    if !met(&[Need::RealClients]) {
        return;
    }
    let check = test_tool("venv/bin/check-jsonschema");
    run(Command::new(check)
        .args(["--builtin-schema", "vendor.compose-spec"])
        .arg(workspace_dir().join("deploy/compose.yaml")));
}
