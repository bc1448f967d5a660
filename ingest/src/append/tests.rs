use std::os::unix::fs::FileExt as _;

use shared::durable::Durability;
use shared::failpoint;
use shared::receive::{NewData, Open, Receiving};
use shared::record::{self, Record};
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

use super::*;
use crate::writers::Writers;

/// An upload of 5 bytes in a fresh spool, taken for writing.
async fn held(dir: &tempfile::TempDir, writers: &Arc<Writers>) -> (Arc<Spool>, Held) {
    held_with(dir, Durability::EveryPatch, writers).await
}

async fn held_with(
    dir: &tempfile::TempDir,
    durability: Durability,
    writers: &Arc<Writers>,
) -> (Arc<Spool>, Held) {
    let options = Options {
        durability,
        ..Options::default()
    };
    let spool = Arc::new(Spool::open(&dir.path().join("s"), options).unwrap());
    let record = Record::new(None, UnixTime::now());
    let receiving = NewData::create(&spool)
        .unwrap()
        .into_receiving(record)
        .unwrap();
    let seat = writers.take_seat(receiving.id()).await.unwrap();
    let held = Held {
        ledger: Arc::new(Ledger::of_receiving(&spool, Box::new(receiving))),
        seat: Arc::new(seat),
        promise: None,
        is_new: false,
    };
    (spool, held)
}

fn offset(spool: &Spool, id: UploadId) -> Offset {
    let path = spool.layout().record(id, shared::layout::RecordAt::Uploads);
    record::read(&path).unwrap().offset
}

#[tokio::test]
async fn a_writer_that_paused_does_not_touch_what_another_process_made_of_the_upload() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, held) = held(&dir, &Arc::default()).await;
    let id = held.seat.id();
    let mut silent = Append::new(held, 5, true);
    silent.set_length(Length(5)).unwrap();
    assert!(silent.pause());
    let Open::Held(mut other) = Receiving::open(&spool, id, UnixTime::now()).unwrap() else {
        panic!("still locked")
    };
    other.data().write_all_at(b"hell", 0).unwrap();
    other.advance(Offset(4), UnixTime::now()).unwrap();
    silent.publish_now().unwrap();
    assert!(matches!(silent.resume(), Err(Lost::ToAnother)));
    drop(silent);
    assert_eq!(offset(&spool, id), Offset(4));
}

#[tokio::test]
async fn a_writer_that_paused_has_no_descriptors_and_goes_on_with_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, held) = held(&dir, &Arc::default()).await;
    let id = held.seat.id();
    let mut silent = Append::new(held, 5, true);
    silent.write(&[Bytes::from_static(b"he")]).unwrap();
    assert!(!silent.pause(), "what came is not published yet");
    silent.publish_now().unwrap();
    assert!(silent.pause());
    assert!(silent.ledger().data().is_err());
    assert!(!silent.pause(), "it has paused already");
    silent.resume().unwrap();
    silent.write(&[Bytes::from_static(b"llo")]).unwrap();
    silent.publish_now().unwrap();
    assert_eq!(offset(&spool, id), Offset(5));
    let mut content = [0; 5];
    let data = silent.ledger().data().unwrap();
    data.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"hello");
}

#[tokio::test]
async fn a_writer_whose_bytes_are_synced_later_keeps_their_file_open() {
    let dir = tempfile::tempdir().unwrap();
    for (durability, counted) in [(Durability::OnFinish, true), (Durability::None, false)] {
        let (_, held) = held_with(&dir, durability, &Arc::default()).await;
        let mut silent = Append::new(held, 5, counted);
        silent.write(&[Bytes::from_static(b"he")]).unwrap();
        silent.publish_now().unwrap();
        assert!(silent.pause());
        assert!(silent.ledger().data().is_ok());
        silent.resume().unwrap();
    }
}

#[tokio::test]
async fn who_is_dropped_leaves_its_seat_when_its_bytes_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let writers = Arc::new(Writers::default());
    let (spool, held) = held(&dir, &writers).await;
    let id = held.seat.id();
    let mut dropped = Append::new(held, 5, true);
    dropped.write(&[Bytes::from_static(b"hel")]).unwrap();
    drop(dropped);
    let _seat = writers.take_seat(id).await.unwrap();
    assert_eq!(offset(&spool, id), Offset(3));
}

