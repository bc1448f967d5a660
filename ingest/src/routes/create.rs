//! `POST`: create an upload, with its first bytes if they come along.

use admin::ingest::UploadEvent;
use http::StatusCode;
use shared::ending::End;
use shared::id::UploadId;
use shared::lookup::State;
use shared::record::Record;
use shared::size::Offset;
use shared::time::UnixTime;
use tracing::Instrument as _;
use warp::reply::Response;

use super::receive::{check, receive};
use super::stored::{announce_expiry, new_record, of_record};
use super::{Request, respond};
use crate::append::{Append, Held};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::checksum::Announced;
use crate::tus::concat::Site;
use crate::tus::create::{self, Create, Plan};
use crate::tus::declared;
use crate::tus::patch::Reached;
use crate::tus::refusal::Refusal;
use crate::tus::stored::{Kind, Stored};

pub(super) async fn create(ingest: &Ingest, request: &Request) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    let facts = request.facts();
    let authorities = ingest.locator.authorities(&facts);
    let site = Site {
        base: &ingest.base_path,
        path: &request.path,
        authorities: &authorities,
    };
    let create = Create::parse(request.headers(), request.body_size()?, &site, capabilities)?;
    let declared = declared::digest(create.metadata())?;
    let parts = look_at_parts(ingest, create.parts()).await?;
    let plan = create.decide(&parts, capabilities)?;
    let has_body = plan.first.is_some();
    let created = carry_out(ingest, request, plan, declared, None).await?;
    let reached = created.reached;
    let mut fields = create::reply(&created.location, has_body.then_some(reached.offset));
    announce_expiry(&mut fields, &created.record, reached.complete, capabilities);
    Ok(respond(StatusCode::CREATED, fields))
}

/// An upload that was created, and what came along.
pub(super) struct Created {
    pub(super) id: UploadId,
    pub(super) location: String,
    pub(super) record: Record,
    pub(super) reached: Reached,
}

/// Tells the client where its upload is before the body is read; makes the interim answer.
pub(super) type Early<'a> = &'a (dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync);

/// What is known of each of them; nothing of one that is not being received (any more).
pub(super) async fn look_at_parts(
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

/// Creates an upload as planned, whichever protocol planned it.
pub(super) async fn carry_out(
    ingest: &Ingest,
    request: &Request,
    plan: Plan,
    declared: Option<Announced>,
    early: Option<Early<'_>>,
) -> Result<Created, IngestError> {
    let is_final = !plan.parts.is_empty();
    let bytes = plan.length.map_or(0, |length| length.0);
    match is_final {
        true => ingest.uploads.admit_final(bytes)?,
        false => ingest.uploads.admit(bytes)?,
    }
    let mut record = new_record(&plan, UnixTime::now());
    record.rest.declared_digest = declared.map(|digest| digest.to_string());
    let id = UploadId::generate();
    let location = ingest.locate(request, id);
    let span = tracing::info_span!("create", upload_id = %id);
    let filled = async {
        ingest.ask_to_create(id, request, &mut record).await?;
        let held = ingest.uploads.create(id, record.clone()).await?;
        ingest.metrics.upload(UploadEvent::Created);
        tracing::info!(length = plan.length.map(|length| length.0), "created");
        let interim = early.and_then(|early| early(&location));
        let is_told = interim.is_some();
        let held = match interim {
            Some(interim) => tell_early(ingest, request, held, &interim).await?,
            None => held,
        };
        let filled = fill(ingest, request, held, &plan).await;
        if let Err(error) = &filled
            && !is_told
        {
            give_up(ingest, id, error).await;
        }
        filled
    };
    let filled = filled.instrument(span).await;
    if filled.is_err() {
        ingest.uploads.creation_failed(id);
    }
    let reached = filled?;
    if is_final {
        ingest.uploads.join(id, plan.parts).await?;
    }
    Ok(Created {
        id,
        location,
        record,
        reached,
    })
}

/// Makes the upload durable and tells the client where it is. From now on it can be found, also
/// if everything ends here.
async fn tell_early(
    ingest: &Ingest,
    request: &Request,
    held: Held,
    interim: &[u8],
) -> Result<Held, IngestError> {
    let held = ingest.uploads.settle_creation(held).await?;
    if let Err(error) = request.exchange.write_interim(interim) {
        tracing::debug!(%error, "no interim answer");
    }
    Ok(held)
}

/// Ends an upload whose client will not be told where it is, because something is wrong with what
/// came along: nobody could go on with it, and until it expired it would take up its whole length.
async fn give_up(ingest: &Ingest, id: UploadId, error: &IngestError) {
    // Somebody knows of it all the same, and has taken it over.
    if matches!(error, IngestError::Refused(Refusal::Locked)) {
        return;
    }
    match ingest.uploads.end_unreceived(id).await {
        Ok(End::Ended) => ingest.metrics.upload(UploadEvent::Terminated),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "left to expire"),
    }
}

/// Gives the new upload what came along, which may be nothing, and makes it durable.
async fn fill(
    ingest: &Ingest,
    request: &Request,
    held: Held,
    plan: &Plan,
) -> Result<Reached, IngestError> {
    let record = held.ledger.record().ok_or(Refusal::Locked)?;
    if let Some(first) = &plan.first {
        return receive(ingest, request, held, first, &record).await;
    }
    let complete = plan.complete_at_once();
    let whole = plan.length.filter(|_| complete && plan.kind == Kind::Whole);
    let mut append = Append::new(held, 0, true);
    if whole.is_some() {
        let (checked, verdict) = check(ingest, append, None, record).await?;
        verdict?;
        append = checked;
    }
    ingest.uploads.commit(append, whole).await?;
    if whole.is_some() {
        ingest.metrics.upload(UploadEvent::Completed);
    }
    Ok(Reached {
        offset: Offset(0),
        length: plan.length,
        complete,
    })
}
