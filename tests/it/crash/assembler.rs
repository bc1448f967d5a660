//! Joining the parts of a final upload.

use std::os::unix::fs::FileExt as _;

use tests::client::Upload;
use tests::failpoint::{Failpoint, Fault};
use tests::needs::{self, Need};
use tests::payload;
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};
use tests::wait::wait_for;

use super::{deliver_all, points};

/// The parts have lengths that no block ends at.
const LENGTHS: [usize; 3] = [70_001, 1, 50_003];

#[test]
fn ingest_killed_at_any_step_of_a_concatenation_is_followed_by_one_that_joins_every_byte() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in points("assemble") {
        let passages = (1..).take_while(|passage| killed_in_assembly(point, *passage));
        assert_ne!(passages.count(), 0, "no concatenation passes {point}");
    }
}

/// Whether a concatenation passes the point that often.
fn killed_in_assembly(point: &str, passage: u32) -> bool {
    let what = format!("{point}, passage {passage}");
    let pipeline = Pipeline::new();
    let kill = Failpoint::new(point, Fault::Kill).at_passage(passage);
    let mut ingest = pipeline.ingest_failing(&[], &[kill]);
    let contents: Vec<_> = (1..).zip(LENGTHS).map(content).collect();
    let parts: Vec<_> = contents.iter().map(|bytes| part(&ingest, bytes)).collect();
    let urls: Vec<_> = parts.iter().map(Upload::path).collect();
    let concat = format!("final;{}", urls.join(" "));
    let headers = [
        ("Upload-Concat", concat.as_str()),
        ("Upload-Metadata", "filename YS5iaW4="), // a.bin
    ];
    // The parts are joined behind the answer, which may not come any more.
    let answer = ingest.tus().try_request("POST", BASE_PATH, &headers, b"");
    drop(answer);
    let whole = || whole(&pipeline, &parts);
    wait_for(&what, &true, || {
        ingest.process.poll().is_some() || whole().is_none()
    });
    let Some(id) = whole() else {
        return false;
    };
    ingest.process.wait_killed();
    scribble(&pipeline, &id);

    ingest.restart();
    wait_for(&what, &None, whole);
    deliver_all(&pipeline);
    let delivered = std::fs::read(pipeline.out().join("a.bin")).unwrap();
    assert!(delivered == contents.concat(), "{what}");
    true
}

/// The final upload, until it is handed over.
fn whole(pipeline: &Pipeline, parts: &[Upload]) -> Option<String> {
    let is_part = |name: &String| parts.iter().any(|part| part.id() == name);
    let mut names = pipeline.spool().names("uploads").into_iter();
    names.find(|name| !name.ends_with(".meta") && !is_part(name))
}

fn content((seed, length): (u64, usize)) -> Vec<u8> {
    payload::bytes(seed, length)
}

fn part(ingest: &Ingest, bytes: &[u8]) -> Upload {
    let length = bytes.len().to_string();
    let headers = [
        ("Upload-Concat", "partial"),
        ("Upload-Length", length.as_str()),
        ("Content-Type", "application/offset+octet-stream"),
    ];
    let answer = ingest.tus().request("POST", BASE_PATH, &headers, bytes);
    ingest.tus().created(answer)
}

/// What the watermark does not cover is nobody's, and not to be trusted: a power cut would have left
/// anything there. So anything is put there.
fn scribble(pipeline: &Pipeline, id: &str) {
    let path = pipeline.spool().path("uploads", id);
    let data = std::fs::File::options().write(true).open(path).unwrap();
    let size = usize::try_from(data.metadata().unwrap().len()).unwrap();
    let record = pipeline.spool().record("uploads", id);
    assert_eq!(record["offset"], 0, "nothing counts before all is there");
    data.write_all_at(&vec![0x5a; size], 0).unwrap();
}
