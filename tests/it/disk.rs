//! A full disk, a dying disk, a disk that turns read-only: no answer is a lie, nothing that was
//! answered is lost, and everything goes on once the disk is well again.

mod drain;
mod full;
mod steps;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tests::audit::{self, Audit, Offset, Promise};
use tests::client::{Tus, Upload};
use tests::http::Response;
use tests::ledger::{Entry, Ledger, Shape};
use tests::load::{self, Load, Plan};
use tests::loop_fs::{self, Kind, LoopFs};
use tests::needs::{self, sized};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::programs::{Program, scratch_dir};
use tests::wait::{happens, random_moment, wait_for, wait_until, wait_up_to};

const KIB: usize = 1024;
const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
/// Some 80 MB have to be written first.
const DEATH_WITHIN: Duration = Duration::from_secs(300);

/// Space left on the disk when a request comes, in bytes: from nothing, over what suffices for a
/// name, a record, a piece of data, to enough for all.
const LEFT: [usize; 8] = [
    0,
    4 * KIB,
    8 * KIB,
    12 * KIB,
    20 * KIB,
    64 * KIB,
    300 * KIB,
    2048 * KIB,
];

/// What takes up space. Removing it gives the space back.
struct Ballast<'a>(&'a Path);

impl<'a> Ballast<'a> {
    /// Fills a file system but for `left` bytes.
    fn fill(path: &'a Path, left: usize) -> Self {
        let mut file = std::fs::File::create(path).unwrap();
        let mut block = vec![0x5a; 64 * KIB];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
        // btrfs finds out what is really free when it is synced.
        file.sync_all().ok();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(left as u64)).unwrap();
        file.sync_all().ok();
        Self(path)
    }
}

impl Drop for Ballast<'_> {
    fn drop(&mut self) {
        std::fs::remove_file(self.0).ok();
    }
}

#[test]
fn on_a_full_disk_every_answer_is_507_or_true_and_all_goes_on_when_there_is_space() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    for kind in sized(&Kind::ALL[..1], &Kind::ALL[..]) {
        let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
        // btrfs and xfs cannot be made any smaller, or turn strange when they are.
        let bytes = if *kind == Kind::Ext4 {
            24 * MIB
        } else {
            320 * MIB
        };
        let fs = LoopFs::make(*kind, dir.path(), "fs", bytes);
        for left in LEFT {
            fill_up(&fs, *kind, left);
        }
    }
}

fn fill_up(fs: &LoopFs, kind: Kind, left: usize) {
    let what = format!("{kind:?}, {left} bytes left");
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    // Logs are on another file system; so is what is delivered.
    let ingest = pipeline.ingest(&["--min-free", "0"]);
    let tus = ingest.tus();
    let body = payload::bytes(left as u64, 200 * KIB);
    let begun = tus.create(body.len() as u64, &[("filename", "begun")]);
    begun.patch(0, &body[..70 * KIB]).expect(204, []);
    let unwanted = tus.create(body.len() as u64, &[]);
    unwanted.patch(0, &body[..70 * KIB]).expect(204, []);
    let deferred = create_deferred(&tus);

    let ballast_path = fs.mount_point().join("ballast");
    let ballast = Ballast::fill(&ballast_path, left);
    let new = create_on_full(&tus, &body, &what);
    patch_on_full(&begun, 70 * KIB, &body, &what);
    patch_on_full(&deferred, 0, &body, &what);
    unwanted.head().expect(200, []);
    // Ending an upload needs no space; it makes some.
    unwanted.delete().expect(204, []);
    unwanted.head().expect(410, []);
    drop(ballast);

    finish(&begun, &body, &what);
    let new = new.unwrap_or_else(|| wait_until("space", || create_on_full(&tus, &body, &what)));
    finish(&new, &body, &what);
    let length = body.len().to_string();
    wait_for(&what, &204, || {
        let at = deferred.offset().to_string();
        let headers = [
            ("Upload-Offset", at.as_str()),
            ("Upload-Length", length.as_str()),
            ("Content-Type", "application/offset+octet-stream"),
        ];
        let rest = &body[at.parse::<usize>().unwrap()..];
        tus.request("PATCH", deferred.path(), &headers, rest).status
    });

    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    for name in ["begun", "new", "deferred"] {
        assert!(
            std::fs::read(out.join(name)).unwrap() == body,
            "{what}: {name}"
        );
    }
    pipeline
        .run(Program::Janitor, &["--grace", "0s"])
        .expect_code(0);
    assert!(
        pipeline.spool().is_settled(),
        "{what}: {:?}",
        pipeline.spool().listing()
    );
}

