//! HTTP/1.1 by hand: what goes out and comes in are bytes that the test chose.
//!
//! No HTTP library, so that a test can send what a library would refuse to (two lengths, header
//! names in any case, a body that stops half-way) and sees what a library would hide (interim
//! responses, the case of header names, whether the connection was closed).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::libc::{TIOCOUTQ, c_int};

use crate::wait::wait_for;

/// How long a response may be silent before a test fails.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest header section that is read, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// A response, headers as they were on the wire.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Text after the status code.
    pub reason: String,
    /// Header names and values in order and case of arrival.
    pub headers: Vec<(String, String)>,
    /// The body; empty for responses to HEAD.
    pub body: Vec<u8>,
    /// Interim (1xx) responses that came before it.
    pub interim: Vec<Self>,
}

impl Response {
    /// First value of a header, its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// A header that has to be a decimal number.
    ///
    /// # Panics
    /// If it is missing or not a number.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        let value = self
            .header(name)
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"));
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {value} is not a number"))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns itself if status and headers are as wanted.
    ///
    /// # Panics
    /// If not, with the whole response.
    #[track_caller]
    pub fn expect<const N: usize>(self, status: u16, headers: [(&str, &str); N]) -> Self {
        assert_eq!(self.status, status, "body: {}\n{self:#?}", self.text());
        for (name, value) in headers {
            assert_eq!(self.header(name), Some(value), "{name} in {self:#?}");
        }
        self
    }
}

/// The bytes of a request head: start line, headers, empty line.
#[must_use]
pub fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// A body in chunked coding, with trailer fields after it.
#[must_use]
pub fn chunked(chunks: &[&[u8]], trailers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

nix::ioctl_read_bad!(
    /// Bytes that the peer's kernel has not acknowledged.
    outq,
    TIOCOUTQ,
    c_int
);

/// One connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What connecting meets: refused while a server is being restarted.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What writing meets: the peer may have closed.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Waits until the peer's kernel has everything that was sent: it has arrived, whether the
    /// peer has read it or not. tcp(7), `SIOCOUTQ`.
    pub fn wait_arrived(&self) {
        wait_for("everything to arrive", &0, || {
            let mut unacknowledged = 0;
            let socket = self.stream.get_ref().as_raw_fd();
            #[expect(unsafe_code, reason = "an ioctl")]
            // SAFETY: it writes one int to a valid pointer, for a socket that is open.
            unsafe { outq(socket, &raw mut unacknowledged) }.expect("a socket can tell");
            unacknowledged
        });
    }

    /// The socket, for what only a socket can do.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Tells the peer that nothing more will be sent; responses are still read.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }

    /// Closes with a reset instead of a FIN, as a crashed or roaming client does.
    ///
    /// # Panics
    /// If the option cannot be set on the socket.
    pub fn reset(self) {
        reset_on_close(self.socket());
    }

    /// Reads one final response, keeping the interim ones before it.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closed instead; `InvalidData` if it is not HTTP.
    pub fn receive(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let mut response = self.receive_head()?;
            if (100..200).contains(&response.status) {
                interim.push(response);
                continue;
            }
            let bodiless = method == "HEAD" || matches!(response.status, 204 | 304);
            if !bodiless {
                response.body = self.receive_body(&response)?;
            }
            response.interim = interim;
            return Ok(response);
        }
    }

    /// Reads one response head, interim or final.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_head(&mut self) -> io::Result<Response> {
        let start = self.line()?;
        let mut parts = start.splitn(3, ' ');
        let version = parts.next().unwrap_or_default();
        let status = parts.next().and_then(|status| status.parse().ok());
        let (true, Some(status)) = (version == "HTTP/1.1", status) else {
            return Err(invalid(&format!("not a status line: {start:?}")));
        };
        let reason = parts.next().unwrap_or_default().to_owned();
        let headers = self.fields()?;
        Ok(Response {
            status,
            reason,
            headers,
            body: Vec::new(),
            interim: Vec::new(),
        })
    }

    /// Whether the peer has closed the connection (waits for it to close or send).
    ///
    /// # Errors
    /// What reading meets, other than a reset (which is a way to close).
    pub fn is_closed(&mut self) -> io::Result<bool> {
        match self.stream.fill_buf() {
            Ok(bytes) => Ok(bytes.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn receive_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let coding = response.header("transfer-encoding").unwrap_or_default();
        if coding.eq_ignore_ascii_case("chunked") {
            return self.receive_chunks();
        }
        let mut body = Vec::new();
        match response.header("content-length") {
            None => drop(self.stream.read_to_end(&mut body)?),
            Some(length) => {
                let length: usize = length.parse().map_err(|_| invalid("content-length"))?;
                body.resize(length, 0);
                self.stream.read_exact(&mut body)?;
            }
        }
        Ok(body)
    }

    fn receive_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(|_| invalid("chunk size"))?;
            if size == 0 {
                self.fields()?;
                return Ok(body);
            }
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            self.line()?;
        }
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let most = HEAD_BYTES_MAX as u64;
        self.stream
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut line)?;
        let Some(line) = line.strip_suffix(b"\r\n") else {
            let kind = if line.is_empty() || line.last() != Some(&b'\n') {
                io::ErrorKind::UnexpectedEof
            } else {
                io::ErrorKind::InvalidData
            };
            return Err(io::Error::new(
                kind,
                "the response ends in the middle of a line",
            ));
        };
        String::from_utf8(line.to_vec()).map_err(|_| invalid("a header that is not UTF-8"))
    }
}

/// Makes the next close of a socket a reset.
///
/// # Panics
/// If the option cannot be set.
pub fn reset_on_close(socket: &TcpStream) {
    let now = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Linger, &now)
        .expect("SO_LINGER can be set on a TCP socket");
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered_with(bytes: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(bytes));
        Connection::open(address).unwrap()
    }

    #[test]
    fn interim_responses_header_case_and_chunks_are_seen() {
        let mut connection = answered_with(
            b"HTTP/1.1 104 Upload Resumption Supported\r\nLocation: /files/1\r\n\r\n\
              HTTP/1.1 201 Created\r\nUpload-Offset: 5\r\ntransfer-encoding: chunked\r\n\r\n\
              3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        );
        let response = connection.receive("POST").unwrap();
        assert_eq!(
            (response.status, response.body.as_slice()),
            (201, b"abcd".as_slice())
        );
        assert_eq!(response.interim[0].status, 104);
        assert_eq!(response.interim[0].header("location"), Some("/files/1"));
        assert_eq!(response.headers[0].0, "Upload-Offset");
        assert_eq!(response.number("upload-offset"), 5);
        assert!(connection.is_closed().unwrap());
    }

    #[test]
    fn a_response_that_breaks_off_is_an_error() {
        for bytes in [
            &b""[..],
            b"HTTP/1.1 20",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        ] {
            let error = answered_with(bytes).receive("GET").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let error = answered_with(b"SSH-2.0-x\r\n").receive("GET").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn chunks_and_trailers_are_written_as_rfc_9112_says() {
        let body = chunked(
            &[b"hello", b"", b" world, hello"],
            &[("Upload-Checksum", "sha1 x")],
        );
        let wanted: &[u8] =
            b"5\r\nhello\r\nd\r\n world, hello\r\n0\r\nUpload-Checksum: sha1 x\r\n\r\n";
        assert_eq!(body, wanted);
    }
}
