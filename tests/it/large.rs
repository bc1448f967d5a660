//! What must hold for gigabytes: a chunk whose checksum is wrong leaves nothing, and parts are
//! joined without being copied. Smaller in a plain `cargo test`.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use tests::client::Upload;
use tests::http::Connection;
use tests::loop_fs::{Kind, LoopFs, NEEDS};
use tests::needs::{self, run, sized};
use tests::payload;
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};
use tests::programs::scratch_dir;
use tests::wait::{wait_until, wait_up_to};

use std::time::Duration;

/// How long joining or reading back gigabytes may take.
const LIMIT: Duration = Duration::from_secs(600);

/// The data file's space in pieces of 64 KiB (128 sectors), and the record. The map of a file that
/// was written past the page cache may take a block of its own (ext4, from five extents on), and
/// keeps it.
fn on_disk(pipeline: &Pipeline, id: &str) -> (u64, Vec<u8>) {
    let data = std::fs::metadata(pipeline.spool().path("uploads", id)).unwrap();
    let record = std::fs::read(pipeline.spool().path("uploads", &format!("{id}.meta")));
    (data.blocks() >> 7, record.unwrap())
}

/// A PATCH with the wrong checksum, of which `bytes` are sent.
fn begin_wrong(ingest: &Ingest, upload: &Upload, length: u64, bytes: u64) -> Connection {
    let length = length.to_string();
    let headers = [
        ("Host", "127.0.0.1"),
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Offset", "0"),
        ("Content-Type", "application/offset+octet-stream"),
        ("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("Content-Length", &length),
    ];
    let mut connection = ingest.tus().connect().unwrap();
    let head = tests::http::head("PATCH", upload.path(), &headers);
    connection.send(&head).unwrap();
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..bytes >> 20 {
        connection.send(&piece).unwrap();
    }
    connection
}

#[test]
fn a_large_patch_with_a_wrong_checksum_leaves_offset_and_disk_as_before() {
    let length: u64 = sized(64 << 20, 1 << 30);
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(length, &[]);
    let before = on_disk(&pipeline, upload.id());
    let mut connection = begin_wrong(&ingest, &upload, length, length);
    connection.receive("PATCH").unwrap().expect(460, []);
    assert_eq!(upload.offset(), 0);
    assert_eq!(on_disk(&pipeline, upload.id()), before);
    assert_eq!(pipeline.spool().names("completed"), Vec::<String>::new());
}

#[test]
fn a_kill_in_the_middle_of_a_patch_with_a_checksum_leaves_offset_and_disk_as_before() {
    let length: u64 = sized(64 << 20, 1 << 30);
    let pipeline = Pipeline::new();
    let mut ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(length, &[]);
    let before = on_disk(&pipeline, upload.id());
    let _half = begin_wrong(&ingest, &upload, length, length / 2);
    // Written in place, and not counted.
    let data = pipeline.spool().path("uploads", upload.id());
    wait_until("bytes in the file", || {
        (0 < std::fs::metadata(&data).unwrap().len()).then_some(())
    });
    ingest.kill_and_restart();
    assert_eq!(upload.offset(), 0);
    assert_eq!(on_disk(&pipeline, upload.id()), before);
    // And what comes then replaces it.
    upload
        .patch(0, b"hello")
        .expect(204, [("Upload-Offset", "5")]);
}

fn part(ingest: &Ingest, seed: u64, length: u64) -> Upload {
    let text = length.to_string();
    let headers = [("Upload-Concat", "partial"), ("Upload-Length", &*text)];
    let created = ingest.tus().request("POST", BASE_PATH, &headers, b"");
    let part = ingest.tus().created(created);
    let mut connection = part.begin_patch(0, length);
    let piece = payload::bytes(seed, 1 << 20);
    for _ in 0..length >> 20 {
        connection.send(&piece).unwrap();
    }
    connection.receive("PATCH").unwrap().expect(204, []);
    part
}

/// Bytes that a file system says are used.
fn used(at: &Path) -> u64 {
    let told = run(Command::new("df").args(["--output=used", "-B1"]).arg(at));
    told.lines().nth(1).unwrap().trim().parse().unwrap()
}

fn join(ingest: &Ingest, parts: &[Upload]) -> Upload {
    let urls: Vec<_> = parts.iter().map(Upload::path).collect();
    let list = format!("final;{}", urls.join(" "));
    let headers = [("Upload-Concat", &*list)];
    let created = ingest.tus().request("POST", BASE_PATH, &headers, b"");
    ingest.tus().created(created)
}

fn wait_joined(whole: &Upload, length: u64) {
    wait_up_to(LIMIT, "the concatenation", || {
        let told = whole.head();
        (told.status == 200 && told.header("Upload-Offset") == Some(&*length.to_string()))
            .then_some(())
    });
}

/// The bytes of a final upload are those of its parts.
fn is_joined(path: &Path, length: u64) -> bool {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    (1..=4).all(|seed| {
        let piece = payload::bytes(seed, 1 << 20);
        (0..length >> 20).all(|_| file.read_exact(&mut buffer).is_ok() && buffer == piece)
    }) && file.read(&mut buffer).unwrap() == 0
}

#[test]
fn parts_are_joined_without_a_copy_where_blocks_can_be_shared_also_over_a_kill() {
    if !needs::met(&NEEDS) {
        return;
    }
    let length: u64 = sized(32 << 20, 1 << 30);
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    for kind in Kind::ALL {
        let name = format!("{kind:?}");
        let fs = LoopFs::make(kind, dir.path(), &name, (512 << 20) + 9 * length);
        let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
        let mut ingest = pipeline.ingest(&["--min-free", "0"]);
        let parts: Vec<_> = (1..=4).map(|seed| part(&ingest, seed, length)).collect();
        run(&mut Command::new("sync"));
        let before = used(fs.mount_point());
        let whole = join(&ingest, &parts);
        // It is recorded: whoever comes next goes on.
        ingest.kill_and_restart();
        wait_joined(&whole, 4 * length);
        let completed = pipeline.spool().path("completed", whole.id());
        assert!(is_joined(&completed, length), "{kind:?}");
        run(&mut Command::new("sync"));
        let grown = used(fs.mount_point()).saturating_sub(before);
        if kind != Kind::Ext4 {
            assert!(grown < length / 2, "{kind:?}: {grown} bytes were copied");
        }
        drop(ingest);
    }
}
