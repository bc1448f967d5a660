//! Standard input and other streams: read once, sent while their length is unknown.
//!
//! What the server has not confirmed must be kept, because it cannot be read again; so a stream goes in
//! chunks that are held in memory, the next one being read while one is sent. A server without
//! creation-defer-length gets the stream from a temporary file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Url;
use tokio::sync::mpsc;

use crate::client::Creation;
use crate::display::FileProgress;
use crate::exit::UploadError;
use crate::meter::Meter;
use crate::push::Push;
use crate::remember::Ticket;
use crate::retry::Request;
use crate::session::Session;
use crate::source::{OpenFile, Source};
use crate::transfer::Transfer;

type Input = BufReader<Box<dyn Read + Send>>;

/// Some of the stream; `last` if nothing follows.
#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    last: bool,
}

/// Uploads all that comes; the answer is the URL and the length.
pub(crate) async fn send(
    session: &Arc<Session>,
    path: Option<&Path>,
    metadata: Option<String>,
    progress: &Arc<FileProgress>,
) -> Result<(Url, u64), UploadError> {
    let mut input = open(path)?;
    let size = session.config.piped_chunk;
    let (input, first) = tokio::task::spawn_blocking(move || {
        let first = read_chunk(&mut input, size);
        (input, first)
    })
    .await
    .map_err(|error| unread(io::Error::other(error)))?;
    let first = first.map_err(unread)?;
    let source = if first.last {
        Source::Chunk {
            start: 0,
            bytes: first.bytes,
        }
    } else if session.offered.offers("creation-defer-length") {
        return deferred(session, metadata, progress, first, input).await;
    } else {
        progress.note("the server wants to know the length first: reading to the end");
        let kept = tokio::task::spawn_blocking(move || keep(&first, input)).await;
        Source::File(
            kept.map_err(|error| unread(io::Error::other(error)))?
                .map_err(unread)?,
        )
    };
    let length = source.end();
    let transfer = Transfer {
        session: Arc::clone(session),
        source: Arc::new(source),
        range: 0..length,
        metadata,
        partial: false,
        ticket: Ticket::default(),
        progress: Arc::clone(progress),
    };
    Ok((transfer.run(None).await?, length))
}

async fn deferred(
    session: &Arc<Session>,
    metadata: Option<String>,
    progress: &Arc<FileProgress>,
    first: Chunk,
    input: Input,
) -> Result<(Url, u64), UploadError> {
    let meter = Meter::new(progress);
    let create = || {
        let metadata = metadata.as_deref();
        let creation = Creation {
            length: None,
            metadata,
            concat: None,
            content: None,
        };
        session.client.create(creation, &meter)
    };
    let note = |text: &str| progress.note(text);
    let url = session.persist(Request::Create, note, create).await?.url;
    let mut chunks = read_on(input, session.config.piped_chunk);
    let mut at = 0;
    let mut next = Some(Ok(first));
    while let Some(chunk) = next {
        let chunk = chunk.map_err(unread)?;
        let end = at + chunk.bytes.len() as u64;
        let push = Push {
            session,
            url: &url,
            source: &Arc::new(Source::Chunk {
                start: at,
                bytes: chunk.bytes,
            }),
            base: 0,
            to: end,
            declare: chunk.last.then_some(end),
            meter: &meter,
            progress,
        };
        push.run(Some(at)).await?;
        at = end;
        next = chunks.recv().await;
    }
    Ok((url, at))
}

fn open(path: Option<&Path>) -> Result<Input, UploadError> {
    let stream: Box<dyn Read + Send> = match path {
        None => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).map_err(unread)?),
    };
    Ok(BufReader::new(stream))
}

fn unread(error: io::Error) -> UploadError {
    UploadError::local("failed to read the stream")(error)
}

/// Looks one byte further, so that the last chunk is known to be the last.
fn read_chunk(input: &mut Input, size: usize) -> io::Result<Chunk> {
    let mut bytes = Vec::new();
    input.by_ref().take(size as u64).read_to_end(&mut bytes)?;
    let last = input.fill_buf()?.is_empty();
    Ok(Chunk {
        bytes: bytes.into(),
        last,
    })
}

/// Reads one chunk ahead of what is sent.
fn read_on(mut input: Input, size: usize) -> mpsc::Receiver<io::Result<Chunk>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        loop {
            let chunk = read_chunk(&mut input, size);
            let ended = chunk.as_ref().map_or(true, |chunk| chunk.last);
            if sender.blocking_send(chunk).is_err() || ended {
                return;
            }
        }
    });
    receiver
}

/// Into a file without a name.
fn keep(first: &Chunk, mut rest: Input) -> io::Result<OpenFile> {
    let mut file = tempfile::tempfile()?;
    file.write_all(&first.bytes)?;
    io::copy(&mut rest, &mut file)?;
    OpenFile::from_file(file, "the stream".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(length: usize, size: usize) -> Vec<(usize, bool)> {
        let stream: Box<dyn Read + Send> = Box::new(io::Cursor::new(vec![1; length]));
        let mut input = BufReader::with_capacity(4, stream);
        let mut found = Vec::new();
        loop {
            let chunk = read_chunk(&mut input, size).unwrap();
            found.push((chunk.bytes.len(), chunk.last));
            if chunk.last {
                return found;
            }
        }
    }

    #[test]
    fn the_last_chunk_is_known_to_be_the_last() {
        assert_eq!(chunks(0, 10), [(0, true)]);
        assert_eq!(chunks(9, 10), [(9, true)]);
        assert_eq!(chunks(10, 10), [(10, true)]);
        assert_eq!(chunks(11, 10), [(10, false), (1, true)]);
        assert_eq!(chunks(30, 10), [(10, false), (10, false), (10, true)]);
    }
}
