//! `consumer fsck` on spools whose files were damaged at random, in every directory: whatever it
//! has repaired, ingest, consumer and janitor go on with, and no byte is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use tests::needs;
use tests::payload;
use tests::pipeline::{Ingest, Pipeline, bare_command};
use tests::process::Finished;
use tests::programs::Program;
use tests::spool::DIRECTORIES;
use tests::wait::PATIENCE;

/// Bytes of an upload.
const LENGTH: usize = 200;

/// Where uploads stand before they are damaged.
const LIVES: [&str; 8] = [
    "receiving",
    "queued",
    "claimed",
    "deferred",
    "held",
    "dead",
    "delivered",
    "rejected",
];

#[test]
fn whatever_was_damaged_a_repaired_spool_is_accepted_by_all_and_no_data_is_missing() {
    for seed in 0..needs::sized(3, 40) {
        damaged_and_repaired(seed);
    }
}

fn damaged_and_repaired(seed: u64) {
    let (pipeline, mut random) = (Pipeline::new(), Rng::with_seed(seed));
    let ids = populated(&pipeline);
    assert_eq!(
        told(&fsck(&pipeline, &[]), &ids),
        claims(&pipeline),
        "{seed}"
    );
    let mut harms = BTreeMap::new();
    for id in &ids {
        let done: Vec<_> = (0..random.usize(1..5))
            .map(|_| harm(&pipeline, id, &mut random))
            .collect();
        harms.insert(id, done);
    }
    let (before, ended) = (contents(&pipeline), ended(&pipeline));
    let listed = pipeline.spool().listing();
    let found = fsck(&pipeline, &[]);
    assert_eq!(
        pipeline.spool().listing(),
        listed,
        "looking changed something"
    );
    let odd = told(&found, &ids);
    assert_eq!(found.code(), Some(i32::from(!odd.is_empty())));

    let repaired = fsck(&pipeline, &["--repair"]);
    let why = |id: &String| format!("seed {seed}, {id}: {:?}\n{repaired:#?}", harms.get(id));
    assert_eq!(
        repaired.code(),
        Some(0),
        "seed {seed}: {harms:#?}\n{repaired:#?}"
    );
    let sound = || {
        let again = fsck(&pipeline, &[]);
        let odd = told(&again, &ids);
        let why: Vec<_> = odd.iter().map(why).collect();
        assert_eq!(
            (again.code(), again.stdout.as_str()),
            (Some(0), ""),
            "{why:#?}"
        );
    };
    let nothing_missing = || {
        let after = contents(&pipeline);
        for (content, (id, place)) in &before {
            // What has ended anybody may remove.
            if !ended.contains(id) {
                assert!(after.contains_key(content), "from {place}/ {}", why(id));
            }
        }
    };
    sound();
    nothing_missing();
    pipeline
        .run(Program::Janitor, &["--grace", "0s"])
        .expect_code(0);
    sound();
    nothing_missing();
    let out = pipeline.out();
    let drain = [
        "--drain",
        "--move-to",
        out.to_str().unwrap(),
        "--name",
        "{id}",
    ];
    pipeline.run(Program::Consumer, &drain).expect_code(0);
    sound();
    nothing_missing();
    let ingest = pipeline.ingest(&[]);
    for id in &ids {
        let path = format!("{}{id}", ingest.tus().base_path());
        let head = ingest.tus().upload(&path).head();
        assert!(head.status < 500, "{head:?} {}", why(id));
    }
    sound();
    nothing_missing();
}

/// Uploads in every state of their life, each of its own content.
fn populated(pipeline: &Pipeline) -> Vec<String> {
    let ingest = pipeline.ingest(&[]);
    let mut ids = Vec::new();
    for n in 0..3 {
        for (m, life) in LIVES.iter().enumerate() {
            ids.push(brought_to_life(pipeline, &ingest, life, n * 100 + m as u64));
        }
    }
    ids
}

fn brought_to_life(pipeline: &Pipeline, ingest: &Ingest, life: &str, seed: u64) -> String {
    let body = payload::bytes(seed, LENGTH);
    if life == "receiving" {
        let upload = ingest.tus().create(2 * LENGTH as u64, &[]);
        upload.patch(0, &body).expect(204, []);
        return upload.id().to_owned();
    }
    let upload = ingest.tus().create_with(&body, &[("life", life)]);
    let only = format!("life={life}");
    let once = ["--only", &only, "--once", "--backoff-base", "1ms"];
    let done = pipeline.path("delivered");
    std::fs::create_dir_all(&done).unwrap();
    let more: Vec<&str> = match life {
        "claimed" => vec!["--hook", "sh -c 'kill -9 $PPID'"],
        "deferred" => vec!["--hook", "false"],
        "dead" => vec!["--hook", "sh -c 'exit 65'"],
        "rejected" => vec!["--hook", "sh -c 'rm \"$UPLOAD_FILE\"; exit 65'"],
        "delivered" => vec!["--move-to", done.to_str().unwrap()],
        _ => vec![],
    };
    if life == "held" {
        let mut hold = bare_command(Program::Consumer);
        hold.args(["hold", "--spool"])
            .arg(pipeline.spool().root())
            .arg(upload.id());
        pipeline.start("hold", hold).finish(PATIENCE).expect_code(0);
    } else if !more.is_empty() {
        drop(pipeline.run(Program::Consumer, &[&once[..], &more].concat()));
    }
    upload.id().to_owned()
}

fn fsck(pipeline: &Pipeline, args: &[&str]) -> Finished {
    let mut command = bare_command(Program::Consumer);
    command
        .args(["fsck", "--spool"])
        .arg(pipeline.spool().root())
        .args(args);
    pipeline.start("fsck", command).finish(PATIENCE)
}

