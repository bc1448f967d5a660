//! From a request to its answer: one filter that takes every request, so that no answer is made by
//! anyone but us. No decisions (the protocol's folders make them), no files (`uploads` has them).

mod create;
mod head;
mod patch;
mod receive;
mod state;
mod stored;
mod terminate;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use shared::id::UploadId;
use tracing::Instrument as _;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::location::Facts;
use crate::net::exchange::Exchange;
use crate::tus::headers::{self, BodySize};
use crate::tus::method::{self, Resource};
use crate::tus::options;
use crate::tus::refusal::Refusal;

/// A request as the handlers see it.
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) exchange: Exchange,
}

impl Request {
    /// What is known about the body before its first byte.
    fn body_size(&self) -> Result<BodySize, Refusal> {
        let ended = self.exchange.has_no_body();
        BodySize::of(&self.headers, self.exchange.version, ended)
    }

    /// What the request tells about the way it came.
    pub(crate) fn facts(&self) -> Facts<'_> {
        let peer = Some(self.exchange.peer.ip());
        Facts {
            peer,
            tls: false,
            uri: &self.exchange.uri,
            headers: &self.headers,
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
    warp::method()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Exchange>())
        .then(
            move |method: Method, path: FullPath, headers: HeaderMap, exchange: Exchange| {
                let ingest = Arc::clone(&ingest);
                let path = path.as_str().to_owned();
                async move {
                    answer(
                        &ingest,
                        method,
                        Request {
                            path,
                            headers,
                            exchange,
                        },
                    )
                    .await
                }
            },
        )
}

/// Answers, adds what every answer of ours carries, and writes the access line.
async fn answer(ingest: &Arc<Ingest>, method: Method, request: Request) -> Response {
    let started = Instant::now();
    let (peer, path) = (request.exchange.peer, request.path.clone());
    let mut response = match dispatch(ingest, method.clone(), request).await {
        Ok(response) => response,
        Err(error) => {
            let (code, response) = error.into_response();
            ingest.metrics.refused(code);
            response
        }
    };
    let status = response.status().as_u16();
    let took = started.elapsed();
    ingest.metrics.request(&method, status, took);
    let ms = took.as_secs_f64() * 1e3;
    tracing::info!(target: "access", %peer, %method, path, status, ms, "answered");
    let fields = response.headers_mut();
    fields.insert(
        headers::TUS_RESUMABLE,
        HeaderValue::from_static(headers::VERSION),
    );
    fields.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn dispatch(
    ingest: &Arc<Ingest>,
    method: Method,
    request: Request,
) -> Result<Response, IngestError> {
    let method = method::effective(&method, &request.headers)?;
    let target = target(&request.path, &ingest.base_path).ok_or(Refusal::NotFound)?;
    let capabilities = &ingest.capabilities;
    let (resource, id) = match target {
        Target::Root if method == Method::GET => return Ok(name_the_service()),
        Target::Root => return Err(Refusal::NotFound.into()),
        Target::Collection => (Resource::Collection, None),
        Target::Upload(id) => (Resource::Upload, Some(id)),
    };
    if method == Method::OPTIONS {
        let fields = options::reply(resource, capabilities);
        return Ok(respond(StatusCode::NO_CONTENT, fields));
    }
    method::require(&method, resource, capabilities)?;
    let Some(id) = id else {
        return create::create(ingest, request).await;
    };
    let span = tracing::info_span!("request", %method, upload_id = %id);
    let handled = async move {
        match method {
            Method::HEAD => head::head(ingest, id, &request).await,
            Method::GET => state::state(ingest, id).await,
            Method::PATCH => patch::patch(ingest, id, request).await,
            Method::DELETE => terminate::terminate(ingest, id, &request).await,
            _ => Err(Refusal::NotFound.into()),
        }
    };
    handled.instrument(span).await
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
