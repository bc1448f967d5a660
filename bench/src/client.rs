//! A client on one blocking connection: as little work as possible, so that the server is what is
//! measured.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::payload::Payload;

/// One keep-alive connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    port: u16,
    buffer: Vec<u8>,
    /// The server has said that it closes: the next request needs another connection.
    closing: bool,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn offset(&self) -> Result<u64> {
        Ok(self.header("upload-offset").context("no offset")?.parse()?)
    }
}

impl Client {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self {
            stream,
            port,
            buffer: vec![0; 16384],
            closing: false,
        })
    }

    /// Sends a request's head; its body, if any, comes next.
    pub(crate) fn head(&mut self, method: &str, path: &str, fields: &str) -> Result<()> {
        if self.closing {
            *self = Self::connect(self.port)?;
        }
        let port = self.port;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTus-Resumable: 1.0.0\r\n{fields}\r\n"
        );
        Ok(self.stream.write_all(head.as_bytes())?)
    }

    /// Sends the payload's bytes from `from` up to `to`.
    pub(crate) fn body(&mut self, payload: &Payload, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        while at < to {
            let bytes = payload.at(at, to - at);
            self.stream.write_all(bytes)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self) -> Result<Answer> {
        let mut have = 0;
        let end = loop {
            let n = match self.stream.read(&mut self.buffer[have..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            ensure!(n != 0, "closed before the answer");
            have += n;
            if let Some(end) = self.buffer[..have]
                .windows(4)
                .position(|w| w == b"\r\n\r\n")
            {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end])?.to_owned();
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let answer = Answer { status, head };
        self.closing = answer.header("connection") == Some("close");
        self.skip_body(&answer, end, have - end)?;
        Ok(answer)
    }

    /// Reads the answer's body; `have` bytes of it lie in the buffer, behind `start`.
    fn skip_body(&mut self, answer: &Answer, start: usize, have: usize) -> Result<()> {
        if answer.header("transfer-encoding").is_some() {
            return self.skip_chunks(start, have);
        }
        let length = answer
            .header("content-length")
            .map_or(Ok(0), str::parse::<usize>)?;
        let bodiless = answer.status == 204 || answer.header("upload-offset").is_some();
        let mut left = if bodiless {
            0
        } else {
            length.saturating_sub(have)
        };
        while left > 0 {
            let n = self.stream.read(&mut self.buffer)?;
            ensure!(n != 0, "closed in the answer's body");
            left = left.saturating_sub(n);
        }
        Ok(())
    }

    /// The same for chunks: servers that answer so send none, or a few words.
    fn skip_chunks(&mut self, start: usize, have: usize) -> Result<()> {
        let mut body = self.buffer[start..start + have].to_vec();
        while !body.ends_with(b"0\r\n\r\n") {
            let n = self.stream.read(&mut self.buffer)?;
            ensure!(n != 0, "closed in the answer's chunks");
            body.extend_from_slice(&self.buffer[..n]);
        }
        Ok(())
    }

    pub(crate) fn expect(&mut self, status: &[u16]) -> Result<Answer> {
        let answer = self.answer()?;
        ensure!(status.contains(&answer.status), "{answer:?}");
        Ok(answer)
    }

    /// Creates an upload; the path of its URL.
    pub(crate) fn create(&mut self, base: &str, length: u64) -> Result<String> {
        let fields = format!("Upload-Length: {length}\r\nContent-Length: 0\r\n");
        self.head("POST", base, &fields)?;
        let created = self.expect(&[201])?;
        location(&created, base)
    }

    /// Creates an upload with all of its bytes.
    pub(crate) fn create_with(
        &mut self,
        base: &str,
        payload: &Payload,
        length: u64,
    ) -> Result<String> {
        let fields = format!(
            "Upload-Length: {length}\r\nContent-Length: {length}\r\n\
             Content-Type: application/offset+octet-stream\r\n"
        );
        self.head("POST", base, &fields)?;
        self.body(payload, 0, length)?;
        let created = self.expect(&[201])?;
        location(&created, base)
    }

    pub(crate) fn patch_head(&mut self, path: &str, at: u64, length: u64) -> Result<()> {
        let fields = format!(
            "Upload-Offset: {at}\r\nContent-Length: {length}\r\n\
             Content-Type: application/offset+octet-stream\r\n"
        );
        self.head("PATCH", path, &fields)
    }

    pub(crate) fn patch(
        &mut self,
        path: &str,
        payload: &Payload,
        at: u64,
        length: u64,
    ) -> Result<()> {
        self.patch_head(path, at, length)?;
        self.body(payload, at, at + length)?;
        let answer = self.expect(&[204])?;
        ensure!(answer.offset()? == at + length, "{answer:?}");
        Ok(())
    }

    pub(crate) fn put(&mut self, path: &str, payload: &Payload, length: u64) -> Result<()> {
        self.head("PUT", path, &format!("Content-Length: {length}\r\n"))?;
        self.body(payload, 0, length)?;
        self.expect(&[201, 204]).map(|_| ())
    }

    pub(crate) fn offset(&mut self, path: &str) -> Result<u64> {
        self.head("HEAD", path, "")?;
        self.expect(&[200, 204])?.offset()
    }
}

fn location(created: &Answer, base: &str) -> Result<String> {
    let location = created.header("location").context("no location")?;
    if let Some(rest) = location.strip_prefix("http://") {
        let slash = rest.find('/').context("no path")?;
        return Ok(rest.get(slash..).unwrap_or_default().to_owned());
    }
    if location.starts_with('/') {
        return Ok(location.to_owned());
    }
    let (dir, _) = base.rsplit_once('/').context("no base")?;
    Ok(format!("{dir}/{location}"))
}
