//! The protocol's requests, one method each: no retries, no loops. `answer` reads what comes back.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy as Redirects;
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode, Url};
use thiserror::Error as ThisError;

use crate::answer::{self, Capabilities, Created, Standing};
use crate::body::Piece;
use crate::config::Config;
use crate::exit::UploadError;
use crate::meter::Meter;

/// The one version that is spoken.
const VERSION: &str = "1.0.0";

const BODY_TYPE: &str = "application/offset+octet-stream";

/// Establishing a connection is either quick or hopeless.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server without reflinks copies while it joins parts; it is given this many times the usual.
const CONCATENATION_PATIENCE: u32 = 15;

/// Why a request has no usable answer.
#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    /// No answer, or not all of it. `lasting` if another attempt must fail too.
    #[error("{reason}")]
    Broken { reason: String, lasting: bool },
    /// Neither side moved a byte for this long.
    #[error("nothing moved for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    /// Another status than success.
    #[error("{status} {text}")]
    Status {
        status: u16,
        text: String,
        retry_after: Option<Duration>,
    },
    /// Success, but without what the protocol demands in it.
    #[error("not the answer of a tus server: {0}")]
    Garbled(String),
    /// Our own side.
    #[error(transparent)]
    Local(#[from] UploadError),
}

impl Failure {
    /// The pause that the server asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Broken { .. } | Self::Stalled(_) | Self::Garbled(_) | Self::Local(_) => None,
        }
    }
}

/// What an upload shall be when it is created.
#[derive(Debug)]
pub(crate) struct Creation<'a> {
    /// `None`: told later (creation-defer-length).
    pub length: Option<u64>,
    /// The value of `Upload-Metadata`.
    pub metadata: Option<&'a str>,
    /// The value of `Upload-Concat`.
    pub concat: Option<&'a str>,
    /// The whole content (creation-with-upload).
    pub content: Option<Piece>,
}

/// What goes with one PATCH.
#[derive(Debug)]
pub(crate) struct Append {
    pub piece: Piece,
    pub offset: u64,
    /// The value of `Upload-Checksum`.
    pub checksum: Option<String>,
    /// The value of `Upload-Length`, when it was deferred and is known now.
    pub length: Option<u64>,
}

/// Speaks to one server.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    stall: Duration,
}

