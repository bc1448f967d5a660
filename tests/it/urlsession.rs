//! What Apple's URLSession sends: one POST with the whole body and `Upload-Complete: ?1`, cut in
//! the middle, found again by the `Location` of the 104, and gone on with. Byte by byte, because no
//! other client can be made to send it.

use tests::http::{Connection, Response, head};
use tests::payload;
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};
use tests::wait::wait_for;

const LENGTH: usize = 300_000;
const CUT: usize = 123_456;

fn send(ingest: &Ingest, method: &str, target: &str, headers: &[(&str, &str)]) -> Connection {
    let all = [
        &[("Host", "127.0.0.1"), ("User-Agent", "CFNetwork")],
        headers,
    ]
    .concat();
    let mut connection = ingest.tus().connect().unwrap();
    connection.send(&head(method, target, &all)).unwrap();
    connection
}

/// The path in a `Location`.
fn path_of(response: &Response) -> String {
    let url = response.header("Location").unwrap();
    let id = url.rsplit('/').next().unwrap();
    format!("{BASE_PATH}{id}")
}

#[test]
fn one_post_of_the_whole_body_cut_in_the_middle_is_resumed_from_the_104() {
    let body = payload::bytes(1, LENGTH);
    let length = LENGTH.to_string();
    for version in ["6", "8"] {
        let pipeline = Pipeline::new();
        let ingest = pipeline.ingest(&[]);
        let interop = ("Upload-Draft-Interop-Version", version);
        let mut first = send(
            &ingest,
            "POST",
            BASE_PATH,
            &[
                interop,
                ("Upload-Complete", "?1"),
                ("Upload-Length", &length),
                ("Content-Length", &length),
                ("Content-Type", "image/heic"),
                ("Content-Disposition", "attachment; filename=\"IMG_1.heic\""),
            ],
        );
        // The 104 comes before any byte of the body, and once.
        let early = first.receive_head().unwrap();
        assert_eq!(early.status, 104);
        assert_eq!(early.header(interop.0), Some(version));
        let path = path_of(&early);
        first.send(&body[..CUT]).unwrap();
        let offset = || {
            let mut asked = send(&ingest, "HEAD", &path, &[interop]);
            let told = asked.receive("HEAD").unwrap();
            let told = told.expect(204, [("Upload-Complete", "?0"), interop]);
            assert_eq!(told.header("Tus-Resumable"), None);
            told.number("Upload-Offset")
        };
        wait_for("the bytes before the cut", &(CUT as u64), offset);
        first.reset();
        assert_eq!(offset(), CUT as u64);
        let (at, rest) = (CUT.to_string(), (LENGTH - CUT).to_string());
        let mut again = send(
            &ingest,
            "PATCH",
            &path,
            &[
                interop,
                ("Upload-Complete", "?1"),
                ("Upload-Offset", &at),
                ("Content-Type", "application/partial-upload"),
                ("Content-Length", &rest),
            ],
        );
        again.send(&body[CUT..]).unwrap();
        let done = again.receive("PATCH").unwrap();
        done.expect(200, [("Upload-Complete", "?1"), interop]);
        let id = path.rsplit('/').next().unwrap();
        assert!(std::fs::read(pipeline.spool().path("completed", id)).unwrap() == body);
        let record = pipeline.spool().record("completed", id);
        assert_eq!(record["metadata"]["filename"], "IMG_1.heic");
        assert_eq!(record["metadata"]["filetype"], "image/heic");
    }
}

#[test]
fn pipelined_requests_get_their_104_and_their_answer_in_order() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let one = [
        head(
            "POST",
            BASE_PATH,
            &[
                ("Host", "127.0.0.1"),
                ("Upload-Draft-Interop-Version", "8"),
                ("Upload-Complete", "?1"),
                ("Content-Length", "5"),
            ],
        ),
        b"hello".to_vec(),
    ]
    .concat();
    let mut connection = ingest.tus().connect().unwrap();
    connection.send(&one.repeat(20)).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer = connection.receive("POST").unwrap();
        let answer = answer.expect(201, [("Upload-Complete", "?1")]);
        assert!(seen.insert(path_of(&answer)), "an answer came twice");
        for early in &answer.interim {
            assert_eq!(early.status, 104);
            assert_eq!(early.header("Location"), answer.header("Location"));
        }
    }
}
