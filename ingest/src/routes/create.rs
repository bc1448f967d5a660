//! `POST`: create an upload, with its first bytes if they come along.

use std::sync::Arc;

use admin::ingest::UploadEvent;
use http::StatusCode;
use shared::id::UploadId;
use shared::lookup::State;
use shared::size::Offset;
use shared::time::UnixTime;
use tracing::Instrument as _;
use warp::reply::Response;

use super::receive::receive;
use super::stored::{announce_expiry, new_record, of_record};
use super::{Request, respond};
use crate::append::{Append, Held};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::concat::Site;
use crate::tus::create::{self, Create, Plan};
use crate::tus::patch::Reached;
use crate::tus::stored::{Kind, Stored};

pub(super) async fn create(
    ingest: &Arc<Ingest>,
    request: Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    let facts = request.facts();
    let authorities = ingest.locator.authorities(&facts);
    let site = Site {
        base: &ingest.base_path,
        path: &request.path,
        authorities: &authorities,
    };
    let create = Create::parse(&request.headers, request.body_size()?, &site, capabilities)?;
    let parts = look_at_parts(ingest, create.parts()).await?;
    let plan = create.decide(&parts, capabilities)?;
    carry_out(ingest, request, plan).await
}

/// What is known of each of them; nothing of one that is not being received (any more).
async fn look_at_parts(
    ingest: &Ingest,
    parts: &[UploadId],
) -> Result<Vec<Option<Stored>>, IngestError> {
    let mut known = Vec::with_capacity(parts.len());
    for part in parts {
        known.push(match ingest.uploads.look(*part).await {
            Ok(found) if found.state() == State::Receiving => Some(of_record(&found.record)),
            Ok(_) | Err(IngestError::Refused(_)) => None,
            Err(error) => return Err(error),
        });
    }
    Ok(known)
}

async fn carry_out(
    ingest: &Arc<Ingest>,
    request: Request,
    plan: Plan,
) -> Result<Response, IngestError> {
    let is_final = !plan.parts.is_empty();
    let bytes = plan.length.map_or(0, |length| length.0);
    match is_final {
        true => ingest.uploads.admit_final(bytes)?,
        false => ingest.uploads.admit(bytes)?,
    }
    let now = UnixTime::now();
    let mut record = new_record(
        plan.length,
        plan.finish,
        &plan.metadata,
        plan.concat.as_ref(),
        now,
    );
    record.rest.parts = plan.parts.clone();
    let (id, held) = ingest.uploads.create(record.clone()).await?;
    ingest.metrics.upload(UploadEvent::Created);
    let span = tracing::info_span!("create", upload_id = %id);
    let filled = fill(ingest, &request, held, &plan).instrument(span).await;
    let reached = filled?;
    if is_final {
        ingest.uploads.join(id, plan.parts).await?;
    }
    let location = ingest.locate(&request, id);
    let offset = plan.first.is_some().then_some(reached.offset);
    let mut fields = create::reply(&location, offset);
    announce_expiry(&mut fields, &record, reached.complete, &ingest.capabilities);
    Ok(respond(StatusCode::CREATED, fields))
}

/// Gives the new upload what came along, which may be nothing, and makes it durable.
async fn fill(
    ingest: &Ingest,
    request: &Request,
    held: Held,
    plan: &Plan,
) -> Result<Reached, IngestError> {
    tracing::info!(length = plan.length.map(|length| length.0), "created");
    if let Some(first) = &plan.first {
        return receive(ingest, request, held, first, plan.kind).await;
    }
    let complete = plan.complete_at_once();
    let whole = plan.length.filter(|_| complete && plan.kind == Kind::Whole);
    ingest
        .uploads
        .commit(Append::new(held, 0, true), whole)
        .await?;
    if whole.is_some() {
        ingest.metrics.upload(UploadEvent::Completed);
    }
    Ok(Reached {
        offset: Offset(0),
        length: plan.length,
        complete,
    })
}