#[test]
fn bytes_are_published_also_if_the_runtime_ends_before() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (blocked, block) = std::sync::mpsc::channel::<()>();
    let (spool, id) = runtime.block_on(async {
        let (spool, held) = held(&dir, &Arc::default()).await;
        let id = held.seat.id();
        let mut dropped = Append::new(held, 5, true);
        dropped.write(&[Bytes::from_static(b"hel")]).unwrap();
        // The only thread for what blocks is taken: the publication has to queue.
        drop(spawn_blocking(move || block.recv().is_err()));
        drop(dropped);
        (spool, id)
    });
    runtime.shutdown_background();
    drop(blocked);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while offset(&spool, id) != Offset(3) {
        assert!(std::time::Instant::now() < deadline, "not published");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// 3 MiB and a few bytes, in the pieces in which a fast client's body is written: up to a MiB of
/// the file, then whole MiB from memory that begins at a page, then the rest.
fn fast_body() -> (Vec<u8>, Vec<Bytes>) {
    const MIB: usize = 1 << 20;
    let bytes: Vec<u8> = (0..3 * MIB + 77).map(|at| (at % 251) as u8).collect();
    let piece = |range: std::ops::Range<usize>| {
        let mut space = vec![0; range.len() + 4096];
        let start = space.as_ptr().align_offset(4096);
        space[start..start + range.len()].copy_from_slice(&bytes[range.clone()]);
        Bytes::from(space).slice(start..start + range.len())
    };
    let ends = [0, MIB - 300, MIB, 2 * MIB, 3 * MIB + 77];
    let pieces = ends.windows(2).map(|ends| piece(ends[0]..ends[1]));
    (bytes.clone(), pieces.collect())
}

#[tokio::test]
async fn the_page_cache_is_passed_by_where_something_is_synced_and_that_is_wanted() {
    for (durability, wanted, expected) in [
        (Durability::EveryPatch, true, true),
        (Durability::OnFinish, true, true),
        (Durability::None, true, false),
        (Durability::EveryPatch, false, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (_spool, held) = held_with(&dir, durability, &Arc::default()).await;
        let ledger = Arc::into_inner(held.ledger).unwrap();
        let ledger = ledger.with_direct_io(wanted);
        assert_eq!(
            ledger.writes_directly(),
            expected,
            "{durability:?} {wanted}"
        );
    }
}

/// An upload for a fast body, with which the page cache may be passed by.
async fn held_directly(dir: &tempfile::TempDir) -> (Arc<Spool>, Held) {
    let (spool, held) = held(dir, &Arc::default()).await;
    let ledger = Arc::into_inner(held.ledger).unwrap().with_direct_io(true);
    let ledger = Arc::new(ledger);
    (spool, Held { ledger, ..held })
}

/// Whether a filesystem takes writes past the page cache; says so if not.
fn takes_direct_io(dir: &tempfile::TempDir) -> bool {
    let path = dir.path().join("tried");
    std::fs::write(&path, "").unwrap();
    let taken = shared::durable::open_direct(&path).is_ok();
    if !taken {
        // In CI it has to: there, nothing is skipped.
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no O_DIRECT");
        eprintln!("SKIPPED: no O_DIRECT in {}", dir.path().display());
    }
    taken
}

/// An upload that a fast body fills, the body, and its pieces; `None` where the filesystem takes no
/// write past the page cache.
async fn fast_append(dir: &tempfile::TempDir) -> Option<(Arc<Spool>, Append, Vec<u8>, Vec<Bytes>)> {
    if !takes_direct_io(dir) {
        return None;
    }
    let (spool, held) = held_directly(dir).await;
    let (bytes, pieces) = fast_body();
    let length = bytes.len() as u64;
    let mut append = Append::new(held, length, true);
    append.set_length(Length(length)).unwrap();
    Some((spool, append, bytes, pieces))
}

fn content(append: &Append) -> Vec<u8> {
    std::fs::read(append.ledger().path()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_fast_body_whole_blocks_go_past_the_page_cache_and_no_byte_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let Some((spool, mut append, bytes, pieces)) = fast_append(&dir).await else {
        return;
    };
    for piece in pieces {
        append.write(&[piece]).unwrap();
        assert!(matches!(append.direct, Direct::Open(_)));
    }
    append.publish_now().unwrap();
    assert!(content(&append) == bytes);
    assert_eq!(offset(&spool, append.id()), Offset(bytes.len() as u64));
    assert!(append.pause());
    assert!(
        matches!(append.direct, Direct::Closed),
        "silent, and has files open"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filesystem_refuses_to_write_directly_goes_through_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_spool, mut append, bytes, pieces)) = fast_append(&dir).await else {
        return;
    };
    let refusing = failpoint::scoped("append.written=error:EINVAL@1").unwrap();
    pieces
        .into_iter()
        .for_each(|piece| append.write(&[piece]).unwrap());
    drop(refusing);
    assert!(matches!(append.direct, Direct::Never));
    assert!(content(&append) == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_refuses_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let Some((spool, mut append, _, pieces)) = fast_append(&dir).await else {
        return;
    };
    let _dying = failpoint::scoped("append.written=error:EIO@2").unwrap();
    let refused = pieces
        .into_iter()
        .position(|piece| append.write(&[piece]).is_err());
    assert_eq!(refused, Some(2), "the second one of whole blocks");
    append.publish_now().unwrap();
    assert_eq!(offset(&spool, append.id()), Offset(1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_taken_the_name_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, held) = held_directly(&dir).await;
    let (bytes, pieces) = fast_body();
    let mut append = Append::new(held, bytes.len() as u64, true);
    let path = append.ledger().path().to_owned();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another's").unwrap();
    pieces
        .into_iter()
        .for_each(|piece| append.write(&[piece]).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"another's");
}
