//! `HEAD`: where an upload stands.

use http::StatusCode;
use shared::id::UploadId;
use shared::lookup::Found;
use warp::reply::Response;

use super::stored::{announce_expiry, echo, stored};
use super::{Request, respond};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::head::{self, Echo};
use crate::tus::refusal::Refusal;

pub(super) async fn head(
    ingest: &Ingest,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    head::parse(&request.headers)?;
    let found = look(ingest, id).await?;
    let capabilities = &ingest.capabilities;
    let stored = stored(&found, capabilities)?;
    let (metadata, concat) = echo(&found.record);
    let echo = Echo {
        metadata: metadata.as_ref(),
        concat: concat.as_ref(),
    };
    let mut fields = head::reply(&stored, echo);
    announce_expiry(&mut fields, &found.record, stored.complete, capabilities);
    Ok(respond(StatusCode::OK, fields))
}

/// Looks an upload up for who asks where it stands: disturbs no writer, takes no lock below the
/// length, needs no space, and never ends in 5xx, because tus-js-client starts again from byte 0
/// after anything but 2xx and 423.
pub(super) async fn look(ingest: &Ingest, id: UploadId) -> Result<Found, IngestError> {
    match ingest.uploads.look_whole(id).await {
        Err(error) if !matches!(error, IngestError::Refused(_)) => {
            tracing::error!(%error, "cannot look; the client is told to ask again");
            Err(Refusal::Locked.into())
        }
        looked => looked,
    }
}
