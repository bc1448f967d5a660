//! Moves one upload's offset up to where it shall be: PATCH while all goes well; after any failure a
//! pause, HEAD, and on from the server's offset.

use std::sync::Arc;

use reqwest::Url;

use crate::body::Piece;
use crate::checksum;
use crate::client::{Append, Failure};
use crate::display::FileProgress;
use crate::exit::UploadError;
use crate::meter::Meter;
use crate::retry::{Attempts, Request};
use crate::session::{Ended, Session};
use crate::source::Source;

/// One stretch of data on its way to one upload.
#[derive(Debug)]
pub(crate) struct Push<'a> {
    pub session: &'a Session,
    pub url: &'a Url,
    pub source: &'a Arc<Source>,
    /// The place in the source of the upload's first byte.
    pub base: u64,
    /// The offset to reach.
    pub to: u64,
    /// The upload's length, to be told with the last data of an upload whose length was deferred.
    pub declare: Option<u64>,
    pub meter: &'a Arc<Meter>,
    pub progress: &'a FileProgress,
}

/// What is known about the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    offset: u64,
    declared: bool,
}

impl Push<'_> {
    /// From a known offset, or from the one that the server tells.
    pub(crate) async fn run(&self, from: Option<u64>) -> Result<(), Ended> {
        let mut attempts = Attempts::new(self.session.config.retry);
        let mut at = from.map(|offset| At {
            offset,
            declared: self.declare.is_none(),
        });
        let mut best = from.unwrap_or(0);
        loop {
            if at.is_some_and(|at| self.is_done(at)) {
                return Ok(());
            }
            let (request, answer) = match at {
                None => (Request::Head, self.ask().await),
                Some(at) => (Request::Patch, self.append(at).await),
            };
            match answer {
                Ok(now) => {
                    self.meter.set(now.offset);
                    if best < now.offset {
                        best = now.offset;
                        attempts.progress();
                    }
                    at = Some(now);
                }
                Err(failure) => {
                    let pause = self.session.next_pause(request, &failure, &mut attempts);
                    let Some(pause) = pause else {
                        return Err(Ended {
                            request,
                            failure,
                            retries: attempts.failed(),
                        });
                    };
                    let note = |text: &str| self.progress.note(text);
                    self.session.rest(pause, &failure, &attempts, note).await;
                    at = None;
                }
            }
        }
    }

    fn is_done(&self, at: At) -> bool {
        at.offset == self.to && at.declared
    }

    async fn ask(&self) -> Result<At, Failure> {
        let standing = self.session.client.head(self.url).await?;
        let declared = self.declare.is_none() || standing.length.is_some();
        self.checked(At {
            offset: standing.offset,
            declared,
        })
    }

    async fn append(&self, at: At) -> Result<At, Failure> {
        let chunk = self.session.config.chunk.unwrap_or(u64::MAX);
        let end = self.to.min(at.offset.saturating_add(chunk));
        let source = Arc::clone(self.source);
        let piece = Piece {
            source,
            from: self.base + at.offset,
            to: self.base + end,
        };
        let checksum = self.checksum_of(&piece).await?;
        let length = self.declare.filter(|_| end == self.to && !at.declared);
        let append = Append {
            piece,
            offset: at.offset,
            checksum,
            length,
        };
        let offset = self
            .session
            .client
            .patch(self.url, append, self.meter)
            .await?;
        let now = At {
            offset,
            declared: at.declared || length.is_some(),
        };
        if now == at {
            return Err(Failure::Garbled("the offset did not move".to_owned()));
        }
        self.checked(now)
    }

    /// An offset that we could not go on from must not be believed.
    fn checked(&self, at: At) -> Result<At, Failure> {
        if self.to < at.offset {
            let text = format!("offset {} is beyond the {} sent", at.offset, self.to);
            return Err(Failure::Garbled(text));
        }
        if self.base + at.offset < self.source.start() {
            let last = "the server lost data that came from a pipe and cannot be read again";
            return Err(Failure::Local(UploadError::GaveUp {
                retries: 0,
                last: last.to_owned(),
            }));
        }
        Ok(at)
    }

    async fn checksum_of(&self, piece: &Piece) -> Result<Option<String>, Failure> {
        let Some(algorithm) = self.session.config.checksum else {
            return Ok(None);
        };
        let piece = piece.clone();
        let hashed = tokio::task::spawn_blocking(move || checksum::of(algorithm, &piece)).await;
        let hashed = hashed.map_err(|error| {
            UploadError::local("failed to compute a checksum")(std::io::Error::other(error))
        })?;
        Ok(Some(hashed?))
    }
}
