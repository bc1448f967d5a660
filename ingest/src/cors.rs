//! CORS: which pages may use this server from a browser, and what they may see.

use http::{HeaderMap, HeaderValue, Method, header};

use crate::tus::headers::set;

/// Methods that a page may use.
const METHODS: &str = "POST, HEAD, PATCH, OPTIONS, GET, DELETE";

/// Request header fields that a page may send.
const ALLOWED: &str = "Authorization, Content-Type, Content-Disposition, Content-Digest, Origin, \
Repr-Digest, Tus-Resumable, Upload-Checksum, Upload-Complete, Upload-Concat, Upload-Defer-Length, \
Upload-Draft-Interop-Version, Upload-Incomplete, Upload-Length, Upload-Metadata, Upload-Offset, \
Want-Repr-Digest, X-HTTP-Method-Override, X-Request-ID, X-Requested-With";

/// Response header fields that a page may read.
const EXPOSED: &str = "Location, Repr-Digest, Retry-After, Tus-Checksum-Algorithm, Tus-Extension, \
Tus-Max-Size, Tus-Resumable, Tus-Version, Upload-Complete, Upload-Concat, Upload-Defer-Length, \
Upload-Draft-Interop-Version, Upload-Expires, Upload-Incomplete, Upload-Length, Upload-Limit, \
Upload-Metadata, Upload-Offset, X-Request-ID";

/// Seconds for which a browser may remember a preflight; what Chromium caps it to.
const PREFLIGHT_AGE: &str = "7200";

/// `--cors-origin`: whose pages may use this server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// Send no CORS header at all: no page may, or the proxy in front says who may.
    #[default]
    Off,
    /// Any page (`*`).
    Any,
    /// The pages of these origins, compared byte for byte.
    Only(Vec<HeaderValue>),
}

/// An entry of `--cors-origin` that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin: write scheme://host[:port] as a browser does, or * alone")]
pub struct InvalidOrigin(String);

impl Cors {
    /// Reads the entries of `--cors-origin`; none of them switches CORS off.
    ///
    /// # Errors
    /// [`InvalidOrigin`] for what no browser would ever send as `Origin`: a path or a slash at the
    /// end, upper case, no scheme; `*` beside others; `null`, which every sandboxed page has.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidOrigin> {
        let entries: Vec<&str> = entries.into_iter().map(str::trim).collect();
        match entries.as_slice() {
            [] => Ok(Self::Off),
            ["*"] => Ok(Self::Any),
            some => some
                .iter()
                .map(|entry| origin(entry))
                .collect::<Result<_, _>>()
                .map(Self::Only),
        }
    }

    /// Adds what the answer to a request needs: nothing without `Origin` or for other origins. Pages
    /// of other origins are not refused, browsers keep the answer from them.
    pub fn decorate(&self, method: &Method, request: &HeaderMap, answer: &mut HeaderMap) {
        let allowed = match self {
            Self::Off => return,
            Self::Any => HeaderValue::from_static("*"),
            Self::Only(list) => {
                // A cache must not give one origin's answer to another, nor one without to any.
                answer.append(header::VARY, HeaderValue::from_static("Origin"));
                let origin = request.get(header::ORIGIN);
                match origin.filter(|origin| list.contains(origin)) {
                    Some(origin) => origin.clone(),
                    None => return,
                }
            }
        };
        if !request.contains_key(header::ORIGIN) {
            return;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        let preflight = *method == Method::OPTIONS
            && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if preflight {
            set(answer, "access-control-allow-methods", METHODS);
            set(answer, "access-control-allow-headers", ALLOWED);
            set(answer, "access-control-max-age", PREFLIGHT_AGE);
        } else {
            set(answer, "access-control-expose-headers", EXPOSED);
        }
    }
}

