//! From a request to its answer: one filter that takes every request, so that no answer is made by
//! anyone but us. No decisions (the protocol's folders make them), no files (`uploads` has them).

mod create;
mod draft;
mod head;
mod patch;
mod receive;
mod state;
mod stored;
mod terminate;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use shared::id::UploadId;
use tracing::Instrument as _;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::draft::limits;
use crate::draft::version::Protocol;
use crate::error::{self, IngestError};
use crate::ingest::Ingest;
use crate::location::{Facts, require_host};
use crate::net::exchange::Exchange;
use crate::tus::headers::{self, BodySize};
use crate::tus::method::{self, Resource};
use crate::tus::options;
use crate::tus::refusal::Refusal;

/// A request as the handlers see it.
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) exchange: Exchange,
}

impl Request {
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.exchange.headers
    }

    /// What is known about the body before its first byte.
    fn body_size(&self) -> Result<BodySize, Refusal> {
        let ended = self.exchange.has_no_body();
        BodySize::of(self.headers(), self.exchange.version, ended)
    }

    /// What the request tells about the way it came.
    pub(crate) fn facts(&self) -> Facts<'_> {
        let peer = Some(self.exchange.peer.ip());
        Facts {
            peer,
            tls: false,
            uri: &self.exchange.uri,
            headers: self.headers(),
        }
    }
}

/// What a path names.
enum Target {
    Root,
    Collection,
    Upload(UploadId),
}

/// Every method and every path. Its error is warp's formality: the exchange is always there.
pub(crate) fn routes(
    ingest: Arc<Ingest>,
) -> impl Filter<Extract = (Response,), Error = Rejection, Future: Send> + Clone {
    warp::method().and(warp::ext::get::<Exchange>()).then(
        move |method: Method, exchange: Exchange| {
            // Not by warp's filter, which panics where there is none (`CONNECT host:port`).
            let path = exchange.uri.path().to_owned();
            let request = Request { path, exchange };
            // In a place of its own: the connection would be as large as the largest request
            // even while it has none, and be copied about with it.
            Box::pin(answer(Arc::clone(&ingest), method, request))
        },
    )
}

/// Answers, adds what every answer of ours carries, and writes the access line.
async fn answer(ingest: Arc<Ingest>, method: Method, request: Request) -> Response {
    let started = Instant::now();
    let mut response = respond_to(&ingest, &method, &request).await;
    ingest
        .cors
        .decorate(&method, request.headers(), response.headers_mut());
    response.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    let upload_id = named(&ingest.base_path, &request.path, &response);
    let upload_id = upload_id.map(tracing::field::display);
    let (peer, path) = (request.exchange.peer, request.path);
    let status = response.status().as_u16();
    let took = started.elapsed();
    ingest.metrics.request(&method, status, took);
    let ms = took.as_secs_f64() * 1e3;
    tracing::info!(target: "access", %peer, %method, path, upload_id, status, ms, "answered");
    response
}

/// The upload that a request was about: the one of its path, or the one that it made.
fn named(base_path: &str, path: &str, response: &Response) -> Option<UploadId> {
    if let Some(Target::Upload(id)) = target(path, base_path) {
        return Some(id);
    }
    let location = response.headers().get(http::header::LOCATION)?;
    location.to_str().ok()?.rsplit('/').next()?.parse().ok()
}

/// Answers in the protocol that the request speaks, also if it says no.
async fn respond_to(ingest: &Ingest, actual: &Method, request: &Request) -> Response {
    let effective = method::effective(actual, request.headers());
    let method = effective.as_ref().unwrap_or(actual);
    let protocol = Protocol::of(method, request.headers(), ingest.drafts);
    let result = match (&effective, &protocol) {
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal.clone().into()),
        (Ok(method), Ok(protocol)) => dispatch(ingest, *protocol, method, request).await,
    };
    let version = match protocol {
        Ok(Protocol::Tus) => None,
        Ok(Protocol::Draft(version)) => Some(Some(version)),
        Err(_) => Some(None),
    };
    let mut response = result.unwrap_or_else(|error| {
        let refusal = error.into_refusal();
        ingest.metrics.refused(refusal.code());
        match version {
            None => error::answer(&refusal),
            Some(version) => error::problem(&refusal, version, &draft::limit(ingest, None)),
        }
    });
    if version.is_none() {
        let status = response.status();
        let fields = response.headers_mut();
        if *method == Method::PATCH
            && patch::may_go_on_after(status)
            && let Some(Target::Upload(id)) = target(&request.path, &ingest.base_path)
        {
            patch::announce_expiry_of(ingest, id, fields).await;
        }
        fields.insert(
            headers::TUS_RESUMABLE,
            HeaderValue::from_static(headers::VERSION),
        );
    }
    response
}

