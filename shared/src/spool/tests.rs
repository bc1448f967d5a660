use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::id::UploadId;

#[test]
fn a_spool_is_made_below_an_existing_parent_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("spool");
    for _ in 0..2 {
        let spool = Spool::open(&root, Options::default()).unwrap();
        for dir in Dir::ALL {
            assert_eq!(spool.entries(dir).unwrap().count(), 0);
            spool.sync_dir(dir).unwrap();
        }
    }
    assert_eq!(
        std::fs::read_to_string(root.join("FORMAT")).unwrap(),
        FORMAT_LINE
    );
    assert!(Spool::open(&dir.path().join("a/b"), Options::default()).is_err());
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(Spool::open(&dir.path().join("file"), Options::default()).is_err());
}

#[test]
fn a_spool_is_opened_again_where_it_is_and_not_made_where_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("spool");
    let spool = Spool::open(&root, Options::default()).unwrap();
    std::fs::remove_dir(root.join("completed")).unwrap();
    spool.reopen().unwrap().sync_dir(Dir::Completed).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    let error = spool.reopen().unwrap_err().to_string();
    assert!(error.contains("FORMAT"), "{error}");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn another_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("FORMAT"), "tuspool 2\nnew\n").unwrap();
    let error = Spool::open(dir.path(), Options::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tuspool 2") && !error.contains('\n'),
        "{error}"
    );
    assert!(
        !dir.path().join("uploads").is_dir(),
        "touched before the check"
    );
}

#[test]
fn modes_are_as_asked_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        directory_mode: 0o2770,
        file_mode: 0o666,
        ..Options::default()
    };
    let spool = Spool::open(&dir.path().join("s"), options).unwrap();
    let path = spool
        .layout()
        .data(UploadId::generate(), crate::layout::DataAt::Uploads);
    let file = spool.create_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o666);
    let uploads = std::fs::metadata(spool.layout().dir(Dir::Uploads)).unwrap();
    assert_eq!(uploads.mode() & 0o7777, 0o2770);
}

#[test]
fn foreign_names_are_left_out_of_a_listing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(&dir.path().join("s"), Options::default()).unwrap();
    let id = UploadId::generate();
    for name in ["README", ".hidden", "x.meta"] {
        std::fs::write(spool.layout().dir(Dir::Completed).join(name), "").unwrap();
    }
    let record = spool
        .layout()
        .record(id, crate::layout::RecordAt::Completed);
    std::fs::write(record, "").unwrap();
    let found: Vec<Entry> = spool
        .entries(Dir::Completed)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        found,
        [Entry::Record(id, crate::layout::RecordAt::Completed)]
    );
}
