//! An error at one step: it is told, what the client knew before is still true, and the same
//! client goes on with the same server.

use shared::failpoint::Failpoint as Point;
use tests::client::{Tus, Upload};
use tests::failpoint::{Failpoint, Fault};
use tests::http::Response;
use tests::needs::{self, Need, sized};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::programs::Program;
use tests::spool::SpoolView;

/// What ingest does on the disk, by the part of a failpoint's name before the dot.
const INGEST: [&str; 4] = ["create", "advance", "handover", "end"];

/// Errors, and the status that tells of them.
const ERRORS: [(&str, u16); 2] = [("ENOSPC", 507), ("EIO", 500)];

/// More tries than one error can spoil.
const TRIES: usize = 5;

#[test]
fn an_error_at_any_step_is_told_and_the_same_client_goes_on() {
    if !needs::met(&[Need::Failpoints]) {
        return;
    }
    for point in Point::ALL.iter().map(|point| point.name()) {
        if !INGEST.contains(&point.split('.').next().unwrap()) {
            continue;
        }
        for (errno, status) in sized(&ERRORS[..1], &ERRORS[..]) {
            // Which passage fails: a small upload, one of several PATCHes, a termination …
            let told = (1..=3).map(|passage| fail_once(point, errno, *status, passage));
            assert!(0 < told.sum::<usize>(), "nobody was told of {point}");
        }
    }
}

/// Returns how many answers told of the error.
fn fail_once(point: &str, errno: &'static str, status: u16, passage: u32) -> usize {
    let what = format!("{point}, {errno}, passage {passage}");
    let pipeline = Pipeline::new();
    let failing = Failpoint::new(point, Fault::Error(errno)).at_passage(passage);
    let ingest = pipeline.ingest_failing(&[], &[failing]);
    let client = Client {
        tus: ingest.tus(),
        spool: pipeline.spool(),
        body: payload::bytes(u64::from(passage), 100_000),
        status,
        what: &what,
    };
    let mut told = client.send_whole("whole");
    told += client.send_in_pieces("pieces");
    told += client.begin_and_terminate("unwanted");

    let out = pipeline.out();
    let deliver = ["--drain", "--move-to", &out.to_string_lossy()];
    let tidy = ["--grace", "0s", "--stale-upload-age", "0s"];
    pipeline.run(Program::Janitor, &tidy).expect_code(0);
    pipeline.run(Program::Consumer, &deliver).expect_code(0);
    pipeline.run(Program::Janitor, &tidy).expect_code(0);
    assert!(
        pipeline.spool().is_settled(),
        "{what}: {:?}",
        pipeline.spool().listing()
    );
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            std::fs::read(&path).unwrap() == client.body,
            "{what}: {path:?}"
        );
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    // The client that was told of an error made its upload anew. If the first one had all its
    // bytes and its record by then, it was handed over too: at least once is what is promised.
    let twice = ["pieces", "whole", "whole_1"];
    assert!(
        names == ["pieces", "whole"] || (0 < told && names == twice),
        "{what}: {names:?}"
    );
    told
}

struct Client<'a> {
    tus: Tus,
    spool: &'a SpoolView,
    body: Vec<u8>,
    /// Status of an answer that tells of the error.
    status: u16,
    what: &'a str,
}

impl Client<'_> {
    /// Tries until the wanted status comes. Returns the answer and how many told of the error.
    fn insist(&self, wanted: &[u16], mut attempt: impl FnMut() -> Response) -> (Response, usize) {
        for told in 0..TRIES {
            let answer = attempt();
            if wanted.contains(&answer.status) {
                return (answer, told);
            }
            assert_eq!(answer.status, self.status, "{}: {answer:#?}", self.what);
            let text = answer.text();
            assert!(!text.contains('/'), "no paths for clients: {text}");
        }
        panic!("{}: one error fails {TRIES} requests", self.what);
    }

    fn post(&self, name: &str, body: &[u8]) -> Response {
        let length = self.body.len().to_string();
        let metadata = tests::client::encode(&[("filename", name)]);
        let headers = [
            ("Upload-Length", length.as_str()),
            ("Upload-Metadata", metadata.as_str()),
            ("Content-Type", "application/offset+octet-stream"),
        ];
        let sent = if body.is_empty() { 2 } else { headers.len() };
        self.tus
            .request("POST", self.tus.base_path(), &headers[..sent], body)
    }

    fn send_whole(&self, name: &str) -> usize {
        let (answer, told) = self.insist(&[201], || self.post(name, &self.body));
        let length = self.body.len().to_string();
        let head = self.tus.created(answer).head();
        head.expect(200, [("Upload-Offset", length.as_str())]);
        told
    }

    fn create(&self, name: &str) -> (Upload, usize) {
        let mut expected = self.spool.names("uploads");
        let (answer, told) = self.insist(&[201], || self.post(name, b""));
        let upload = self.tus.created(answer);
        // Nobody would end what nobody was told of, and each takes up space.
        expected.extend([upload.id().to_owned(), format!("{}.meta", upload.id())]);
        expected.sort();
        let found = self.spool.names("uploads");
        assert_eq!(found, expected, "{}: left by a failed creation", self.what);
        (upload, told)
    }

    fn send_in_pieces(&self, name: &str) -> usize {
        let (upload, mut told) = self.create(name);
        let mut known = 0;
        for end in [30_000, 60_001, self.body.len()] {
            while known < end {
                assert!(told < TRIES, "{}", self.what);
                let answer = upload.patch(known as u64, &self.body[known..end]);
                let offset = usize::try_from(upload.offset()).unwrap();
                assert!(
                    (known..=end).contains(&offset),
                    "{}: {offset} after {known}",
                    self.what
                );
                if answer.status == 204 {
                    assert_eq!(offset, end, "{}", self.what);
                } else {
                    assert_eq!(answer.status, self.status, "{}: {answer:#?}", self.what);
                    told += 1;
                }
                known = offset;
            }
        }
        told
    }

    fn begin_and_terminate(&self, name: &str) -> usize {
        let (upload, told) = self.create(name);
        drop(upload.patch(0, &self.body[..1000]));
        // A DELETE that failed may have ended the upload all the same.
        let (_, more) = self.insist(&[204, 410], || upload.delete());
        upload.head().expect(410, []);
        told + more
    }
}