fn create_deferred(tus: &Tus) -> Upload {
    let metadata = tests::client::encode(&[("filename", "deferred")]);
    let headers = [
        ("Upload-Defer-Length", "1"),
        ("Upload-Metadata", metadata.as_str()),
    ];
    tus.created(tus.request("POST", tus.base_path(), &headers, b""))
}

#[track_caller]
fn full_or(answer: &Response, status: u16, what: &str) {
    assert!(
        [507, status].contains(&answer.status),
        "{what}: {answer:#?}"
    );
}

/// The new upload, if there was space for it.
fn create_on_full(tus: &Tus, body: &[u8], what: &str) -> Option<Upload> {
    let length = body.len().to_string();
    let metadata = tests::client::encode(&[("filename", "new")]);
    let headers = [
        ("Upload-Length", length.as_str()),
        ("Upload-Metadata", metadata.as_str()),
    ];
    let answer = tus.request("POST", tus.base_path(), &headers, b"");
    full_or(&answer, 201, what);
    (answer.status == 201).then(|| tus.created(answer))
}

/// PATCHes all the rest but one byte; HEAD has to know how much of it was kept.
fn patch_on_full(upload: &Upload, from: usize, body: &[u8], what: &str) {
    // Not to the end: what is looked at here is the space, not the hand-over.
    let end = body.len() - 1;
    let answer = upload.patch(from as u64, &body[from..end]);
    full_or(&answer, 204, what);
    let offset = usize::try_from(upload.offset()).unwrap();
    assert!(
        (from..=end).contains(&offset),
        "{what}: {offset} after {from}"
    );
    assert!(
        answer.status == 507 || offset == end,
        "{what}: {offset} of {end}"
    );
}

/// Sends the rest, as often as the disk is still full: some file systems take a moment to see that
/// a file is gone.
fn finish(upload: &Upload, body: &[u8], what: &str) {
    wait_for(what, &204, || {
        let from = usize::try_from(upload.offset()).unwrap();
        upload.patch(from as u64, &body[from..]).status
    });
}

/// The disk here is a loop device on a full tmpfs, which takes some writes and refuses others. That
/// is what finds bytes that are sent again after a failed sync: they must not be written over the
/// blocks that failed (`shared::receive`).
#[test]
fn on_a_dying_disk_nothing_is_answered_that_is_not_there() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    for kind in sized(&Kind::ALL[..1], &Kind::ALL[..]) {
        for seed in 0..sized(2, 10) {
            let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
            // The file system believes in 512 MiB; the disk fails somewhere in the load.
            let mut fs = LoopFs::make_on_dying_disk(*kind, dir.path(), "fs", 512 * MIB, 96 * MIB);
            die_under_load(&mut fs, *kind, seed);
        }
    }
}

