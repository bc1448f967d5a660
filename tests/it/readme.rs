//! What README tells people to type is typed here, as it stands: with other places and ports, and
//! with stand-ins for programs that not every machine has.

pub(crate) mod document;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::pipeline::Pipeline;
use tests::process::{Finished, Process};
use tests::programs::{Program, build_dir, workspace_dir};
use tests::wait::{PATIENCE, wait_until};

use document::{DOCUMENTS, blocks, command, commands, read, tables};

/// A part of each command line, and what runs it.
const RUN_BY: [(&str, &str); 27] = [
    ("./demo", "the_demo_delivers_a_file"),
    ("./check", "continuous integration"),
    ("profile cluster up -d --build", "compose"),
    ("upload report.pdf --to http://localhost:8080", "compose"),
    ("exec consumer consumer ls", "compose"),
    ("exec consumer consumer stats", "compose"),
    ("profile cluster down", "compose"),
    ("ingest   --spool", "the_programs_by_hand_deliver_a_file"),
    (
        "consumer --spool /var/spool/tuspool --move-to /srv/inbox",
        "the_programs_by_hand_deliver_a_file",
    ),
    ("janitor  --spool", "the_programs_by_hand_deliver_a_file"),
    ("upload   report.pdf", "the_programs_by_hand_deliver_a_file"),
    ("/mnt/share/inbox", "a_share_gets_every_file_under_its_name"),
    ("/usr/local/bin/process", "a_script_is_called_for_each_file"),
    ("clamdscan", "only_clean_files_are_delivered"),
    ("convert", "pictures_get_thumbnails"),
    ("consumer ls --spool", "an_operators_words_are_understood"),
    ("consumer show --spool", "an_operators_words_are_understood"),
    (
        "consumer retry --spool",
        "an_operators_words_are_understood",
    ),
    ("consumer fsck --spool", "an_operators_words_are_understood"),
    ("install -m 755", "the_units_are_installed"),
    ("service,socket,timer", "the_units_are_installed"),
    ("/etc/tuspool.env", "the_units_are_installed"),
    ("/etc/sysusers.d", "the_units_are_installed"),
    ("/etc/tmpfiles.d", "the_units_are_installed"),
    ("systemd-sysusers &&", "the_units_are_installed"),
    ("systemctl enable", "the_units_are_installed"),
    ("kubectl apply", "the_example_overlay_is_applied"),
];

#[test]
fn every_command_line_of_the_documents_is_run_by_a_test() {
    let lines = commands();
    for line in &lines {
        let runs = RUN_BY.iter().filter(|(part, _)| line.contains(part));
        assert_eq!(runs.count(), 1, "{line}");
    }
    for (part, _) in RUN_BY {
        let found = lines.iter().filter(|line| line.contains(part));
        assert_eq!(found.count(), 1, "{part}");
    }
}

#[test]
fn the_tables_of_flags_say_what_help_says() {
    let expected = tables();
    let document = read("FLAGS.md");
    let (_, found) = document.split_once("\n\n## ").unwrap();
    assert!(
        format!("## {}", found.trim()) == expected.trim(),
        "FLAGS.md has to have this from its first heading on:\n{expected}"
    );
}

#[test]
fn links_lead_to_what_exists() {
    for document in DOCUMENTS {
        let (text, dir) = (read(document), workspace_dir().join(document));
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let path = dir.parent().unwrap().join(target);
            let known = target.starts_with("https://") || path.try_exists().unwrap();
            assert!(known, "{document}: {target}");
        }
        for name in text.split('`').filter(|text| text.starts_with("deploy/")) {
            assert!(
                workspace_dir().join(name).try_exists().unwrap(),
                "{document}: {name}"
            );
        }
    }
}

/// A reader of README at work: places and ports are this test's, the rest is as it stands.
struct Reader {
    pipeline: Pipeline,
    /// Of ingest, once it runs.
    address: Option<String>,
}

