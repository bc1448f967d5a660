//! `DELETE`: end an upload and free what it holds.

use http::HeaderMap;

use super::capabilities::{Capabilities, Extension};
use super::headers;
use super::method::{Resource, allowed};
use super::refusal::Refusal;

/// Checks the header fields of a `DELETE`. Whether the upload can be removed now (a consumer may
/// hold it: [`Refusal::Locked`]) is known to its lock only.
///
/// # Errors
/// [`Refusal::UnsupportedVersion`]; [`Refusal::Method`] if termination is switched off.
pub fn parse(headers: &HeaderMap, capabilities: &Capabilities) -> Result<(), Refusal> {
    headers::require_version(headers)?;
    match capabilities.offers(Extension::Termination) {
        true => Ok(()),
        false => Err(Refusal::Method {
            allow: allowed(Resource::Upload, capabilities),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::Extensions;
    use super::*;

    #[test]
    fn delete_is_a_method_only_with_the_termination_extension() {
        let version = http::HeaderValue::from_static("1.0.0");
        let headers = HeaderMap::from_iter([(headers::TUS_RESUMABLE.parse().unwrap(), version)]);
        assert_eq!(parse(&headers, &Capabilities::default()), Ok(()));
        let off = Capabilities {
            extensions: Extensions::all().without(Extension::Termination),
            ..Capabilities::default()
        };
        let refused = parse(&headers, &off).unwrap_err();
        assert_eq!(refused.status(), 405);
        assert!(
            !refused.headers()["allow"]
                .to_str()
                .unwrap()
                .contains("DELETE")
        );
        assert_eq!(
            parse(&HeaderMap::new(), &off),
            Err(Refusal::UnsupportedVersion)
        );
    }
}