fn die_under_load(fs: &mut LoopFs, kind: Kind, seed: u64) {
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    let out = pipeline.out();
    let mut ingest = pipeline.ingest(&["--min-free", "0"]);
    let ledger = Ledger::default();
    let shapes = Shape::offered(&ingest.tus());
    // Every other time bodies that are written past the page cache.
    let (clients, length_max) = [(8, 2_000_000), (3, 12_000_000)][usize::from(seed % 2 == 1)];
    let plan = Plan {
        clients,
        shapes,
        length_max,
        uploads_each: None,
        seed,
    };
    let load = Load::start(&ingest.tus(), &plan, &ledger);
    // Until it fails, and then until nothing is acknowledged any more.
    wait_up_to(DEATH_WITHIN, "the death of the disk", || {
        let log = ingest.process.log();
        log.contains("\"request failed\"").then_some(())
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut before, mut now) = (0, bytes_acknowledged(&ledger));
    happens(LIMIT, || {
        random_moment(&mut random, Duration::from_secs(1)..Duration::from_secs(2));
        (before, now) = (now, bytes_acknowledged(&ledger));
        before == now
    });
    load.stop();
    let acknowledged = ledger.entries();
    ingest.process.kill();

    fs.revive_disk(600 * MIB);
    fs.mount_again();
    let ingest = pipeline.ingest(&["--min-free", "0"]);
    let tus = &ingest.tus();
    let audit = Audit {
        tus,
        spool: pipeline.spool(),
        out: &out,
        offset: Offset::Reported,
        promise: Promise::EveryOffset,
    };
    // A refusal on the dead disk was an answer too, but nothing that is lost.
    let honest = acknowledged.into_iter().map(|mut entry| {
        entry.refused = None;
        entry
    });
    let honest: Vec<_> = honest.collect();
    let losses = audit.acknowledged(&honest);
    assert!(losses.is_empty(), "{kind:?}, {seed}: {losses:?}");
    let ledger = Ledger::as_of(honest);
    let _consumer = pipeline.consumer(&["--move-to", &out.to_string_lossy()]);
    load::resume_all(tus, &ledger);
    wait_up_to(LIMIT, "the last delivery", || {
        pipeline.spool().is_idle().then_some(())
    });
    let losses = audit::delivered_whole(&out, &ledger);
    assert!(losses.is_empty(), "{kind:?}, {seed}: {losses:?}");
}

fn bytes_acknowledged(ledger: &Ledger) -> usize {
    let of_parts = |entry: &Entry| -> usize {
        let parts = entry.parts.iter();
        parts.map(|part| part.acknowledged).sum()
    };
    let of = |entry: &Entry| entry.acknowledged + of_parts(entry);
    ledger.entries().iter().map(of).sum()
}

#[test]
fn a_disk_that_turns_read_only_is_told_and_goes_on_after_it_is_mounted_again() {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let mut fs = LoopFs::make(Kind::Ext4, dir.path(), "fs", 64 * MIB);
    let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
    let mut ingest = pipeline.ingest(&["--min-free", "0"]);
    let body = payload::bytes(1, 100_000);
    let upload = ingest
        .tus()
        .create(body.len() as u64, &[("filename", "a.bin")]);
    upload
        .patch(0, &body[..50_000])
        .expect(204, [("Upload-Offset", "50000")]);

    fs.abort();
    let answer = upload.patch(50_000, &body[50_000..]);
    assert!([500, 503, 507].contains(&answer.status), "{answer:#?}");
    assert!(
        !answer.text().contains('/'),
        "no paths for clients: {}",
        answer.text()
    );
    let create = ingest
        .tus()
        .request("POST", "/files/", &[("Upload-Length", "5")], b"");
    assert!([500, 503, 507].contains(&create.status), "{create:#?}");
    // What can be read is told: a client that heard 5xx here might begin anew.
    upload.head().expect(200, [("Upload-Offset", "50000")]);
    assert!([500, 503, 507].contains(&upload.delete().status));
    upload.head().expect(200, [("Upload-Offset", "50000")]);
    ingest.process.kill();

    fs.mount_again();
    ingest.restart();
    assert_eq!(upload.offset(), 50_000);
    upload.patch(50_000, &body[50_000..]).expect(204, []);
    let completed = std::fs::read(pipeline.spool().path("completed", upload.id())).unwrap();
    assert!(completed == body);
}