fn origin(entry: &str) -> Result<HeaderValue, InvalidOrigin> {
    let invalid = || InvalidOrigin(entry.to_owned());
    let (scheme, host) = entry.split_once("://").ok_or_else(invalid)?;
    let name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let scheme_ok = !scheme.is_empty() && scheme.bytes().all(|b| name(b) || b"+-.".contains(&b));
    let host_ok = !host.is_empty() && host.bytes().all(|b| name(b) || b"-.:[]_".contains(&b));
    if !scheme_ok || !host_ok {
        return Err(invalid());
    }
    HeaderValue::from_str(entry).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tus::headers;

    const PAGE: &str = "https://page.example";

    fn decorated(cors: &Cors, method: &Method, fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut request = HeaderMap::new();
        for (name, value) in fields {
            request.insert(*name, value.parse().unwrap());
        }
        let mut answer = HeaderMap::new();
        cors.decorate(method, &request, &mut answer);
        answer
    }

    fn lists(value: &HeaderValue, name: &str) -> bool {
        value
            .to_str()
            .unwrap()
            .split(", ")
            .any(|listed| listed.eq_ignore_ascii_case(name))
    }

    #[test]
    fn off_by_default_and_then_no_header_is_sent() {
        assert_eq!(Cors::parse([]), Ok(Cors::Off));
        let answer = decorated(&Cors::default(), &Method::OPTIONS, &[("origin", PAGE)]);
        assert!(answer.is_empty());
    }

    #[test]
    fn only_the_listed_origins_are_answered_and_every_answer_varies() {
        let cors = Cors::parse([PAGE, "http://localhost:3000"]).unwrap();
        let answer = decorated(&cors, &Method::POST, &[("origin", PAGE)]);
        assert_eq!(answer["access-control-allow-origin"], PAGE);
        assert_eq!(answer["vary"], "Origin");
        for other in [
            "https://page.example.evil",
            "http://page.example",
            "https://page.example:444",
            "null",
        ] {
            let answer = decorated(&cors, &Method::POST, &[("origin", other)]);
            assert!(
                !answer.contains_key("access-control-allow-origin"),
                "{other}"
            );
            assert_eq!(answer["vary"], "Origin");
        }
        assert_eq!(decorated(&cors, &Method::POST, &[]).len(), 1);
    }

    #[test]
    fn a_star_allows_any_page_and_is_sent_as_a_star() {
        let cors = Cors::parse(["*"]).unwrap();
        let answer = decorated(&cors, &Method::HEAD, &[("origin", PAGE)]);
        assert_eq!(answer["access-control-allow-origin"], "*");
        assert!(!answer.contains_key("access-control-allow-credentials"));
        assert!(decorated(&cors, &Method::HEAD, &[]).is_empty());
    }

    #[test]
    fn a_preflight_allows_every_request_header_of_both_protocols_and_is_cached() {
        let cors = Cors::parse(["*"]).unwrap();
        let asks = [("origin", PAGE), ("access-control-request-method", "PATCH")];
        let answer = decorated(&cors, &Method::OPTIONS, &asks);
        for name in [
            headers::TUS_RESUMABLE,
            headers::UPLOAD_OFFSET,
            headers::UPLOAD_LENGTH,
            headers::UPLOAD_DEFER_LENGTH,
            headers::UPLOAD_METADATA,
            headers::UPLOAD_CHECKSUM,
            headers::UPLOAD_CONCAT,
            headers::METHOD_OVERRIDE,
            headers::CONTENT_TYPE,
            "upload-complete",
            "upload-incomplete",
            "upload-draft-interop-version",
            "content-disposition",
            "authorization",
        ] {
            assert!(
                lists(&answer["access-control-allow-headers"], name),
                "{name}"
            );
        }
        for method in ["POST", "HEAD", "PATCH", "DELETE", "GET", "OPTIONS"] {
            assert!(lists(&answer["access-control-allow-methods"], method));
        }
        assert!(answer.contains_key("access-control-max-age"));
        let plain = decorated(&cors, &Method::OPTIONS, &[("origin", PAGE)]);
        assert!(!plain.contains_key("access-control-allow-methods"));
    }

    #[test]
    fn every_response_header_of_both_protocols_is_exposed() {
        let cors = Cors::parse(["*"]).unwrap();
        let answer = decorated(&cors, &Method::HEAD, &[("origin", PAGE)]);
        for name in [
            "location",
            headers::TUS_RESUMABLE,
            headers::TUS_VERSION,
            headers::TUS_EXTENSION,
            headers::TUS_MAX_SIZE,
            headers::TUS_CHECKSUM_ALGORITHM,
            headers::UPLOAD_OFFSET,
            headers::UPLOAD_LENGTH,
            headers::UPLOAD_DEFER_LENGTH,
            headers::UPLOAD_METADATA,
            headers::UPLOAD_CONCAT,
            headers::UPLOAD_EXPIRES,
            "upload-complete",
            "upload-incomplete",
            "upload-limit",
            "upload-draft-interop-version",
        ] {
            assert!(
                lists(&answer["access-control-expose-headers"], name),
                "{name}"
            );
        }
    }

    #[test]
    fn what_no_browser_sends_as_origin_is_refused() {
        for bad in [
            "",
            "page.example",
            "https://page.example/",
            "https://Page.example",
            "null",
            "https://",
            "://x",
            "https://*.page.example",
            "https://page.example/x",
            "https://a b",
        ] {
            assert_eq!(
                Cors::parse([bad]),
                Err(InvalidOrigin(bad.to_owned())),
                "{bad:?}"
            );
        }
        assert_eq!(Cors::parse(["*", PAGE]), Err(InvalidOrigin("*".to_owned())));
        for good in [
            "http://localhost:3000",
            "http://[::1]:80",
            "capacitor://localhost",
        ] {
            assert!(Cors::parse([good]).is_ok(), "{good}");
        }
    }
}
