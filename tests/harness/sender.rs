//! One client of a load. It sends uploads in every way that tus has, through whatever happens to
//! server and connection, and writes down what it is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::client::{Tus, Upload, encode, request_head};
use crate::http::Response;
use crate::ledger::{Ledger, Part, Shape, filename};
use crate::load::Plan;

/// One client.
pub(crate) struct Sender {
    pub(crate) tus: Tus,
    pub(crate) ledger: Ledger,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) random: fastrand::Rng,
}

/// Why a try ended without the upload being complete.
enum Broken {
    /// The connection or the server went away, or the server asked to come back: try again.
    ForNow,
    /// The server said something after which a client gives up.
    ForGood(Box<Response>),
}

type Tried<T> = Result<T, Broken>;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::ForNow
    }
}

impl Sender {
    pub(crate) fn work(mut self, plan: &Plan, n: u32) {
        let mut sent = 0;
        while !self.stopped() && plan.uploads_each.is_none_or(|most| sent < most) {
            let shape = plan.shapes[(n + sent) as usize % plan.shapes.len()];
            let factor = if shape == Shape::Stream { 4 } else { 1 };
            let length = self.random.usize(1..=plan.length_max * factor);
            let number = self.ledger.open(shape, length);
            self.send(number);
            sent += 1;
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Sends one upload to its end, through whatever happens to server and connection.
    pub(crate) fn send(&mut self, number: u32) {
        let content = self.ledger.entry(number).content();
        while !self.stopped() && !self.ledger.entry(number).complete {
            match self.try_to_send(number, &content) {
                Ok(()) => (),
                // A server that is being restarted is asked again soon, but not in a tight loop.
                Err(Broken::ForNow) => std::thread::sleep(Duration::from_millis(5)),
                Err(Broken::ForGood(answer)) => {
                    let said = format!("{} {}", answer.status, answer.text());
                    return self.ledger.note(number, |entry| entry.refused = Some(said));
                }
            }
        }
    }

    fn try_to_send(&mut self, number: u32, content: &[u8]) -> Tried<()> {
        let entry = self.ledger.entry(number);
        match (entry.shape, entry.url) {
            (Shape::Whole, None) => self.send_whole(number, content),
            (Shape::Concatenated, None) => self.send_parts(number, content),
            (shape, None) => {
                let length = content.len().to_string();
                let deferred = [("Upload-Defer-Length", "1")];
                let known = [("Upload-Length", length.as_str())];
                let headers = if shape == Shape::Deferred {
                    deferred
                } else {
                    known
                };
                self.create(number, &headers, b"")?;
                self.send_rest(number, content)
            }
            (_, Some(_)) => self.send_rest(number, content),
        }
    }

    /// POST; the upload's URL goes into the ledger.
    fn create(&self, number: u32, more: &[(&str, &str)], body: &[u8]) -> Tried<Response> {
        let metadata = encode(&[("filename", &filename(number))]);
        let mut headers = vec![("Upload-Metadata", metadata.as_str())];
        headers.extend_from_slice(more);
        let answer = self
            .tus
            .try_request("POST", self.tus.base_path(), &headers, body)?;
        let answer = answered(answer, 201)?;
        let upload = self.tus.created(answer.clone());
        self.ledger
            .note(number, |entry| entry.url = Some(upload.path().to_owned()));
        Ok(answer)
    }

    fn send_whole(&self, number: u32, content: &[u8]) -> Tried<()> {
        let length = content.len().to_string();
        let headers = [
            ("Upload-Length", length.as_str()),
            ("Content-Type", "application/offset+octet-stream"),
        ];
        let answer = self.create(number, &headers, content)?;
        // Without the header all of it was taken: the body was complete.
        let offset = answer
            .header("Upload-Offset")
            .map_or(content.len() as u64, |_| answer.number("Upload-Offset"));
        self.acknowledge(number, offset, content.len());
        Ok(())
    }

    /// HEAD, then PATCH from there to the end.
    fn send_rest(&mut self, number: u32, content: &[u8]) -> Tried<()> {
        let entry = self.ledger.entry(number);
        let upload = self.tus.upload(&entry.url.expect("it was created"));
        let head = answered(self.tus.try_request("HEAD", upload.path(), &[], b"")?, 200)?;
        if head.header("Upload-Offset").is_none() && entry.shape == Shape::Concatenated {
            // tus: not before the concatenation is finished.
            return Err(Broken::ForNow);
        }
        let mut offset = self.acknowledge(number, head.number("Upload-Offset"), content.len());
        while offset < content.len() && !self.stopped() {
            offset = match entry.shape {
                Shape::Stream => self.stream(number, &upload, content, offset)?,
                Shape::Checksummed => self.patch_checksummed(number, &upload, content, offset)?,
                _ => self.patch(number, &upload, content, offset)?,
            };
        }
        Ok(())
    }

    /// One PATCH of random size.
    fn patch(
        &mut self,
        number: u32,
        upload: &Upload,
        content: &[u8],
        offset: usize,
    ) -> Tried<usize> {
        let end = self
            .random
            .usize(offset + 1..=content.len().min(offset + 90_000));
        let (at, length) = (offset.to_string(), content.len().to_string());
        let mut headers = patch_headers(&at);
        let last = end == content.len();
        if last && self.ledger.entry(number).shape == Shape::Deferred {
            headers.push(("Upload-Length", &length));
        }
        let answer =
            self.tus
                .try_request("PATCH", upload.path(), &headers, &content[offset..end])?;
        let answer = answered(answer, 204)?;
        Ok(self.acknowledge(number, answer.number("Upload-Offset"), content.len()))
    }

    /// One PATCH with a checksum, wrong in one of four.
    fn patch_checksummed(
        &mut self,
        number: u32,
        upload: &Upload,
        content: &[u8],
        offset: usize,
    ) -> Tried<usize> {
        let end = self
            .random
            .usize(offset + 1..=content.len().min(offset + 200_000));
        let piece = &content[offset..end];
        let wrong = self.random.u8(0..4) == 0;
        let digest = if wrong {
            Sha1::digest(b"something else")
        } else {
            Sha1::digest(piece)
        };
        let checksum = format!("sha1 {}", STANDARD.encode(digest));
        let at = offset.to_string();
        let mut headers = patch_headers(&at);
        headers.push(("Upload-Checksum", &checksum));
        let answer = self
            .tus
            .try_request("PATCH", upload.path(), &headers, piece)?;
        if wrong {
            answered(answer, 460)?;
            return Ok(offset);
        }
        let answer = answered(answer, 204)?;
        Ok(self.acknowledge(number, answer.number("Upload-Offset"), content.len()))
    }

    /// One PATCH with all the rest, in frames of random sizes, with a HEAD now and then.
    fn stream(
        &mut self,
        number: u32,
        upload: &Upload,
        content: &[u8],
        offset: usize,
    ) -> Tried<usize> {
        let rest = &content[offset..];
        let at = offset.to_string();
        let mut connection = self.tus.connect()?;
        let head = request_head(
            "PATCH",
            upload.path(),
            &patch_headers(&at),
            Some(rest.len() as u64),
        );
        connection.send(&head)?;
        let mut left = rest;
        while !left.is_empty() {
            let (frame, after) = left.split_at(self.random.usize(1..=left.len().min(100_000)));
            connection.send(frame)?;
            left = after;
            if self.random.u8(0..32) == 0 {
                let head = self.tus.try_request("HEAD", upload.path(), &[], b"")?;
                if head.status == 200 {
                    self.acknowledge(number, head.number("Upload-Offset"), content.len());
                }
            }
        }
        let answer = answered(connection.receive("PATCH")?, 204)?;
        Ok(self.acknowledge(number, answer.number("Upload-Offset"), content.len()))
    }

    /// Three parts, then the request that joins them.
    fn send_parts(&mut self, number: u32, content: &[u8]) -> Tried<()> {
        let third = content.len() / 3;
        let ranges = [(0, third), (third, 2 * third), (2 * third, content.len())];
        for (n, range) in ranges.into_iter().enumerate() {
            self.send_part(number, n, range, content)?;
        }
        let urls: Vec<_> = self
            .ledger
            .entry(number)
            .parts
            .into_iter()
            .map(|part| part.url)
            .collect();
        let concat = format!("final;{}", urls.join(" "));
        self.create(number, &[("Upload-Concat", &concat)], b"")?;
        self.send_rest(number, content)
    }

    fn send_part(
        &mut self,
        number: u32,
        n: usize,
        range: (usize, usize),
        content: &[u8],
    ) -> Tried<()> {
        let piece = &content[range.0..range.1];
        let url = match self.ledger.entry(number).parts.get(n) {
            Some(part) => part.url.clone(),
            None => {
                let length = piece.len().to_string();
                let headers = [
                    ("Upload-Length", length.as_str()),
                    ("Upload-Concat", "partial"),
                ];
                let answer = self
                    .tus
                    .try_request("POST", self.tus.base_path(), &headers, b"")?;
                let url = self.tus.created(answered(answer, 201)?).path().to_owned();
                let part = Part {
                    url: url.clone(),
                    range,
                    acknowledged: 0,
                };
                self.ledger.note(number, |entry| entry.parts.push(part));
                url
            }
        };
        let head = answered(self.tus.try_request("HEAD", &url, &[], b"")?, 200)?;
        let mut offset = self.acknowledge_part(number, n, &head);
        while offset < piece.len() {
            let end = self.random.usize(offset + 1..=piece.len());
            let at = offset.to_string();
            let answer =
                self.tus
                    .try_request("PATCH", &url, &patch_headers(&at), &piece[offset..end])?;
            offset = self.acknowledge_part(number, n, &answered(answer, 204)?);
        }
        Ok(())
    }

    /// Writes down that the server said `offset`; returns it.
    fn acknowledge(&self, number: u32, offset: u64, length: usize) -> usize {
        let offset = usize::try_from(offset).expect("offsets of tests fit");
        assert!(
            offset <= length,
            "upload {number}: offset {offset} of {length}"
        );
        self.ledger.note(number, |entry| {
            entry.acknowledged = entry.acknowledged.max(offset);
            entry.complete |= offset == length;
        });
        offset
    }

    fn acknowledge_part(&self, number: u32, n: usize, answer: &Response) -> usize {
        let offset = usize::try_from(answer.number("Upload-Offset")).expect("offsets of tests fit");
        self.ledger.note(number, |entry| {
            let part = &mut entry.parts[n];
            part.acknowledged = part.acknowledged.max(offset);
        });
        offset
    }
}

fn patch_headers(offset: &str) -> Vec<(&str, &str)> {
    vec![
        ("Upload-Offset", offset),
        ("Content-Type", "application/offset+octet-stream"),
    ]
}

/// The answer, if it has the wanted status.
fn answered(answer: Response, wanted: u16) -> Tried<Response> {
    match answer.status {
        status if status == wanted => Ok(answer),
        // Locked, offset moved on by a request whose answer was lost, full, or shutting down.
        409 | 423 | 500 | 503 | 507 => Err(Broken::ForNow),
        _ => Err(Broken::ForGood(Box::new(answer))),
    }
}
