//! Reading answers: headers in, values out. Nothing here sends or waits.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url};

use crate::cli::Algorithm;
use crate::client::Failure;
use crate::text::{first_line, printable};

/// No more of an answer's body is read: more than any line of text or state needs.
pub(crate) const BODY_MAX: usize = 1 << 20;

/// What a server said in answer to OPTIONS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// `None`: it did not say.
    pub versions: Option<Vec<String>>,
    pub extensions: Vec<String>,
    pub checksums: Vec<String>,
    /// Longest upload in bytes.
    pub max_size: Option<u64>,
}

impl Capabilities {
    /// Leniently: what cannot be read was not said.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let list = |name: &str| -> Option<Vec<String>> {
            let values = headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok());
            let words = values
                .flat_map(|value| value.split(','))
                .map(|word| word.trim().to_lowercase());
            headers
                .get(name)
                .map(|_| words.filter(|word| !word.is_empty()).collect())
        };
        Self {
            versions: list("tus-version"),
            extensions: list("tus-extension").unwrap_or_default(),
            checksums: list("tus-checksum-algorithm").unwrap_or_default(),
            max_size: number(headers, "tus-max-size").ok().flatten(),
        }
    }

    /// Whether tus 1.0.0 is spoken, as far as the server tells.
    pub(crate) fn speaks_our_version(&self) -> bool {
        self.versions
            .as_ref()
            .is_none_or(|versions| versions.iter().any(|v| v == "1.0.0"))
    }

    /// Whether an extension is offered.
    pub(crate) fn offers(&self, extension: &str) -> bool {
        self.extensions.iter().any(|offered| offered == extension)
    }

    /// Whether checksums of this kind are verified.
    pub(crate) fn verifies(&self, algorithm: Algorithm) -> bool {
        self.offers("checksum") && self.checksums.iter().any(|known| known == algorithm.name())
    }
}

/// The answer to a creation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Created {
    pub url: Url,
    /// Only told when content came along.
    pub offset: Option<u64>,
}

impl Created {
    pub(crate) fn read(endpoint: &Url, headers: &HeaderMap) -> Result<Self, Failure> {
        let location = headers.get(LOCATION).ok_or_else(|| missing("Location"))?;
        let location = location.to_str().map_err(|_| unreadable("Location"))?;
        let url = resolve(endpoint, location)?;
        Ok(Self {
            url,
            offset: number(headers, "upload-offset")?,
        })
    }
}

/// The answer to HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub offset: u64,
    /// `None` while it is deferred.
    pub length: Option<u64>,
}

impl Standing {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Failure> {
        Ok(Self {
            offset: offset(headers)?,
            length: number(headers, "upload-length")?,
        })
    }
}

/// The offset that every answer to HEAD and PATCH must carry.
pub(crate) fn offset(headers: &HeaderMap) -> Result<u64, Failure> {
    number(headers, "upload-offset")?.ok_or_else(|| missing("Upload-Offset"))
}

/// A header of digits alone; absent and malformed are two answers.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits
        .and_then(|text| text.parse().ok())
        .map(Some)
        .ok_or_else(|| unreadable(name))
}

fn missing(name: &str) -> Failure {
    Failure::Garbled(format!("no {name}"))
}

fn unreadable(name: &str) -> Failure {
    Failure::Garbled(format!("unreadable {name}"))
}

/// The upload's URL as seen from the endpoint. A server behind a TLS proxy often calls itself `http:`;
/// on the same host that is corrected, to another host nothing is sent in the clear.
fn resolve(endpoint: &Url, location: &str) -> Result<Url, Failure> {
    let mut url = endpoint
        .join(location)
        .map_err(|_| unreadable("Location"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unreadable("Location"));
    }
    if endpoint.scheme() == "https" && url.scheme() == "http" {
        let same_host = url.host_str() == endpoint.host_str();
        let corrected = same_host && url.port().is_none_or(|port| port == 80);
        let set =
            corrected && url.set_scheme("https").is_ok() && url.set_port(endpoint.port()).is_ok();
        if !set {
            let shown = printable(location);
            return Err(Failure::Garbled(format!(
                "Location leads away from https: {shown}"
            )));
        }
    }
    Ok(url)
}

/// Statuses that say "not now" although they are 4xx.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429)
}

/// Seconds or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text)
        .ok()?
        .duration_since(now)
        .ok()
}