impl Client {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// An unreadable certificate file.
    pub(crate) fn new(config: &Config) -> Result<Self, UploadError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tuspool-upload/", env!("CARGO_PKG_VERSION")))
            .default_headers(config.headers.clone())
            // A redirect would turn a POST into a GET, and take --header to another host.
            .redirect(Redirects::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_danger_accept_invalid_certs(config.insecure);
        if let Some(path) = &config.cacert {
            let failed = || UploadError::local(format!("failed to read {}", path.display()));
            let pem = fs::read(path).map_err(failed())?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .map_err(|error| failed()(std::io::Error::other(error)))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder.build().map_err(|error| {
            UploadError::local("failed to set up HTTP")(std::io::Error::other(chain(&error)))
        })?;
        Ok(Self {
            http,
            endpoint: config.endpoint.clone(),
            stall: config.stall,
        })
    }

    /// Asks what the server offers. A server that does not answer OPTIONS is taken to offer creation
    /// alone.
    pub(crate) async fn capabilities(&self) -> Result<Capabilities, Failure> {
        let request = self.http.request(Method::OPTIONS, self.endpoint.clone());
        let response = self.send(request, &Meter::idle(), self.stall).await?;
        if response.status().is_client_error() && !answer::is_passing(response.status()) {
            return Ok(Capabilities::default());
        }
        let response = self.expect_success(response).await?;
        Ok(Capabilities::read(response.headers()))
    }

    /// Creates an upload.
    pub(crate) async fn create(
        &self,
        creation: Creation<'_>,
        meter: &Arc<Meter>,
    ) -> Result<Created, Failure> {
        let mut headers = HeaderMap::new();
        match creation.length {
            Some(length) => put(&mut headers, "upload-length", &length.to_string())?,
            None if creation
                .concat
                .is_some_and(|value| value.starts_with("final")) => {}
            None => put(&mut headers, "upload-defer-length", "1")?,
        }
        for (name, value) in [
            ("upload-metadata", creation.metadata),
            ("upload-concat", creation.concat),
        ] {
            if let Some(value) = value {
                put(&mut headers, name, value)?;
            }
        }
        let is_final = creation.length.is_none() && creation.concat.is_some();
        let patience = if is_final {
            self.stall * CONCATENATION_PATIENCE
        } else {
            self.stall
        };
        let request = self.request(Method::POST, &self.endpoint);
        let response = match creation.content {
            Some(piece) => {
                put(&mut headers, CONTENT_TYPE.as_str(), BODY_TYPE)?;
                self.send_piece(request.headers(headers), piece, meter, patience)
                    .await?
            }
            None => {
                put(&mut headers, "content-length", "0")?;
                self.send(request.headers(headers), meter, patience).await?
            }
        };
        let response = self.expect_success(response).await?;
        Created::read(&self.endpoint, response.headers())
    }

    /// Where an upload stands.
    pub(crate) async fn head(&self, url: &Url) -> Result<Standing, Failure> {
        let request = self.request(Method::HEAD, url);
        let response = self.send(request, &Meter::idle(), self.stall).await?;
        let response = self.expect_success(response).await?;
        Standing::read(response.headers())
    }

    /// Appends; the answer is the new offset.
    pub(crate) async fn patch(
        &self,
        url: &Url,
        append: Append,
        meter: &Arc<Meter>,
    ) -> Result<u64, Failure> {
        let mut headers = HeaderMap::new();
        put(&mut headers, CONTENT_TYPE.as_str(), BODY_TYPE)?;
        put(&mut headers, "upload-offset", &append.offset.to_string())?;
        if let Some(checksum) = &append.checksum {
            put(&mut headers, "upload-checksum", checksum)?;
        }
        if let Some(length) = append.length {
            put(&mut headers, "upload-length", &length.to_string())?;
        }
        let request = self.request(Method::PATCH, url).headers(headers);
        let response = self
            .send_piece(request, append.piece, meter, self.stall)
            .await?;
        let response = self.expect_success(response).await?;
        answer::offset(response.headers())
    }

    /// Removes an upload.
    pub(crate) async fn terminate(&self, url: &Url) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, url);
        let response = self.send(request, &Meter::idle(), self.stall).await?;
        self.expect_success(response).await.map(|_| ())
    }

    /// The JSON that a server may tell about an upload, also with 410 about one that is no more;
    /// empty if it is something else, such as the uploaded file itself.
    pub(crate) async fn state(&self, url: &Url) -> Result<Vec<u8>, Failure> {
        let accept = HeaderValue::from_static("application/json");
        let request = self
            .request(Method::GET, url)
            .header(reqwest::header::ACCEPT, accept);
        let response = self.send(request, &Meter::idle(), self.stall).await?;
        let is_json = answer::is_json(response.headers());
        if response.status() == StatusCode::GONE && is_json {
            return self.read_some(response).await;
        }
        let response = self.expect_success(response).await?;
        if is_json {
            self.read_some(response).await
        } else {
            Ok(Vec::new())
        }
    }

    fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        self.http
            .request(method, url.clone())
            .header("tus-resumable", VERSION)
    }

    async fn send_piece(
        &self,
        request: RequestBuilder,
        piece: Piece,
        meter: &Arc<Meter>,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let length = piece.to - piece.from;
        let (body, read_error) = piece.into_body(meter);
        let request = request.header("content-length", length).body(body);
        let sent = self.send(request, meter, patience).await;
        match read_error.take() {
            Some(error) => Err(Failure::Local(error)),
            None => sent,
        }
    }

    /// Waits as long as the meter keeps moving.
    async fn send(
        &self,
        request: RequestBuilder,
        meter: &Meter,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let mut sending = std::pin::pin!(request.send());
        let mut seen = meter.activity();
        loop {
            if let Ok(sent) = tokio::time::timeout(patience, &mut sending).await {
                return sent.map_err(|error| broken(&error));
            }
            let now = meter.activity();
            if now == seen {
                return Err(Failure::Stalled(patience));
            }
            seen = now;
        }
    }

    async fn expect_success(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = answer::retry_after(response.headers(), std::time::SystemTime::now());
        let text = match answer::redirect(status, response.headers()) {
            Some(text) => text,
            None => answer::text(status, &self.read_some(response).await.unwrap_or_default()),
        };
        Err(Failure::Status {
            status: status.as_u16(),
            text,
            retry_after,
        })
    }

    /// The beginning of an answer's body; a server may send whatever it likes.
    async fn read_some(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while body.len() < answer::BODY_MAX {
            let chunk = tokio::time::timeout(self.stall, response.chunk()).await;
            let chunk = chunk.map_err(|_| Failure::Stalled(self.stall))?;
            match chunk.map_err(|error| broken(&error))? {
                Some(bytes) => body.extend_from_slice(&bytes),
                None => break,
            }
        }
        body.truncate(answer::BODY_MAX);
        Ok(body)
    }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), Failure> {
    let value = HeaderValue::try_from(value).map_err(|error| {
        let what = format!("failed to send the header {name}");
        UploadError::local(what)(std::io::Error::other(error))
    })?;
    headers.insert(name, value);
    Ok(())
}

/// The innermost reasons say what happened; the outer ones repeat the URL.
fn broken(error: &reqwest::Error) -> Failure {
    let reason = chain(error);
    let lasting = error.is_builder() || reason.contains("certificate");
    Failure::Broken { reason, lasting }
}

fn chain(error: &dyn Error) -> String {
    // What reqwest puts around the reason is "error sending request for url (…)".
    let mut next = Some(error.source().unwrap_or(error));
    let mut reasons = Vec::new();
    while let Some(reason) = next {
        reasons.push(reason.to_string());
        next = reason.source();
    }
    // And hyper's "client error (Connect)" around that.
    let telling = |reason: &String| !reason.starts_with("client error (");
    if reasons.iter().any(telling) {
        reasons.retain(telling);
    }
    reasons.dedup();
    crate::text::printable(&reasons.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_explained_and_not_followed() {
        let mut headers = HeaderMap::new();
        headers.insert("location", HeaderValue::from_static("https://other/files/"));
        let text = answer::redirect(StatusCode::MOVED_PERMANENTLY, &headers).unwrap();
        assert!(text.contains("https://other/files/"));
        assert_eq!(answer::redirect(StatusCode::NOT_FOUND, &headers), None);
    }
}
