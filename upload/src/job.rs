//! One word of the command line, or one file of a directory, from the first look to the last answer.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use reqwest::Url;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::Creation;
use crate::deliver;
use crate::display::FileProgress;
use crate::exit::UploadError;
use crate::meter::Meter;
use crate::pipe;
use crate::plan::{Plan, plan};
use crate::remember::{Fingerprint, Ticket, named, since_1970};
use crate::retry::Request;
use crate::session::Session;
use crate::source::{OpenFile, Random, Source};
use crate::transfer::Transfer;
use crate::walk::{Job, Origin};

/// An upload that is on the server.
#[derive(Debug)]
pub(crate) struct Uploaded {
    pub url: Url,
    /// In bytes.
    pub length: u64,
    pub took: Duration,
    /// To be shown while waiting.
    pub progress: Arc<FileProgress>,
}

/// Uploads one thing.
pub(crate) async fn upload(session: &Arc<Session>, job: &Job) -> Result<Uploaded, UploadError> {
    let begun = Instant::now();
    let metadata = session
        .config
        .metadata
        .completed(&job.filename, job.relative_path.as_deref());
    let metadata = metadata.header();
    let (url, length, progress) = match &job.origin {
        Origin::Pipe(path) => {
            let progress = session.display.file(&job.shown, None);
            let sent = pipe::send(session, path.as_deref(), metadata, &progress).await?;
            (sent.0, sent.1, progress)
        }
        Origin::Random(length) => {
            let random = Random {
                seed: fastrand::u64(..),
                length: *length,
            };
            send_seekable(session, job, Source::Random(random), None, metadata).await?
        }
        Origin::File(path) => {
            let failed = || UploadError::local("failed to open it");
            let file = OpenFile::open(path).map_err(failed())?;
            let fingerprint = fingerprint(session, path, &file).map_err(failed())?;
            send_seekable(session, job, Source::File(file), fingerprint, metadata).await?
        }
    };
    Ok(Uploaded {
        url,
        length,
        took: begun.elapsed(),
        progress,
    })
}

/// `None` where nothing is remembered or the filesystem tells no times.
fn fingerprint(session: &Session, path: &Path, file: &OpenFile) -> io::Result<Option<Fingerprint>> {
    let Some(modified) = file.modified().filter(|_| session.store.is_some()) else {
        return Ok(None);
    };
    Ok(Some(Fingerprint {
        endpoint: session.config.endpoint.to_string(),
        path: named(&path.canonicalize()?),
        size: file.length(),
        modified: u64::try_from(since_1970(modified).as_nanos()).unwrap_or(u64::MAX),
        metadata: session.config.metadata.clone(),
    }))
}

async fn send_seekable(
    session: &Arc<Session>,
    job: &Job,
    source: Source,
    fingerprint: Option<Fingerprint>,
    metadata: Option<String>,
) -> Result<(Url, u64, Arc<FileProgress>), UploadError> {
    let length = source.end();
    if let Some(most) = session.offered.max_size.filter(|most| *most < length) {
        let most = HumanBytes(most);
        let text = format!(
            "its {} are more than the server takes ({most})",
            HumanBytes(length)
        );
        return Err(UploadError::Lacking(text));
    }
    let Plan { parts, ticket } = plan(session, &job.shown, length, fingerprint).await?;
    let progress = session.display.file(&job.shown, Some(length));
    let partial = parts.len() > 1;
    let source = Arc::new(source);
    let transfers = parts.into_iter().map(|(range, known)| {
        let transfer = Transfer {
            session: Arc::clone(session),
            source: Arc::clone(&source),
            range,
            metadata: if partial { None } else { metadata.clone() },
            partial,
            ticket: ticket.clone(),
            progress: Arc::clone(&progress),
        };
        transfer.run(known)
    });
    let mut urls = at_once(transfers).await?;
    let url = match urls.pop() {
        Some(only) if urls.is_empty() => only,
        last => {
            urls.extend(last);
            join_parts(session, &urls, metadata.as_deref(), &progress).await?
        }
    };
    finished(&ticket, session, &job.shown);
    Ok((url, length, progress))
}

/// All results in the order of the parts; the first failure ends the others.
async fn at_once<F>(transfers: impl Iterator<Item = F>) -> Result<Vec<Url>, UploadError>
where
    F: Future<Output = Result<Url, UploadError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for (index, transfer) in transfers.enumerate() {
        running.spawn(async move { transfer.await.map(|url| (index, url)) });
    }
    let mut urls = Vec::with_capacity(running.len());
    while let Some(ended) = running.join_next().await {
        let failed = UploadError::local("failed to run a transfer");
        urls.push(ended.map_err(|error| failed(io::Error::other(error)))??);
    }
    urls.sort_by_key(|(index, _)| *index);
    Ok(urls.into_iter().map(|(_, url)| url).collect())
}

async fn join_parts(
    session: &Session,
    urls: &[Url],
    metadata: Option<&str>,
    progress: &Arc<FileProgress>,
) -> Result<Url, UploadError> {
    let urls: Vec<&str> = urls.iter().map(Url::as_str).collect();
    let concat = format!("final;{}", urls.join(" "));
    let meter = Meter::idle();
    let create = || {
        let concat = Some(concat.as_str());
        let creation = Creation {
            length: None,
            metadata,
            concat,
            content: None,
        };
        session.client.create(creation, &meter)
    };
    let note = |text: &str| progress.note(text);
    Ok(session
        .persist(Request::Concatenate, note, create)
        .await?
        .url)
}

/// The upload is done, whatever the state file says.
fn finished(ticket: &Ticket, session: &Session, shown: &str) {
    if let Err(error) = ticket.forget() {
        session.display.complain(&format!("{shown}: {error}"));
    }
}

/// Waits for the delivery if that was asked for; the answer is the server's result.
pub(crate) async fn delivered(
    session: &Session,
    uploaded: &Uploaded,
) -> Result<Option<Value>, UploadError> {
    let Some(limit) = session.config.wait else {
        return Ok(None);
    };
    deliver::wait(session, &uploaded.url, limit, &uploaded.progress)
        .await
        .map(Some)
}
