//! Wrong flags and unusable directories: one clear line, exit 2, and nothing touched.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::loop_fs::MemoryFs;
use tests::needs::{self, Need};
use tests::pipeline::{Pipeline, bare_command};
use tests::process::Finished;
use tests::programs::Program;
use tests::wait::PATIENCE;

/// The three that work on a spool, each with arguments that would do.
const PROGRAMS: [(Program, &[&str]); 3] = [
    (Program::Ingest, &["--listen", "127.0.0.1:0"]),
    (Program::Consumer, &["--drain", "--hook", "true"]),
    (Program::Janitor, &[]),
];

/// Runs a program on `spool`; the last arguments win over nothing, so they are added.
fn run(pipeline: &Pipeline, program: Program, spool: &Path, args: &[&str]) -> Finished {
    let mut command = bare_command(program);
    command.arg("--spool").arg(spool).args(args);
    pipeline.start(program.name(), command).finish(PATIENCE)
}

#[track_caller]
fn refused_in_one_line(ended: Finished, what: &str) {
    let ended = ended.expect_code(2);
    assert_eq!(ended.stderr.lines().count(), 1, "{what}: {}", ended.stderr);
    assert_eq!(ended.stdout, "", "{what}");
}

#[test]
fn a_wrong_flag_is_one_line_and_exit_2_and_touches_nothing() {
    let pipeline = Pipeline::new();
    let spool = pipeline.spool().root();
    let cases: &[(Program, &[&str])] = &[
        (Program::Ingest, &["--no-such-flag"]),
        (Program::Ingest, &["--max-size", "ten"]),
        (Program::Ingest, &["--max-size", "0"]),
        (Program::Ingest, &["--listen", "nowhere"]),
        (Program::Ingest, &["--listen", "127.0.0.1:99999"]),
        (Program::Ingest, &["--base-path", "/a/../b"]),
        (Program::Ingest, &["--durability", "perhaps"]),
        (Program::Ingest, &["stray"]),
        (Program::Consumer, &[]),
        (Program::Consumer, &["--hook", "true", "--jobs", "0"]),
        (Program::Consumer, &["--hook", "true", "--poll", "soon"]),
        (Program::Consumer, &["--hook", "unbalanced 'quote"]),
        (Program::Consumer, &["--hook", ""]),
        (Program::Consumer, &["--hook", "true {no_such_placeholder}"]),
        (Program::Consumer, &["--hook", "/no/such/program"]),
        (Program::Consumer, &["--move-to", "/no/such/directory"]),
        (Program::Consumer, &["--once", "--drain", "--hook", "true"]),
        (Program::Janitor, &["--every", "0"]),
        (Program::Janitor, &["--zombies", "eat"]),
        (Program::Janitor, &["--expired", "perhaps"]),
        (Program::Janitor, &["--stale-upload-age", "-1"]),
    ];
    for (program, args) in cases {
        let what = format!("{} {args:?}", program.name());
        refused_in_one_line(run(&pipeline, *program, spool, args), &what);
        assert!(!spool.try_exists().unwrap(), "{what} made the spool");
    }
}

#[test]
fn help_and_version_are_answered_with_0() {
    let pipeline = Pipeline::new();
    for (program, _) in PROGRAMS {
        for flag in ["--help", "--version"] {
            let mut command = bare_command(program);
            command.arg(flag);
            let ended = pipeline
                .start(program.name(), command)
                .finish(PATIENCE)
                .expect_code(0);
            assert!(ended.stdout.contains(program.name()), "{ended:?}");
            assert_eq!(ended.stderr, "");
        }
    }
}

#[test]
fn a_spool_that_cannot_be_one_is_refused() {
    let pipeline = Pipeline::new();
    let file = pipeline.path("file");
    std::fs::write(&file, "").unwrap();
    let newer = pipeline.path("newer");
    std::fs::create_dir(&newer).unwrap();
    std::fs::write(newer.join("FORMAT"), "99\n").unwrap();
    let no_parent = pipeline.path("no/such/parent");
    let below_a_file = file.join("spool");
    for (program, args) in PROGRAMS {
        for spool in [&file, &newer, &no_parent, &below_a_file] {
            let what = format!("{} on {}", program.name(), spool.display());
            refused_in_one_line(run(&pipeline, program, spool, args), &what);
        }
        assert_eq!(
            std::fs::read_dir(&newer).unwrap().count(),
            1,
            "{}",
            program.name()
        );
    }
}

#[test]
fn a_spool_on_two_filesystems_is_refused() {
    if !needs::met(&[Need::Root]) {
        return;
    }
    let pipeline = Pipeline::new();
    pipeline.run::<&str>(Program::Janitor, &[]).expect_code(0);
    let spool = pipeline.spool().root();
    let other = MemoryFs::mount(&spool.join("completed"), 1 << 20);
    for (program, args) in PROGRAMS {
        refused_in_one_line(run(&pipeline, program, spool, args), program.name());
        assert_eq!(pipeline.spool().names("uploads"), Vec::<String>::new());
    }
    drop(other);
}

#[test]
fn a_spool_made_by_the_first_program_has_all_its_directories() {
    for (program, args) in PROGRAMS {
        if program == Program::Ingest {
            continue; // does not end by itself; all the other tests see what it makes
        }
        let pipeline = Pipeline::new();
        pipeline.run(program, args).expect_code(0);
        for directory in tests::spool::DIRECTORIES {
            let path = pipeline.spool().path(directory, "");
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(
                mode & 0o777,
                0o700,
                "{directory}, made by {}",
                program.name()
            );
        }
        assert!(pipeline.spool().root().join("FORMAT").is_file());
    }
}

#[test]
fn foreign_files_are_left_alone_and_break_no_scan() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let id = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";
    let mut foreign = Vec::new();
    for directory in tests::spool::DIRECTORIES {
        let upper = id.to_uppercase();
        for name in [
            "README",
            ".nfs0001",
            "x~y",
            "a\u{308}.meta",
            ".tmp-x",
            &upper,
        ] {
            let path = pipeline.spool().path(directory, name);
            std::fs::write(&path, "keep me").unwrap();
            foreign.push(path);
        }
        let below = pipeline.spool().path(directory, "lost+found");
        std::fs::create_dir(&below).unwrap();
        foreign.push(below);
    }
    let upload = ingest
        .tus()
        .create_with(b"hello", &[("filename", "greeting")]);
    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    pipeline.run::<&str>(Program::Janitor, &[]).expect_code(0);
    assert_eq!(std::fs::read(out.join("greeting")).unwrap(), b"hello");
    upload.head().expect(200, []);
    for path in foreign {
        assert!(path.try_exists().unwrap(), "{} is gone", path.display());
    }
}
