//! `PATCH`: append to an upload. And the one way in which bytes get into any upload.

use std::sync::Arc;

use http::StatusCode;
use shared::id::UploadId;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::time::UnixTime;
use warp::reply::Response;

use super::stored::{announce_expiry, of_record, stored};
use super::{Request, respond};
use crate::append::{Append, Held};
use crate::body::{self, End};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::ledger::Lost;
use crate::tus::patch::{self, Patch, Plan, Reached};
use crate::tus::refusal::Refusal;
use crate::tus::stored::Kind;

pub(super) async fn patch(
    ingest: &Arc<Ingest>,
    id: UploadId,
    request: Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    let patch = Patch::parse(&request.headers, request.body_size()?, capabilities)?;
    // Without the lock first: a request for the wrong place must not disturb the writer.
    let found = ingest.uploads.look_whole(id).await?;
    if let Plan::AlreadyComplete(_) = patch.clone().decide(&stored(&found)?, capabilities)? {
        return Ok(reply(ingest, &found.record, found.record.offset, true));
    }
    let Some(held) = ingest.uploads.hold(id).await? else {
        // It moved on between the look and the lock: look again, and leave it at that.
        let found = ingest.uploads.look_whole(id).await?;
        patch.decide(&stored(&found)?, capabilities)?;
        return Err(Refusal::Locked.into());
    };
    let record = held.ledger.record().ok_or(Refusal::Locked)?;
    let stored = of_record(&record);
    match patch.decide(&stored, capabilities)? {
        Plan::AlreadyComplete(_) => Err(Refusal::Locked.into()),
        Plan::Append(plan) => {
            let reached = append(ingest, request, held, &plan, stored.kind).await?;
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

/// Receives a body into an upload that is held, as planned, and commits it. However the body ends,
/// what arrived and may count is kept; then the end's own answer is given.
pub(super) async fn append(
    ingest: &Arc<Ingest>,
    request: Request,
    held: Held,
    plan: &patch::Append,
    kind: Kind,
) -> Result<Reached, IngestError> {
    let known = held.ledger.record().and_then(|record| record.length);
    let new_length = plan.length.filter(|length| known != Some(*length));
    if let Some(length) = new_length {
        // It has just become known, and with it how much space is needed.
        ingest.uploads.admit(length.0.saturating_sub(plan.at.0))?;
        ingest.uploads.reserve(&held.ledger, length)?;
    }
    let end = plan.at.0.saturating_add(plan.room.most);
    let mut append = Append::new(held, end, plan.verify.counts_at_once());
    if let Some(length) = new_length {
        append.set_length(length)?;
    }
    let mut body = request.exchange.take_body();
    let ended = body::receive(&mut body, &mut append, &ingest.patience).await;
    let refusal = refusal(&ended, &plan.room.beyond);
    let position = append.position();
    let reached = plan.reached(position.0 - plan.at.0, refusal.is_none());
    let complete = matches!(&reached, Ok(reached) if reached.complete);
    let whole = complete && kind == Kind::Whole && !matches!(ended, End::Lost(_));
    let whole = whole.then_some(Length(position.0));
    let committed = ingest.uploads.commit(append, whole).await;
    log_end(&ended);
    match (refusal, committed) {
        (None, Ok(())) => Ok(reached?),
        (_, Err(error)) => Err(error),
        (Some(refusal), Ok(())) => Err(refusal),
    }
}

/// The answer to a body that did not come to its end.
fn refusal(ended: &End, beyond: &Refusal) -> Option<IngestError> {
    Some(match ended {
        End::Complete => return None,
        End::Broken(_) => Refusal::BodyBroken.into(),
        End::Stalled => Refusal::BodyTimeout.into(),
        End::Cut => Refusal::Draining.into(),
        End::Replaced | End::Lost(Lost::ToAnother) => Refusal::Locked.into(),
        End::TooLong => beyond.clone().into(),
        End::Disk(error) if error.is_full() => Refusal::InsufficientStorage.into(),
        End::Disk(_) | End::Lost(Lost::Unreadable(_)) => Refusal::Internal.into(),
    })
}

fn log_end(ended: &End) {
    match ended {
        End::Complete => {}
        End::Disk(error) => tracing::error!(%error, "cannot write"),
        End::Lost(Lost::Unreadable(error)) => tracing::error!(%error, "cannot go on"),
        End::Broken(error) => tracing::info!(%error, "body broke off; what came is kept"),
        End::Stalled | End::Cut | End::Replaced | End::TooLong | End::Lost(Lost::ToAnother) => {
            tracing::info!(?ended, "body ended early; what came is kept");
        }
    }
}
