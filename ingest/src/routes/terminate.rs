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
    terminate::parse(&request.headers, &ingest.capabilities)?;
    match ingest.uploads.terminate(id).await? {
        End::Ended => {
            ingest.metrics.upload(UploadEvent::Terminated);
            Ok(respond(StatusCode::NO_CONTENT, HeaderMap::new()))
        }
        End::Already(Place::Terminated | Place::Expired | Place::Delivered | Place::Joined) => {
            Err(Refusal::Gone.into())
        }
        End::Already(_) | End::Missing => Err(Refusal::NotFound.into()),
        End::Busy | End::Spared => Err(Refusal::Locked.into()),
    }
}
