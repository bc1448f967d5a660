//! Extension Termination.

use tests::pipeline::Pipeline;

use super::{NOBODY, TUS, extensions};

#[test]
fn termination_must_be_announced_in_tus_extension() {
    let pipeline = Pipeline::new();
    let name = "termination".to_owned();
    assert!(extensions(&pipeline.ingest(&[])).contains(&name));
    let off = pipeline.ingest(&["--disable-extensions", "termination"]);
    assert!(!extensions(&off).contains(&name));
    let upload = off.tus().create(5, &[]);
    upload.delete().expect(405, []);
    assert_eq!(upload.offset(), 0);
}

#[test]
fn delete_must_be_answered_with_204_and_should_free_what_the_upload_held() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let unfinished = ingest.tus().create(5, &[]);
    unfinished.patch(0, b"he").expect(204, []);
    let finished = ingest.tus().create_with(b"hello", &[]);
    let empty = ingest.tus().create(5, &[]);
    for upload in [unfinished, finished, empty] {
        let answer = upload.delete().expect(204, [TUS]);
        assert!(answer.body.is_empty());
        assert_eq!(pipeline.spool().places(upload.id()), ["receipts/{id}.meta"]);
    }
}

#[test]
fn later_requests_to_a_terminated_upload_should_be_404_or_410() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(5, &[]);
    upload.delete().expect(204, []);
    upload.head().expect(410, []);
    upload.patch(0, b"hello").expect(410, []);
    upload.delete().expect(410, []);
    ingest
        .tus()
        .request("GET", upload.path(), &[], b"")
        .expect(410, []);
    ingest.tus().upload(NOBODY).delete().expect(404, []);
}
