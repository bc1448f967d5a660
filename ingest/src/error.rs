//! What can go wrong with a request, and the one map from there to an answer.

use http::StatusCode;
use hyper::ext::ReasonPhrase;
use shared::durable::DiskError;
use shared::record::RecordError;
use warp::reply::Response;

use crate::net::connection::HangUp;
use crate::tus::refusal::Refusal;

/// Why a request did not do what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// The protocol, the configuration or the state of the upload says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The spool's filesystem said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A record is missing where it must be, or cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A task ended by a panic. Its upload is as it was last published.
    #[error("a task panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

impl IngestError {
    /// What the client is told. Paths and causes are for the log.
    fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal.clone(),
            Self::Disk(error) if error.is_full() => Refusal::InsufficientStorage,
            Self::Record(RecordError::Disk(error)) if error.is_full() => {
                Refusal::InsufficientStorage
            }
            Self::Disk(_) | Self::Record(_) | Self::Panicked(_) => Refusal::Internal,
        }
    }

    /// The answer with its code, and a line in the log for what is not the client's doing.
    pub(crate) fn into_response(self) -> (&'static str, Response) {
        let refusal = self.refusal();
        if !matches!(self, Self::Refused(_)) {
            tracing::error!(error = %self, code = refusal.code(), "request failed");
        }
        let mut response = Response::new(refusal.body().into());
        *response.status_mut() = refusal.status();
        *response.headers_mut() = refusal.headers();
        if let Some(reason) = refusal.reason() {
            response
                .extensions_mut()
                .insert(ReasonPhrase::from_static(reason.as_bytes()));
        }
        // tus-js-client takes a 4xx for final, but a broken connection for a reason to come back.
        if refusal.status() == StatusCode::REQUEST_TIMEOUT {
            response.extensions_mut().insert(HangUp);
        }
        (refusal.code(), response)
    }
}
