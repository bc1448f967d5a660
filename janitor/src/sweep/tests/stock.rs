//! What of an upload in `uploads/` is told by its record, and what only by its data.

use std::fs::File;

use super::*;
use crate::report::Stock;

/// Makes the data as old as if it had last been written so long after now.
fn write_after(spool: &Fixture, id: UploadId, time: Duration) {
    let data = File::open(spool.layout().data(id, DataAt::Uploads)).unwrap();
    data.set_modified(std::time::SystemTime::now() + time)
        .unwrap();
}

#[test]
fn of_an_upload_that_still_arrives_only_what_has_arrived_is_stock() {
    let spool = Fixture::new();
    for received in [1, 3] {
        let id = spool.receiving(received);
        let data = durable::open(&spool.layout().data(id, DataAt::Uploads), true).unwrap();
        data.set_len(4096).unwrap();
        write_after(&spool, id, DAY / 2);
    }
    let Stock {
        uploads,
        bytes,
        oldest_seconds,
    } = spool.pass_after(DAY - HOUR).stock(Dir::Uploads);
    assert_eq!((uploads, bytes), (2, 4));
    let since = (DAY - HOUR).as_secs();
    assert!(
        (since..since + 60).contains(&oldest_seconds),
        "{oldest_seconds}"
    );
}

#[test]
fn bytes_that_came_after_the_last_watermark_keep_an_upload() {
    let spool = Fixture::new();
    let id = spool.receiving(3);
    write_after(&spool, id, DAY);
    let report = spool.pass_after(DAY + HOUR);
    assert_eq!(spool.places(id), ["uploads/ID", "uploads/ID.meta"]);
    assert_eq!(report.stock(Dir::Uploads).uploads, 1);
    assert_eq!(spool.pass_after(2 * DAY).counted(Tally::StaleRemoved), 1);
}

#[test]
fn a_record_beside_what_is_no_file_makes_no_stock() {
    let spool = Fixture::new();
    let id = spool.receiving(3);
    let data = spool.layout().data(id, DataAt::Uploads);
    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    let report = spool.pass_after(HOUR * 2);
    assert_eq!(report.stock(Dir::Uploads), Stock::default());
}

#[test]
fn what_ended_in_uploads_goes_after_the_grace_whatever_has_arrived() {
    let spool = Fixture::new();
    let id = spool.receiving(3);
    let path = spool.layout().record(id, RecordAt::Uploads);
    let (file, mut record) = spool.spool.open_record(path, Dir::Uploads, id).unwrap();
    record.set_ending(Place::Terminated, UnixTime::now());
    file.write_head(&record).unwrap();
    spool.pass_after(HOUR / 2);
    assert_eq!(spool.places(id), ["uploads/ID", "uploads/ID.meta"]);
    spool.pass_after(HOUR);
    assert_eq!(spool.places(id), ["receipts/ID.meta"]);
}