impl Reader {
    fn new() -> Self {
        let reader = Self {
            pipeline: Pipeline::new(),
            address: None,
        };
        for dir in ["bin", "inbox", "share", "clean", "thumbs"] {
            fs::create_dir(reader.path(dir)).unwrap();
        }
        for program in [
            Program::Ingest,
            Program::Consumer,
            Program::Janitor,
            Program::Upload,
        ] {
            symlink(program.path(), reader.path("bin").join(program.name())).unwrap();
        }
        fs::write(reader.path("report.pdf"), "all is well").unwrap();
        reader
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pipeline.path(name)
    }

    /// Puts a program in front of all others.
    fn stand_in(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn adapted(&self, line: &str) -> String {
        let at = |name: &str| self.path(name).display().to_string();
        let mut line = line.to_owned();
        for (from, to) in [
            (
                "/var/spool/tuspool",
                self.pipeline.spool().root().display().to_string(),
            ),
            ("/srv/inbox", at("inbox")),
            ("/mnt/share/inbox", at("share")),
            ("/srv/clean", at("clean")),
            ("/srv/thumbs", at("thumbs")),
            ("/usr/local/bin/process", at("bin/process")),
        ] {
            line = line.replace(from, &to);
        }
        match &self.address {
            Some(address) => line.replace("127.0.0.1:1080", address),
            None => line.replace("127.0.0.1:1080", "127.0.0.1:0"),
        }
    }

    /// A shell as a person has it, in the reader's own directory.
    fn shell(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .current_dir(self.path(""))
            .env_clear()
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("HOME", self.path(""));
        command
    }

    /// Starts a line that goes on running.
    fn start(&self, line: &str) -> Process {
        let script = format!("exec {}", self.adapted(line));
        self.pipeline.start("line", self.shell(&script))
    }

    /// Runs a line to its end, which has to be a good one.
    fn run(&self, line: &str) -> Finished {
        let command = self.shell(&self.adapted(line));
        let process = self.pipeline.start("line", command);
        process.finish(PATIENCE).expect_code(0)
    }

    /// Starts the documented ingest and finds out its port.
    fn ingest(&mut self) -> Process {
        let line = command("ingest   --spool");
        let ready = self.path("ready");
        let process = self.start(&format!("{line} --ready-file {}", ready.display()));
        self.address = Some(wait_until("ingest to be ready", || {
            let text = fs::read_to_string(&ready).ok()?;
            text.ends_with('\n').then(|| text.trim().to_owned())
        }));
        process
    }

    /// Uploads a file of this name, as documented.
    fn upload(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).unwrap();
        self.run(&command("upload   report.pdf").replace("report.pdf", name));
    }
}

fn text_of(path: &Path) -> String {
    wait_until(&path.display().to_string(), || {
        fs::read_to_string(path)
            .ok()
            .filter(|text| !text.is_empty())
    })
}

#[test]
fn the_programs_by_hand_deliver_a_file() {
    let mut reader = Reader::new();
    let _ingest = reader.ingest();
    let _consumer = reader.start(&command("--move-to /srv/inbox"));
    let _janitor = reader.start(&command("janitor  --spool"));
    reader.run(&command("upload   report.pdf"));
    assert_eq!(text_of(&reader.path("inbox/report.pdf")), "all is well");
}

#[test]
fn a_share_gets_every_file_under_its_name() {
    let mut reader = Reader::new();
    let _ingest = reader.ingest();
    let _consumer = reader.start(&command("/mnt/share/inbox"));
    reader.upload("a.txt", "one");
    assert_eq!(text_of(&reader.path("share/a.txt")), "one");
    reader.upload("a.txt", "two");
    assert_eq!(text_of(&reader.path("share/a_1.txt")), "two");
    assert_eq!(text_of(&reader.path("share/a.txt")), "one");
}

