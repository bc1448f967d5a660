use std::sync::Arc;

use super::*;
use crate::spool::Options;

fn case() -> (tempfile::TempDir, Arc<Spool>) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(&dir.path().join("s"), Options::default()).unwrap();
    (dir, Arc::new(spool))
}

fn free(spool: &Spool) -> PathBuf {
    spool
        .layout()
        .state(UploadId::generate(), ClaimId::generate())
}

#[test]
fn so_many_are_kept_whoever_made_them_and_used_ones_are_made_again() {
    let (_dir, spool) = case();
    spool.keep_spares(3).unwrap();
    let another = Spool::open(spool.layout().root(), Options::default()).unwrap();
    another.keep_spares(5).unwrap();
    spool.keep_spares(3).unwrap();
    assert_eq!(spool.spares().unwrap().len(), 5);
    for _ in 0..3 {
        let made = spool.make_of_spare(&free(&spool), b"x", Purpose::GoOn);
        assert!(made.unwrap().is_some());
    }
    assert_eq!(spool.spares().unwrap().len(), 2);
    another.refill_spares();
    assert_eq!(another.spares().unwrap().len(), 2, "not used by this one");
    spool.refill_spares();
    assert_eq!(spool.spares().unwrap().len(), 3);
    let again = spool.reopen().unwrap();
    assert_eq!(again.spares_wanted(), 3);
}

#[test]
fn a_file_made_of_one_holds_what_was_written_and_only_a_state_keeps_the_space() {
    let (_dir, spool) = case();
    spool.keep_spares(SPARES_PER_CLAIM).unwrap();
    let (record, state) = (free(&spool), free(&spool));
    for (path, purpose) in [(&record, Purpose::GoOn), (&state, Purpose::Begin)] {
        let long = b"{\"a\":1,\"b\":2}";
        spool.make_of_spare(path, long, purpose).unwrap().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), long);
        spool.give_back(path).unwrap();
        assert!(durable::stat(path).unwrap().is_none());
    }
    let space = |path: &Path| durable::stat(path).unwrap().unwrap().blocks() * 512;
    let mut kept: Vec<_> = spool.spares().unwrap();
    for &(id, unique) in &kept {
        let text = std::fs::read_to_string(spool.layout().spare(id, unique)).unwrap();
        assert_eq!(text.trim_end_matches(' '), "");
    }
    kept.retain(|&(id, unique)| space(&spool.layout().spare(id, unique)) < SPARE_BYTES as u64);
    assert_eq!(kept.len(), 1, "the record's");
    // Each of them once, the one that has been a state among them.
    for _ in 0..SPARES_PER_CLAIM - 2 {
        let path = free(&spool);
        spool.make_of_spare(&path, b"{}", Purpose::Begin).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim_end_matches(' '), "{}");
    }
}

#[test]
fn what_could_be_left_out_leaves_a_claim_and_a_claim_leaves_its_end() {
    for (purpose, least) in [
        (Purpose::TellMore, 4),
        (Purpose::Begin, 3),
        (Purpose::GoOn, 1),
    ] {
        let (_dir, spool) = case();
        spool.keep_spares(least).unwrap();
        let make = || {
            let made = spool.make_of_spare(&free(&spool), b"x", purpose);
            made.unwrap().is_some()
        };
        assert!(make(), "{purpose:?}");
        assert!(!make(), "{purpose:?}");
    }
}

#[test]
fn one_that_lacks_the_space_is_left_and_what_has_the_name_stays() {
    let (_dir, spool) = case();
    let unique = (UploadId::generate(), ClaimId::generate());
    spool
        .create_file(&spool.layout().spare(unique.0, unique.1))
        .unwrap();
    let path = free(&spool);
    let made = spool.make_of_spare(&path, b"x", Purpose::GoOn).unwrap();
    assert!(made.is_none());
    spool.keep_spares(2).unwrap();
    std::fs::write(&path, "there").unwrap();
    let taken = spool.make_of_spare(&path, b"x", Purpose::GoOn).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "there");
}
