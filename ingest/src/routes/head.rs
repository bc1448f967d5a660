//! `HEAD`: where an upload stands.

use http::StatusCode;
use shared::id::UploadId;
use warp::reply::Response;

use super::stored::{announce_expiry, echo, stored};
use super::{Request, respond};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::head::{self, Echo};

/// Never disturbs a writer, takes no lock below the length, and needs no space.
pub(super) async fn head(
    ingest: &Ingest,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    head::parse(&request.headers)?;
    let found = ingest.uploads.look_whole(id).await?;
    let stored = stored(&found)?;
    let (metadata, concat) = echo(&found.record);
    let echo = Echo {
        metadata: metadata.as_ref(),
        concat: concat.as_ref(),
    };
    let mut fields = head::reply(&stored, echo);
    announce_expiry(
        &mut fields,
        &found.record,
        stored.complete,
        &ingest.capabilities,
    );
    Ok(respond(StatusCode::OK, fields))
}