#[test]
fn a_script_is_called_for_each_file() {
    let mut reader = Reader::new();
    let called = reader.path("called").display().to_string();
    let script = format!(
        "[ \"$1\" = --id ] && [ \"$2\" = \"$UPLOAD_ID\" ] && [ \"$3\" = \"$UPLOAD_FILE\" ] || exit 65\n\
         cat >/dev/null\necho \"$UPLOAD_FILENAME $(cat \"$3\")\" >>{called}\n"
    );
    reader.stand_in("process", &script);
    let _ingest = reader.ingest();
    let _consumer = reader.start(&command("/usr/local/bin/process"));
    reader.upload("b.txt", "seven");
    assert_eq!(text_of(&reader.path("called")), "b.txt seven\n");
}

#[test]
fn only_clean_files_are_delivered() {
    let mut reader = Reader::new();
    // As the real one: 0 clean, 1 infected.
    let script = "[ \"$1 $2\" = '--fdpass --no-summary' ] || exit 2\n\
                  if grep -q EICAR \"$3\"; then exit 1; fi\n";
    reader.stand_in("clamdscan", script);
    let _ingest = reader.ingest();
    let _consumer = reader.start(&command("clamdscan"));
    reader.upload("bad.txt", "EICAR");
    reader.upload("good.txt", "harmless");
    assert_eq!(text_of(&reader.path("clean/good.txt")), "harmless");
    let failed = || reader.pipeline.spool().data_in("failed").len() == 1;
    wait_until("the infected file to be kept aside", || {
        failed().then_some(())
    });
    assert!(!reader.path("clean/bad.txt").try_exists().unwrap());
}

#[test]
fn pictures_get_thumbnails() {
    let mut reader = Reader::new();
    let script = "[ \"$2 $3\" = '-thumbnail 200x200' ] || exit 65\ncp \"$1\" \"$4\"\n";
    reader.stand_in("convert", script);
    let _ingest = reader.ingest();
    let _consumer = reader.start(&command("convert"));
    reader.upload("text.txt", "no picture");
    reader.upload("face.png", "a picture");
    let thumbnail = wait_until("a thumbnail", || {
        let mut entries = fs::read_dir(reader.path("thumbs")).unwrap();
        Some(entries.next()?.unwrap().path())
    });
    assert_eq!(thumbnail.extension().unwrap(), "jpg");
    assert_eq!(text_of(&thumbnail), "a picture");
    // The other consumer's: it still waits.
    wait_until("the picture to be settled", || {
        (reader.pipeline.spool().data_in("completed").len() == 1).then_some(())
    });
}

#[test]
fn an_operators_words_are_understood() {
    let mut reader = Reader::new();
    let _ingest = reader.ingest();
    reader.upload("c.txt", "waits");
    let listed = reader.run(&command("consumer ls --spool")).stdout;
    let waiting = reader.pipeline.spool().data_in("completed");
    let id = waiting.first().unwrap();
    assert!(listed.contains(id.as_str()), "{listed}");
    let show = command("consumer show --spool");
    let shown = reader.run(&show.replace(" ID", &format!(" {id}"))).stdout;
    assert!(shown.contains("c.txt"), "{shown}");
    reader.run(&command("consumer retry --spool"));
    reader.run(&command("consumer fsck --spool"));
}

#[test]
fn the_demo_delivers_a_file() {
    let reader = Reader::new();
    // What it would build is built; only the building is left out.
    reader.stand_in("cargo", "[ \"$1 $2\" = 'build --quiet' ] || exit 1\n");
    let target = reader.path("target");
    fs::create_dir(&target).unwrap();
    symlink(build_dir(), target.join("release")).unwrap();
    let typed = command("./demo");
    // Who runs the tests in the background ignores Ctrl-C, and a shell cannot undo that.
    let exec = "exec env --default-signal=INT";
    let line = format!("cd {} && {exec} {typed} 0", workspace_dir().display());
    let mut command = reader.shell(&line);
    command.env("CARGO_TARGET_DIR", &target);
    let mut demo = reader.pipeline.start("demo", command);
    let tried = wait_until("the demo to say what to try", || {
        let said = demo.stdout();
        let line = said.lines().find(|line| line.contains("upload ANY_FILE"))?;
        said.contains("Ctrl-C stops")
            .then(|| line.trim().to_owned())
    });
    reader.run(&tried.replace("ANY_FILE", "report.pdf"));
    let delivered = target.join("demo/delivered/report.pdf");
    assert_eq!(text_of(&delivered), "all is well");
    demo.signal(nix::sys::signal::Signal::SIGINT);
    // 130: ended by Ctrl-C, as shells say it.
    let status = demo.wait_at_most(Duration::from_secs(120));
    assert_eq!(status.code(), Some(130));
}

