//! `PATCH`: append to an upload.

use std::time::Instant;

use http::{HeaderMap, StatusCode};
use shared::id::UploadId;
use shared::record::Record;
use shared::time::UnixTime;
use warp::reply::Response;

use super::receive::receive;
use super::stored::{announce_expiry, of_record, stored};
use super::{Request, respond};
use crate::append::Held;
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::capabilities::Extension;
use crate::tus::patch::{self, Patch, Plan, Reached};
use crate::tus::refusal::Refusal;
use crate::tus::stored::Stored;

pub(super) async fn patch(
    ingest: &Ingest,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    let patch = Patch::parse(request.headers(), request.body_size()?, capabilities)?;
    let decide = |stored: &Stored| patch.clone().decide(stored, capabilities);
    let (record, reached) = append(ingest, id, request, decide).await?;
    let mut fields = patch::reply(reached.offset);
    announce_expiry(&mut fields, &record, reached.complete, capabilities);
    Ok(respond(StatusCode::NO_CONTENT, fields))
}

/// Whether a refusal speaks of an upload that is there and may be gone on with.
pub(super) fn may_go_on_after(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::NO_CONTENT
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::PRECONDITION_FAILED
    )
}

/// `Upload-Expires` belongs into the answer to every `PATCH`, also to one that was refused, as long
/// as the upload goes on.
pub(super) async fn announce_expiry_of(ingest: &Ingest, id: UploadId, fields: &mut HeaderMap) {
    let capabilities = &ingest.capabilities;
    if !capabilities.offers(Extension::Expiration) {
        return;
    }
    if let Ok(found) = ingest.uploads.peek(id).await
        && let Ok(stored) = stored(&found, capabilities)
    {
        announce_expiry(fields, &found.record, stored.complete, capabilities);
    }
}

/// Appends the body as `decide` plans it, whichever protocol that is of. The record is that of
/// the upload, as it is answered for.
pub(super) async fn append(
    ingest: &Ingest,
    id: UploadId,
    request: &Request,
    decide: impl Fn(&Stored) -> Result<Plan, Refusal>,
) -> Result<(Record, Reached), IngestError> {
    // In a place of its own, which is free again while the body comes.
    let (mut record, begun) = Box::pin(begin(ingest, id, decide)).await?;
    let reached = match begun {
        None => already(&record),
        Some((held, plan)) => {
            let reached = receive(ingest, request, held, &plan, &record).await?;
            record.last_write = UnixTime::now();
            reached
        }
    };
    Ok((record, reached))
}

/// Takes the upload for appending as planned, unless there is nothing to append; its record.
async fn begin(
    ingest: &Ingest,
    id: UploadId,
    decide: impl Fn(&Stored) -> Result<Plan, Refusal>,
) -> Result<(Record, Option<(Held, patch::Append)>), IngestError> {
    let capabilities = &ingest.capabilities;
    // Without the lock first: a request for the wrong place must not disturb the writer.
    let found = ingest.uploads.look_whole(id).await?;
    if let Plan::AlreadyComplete(_) = decide(&stored(&found, capabilities)?)? {
        return Ok((found.record, None));
    }
    let asked = Instant::now();
    let held = ingest.uploads.hold(id).await;
    ingest.metrics.lock(held.is_ok(), asked.elapsed());
    let Some(held) = held? else {
        // It moved on between the look and the lock: look again, and leave it at that.
        let found = ingest.uploads.look_whole(id).await?;
        decide(&stored(&found, capabilities)?)?;
        return Err(Refusal::Locked.into());
    };
    let record = held.ledger.record().ok_or(Refusal::Locked)?;
    match decide(&of_record(&record))? {
        Plan::AlreadyComplete(_) => Ok((record, None)),
        Plan::Append(plan) => Ok((record, Some((held, plan)))),
    }
}

/// What an upload that was complete before has reached.
fn already(record: &Record) -> Reached {
    Reached {
        offset: record.offset,
        length: record.length,
        complete: true,
    }
}
