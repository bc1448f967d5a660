//! `DELETE`: end an upload.

use admin::ingest::UploadEvent;
use http::{HeaderMap, StatusCode};
use shared::ending::End;
use shared::id::UploadId;
use shared::record::Place;
use warp::reply::Response;

use super::{Request, respond};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::refusal::Refusal;
use crate::tus::terminate;

pub(super) async fn terminate(
    ingest: &Ingest,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    terminate::parse(request.headers(), &ingest.capabilities)?;
    expect_ended(end(ingest, id).await?)?;
    Ok(respond(StatusCode::NO_CONTENT, HeaderMap::new()))
}

/// Ends an upload at its client's word, whichever protocol it is said in.
pub(super) async fn end(ingest: &Ingest, id: UploadId) -> Result<End, IngestError> {
    let end = ingest.uploads.terminate(id).await?;
    if end == End::Ended {
        ingest.metrics.upload(UploadEvent::Terminated);
    }
    Ok(end)
}

/// What is to be said if it could not be ended.
pub(super) fn expect_ended(end: End) -> Result<(), Refusal> {
    match end {
        End::Ended => Ok(()),
        End::Already(Place::Terminated | Place::Expired | Place::Delivered | Place::Joined) => {
            Err(Refusal::Gone)
        }
        End::Already(_) | End::Missing => Err(Refusal::NotFound),
        End::Busy | End::Spared => Err(Refusal::Locked),
    }
}