async fn dispatch(
    ingest: &Ingest,
    protocol: Protocol,
    method: &Method,
    request: &Request,
) -> Result<Response, IngestError> {
    require_host(request.headers(), request.exchange.version)?;
    // "The Server MUST NOT process the request": not even to say that there is nothing here.
    if protocol == Protocol::Tus && *method != Method::OPTIONS {
        headers::accept_version(request.headers())?;
    }
    let target = target(&request.path, &ingest.base_path).ok_or(Refusal::NotFound)?;
    let span = match target {
        Target::Upload(id) => tracing::info_span!("request", %method, upload_id = %id),
        Target::Collection | Target::Root => tracing::Span::none(),
    };
    let handled = async {
        match protocol {
            _ if *method == Method::OPTIONS => options(ingest, &target),
            Protocol::Draft(version) => {
                Box::pin(draft::handle(ingest, version, method, &target, request)).await
            }
            Protocol::Tus => handle(ingest, method, &target, request).await,
        }
    };
    handled.instrument(span).await
}

/// Handles one request of tus, or none in particular.
async fn handle(
    ingest: &Ingest,
    method: &Method,
    target: &Target,
    request: &Request,
) -> Result<Response, IngestError> {
    let capabilities = &ingest.capabilities;
    let id = match target {
        Target::Root if method == Method::GET => return Ok(name_the_service()),
        Target::Root => return Err(Refusal::NotFound.into()),
        Target::Collection => {
            method::require(method, Resource::Collection, capabilities)?;
            return Box::pin(create::create(ingest, request)).await;
        }
        Target::Upload(id) => *id,
    };
    method::require(method, Resource::Upload, capabilities)?;
    // Each in a place of its own, so that one that waits for a slow body needs no room for the rest.
    match *method {
        Method::HEAD => Box::pin(head::head(ingest, id, request)).await,
        Method::GET => Box::pin(state::state(ingest, id)).await,
        Method::PATCH => Box::pin(patch::patch(ingest, id, request)).await,
        Method::DELETE => Box::pin(terminate::terminate(ingest, id, request)).await,
        _ => Err(Refusal::NotFound.into()),
    }
}

fn options(ingest: &Ingest, target: &Target) -> Result<Response, IngestError> {
    let resource = match target {
        Target::Root => return Err(Refusal::NotFound.into()),
        Target::Collection => Resource::Collection,
        Target::Upload(_) => Resource::Upload,
    };
    let mut fields = options::reply(resource, &ingest.capabilities);
    let (drafts, now) = (ingest.drafts, SystemTime::now());
    limits::announce_support(&mut fields, drafts, &ingest.capabilities, now);
    Ok(respond(StatusCode::NO_CONTENT, fields))
}

/// `/files` is `/files/`; below it one segment, which must be an id as we write it.
fn target(path: &str, base: &str) -> Option<Target> {
    match path.strip_prefix(base) {
        Some("") => Some(Target::Collection),
        Some(id) => id.parse().ok().map(Target::Upload),
        None if base.strip_suffix('/') == Some(path) => Some(Target::Collection),
        None if path == "/" => Some(Target::Root),
        None => None,
    }
}

fn name_the_service() -> Response {
    let text = concat!(
        "tuspool ingest ",
        env!("CARGO_PKG_VERSION"),
        ": resumable uploads, tus 1.0.0\n"
    );
    Response::new(text.into())
}

/// An answer without a body.
pub(crate) fn respond(status: StatusCode, fields: HeaderMap) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";

    #[test]
    fn a_path_names_the_collection_an_upload_or_nothing() {
        let at = |path: &str| target(path, "/files/");
        assert!(matches!(at("/files"), Some(Target::Collection)));
        assert!(matches!(at("/files/"), Some(Target::Collection)));
        assert!(matches!(at("/"), Some(Target::Root)));
        assert!(matches!(
            at(&format!("/files/{ID}")),
            Some(Target::Upload(_))
        ));
        for path in [
            "/file",
            "/files//",
            "/files/x",
            "/filesx",
            "",
            "/files/../x",
            "/Files/",
        ] {
            assert!(at(path).is_none(), "{path}");
        }
        for id in [
            "..%2fx",
            &ID.to_uppercase(),
            &format!("{ID}/"),
            &format!("{ID}.meta"),
        ] {
            assert!(at(&format!("/files/{id}")).is_none(), "{id}");
        }
        assert!(matches!(target("/", "/"), Some(Target::Collection)));
        assert!(matches!(
            target(&format!("/{ID}"), "/"),
            Some(Target::Upload(_))
        ));
    }
}