#[test]
fn the_rust_of_the_documents_is_what_is_run_here() {
    let blocks = blocks("README.md", "rust");
    let here: Vec<&str> = include_str!("readme.rs").lines().map(str::trim).collect();
    assert_eq!(blocks.len(), 1);
    for line in blocks[0].lines() {
        assert!(here.contains(&line.trim()), "{line} is not run");
    }
}

#[test]
fn a_consumer_in_rust_saves_what_was_uploaded() {
    use shared::spool::{Options, Spool};
    use shared::wait::Waiter;

    let mut reader = Reader::new();
    let _ingest = reader.ingest();
    reader.upload("d.txt", "for Rust");
    let spool = Spool::open(reader.pipeline.spool().root(), Options::default()).unwrap();
    let (spool, inbox) = (std::sync::Arc::new(spool), reader.path("inbox"));
    let consume = || -> Result<(), Box<dyn std::error::Error>> {
        let waiter = Waiter::new(spool);
        while let Some(mut upload) = waiter.wait(Duration::from_secs(3600))? {
            upload.save(&inbox.join(upload.id().to_string()))?;
            upload.finish()?;
            // README goes on for ever.
            if 0 < fs::read_dir(&inbox)?.count() {
                break;
            }
        }
        Ok(())
    };
    consume().unwrap();
    let saved = fs::read_dir(reader.path("inbox")).unwrap().next();
    assert_eq!(text_of(&saved.unwrap().unwrap().path()), "for Rust");
}

#[test]
fn the_example_overlay_is_applied() {
    let line = command("kubectl apply");
    let directory = line.strip_prefix("kubectl apply -k ").unwrap();
    // What is in it is looked at by the test of the manifests.
    let file = workspace_dir().join(directory).join("kustomization.yaml");
    assert!(file.is_file(), "{}", file.display());
}

#[test]
fn the_units_are_installed() {
    let reader = Reader::new();
    let root = reader.path("root");
    for dir in [
        "usr/bin",
        "etc/systemd/system",
        "etc/sysusers.d",
        "etc/tmpfiles.d",
    ] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    symlink(workspace_dir().join("deploy"), reader.path("deploy")).unwrap();
    for tool in ["systemd-sysusers", "systemd-tmpfiles", "systemctl"] {
        let log = reader.path("called").display().to_string();
        reader.stand_in(tool, &format!("echo {tool} \"$@\" >>{log}\n"));
    }
    for (part, test) in RUN_BY {
        if test == "the_units_are_installed" {
            let line = command(part)
                .replace(" /usr/", &format!(" {}/usr/", root.display()))
                .replace(" /etc/", &format!(" {}/etc/", root.display()));
            reader.run(&line);
        }
    }
    let called = text_of(&reader.path("called"));
    let enabled = called.lines().last().unwrap();
    let units = enabled.strip_prefix("systemctl enable --now ").unwrap();
    for unit in units.split(' ') {
        let installed = root.join("etc/systemd/system").join(unit);
        assert!(installed.is_file(), "{unit} is not installed");
    }
    for program in ["ingest", "consumer", "janitor", "upload"] {
        assert!(root.join("usr/bin").join(program).is_file(), "{program}");
    }
}
