//! The physical limit: blocking loops, a thread per connection, that understand just enough of HTTP
//! to be sent to and make only the system calls that the work cannot do without.

mod put;
mod steps;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub(crate) use steps::{RECORD, Steps};

/// How a body is read, and how large it is written.
const BUFFER_BYTES: usize = 1 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    port: u16,
    /// PUT makes files here; POST and PATCH in its `uploads/` and `completed/`
    #[arg(long)]
    dir: PathBuf,
    /// When what is written is synced
    #[arg(long, value_enum, default_value_t)]
    sync: Sync,
}

/// When the sink syncs.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sync {
    #[default]
    Never,
    /// Before each answer.
    Answer,
    /// A body is also written out and synced while it comes, so that little is left to do at any
    /// time. `put::Pace` says how far.
    Paced,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", args.port))?;
    let steps = Steps::open(&args.dir, args.sync != Sync::Never)?;
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = stream?;
            scope.spawn(|| Connection::new(stream)?.serve(args, &steps));
        }
        Ok(())
    })
}

/// A request's head, as far as anybody asks for it.
struct Head {
    method: String,
    /// Behind the last slash of the path.
    name: String,
    length: u64,
}

struct Connection {
    stream: TcpStream,
    space: Vec<u8>,
    /// Where the space begins to be aligned to pages.
    start: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let space = vec![0; BUFFER_BYTES + 4096];
        let start = space.as_ptr().align_offset(4096);
        Ok(Self {
            stream,
            space,
            start,
        })
    }

    fn serve(mut self, args: &Args, steps: &Steps) -> Result<()> {
        let buffer = &mut self.space[self.start..self.start + BUFFER_BYTES];
        while let Some((head, have)) = read_head(&mut self.stream, buffer)? {
            let answer = match head.method.as_str() {
                "put" => {
                    put::receive(&mut self.stream, buffer, have, head.length, args)?;
                    "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
                }
                "post" if head.length == 0 => created(&steps.create()?),
                "post" => {
                    let body = read_body(&mut self.stream, buffer, have, head.length)?;
                    created(&steps.create_with(body)?)
                }
                "patch" => {
                    let body = read_body(&mut self.stream, buffer, have, head.length)?;
                    steps.finish(&head.name, body)?;
                    let offset = head.length;
                    format!("HTTP/1.1 204 No Content\r\nUpload-Offset: {offset}\r\n\r\n")
                }
                method => bail!("{method}?"),
            };
            self.stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

fn created(name: &str) -> String {
    format!("HTTP/1.1 201 Created\r\nLocation: /files/{name}\r\nContent-Length: 0\r\n\r\n")
}

/// Reads a request's head; how many bytes of its body now lie at the buffer's beginning. `None` at
/// the connection's end.
fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<Option<(Head, usize)>> {
    let mut have = 0;
    let end = loop {
        let n = stream.read(&mut buffer[have..HEAD_BYTES_MAX])?;
        if n == 0 {
            return Ok(None);
        }
        have += n;
        if let Some(end) = buffer[..have].windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
    let mut words = text.split(' ');
    let (method, path) = (words.next(), words.next().context("no path")?);
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let head = Head {
        method: method.unwrap_or_default().to_owned(),
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        length: length.context("no length")?.trim().parse()?,
    };
    buffer.copy_within(end..have, 0);
    Ok(Some((head, have - end)))
}

/// Reads a small body whole.
fn read_body<'a>(
    stream: &mut TcpStream,
    buffer: &'a mut [u8],
    have: usize,
    length: u64,
) -> Result<&'a [u8]> {
    let length = usize::try_from(length)?;
    let body = buffer.get_mut(..length).context("too large")?;
    if let Some(rest) = body.get_mut(have..) {
        stream.read_exact(rest)?;
    }
    Ok(body)
}
