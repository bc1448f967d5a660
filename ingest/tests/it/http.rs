//! As much of HTTP/1.1 as the tests speak.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::server::PATIENCE;

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Checks the status and that each of these fields has this value.
    pub(crate) fn expect(self, status: u16, fields: &[(&str, &str)]) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        for (name, value) in fields {
            assert_eq!(self.header(name), Some(*value), "{name} in {self:?}");
        }
        self
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// Whether the last request was a HEAD, whose answer has no body.
    head: bool,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
            head: false,
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let bytes = bytes.as_ref();
        if bytes.starts_with(b"HEAD ") {
            self.head = true;
        }
        self.stream.write_all(bytes)
    }

    /// Says that nothing more comes, and goes on reading.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes so that the other side sees a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    }

    pub(crate) fn response(&mut self) -> Response {
        self.next_response().expect("closed without an answer")
    }

    /// The next final or interim answer; `None` if the connection was closed instead.
    pub(crate) fn next_response(&mut self) -> Option<Response> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                assert!(
                    self.read.is_empty(),
                    "{:?}",
                    String::from_utf8_lossy(&self.read)
                );
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut response = Response {
            status,
            headers,
            body: String::new(),
        };
        let length = response
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let length = if std::mem::take(&mut self.head) {
            0
        } else {
            length
        };
        while self.read.len() < length {
            assert!(self.fill(), "closed in the middle of a body");
        }
        response.body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        Some(response)
    }

    /// Whether the other side closes without another word.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill()
    }

    /// Reads whatever comes until the other side closes.
    pub(crate) fn read_to_end(&mut self) {
        while self.fill() {}
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.read.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}
