//! Names and fixed values of the header fields, and the few things done to all of them.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Version, header};

use super::number;
use super::refusal::Refusal;

/// The protocol version spoken here: the value of `Tus-Resumable` and `Tus-Version`.
pub const VERSION: &str = "1.0.0";
/// Media type of upload bytes in a tus request.
pub const OFFSET_OCTET_STREAM: &str = "application/offset+octet-stream";
/// Reason phrase of status 460.
pub const CHECKSUM_MISMATCH: &str = "Checksum Mismatch";

/// `Tus-Resumable`
pub const TUS_RESUMABLE: &str = "tus-resumable";
/// `Tus-Version`
pub const TUS_VERSION: &str = "tus-version";
/// `Tus-Extension`
pub const TUS_EXTENSION: &str = "tus-extension";
/// `Tus-Max-Size`
pub const TUS_MAX_SIZE: &str = "tus-max-size";
/// `Tus-Checksum-Algorithm`
pub const TUS_CHECKSUM_ALGORITHM: &str = "tus-checksum-algorithm";
/// `Upload-Offset`
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// `Upload-Length`
pub const UPLOAD_LENGTH: &str = "upload-length";
/// `Upload-Defer-Length`
pub const UPLOAD_DEFER_LENGTH: &str = "upload-defer-length";
/// `Upload-Metadata`
pub const UPLOAD_METADATA: &str = "upload-metadata";
/// `Upload-Checksum`
pub const UPLOAD_CHECKSUM: &str = "upload-checksum";
/// `Upload-Concat`
pub const UPLOAD_CONCAT: &str = "upload-concat";
/// `Upload-Expires`
pub const UPLOAD_EXPIRES: &str = "upload-expires";
/// `X-HTTP-Method-Override`
pub const METHOD_OVERRIDE: &str = "x-http-method-override";
/// `Host`
pub const HOST: &str = "host";
/// `Content-Length`
pub const CONTENT_LENGTH: &str = "content-length";
/// `Content-Type`
pub const CONTENT_TYPE: &str = "content-type";

/// Sets a header field whose value is made here and therefore always valid.
pub fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Sets a header field to a decimal number.
pub fn set_number(headers: &mut HeaderMap, name: &'static str, value: u64) {
    headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
}

/// The value of a field that may be sent once at most.
///
/// # Errors
/// [`Refusal::Malformed`] if the field is repeated.
pub fn single<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(Refusal::Malformed(name)),
    }
}

/// Checks that the client speaks our version of tus.
///
/// # Errors
/// [`Refusal::UnsupportedVersion`] if `Tus-Resumable` is missing, repeated or anything but `1.0.0`.
pub fn require_version(headers: &HeaderMap) -> Result<(), Refusal> {
    match single(headers, TUS_RESUMABLE) {
        Ok(Some(version)) if version == VERSION => Ok(()),
        Ok(_) | Err(_) => Err(Refusal::UnsupportedVersion),
    }
}

/// The same for requests that need not name a version.
///
/// # Errors
/// [`Refusal::UnsupportedVersion`] if one is named, and it is not ours.
pub fn accept_version(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.contains_key(TUS_RESUMABLE) {
        true => require_version(headers),
        false => Ok(()),
    }
}

/// Whether `Content-Type` names `media_type`; parameters are ignored, case does not matter.
#[must_use]
pub fn has_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let Ok(Some(value)) = single(headers, CONTENT_TYPE) else {
        return false;
    };
    let essence = value
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(media_type.as_bytes())
}

/// What is known about a request body before its first byte is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodySize {
    /// Exactly that many bytes: announced, or a request that has no body.
    Exact(u64),
    /// Chunked, or HTTP/2 without `Content-Length`: known at its end only.
    Unknown,
}

impl BodySize {
    /// Reads `Transfer-Encoding` and `Content-Length`. `ended` says that the transport already saw
    /// the end of the request (HTTP/2 `END_STREAM` on the header frame).
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if `Content-Length` is not one number.
    pub fn of(headers: &HeaderMap, version: Version, ended: bool) -> Result<Self, Refusal> {
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Ok(Self::Unknown);
        }
        match number::optional(headers, CONTENT_LENGTH)? {
            Some(length) => Ok(Self::Exact(length)),
            // Without both fields an HTTP/1 request has no body (RFC 9112 §6.3).
            None if ended || version <= Version::HTTP_11 => Ok(Self::Exact(0)),
            None => Ok(Self::Unknown),
        }
    }

    /// Whether the body is known to be empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::Exact(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_value_of_tus_resumable_must_be_a_version_that_the_server_supports() {
        assert_eq!(require_version(&with(&[(TUS_RESUMABLE, "1.0.0")])), Ok(()));
        for other in ["", "0.2.2", "1.0.1", "1.0.0,0.2.2", "1", "1.0.0 x", "2.0.0"] {
            let refused = require_version(&with(&[(TUS_RESUMABLE, other)]));
            assert_eq!(refused, Err(Refusal::UnsupportedVersion), "{other:?}");
            assert_eq!(accept_version(&with(&[(TUS_RESUMABLE, other)])), refused);
        }
        assert_eq!(accept_version(&with(&[])), Ok(()));
        assert_eq!(
            require_version(&with(&[])),
            Err(Refusal::UnsupportedVersion)
        );
        let twice = with(&[(TUS_RESUMABLE, "1.0.0"), (TUS_RESUMABLE, "1.0.0")]);
        assert_eq!(require_version(&twice), Err(Refusal::UnsupportedVersion));
    }

    #[test]
    fn a_media_type_is_compared_without_case_and_parameters() {
        for same in [
            "application/offset+octet-stream",
            "Application/Offset+Octet-Stream",
            "application/offset+octet-stream; charset=utf-8",
            "application/offset+octet-stream ;x=y",
        ] {
            assert!(
                has_media_type(&with(&[(CONTENT_TYPE, same)]), OFFSET_OCTET_STREAM),
                "{same}"
            );
        }
        for other in [
            "",
            "application/octet-stream",
            "application/offset+octet-streams",
            ";",
        ] {
            assert!(!has_media_type(
                &with(&[(CONTENT_TYPE, other)]),
                OFFSET_OCTET_STREAM
            ));
        }
        assert!(!has_media_type(&with(&[]), OFFSET_OCTET_STREAM));
        let twice = with(&[
            (CONTENT_TYPE, OFFSET_OCTET_STREAM),
            (CONTENT_TYPE, "text/plain"),
        ]);
        assert!(!has_media_type(&twice, OFFSET_OCTET_STREAM));
    }

    #[test]
    fn body_size_follows_http_framing() {
        let of = |pairs: &[(&'static str, &str)], version, ended| {
            BodySize::of(&with(pairs), version, ended)
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(
            of(&[("content-length", "5")], h1, false),
            Ok(BodySize::Exact(5))
        );
        assert_eq!(of(&[], h1, false), Ok(BodySize::Exact(0)));
        assert_eq!(of(&[], Version::HTTP_10, false), Ok(BodySize::Exact(0)));
        assert_eq!(of(&[], h2, false), Ok(BodySize::Unknown));
        assert_eq!(of(&[], h2, true), Ok(BodySize::Exact(0)));
        assert_eq!(
            of(&[("transfer-encoding", "chunked")], h1, false),
            Ok(BodySize::Unknown)
        );
        let both = [("transfer-encoding", "chunked"), ("content-length", "5")];
        assert_eq!(of(&both, h1, false), Ok(BodySize::Unknown));
        let bad = of(&[("content-length", "+5")], h1, false);
        assert_eq!(bad, Err(Refusal::Malformed(CONTENT_LENGTH)));
    }
}
