//! The IETF draft on the same URLs and the same uploads.

use std::time::SystemTime;

use http::{HeaderMap, Method};
use shared::ending::End;
use shared::id::UploadId;
use shared::record::Record;
use warp::reply::Response;

use super::create::carry_out;
use super::patch::append;
use super::stored::last_write;
use super::terminate::end;
use super::{Request, Target, respond};
use crate::draft::append::{self, Append};
use crate::draft::create::{self, Create};
use crate::draft::version::Version;
use crate::draft::{cancel, digest, interim, limits, offset};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::tus::method::{self, Resource};
use crate::tus::refusal::Refusal;
use crate::tus::stored::Stored;

/// Handles one request of the draft; `method` is the effective one.
pub(super) async fn handle(
    ingest: &Ingest,
    version: Version,
    method: &Method,
    target: &Target,
    request: &Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    match (target, method) {
        (Target::Collection, method) if create::is_creation(method) => {
            creation(ingest, version, request).await
        }
        (Target::Upload(id), &Method::HEAD) => retrieval(ingest, version, *id, request).await,
        (Target::Upload(id), &Method::PATCH) => appending(ingest, version, *id, request).await,
        (Target::Upload(id), &Method::DELETE) => cancellation(ingest, version, *id).await,
        (Target::Collection, _) => {
            method::require(method, Resource::Collection, capabilities)?;
            Err(Refusal::NotFound.into())
        }
        (Target::Upload(_), _) => {
            method::require(method, Resource::Upload, capabilities)?;
            Err(Refusal::NotFound.into())
        }
        (Target::Root, _) => Err(Refusal::NotFound.into()),
    }
}

/// `Upload-Limit` of an upload, or of any if it is none in particular.
pub(super) fn limit(ingest: &Ingest, record: Option<&Record>) -> String {
    limits::value(
        &ingest.capabilities,
        record.map(last_write),
        SystemTime::now(),
    )
}

async fn creation(
    ingest: &Ingest,
    version: Version,
    request: &Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    create::require_creation(capabilities)?;
    let create = Create::parse(
        request.headers(),
        request.body_size()?,
        version,
        capabilities,
    )?;
    let plan = create.decide(capabilities)?;
    let any = limit(ingest, None);
    // Only a client that has a body to send gains by it.
    let drafts = ingest.drafts;
    let early = |location: &str| interim::response(version, drafts, location, &any);
    let has_body = plan.upload.first.is_some();
    let created = carry_out(
        ingest,
        request,
        plan.upload,
        plan.whole_digest,
        has_body.then_some(&early),
    )
    .await?;
    let own = limit(ingest, Some(&created.record));
    let (status, mut fields) = create::reply(version, &created.location, created.reached, &own);
    answer_digest(ingest, request, created.id, &mut fields).await;
    Ok(respond(status, fields))
}

async fn retrieval(
    ingest: &Ingest,
    version: Version,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    let found = super::head::look(ingest, id).await?;
    let stored = super::head::known(ingest, &found).await?;
    let own = limit(ingest, Some(&found.record));
    let (status, mut fields) = offset::reply(version, &stored, &own);
    digest::answer(
        &mut fields,
        request.headers(),
        found.record.digest.as_deref(),
    );
    Ok(respond(status, fields))
}

async fn appending(
    ingest: &Ingest,
    version: Version,
    id: UploadId,
    request: &Request,
) -> Result<Response, IngestError> {
    let parsed = Append::parse(request.headers(), request.body_size()?, version)?;
    let decide = |stored: &Stored| parsed.clone().decide(stored, &ingest.capabilities);
    let appended = append(ingest, id, request, decide).await;
    if let Err(IngestError::Refused(Refusal::Overrun { .. })) = &appended {
        // What the client says and what it sends cannot both be true: nobody may go on from here.
        if end(ingest, id).await? == End::Ended {
            tracing::info!(upload_id = %id, "deactivated: more bytes than its length");
        }
    }
    let (_, reached) = appended?;
    let (status, mut fields) = append::reply(version, reached);
    answer_digest(ingest, request, id, &mut fields).await;
    Ok(respond(status, fields))
}

/// Tells the digest of an upload that has just been completed, if the client wants it and it is
/// known: the record has it since the hand-over.
async fn answer_digest(ingest: &Ingest, request: &Request, id: UploadId, fields: &mut HeaderMap) {
    if request.headers().contains_key(digest::WANT_REPR_DIGEST)
        && let Ok(found) = ingest.uploads.peek(id).await
    {
        digest::answer(fields, request.headers(), found.record.digest.as_deref());
    }
}

async fn cancellation(
    ingest: &Ingest,
    version: Version,
    id: UploadId,
) -> Result<Response, IngestError> {
    cancel::parse(&ingest.capabilities)?;
    super::terminate::expect_ended(end(ingest, id).await?)?;
    let (status, fields) = cancel::reply(version);
    Ok(respond(status, fields))
}
