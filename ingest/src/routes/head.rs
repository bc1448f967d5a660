//! `HEAD`: where an upload stands.

use http::StatusCode;
use shared::id::UploadId;
use shared::lookup::Found;
use warp::reply::Response;

use super::create::look_at_parts;
use super::stored::{announce_expiry, echo, stored};
use super::{Request, respond};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::concat;
use crate::tus::head::{self, Echo};
use crate::tus::refusal::Refusal;
use crate::tus::stored::{Kind, Stored};

pub(super) async fn head(
    ingest: &Ingest,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    head::parse(request.headers())?;
    let found = look(ingest, id).await?;
    let capabilities = &ingest.capabilities;
    let stored = known(ingest, &found).await?;
    let (metadata, concat) = echo(&found.record);
    let echo = Echo {
        metadata: metadata.as_ref(),
        concat: concat.as_ref(),
    };
    let mut fields = head::reply(&stored, echo);
    announce_expiry(&mut fields, &found.record, stored.complete, capabilities);
    Ok(respond(StatusCode::OK, fields))
}

/// What is known of an upload now: of a final one also the length, as soon as all parts have told
/// theirs.
pub(super) async fn known(ingest: &Ingest, found: &Found) -> Result<Stored, IngestError> {
    let mut stored = stored(found, &ingest.capabilities)?;
    if stored.kind == (Kind::Final { assembled: false }) && stored.length.is_none() {
        let parts = look_at_parts(ingest, &found.record.rest.parts).await?;
        stored.length = concat::length(&parts);
    }
    Ok(stored)
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
