//! A small tus 1.0.0 client that says exactly what a test tells it to.
//!
//! It never retries and never looks up an offset by itself: what a test wants done, it writes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::{Connection, Response, head};

/// Where a server is now. Shared, so that a restart on another port reaches everyone.
#[derive(Clone)]
pub struct Address(Arc<Mutex<SocketAddr>>);

impl Address {
    /// An address that may change.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(Arc::new(Mutex::new(address)))
    }

    /// The address now.
    #[must_use]
    pub fn get(&self) -> SocketAddr {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it, for everyone who holds it.
    pub fn set(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// A client of one server. Every request has a connection of its own.
#[derive(Clone)]
pub struct Tus {
    address: Address,
    base_path: String,
}

impl Tus {
    /// A client of the server at `address` whose uploads lie under `base_path` (`/files/`).
    #[must_use]
    pub fn new(address: &Address, base_path: &str) -> Self {
        Self {
            address: address.clone(),
            base_path: base_path.to_owned(),
        }
    }

    /// A new connection to the server.
    ///
    /// # Errors
    /// What connecting meets.
    pub fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.address.get())
    }

    /// The path that uploads are created at.
    #[must_use]
    pub fn base_path(&self) -> &str {
        &self.base_path
    }

    /// One request on a new connection; `Host`, `Tus-Resumable` and `Content-Length` are added.
    ///
    /// # Errors
    /// What connecting, sending or reading the answer meets.
    pub fn try_request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut connection = self.connect()?;
        connection.send(&request_head(
            method,
            target,
            headers,
            Some(body.len() as u64),
        ))?;
        // A server may refuse and close while the body is still being sent; its answer counts.
        let sent = connection.send(body);
        match connection.receive(method) {
            Ok(response) => Ok(response),
            Err(error) => sent.and(Err(error)),
        }
    }

    /// As [`try_request`](Self::try_request).
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let response = self.try_request(method, target, headers, body);
        response.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// POST: creates an upload of `length` bytes and expects 201.
    ///
    /// # Panics
    /// If the server says anything else.
    #[must_use]
    #[track_caller]
    pub fn create(&self, length: u64, metadata: &[(&str, &str)]) -> Upload {
        let length = length.to_string();
        let metadata = encode(metadata);
        let mut headers = vec![("Upload-Length", length.as_str())];
        if !metadata.is_empty() {
            headers.push(("Upload-Metadata", metadata.as_str()));
        }
        self.created(self.request("POST", &self.base_path, &headers, b""))
    }

    /// POST with the whole body (creation-with-upload); expects 201.
    ///
    /// # Panics
    /// If the server says anything else.
    #[must_use]
    #[track_caller]
    pub fn create_with(&self, body: &[u8], metadata: &[(&str, &str)]) -> Upload {
        let length = body.len().to_string();
        let metadata = encode(metadata);
        let headers = [
            ("Upload-Length", length.as_str()),
            ("Upload-Metadata", metadata.as_str()),
            ("Content-Type", "application/offset+octet-stream"),
        ];
        let headers = if metadata.is_empty() {
            vec![headers[0], headers[2]]
        } else {
            headers.into()
        };
        self.created(self.request("POST", &self.base_path, &headers, body))
    }

    /// The upload that a 201 speaks of.
    ///
    /// # Panics
    /// If the response is not a 201 with a `Location`.
    #[must_use]
    #[track_caller]
    pub fn created(&self, response: Response) -> Upload {
        let response = response.expect(201, []);
        let location = response.header("Location").expect("a 201 has a Location");
        self.upload(path_of(location))
    }

    /// The upload at a path.
    #[must_use]
    pub fn upload(&self, path: &str) -> Upload {
        Upload {
            tus: self.clone(),
            path: path.to_owned(),
        }
    }
}

/// One upload on a server.
#[derive(Clone)]
pub struct Upload {
    tus: Tus,
    path: String,
}

impl Upload {
    /// Path of its URL.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The last segment of its URL.
    #[must_use]
    pub fn id(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The same upload, asked for at another server.
    #[must_use]
    pub fn at(&self, tus: &Tus) -> Self {
        tus.upload(&self.path)
    }

    /// HEAD.
    #[must_use]
    #[track_caller]
    pub fn head(&self) -> Response {
        self.tus.request("HEAD", &self.path, &[], b"")
    }

    /// The offset by HEAD, which has to be 200.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    #[track_caller]
    pub fn offset(&self) -> u64 {
        self.head().expect(200, []).number("Upload-Offset")
    }

    /// PATCH with a whole body.
    #[must_use]
    #[track_caller]
    pub fn patch(&self, offset: u64, body: &[u8]) -> Response {
        let offset = offset.to_string();
        self.tus
            .request("PATCH", &self.path, &patch_headers(&offset), body)
    }

    /// PATCH that may find no server.
    ///
    /// # Errors
    /// What connecting, sending or reading the answer meets.
    pub fn try_patch(&self, offset: u64, body: &[u8]) -> io::Result<Response> {
        let offset = offset.to_string();
        self.tus
            .try_request("PATCH", &self.path, &patch_headers(&offset), body)
    }

    /// A PATCH whose head is sent and whose body of `length` bytes is up to the test.
    ///
    /// # Panics
    /// If the server cannot be reached.
    #[must_use]
    #[track_caller]
    pub fn begin_patch(&self, offset: u64, length: u64) -> Connection {
        let offset = offset.to_string();
        let head = request_head("PATCH", &self.path, &patch_headers(&offset), Some(length));
        let mut connection = self.tus.connect().expect("the server listens");
        connection
            .send(&head)
            .expect("a fresh connection takes a request head");
        connection
    }

    /// DELETE.
    #[must_use]
    #[track_caller]
    pub fn delete(&self) -> Response {
        self.tus.request("DELETE", &self.path, &[], b"")
    }
}

/// A request head of tus 1.0.0; `Content-Length` only if `body` has a known length.
#[must_use]
pub fn request_head(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<u64>,
) -> Vec<u8> {
    let mut all = vec![("Host", "127.0.0.1"), ("Tus-Resumable", "1.0.0")];
    all.extend_from_slice(headers);
    let length = body.map(|length| length.to_string());
    if let Some(length) = &length
        && (length != "0" || matches!(method, "POST" | "PATCH"))
    {
        all.push(("Content-Length", length));
    }
    head(method, target, &all)
}

/// `Upload-Metadata`: keys with values in base64.
#[must_use]
pub fn encode(metadata: &[(&str, &str)]) -> String {
    let pairs = metadata
        .iter()
        .map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn patch_headers(offset: &str) -> [(&str, &str); 2] {
    [
        ("Upload-Offset", offset),
        ("Content-Type", "application/offset+octet-stream"),
    ]
}

/// The path of a URL that may be relative to the host.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if rest.len() == url.len() {
        return url;
    }
    rest.find('/')
        .and_then(|slash| rest.get(slash..))
        .unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_may_be_absolute_or_a_path() {
        assert_eq!(path_of("/files/1"), "/files/1");
        assert_eq!(path_of("http://127.0.0.1:80/files/1"), "/files/1");
        assert_eq!(path_of("https://host"), "/");
    }

    #[test]
    fn metadata_is_spelled_as_the_protocol_says() {
        let text = encode(&[
            ("filename", "world_domination_plan.pdf"),
            ("is_confidential", ""),
        ]);
        assert_eq!(
            text,
            "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential "
        );
    }
}