/// Where a redirect leads, as a hint.
pub(crate) fn redirect(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let target = headers.get(LOCATION).filter(|_| status.is_redirection())?;
    let target = printable(&String::from_utf8_lossy(target.as_bytes()));
    Some(format!("it redirects to {target} (give that to --to)"))
}

/// The server's own line of text, or the status in words.
pub(crate) fn text(status: StatusCode, body: &[u8]) -> String {
    let line = first_line(&String::from_utf8_lossy(body));
    if line.is_empty() || line.starts_with('<') {
        return status.canonical_reason().unwrap_or_default().to_owned();
    }
    line
}

/// Whether an answer claims to be JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = value
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    kind.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        let read = |value| number(&headers(&[("upload-offset", value)]), "upload-offset");
        assert_eq!(read("0").unwrap(), Some(0));
        assert_eq!(read("18446744073709551615").unwrap(), Some(u64::MAX));
        for bad in [
            "",
            "+5",
            "-1",
            "5, 5",
            "0x5",
            "18446744073709551616",
            "5.0",
            "1e3",
        ] {
            assert!(matches!(read(bad), Err(Failure::Garbled(_))), "{bad:?}");
        }
        assert_eq!(number(&HeaderMap::new(), "upload-offset").unwrap(), None);
    }

    #[test]
    fn a_location_is_resolved_against_the_endpoint() {
        for (endpoint, location, expected) in [
            (
                "http://host/files/",
                "http://host/files/a",
                "http://host/files/a",
            ),
            ("http://host/files/", "/files/a", "http://host/files/a"),
            ("http://host/files/", "a", "http://host/files/a"),
            ("http://host/files", "a", "http://host/a"),
            ("http://host/files/", "//data/a?x=1", "http://data/a?x=1"),
            ("http://host/files/", "https://data/a", "https://data/a"),
            (
                "https://host/files/",
                "http://host/files/a",
                "https://host/files/a",
            ),
            (
                "https://host:8443/files/",
                "http://host/files/a",
                "https://host:8443/files/a",
            ),
        ] {
            let url = resolve(&Url::parse(endpoint).unwrap(), location).unwrap();
            assert_eq!(url.as_str(), expected, "{endpoint} {location}");
        }
    }

    #[test]
    fn no_location_leads_from_https_to_another_host_in_the_clear() {
        let endpoint = Url::parse("https://host/files/").unwrap();
        for location in [
            "http://other/a",
            "http://host:8080/a",
            "file:///etc/passwd",
            "http://",
        ] {
            assert!(resolve(&endpoint, location).is_err(), "{location}");
        }
    }

    #[test]
    fn what_is_offered_is_read_from_lists_of_any_spelling() {
        let said = headers(&[
            ("tus-version", "1.0.0,0.2.2"),
            ("tus-extension", "Creation, checksum"),
            ("tus-extension", "concatenation"),
            ("tus-checksum-algorithm", "sha1,md5"),
            ("tus-max-size", "100"),
        ]);
        let mut all = HeaderMap::new();
        all.extend(said);
        let offered = Capabilities::read(&all);
        assert!(offered.speaks_our_version());
        assert!(offered.offers("creation") && offered.offers("checksum"));
        assert!(offered.verifies(Algorithm::Md5) && !offered.verifies(Algorithm::Sha256));
        assert_eq!(offered.max_size, Some(100));
        let old = Capabilities::read(&headers(&[("tus-version", "0.2.2")]));
        assert!(!old.speaks_our_version());
        assert!(Capabilities::default().speaks_our_version());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value| retry_after(&headers(&[("retry-after", value)]), now);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            read("Sun, 06 Nov 1994 08:49:47 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(read("Sun, 06 Nov 1994 08:49:27 GMT"), None);
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn the_servers_line_is_shown_and_its_web_pages_are_not() {
        let status = StatusCode::FORBIDDEN;
        assert_eq!(
            text(status, b"quota: no space for you\nmore"),
            "quota: no space for you"
        );
        assert_eq!(text(status, b"<html><body>"), "Forbidden");
        assert_eq!(text(status, b""), "Forbidden");
    }

    #[test]
    fn only_json_passes_for_a_state() {
        let json = |value| is_json(&headers(&[("content-type", value)]));
        assert!(json("application/json") && json("Application/JSON; charset=utf-8"));
        assert!(!json("video/mp4") && !json("text/json-ish") && !is_json(&HeaderMap::new()));
    }
}
