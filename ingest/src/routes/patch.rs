//! `PATCH`: append to an upload.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use shared::id::UploadId;
use shared::record::Record;
use shared::size::Offset;
use shared::time::UnixTime;
use warp::reply::Response;

use super::receive::receive;
use super::stored::{announce_expiry, of_record, stored};
use super::{Request, respond};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::patch::{self, Patch, Plan};
use crate::tus::refusal::Refusal;

pub(super) async fn patch(
    ingest: &Arc<Ingest>,
    id: UploadId,
    request: Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    let patch = Patch::parse(&request.headers, request.body_size()?, capabilities)?;
    // Without the lock first: a request for the wrong place must not disturb the writer.
    let found = ingest.uploads.look_whole(id).await?;
    if let Plan::AlreadyComplete(_) = patch
        .clone()
        .decide(&stored(&found, capabilities)?, capabilities)?
    {
        return Ok(reply(ingest, &found.record, found.record.offset, true));
    }
    let asked = Instant::now();
    let held = ingest.uploads.hold(id).await;
    ingest.metrics.lock(held.is_ok(), asked.elapsed());
    let Some(held) = held? else {
        // It moved on between the look and the lock: look again, and leave it at that.
        let found = ingest.uploads.look_whole(id).await?;
        patch.decide(&stored(&found, capabilities)?, capabilities)?;
        return Err(Refusal::Locked.into());
    };
    let record = held.ledger.record().ok_or(Refusal::Locked)?;
    let stored = of_record(&record);
    match patch.decide(&stored, capabilities)? {
        Plan::AlreadyComplete(_) => Err(Refusal::Locked.into()),
        Plan::Append(plan) => {
            let reached = receive(ingest, &request, held, &plan, stored.kind).await?;
            Ok(reply(ingest, &record, reached.offset, reached.complete))
        }
    }
}

fn reply(ingest: &Ingest, record: &Record, offset: Offset, complete: bool) -> Response {
    let mut fields = patch::reply(offset);
    let record = Record {
        last_write: UnixTime::now(),
        ..record.clone()
    };
    announce_expiry(&mut fields, &record, complete, &ingest.capabilities);
    respond(StatusCode::NO_CONTENT, fields)
}
