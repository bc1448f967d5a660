//! What can go wrong with a request, and the one map from there to an answer.

use hyper::ext::ReasonPhrase;
use shared::durable::DiskError;
use shared::record::RecordError;
use warp::reply::Response;

use crate::draft::problem;
use crate::draft::version::Version;
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
    /// What the client is told, and a line in the log for what is not the client's doing: paths and
    /// causes are for the log only.
    pub(crate) fn into_refusal(self) -> Refusal {
        let refusal = self.refusal();
        if !matches!(self, Self::Refused(_)) {
            tracing::error!(error = %self, code = refusal.code(), "request failed");
        }
        refusal
    }

    /// What the client is told.
    fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal.clone(),
            Self::Disk(error) | Self::Record(RecordError::Disk(error)) if error.is_full() => {
                Refusal::InsufficientStorage
            }
            Self::Disk(_) | Self::Record(_) | Self::Panicked(_) => Refusal::Internal,
        }
    }

    /// The refusal, if what it is about is not the request but the upload's bytes: they could not
    /// be written, kept or handed over.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        let refusal = self.refusal();
        matches!(refusal, Refusal::InsufficientStorage | Refusal::Internal).then_some(refusal)
    }
}

/// The answer to a refused request of tus.
pub(crate) fn answer(refusal: &Refusal) -> Response {
    let mut response = Response::new(refusal.body().into());
    *response.status_mut() = refusal.status();
    *response.headers_mut() = refusal.headers();
    if let Some(reason) = refusal.reason() {
        let reason = ReasonPhrase::from_static(reason.as_bytes());
        response.extensions_mut().insert(reason);
    }
    // tus-js-client takes a 4xx for final, but a broken connection for a reason to come back.
    if matches!(refusal, Refusal::BodyTimeout) {
        response.extensions_mut().insert(HangUp);
    }
    response
}

/// The answer to a refused request of the draft; of no `version` if it named one that is not
/// spoken here.
pub(crate) fn problem(refusal: &Refusal, version: Option<Version>, limit: &str) -> Response {
    let (status, fields, body) = problem::reply(refusal, version, limit);
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    // URLSession was seen not to resume after a 5xx, but does after a broken connection.
    if matches!(
        refusal,
        Refusal::BodyTimeout | Refusal::Draining | Refusal::Internal
    ) {
        response.extensions_mut().insert(HangUp);
    }
    response
}