/// Which uploads something was told about.
fn told(finished: &Finished, ids: &[String]) -> BTreeSet<String> {
    let told = |id: &&String| finished.stdout.contains(id.as_str());
    ids.iter().filter(told).cloned().collect()
}

/// Uploads that lie in `claimed/`.
fn claims(pipeline: &Pipeline) -> BTreeSet<String> {
    let names = pipeline.spool().names("claimed").into_iter();
    names
        .filter_map(|name| Some(name.split_once('~')?.0.to_owned()))
        .collect()
}

/// Every name that an upload may have, each kind in a row of its own.
fn names(pipeline: &Pipeline, id: &str) -> [Vec<PathBuf>; 3] {
    let claims = ["a".repeat(32), "b".repeat(32)];
    let mut claims: Vec<String> = claims.to_vec();
    // And those that it has.
    for name in pipeline.spool().names("claimed") {
        let claim = name
            .strip_prefix(id)
            .and_then(|rest| rest.strip_prefix('~'));
        claims.extend(claim.map(|claim| claim.trim_end_matches(".state").to_owned()));
    }
    let path = |dir: &str, name: String| pipeline.spool().path(dir, &name);
    let mut data: Vec<_> = ["uploads", "completed", "held", "failed"]
        .map(|dir| path(dir, id.to_owned()))
        .into();
    data.extend(
        claims
            .iter()
            .map(|claim| path("claimed", format!("{id}~{claim}"))),
    );
    for not_before in ["0000000001", "9999999999"] {
        data.push(path("deferred", format!("{not_before}-{id}")));
    }
    let records = ["uploads", "completed", "failed", "receipts"];
    let records = records.map(|dir| path(dir, format!("{id}.meta")));
    let mut others = vec![
        path("failed", format!("{id}.reason.json")),
        path("uploads", format!(".tmp-{id}-{}", claims[0])),
        path("claimed", format!(".tmp-{id}-{}", claims[0])),
        path("outbox", id.to_owned()),
    ];
    others.extend(
        claims
            .iter()
            .map(|claim| path("claimed", format!("{id}~{claim}.state"))),
    );
    [data, records.into(), others]
}

/// Does one bad thing to the files of an upload; returns what.
fn harm(pipeline: &Pipeline, id: &str, random: &mut Rng) -> String {
    let names = names(pipeline, id);
    let kind = random.usize(0..names.len());
    let alike = &names[kind];
    let there: Vec<&PathBuf> = alike.iter().filter(|path| path.is_file()).collect();
    let to = &alike[random.usize(0..alike.len())];
    let is_data = kind == 0;
    let Some(&from) = there.get(random.usize(0..there.len().max(1))) else {
        // Nothing of its kind is there: something comes out of nowhere.
        std::fs::write(to, b"out of nowhere").unwrap();
        return format!("{} made", short(to));
    };
    let free = std::fs::symlink_metadata(to).is_err();
    match random.u32(0..6) {
        0 if !is_data => std::fs::remove_file(from).unwrap(),
        1 => {
            let bytes = std::fs::read(from).unwrap();
            std::fs::write(
                from,
                &bytes[..random.usize(0..bytes.len().max(1)).min(bytes.len())],
            )
            .unwrap();
        }
        2 if !is_data => {
            let garbage: Vec<u8> = (0..random.usize(0..700)).map(|_| random.u8(..)).collect();
            std::fs::write(from, garbage).unwrap();
        }
        3 if free => {
            std::fs::hard_link(from, to).unwrap();
            std::fs::remove_file(from).unwrap();
        }
        4 if free => std::fs::hard_link(from, to).unwrap(),
        5 if free => std::fs::write(to, b"something else").unwrap(),
        _ => return "nothing".to_owned(),
    }
    format!("{} and {}", short(from), short(to))
}

fn short(path: &Path) -> String {
    let parts: Vec<_> = path
        .iter()
        .rev()
        .take(2)
        .map(|part| part.to_string_lossy())
        .collect();
    format!("{}/{}", parts[1], parts[0])
}

/// The content of every data file, with the upload that it was found under and where.
fn contents(pipeline: &Pipeline) -> BTreeMap<Vec<u8>, (String, String)> {
    let mut all = BTreeMap::new();
    for dir in DIRECTORIES.iter().filter(|dir| **dir != "outbox") {
        for name in pipeline.spool().names(dir) {
            let kept = name.starts_with(".tmp-") || name.ends_with(".state");
            if !kept && !name.ends_with(".meta") && !name.ends_with(".json") {
                let content = std::fs::read(pipeline.spool().path(dir, &name)).unwrap();
                let id = name.split('~').next().unwrap();
                let id = id
                    .trim_start_matches("0000000001-")
                    .trim_start_matches("9999999999-");
                let id = id.get(id.len().saturating_sub(36)..).unwrap_or_default();
                all.insert(content, (id.to_owned(), (*dir).to_owned()));
            }
        }
    }
    for path in [pipeline.out(), pipeline.path("delivered")] {
        for file in std::fs::read_dir(path).into_iter().flatten() {
            let file = file.unwrap().path();
            all.insert(std::fs::read(file).unwrap(), Default::default());
        }
    }
    all
}

/// Uploads of which a record says that they have ended.
fn ended(pipeline: &Pipeline) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for dir in DIRECTORIES {
        for name in pipeline.spool().names(dir) {
            let Some(id) = name.strip_suffix(".meta") else {
                continue;
            };
            let bytes = std::fs::read(pipeline.spool().path(dir, &name)).unwrap();
            let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let endings = ["delivered", "terminated", "expired", "joined"];
            if record["place"]
                .as_str()
                .is_some_and(|place| endings.contains(&place))
            {
                all.insert(id.to_owned());
            }
        }
    }
    all
}
