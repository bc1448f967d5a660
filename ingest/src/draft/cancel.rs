//! Cancel an upload: `DELETE`.

use http::{HeaderMap, StatusCode};

use super::fields;
use super::version::Version;
use crate::tus::capabilities::{Capabilities, Extension};
use crate::tus::method::{Resource, allowed};
use crate::tus::refusal::Refusal;

/// Checks that uploads can be cancelled.
///
/// # Errors
/// [`Refusal::Method`] if termination is switched off.
pub fn parse(capabilities: &Capabilities) -> Result<(), Refusal> {
    match capabilities.offers(Extension::Termination) {
        true => Ok(()),
        false => Err(Refusal::Method {
            allow: allowed(Resource::Upload, capabilities),
        }),
    }
}

/// The answer once it is gone.
#[must_use]
pub fn reply(version: Version) -> (StatusCode, HeaderMap) {
    let mut answer = HeaderMap::new();
    fields::set_version(&mut answer, version);
    (StatusCode::NO_CONTENT, answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tus::capabilities::Extensions;

    #[test]
    fn it_is_a_method_only_while_termination_is_on_and_answers_204() {
        assert_eq!(parse(&Capabilities::default()), Ok(()));
        let extensions = Extensions::all().without(Extension::Termination);
        let off = Capabilities {
            extensions,
            ..Capabilities::default()
        };
        assert_eq!(parse(&off).unwrap_err().status(), 405);
        let (status, answer) = reply(Version::V6);
        assert_eq!(status, 204);
        assert_eq!(answer["upload-draft-interop-version"], "6");
    }
}
