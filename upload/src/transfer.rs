//! One upload from its creation to its last byte: a whole file, or one part of a parallel one.

use std::ops::Range;
use std::sync::Arc;

use reqwest::Url;

use crate::body::Piece;
use crate::client::Creation;
use crate::display::FileProgress;
use crate::exit::UploadError;
use crate::meter::Meter;
use crate::push::Push;
use crate::remember::Ticket;
use crate::retry::Request;
use crate::session::{Ended, Session};
use crate::source::Source;

/// How often an upload that vanished from the server is begun again in one run.
const RESTARTS_MAX: u32 = 1;

/// A stretch of a source that is to become one upload.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub session: Arc<Session>,
    pub source: Arc<Source>,
    /// Places in the source.
    pub range: Range<u64>,
    pub metadata: Option<String>,
    /// One part of several.
    pub partial: bool,
    pub ticket: Ticket,
    pub progress: Arc<FileProgress>,
}

/// An upload on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub url: Url,
    /// `None`: to be asked for.
    pub offset: Option<u64>,
}

impl Transfer {
    /// Creates the upload unless it is known, and sends what is missing.
    pub(crate) async fn run(self, mut known: Option<Known>) -> Result<Url, UploadError> {
        let meter = Meter::new(&self.progress);
        if let Some(offset) = known.as_ref().and_then(|known| known.offset) {
            meter.set(offset);
            self.progress.resume_here();
        }
        let mut restarts = 0;
        loop {
            let upload = match known.take() {
                Some(upload) => upload,
                None => self.create(&meter).await?,
            };
            match self.push(&upload, &meter).await {
                Ok(()) => return Ok(upload.url),
                Err(ended) if ended.is_gone() && restarts < RESTARTS_MAX => {
                    restarts += 1;
                    self.progress
                        .note("the upload is gone from the server: beginning again");
                    meter.set(0);
                }
                Err(ended) => return Err(ended.into()),
            }
        }
    }

    async fn push(&self, upload: &Known, meter: &Arc<Meter>) -> Result<(), Ended> {
        let push = Push {
            session: &self.session,
            url: &upload.url,
            source: &self.source,
            base: self.range.start,
            to: self.length(),
            declare: None,
            meter,
            progress: &self.progress,
        };
        push.run(upload.offset).await
    }

    fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    async fn create(&self, meter: &Arc<Meter>) -> Result<Known, UploadError> {
        let with_content = self.fits_one_request();
        let attempt = || {
            let content = with_content.then(|| Piece {
                source: Arc::clone(&self.source),
                from: self.range.start,
                to: self.range.end,
            });
            meter.set(0);
            let creation = Creation {
                length: Some(self.length()),
                metadata: self.metadata.as_deref(),
                concat: self.partial.then_some("partial"),
                content,
            };
            self.session.client.create(creation, meter)
        };
        let note = |text: &str| self.progress.note(text);
        let created = self.session.persist(Request::Create, note, attempt).await?;
        let offset = if with_content {
            created.offset
        } else {
            Some(0)
        };
        if offset != Some(self.length()) {
            self.ticket.created(&self.range, &created.url)?;
        }
        meter.set(offset.unwrap_or(0));
        Ok(Known {
            url: created.url,
            offset,
        })
    }

    fn fits_one_request(&self) -> bool {
        let config = &self.session.config;
        let small = (1..=config.one_request).contains(&self.length());
        let plain = config.checksum.is_none() && config.chunk.is_none_or(|c| self.length() <= c);
        small && plain && !self.partial && self.session.offered.offers("creation-with-upload")
    }
}
