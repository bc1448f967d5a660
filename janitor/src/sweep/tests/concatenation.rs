//! Parts and the final uploads made of them.

use shared::ending;

use super::*;

#[test]
fn a_part_stays_as_long_as_a_final_needs_it() {
    let spool = Fixture::new();
    let part = spool.receiving_as(5, |record| record.rest.finish = Finish::Never);
    let whole = spool.receiving_as(0, |record| record.rest.parts = vec![part]);
    let mut upload = open(&spool, part);
    upload.set_joined_into(whole).unwrap();
    drop(upload);
    spool.pass_after(9 * DAY);
    assert_eq!(spool.places(part), ["uploads/ID", "uploads/ID.meta"]);
    assert_eq!(spool.places(whole), ["uploads/ID", "uploads/ID.meta"]);

    let mut upload = open(&spool, whole);
    upload.data().write_all_at(b"hello", 0).unwrap();
    upload.advance(Offset(5), UnixTime::now()).unwrap();
    drop(upload);
    spool.pass_after(HOUR);
    assert_eq!(spool.places(whole), ["completed/ID", "completed/ID.meta"]);
    spool.pass_after(DAY);
    let receipt = read(&spool.layout().record(part, RecordAt::Receipts)).unwrap();
    assert_eq!(receipt.place, Place::Joined);
}

#[test]
fn a_final_goes_with_its_parts_once_nobody_goes_on_with_one_of_them() {
    let spool = Fixture::new();
    let part = |received| spool.receiving_as(received, |record| record.rest.finish = Finish::Never);
    let (full, open_part) = (part(5), part(3));
    let parts = vec![full, open_part];
    let whole = spool.receiving_as(0, |record| record.rest.parts.clone_from(&parts));
    for id in &parts {
        open(&spool, *id).set_joined_into(whole).unwrap();
    }
    spool.pass_after(DAY - HOUR);
    assert_eq!(spool.places(whole), ["uploads/ID", "uploads/ID.meta"]);
    spool.pass_after(DAY);
    spool.pass_after(DAY);
    for id in [whole, full, open_part] {
        assert_eq!(spool.places(id), ["receipts/ID.meta"]);
    }
    let receipt = read(&spool.layout().record(whole, RecordAt::Receipts)).unwrap();
    assert_eq!(receipt.place, Place::Expired);
}

/// It bears the name of one final, and gets that of the other only when `ingest` looks at that one
/// again.
#[test]
fn a_part_stays_as_long_as_a_final_needs_it_whose_name_it_does_not_bear_yet() {
    let spool = Fixture::new();
    let part = |received| spool.receiving_as(received, |record| record.rest.finish = Finish::Never);
    let (shared, late) = (part(5), part(3));
    let done = UploadId::generate();
    open(&spool, shared).set_joined_into(done).unwrap();
    let parts = vec![shared, late];
    let waiting = spool.receiving_as(0, |record| record.rest.parts.clone_from(&parts));
    // Somebody still goes on with the other part.
    let mut upload = open(&spool, late);
    upload.data().write_all_at(b"l", 3).unwrap();
    upload
        .advance(Offset(4), UnixTime::now().plus(9 * DAY))
        .unwrap();
    drop(upload);
    spool.pass_after(9 * DAY);
    for id in [shared, late, waiting] {
        assert_eq!(spool.places(id), ["uploads/ID", "uploads/ID.meta"]);
    }
    ending::end(&spool.spool, waiting, Place::Expired, UnixTime::now()).unwrap();
    spool.pass_after(9 * DAY);
    assert_eq!(spool.places(shared), ["receipts/ID.meta"]);
}
