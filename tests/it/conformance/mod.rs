//! The tus protocol 1.0.0, sentence by sentence: every MUST, MUST NOT and SHOULD that binds a
//! server is one test, whose name is the sentence in short. The files follow the text's sections.
//!
//! What is sent is written out byte by byte where a client library would hide or refuse it.

mod checksum;
mod concatenation;
mod creation;
mod expiration;
mod headers;
mod requests;
mod termination;
mod upload;

use tests::client::Upload;
use tests::http::{Connection, Response, head};
use tests::pipeline::{BASE_PATH, Ingest};

/// The header field that labels upload bytes.
const BYTES: (&str, &str) = ("Content-Type", "application/offset+octet-stream");
const TUS: (&str, &str) = ("Tus-Resumable", "1.0.0");
/// An id of our form that no upload has.
const NOBODY: &str = "/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";

/// Sends exactly these header fields, `Host` and, if there is a body, `Content-Length`.
#[track_caller]
fn send(
    ingest: &Ingest,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Connection {
    let length = body.len().to_string();
    let mut all = vec![("Host", "127.0.0.1")];
    all.extend_from_slice(headers);
    if !body.is_empty() {
        all.push(("Content-Length", &length));
    }
    let mut connection = ingest.tus().connect().unwrap();
    connection.send(&head(method, target, &all)).unwrap();
    connection.send(body).unwrap();
    connection
}

/// The answer to exactly this.
#[track_caller]
fn bare(
    ingest: &Ingest,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    send(ingest, method, target, headers, body)
        .receive(method)
        .unwrap()
}

/// POST to the creation URL with these fields and `Tus-Resumable`.
#[track_caller]
fn post(ingest: &Ingest, headers: &[(&str, &str)], body: &[u8]) -> Response {
    ingest.tus().request("POST", BASE_PATH, headers, body)
}

/// PATCH at an offset with further fields.
#[track_caller]
fn patch(
    ingest: &Ingest,
    upload: &Upload,
    offset: u64,
    more: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let offset = offset.to_string();
    let mut headers = vec![BYTES, ("Upload-Offset", offset.as_str())];
    headers.extend_from_slice(more);
    ingest.tus().request("PATCH", upload.path(), &headers, body)
}

/// The extensions that OPTIONS names.
#[track_caller]
fn extensions(ingest: &Ingest) -> Vec<String> {
    let told = bare(ingest, "OPTIONS", BASE_PATH, &[], b"").expect(204, []);
    let list = told.header("Tus-Extension").unwrap_or_default().to_owned();
    list.split(',').map(str::to_owned).collect()
}
