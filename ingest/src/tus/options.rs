//! `OPTIONS`: what this server can do. `Tus-Resumable` of the request is ignored.

use http::HeaderMap;

use super::capabilities::Capabilities;
use super::headers::set;
use super::method::{Resource, allowed};

/// Header fields of 204.
#[must_use]
pub fn reply(resource: Resource, capabilities: &Capabilities) -> HeaderMap {
    let mut fields = HeaderMap::new();
    capabilities.announce(&mut fields);
    set(&mut fields, "allow", allowed(resource, capabilities));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successful_response_must_contain_the_tus_version_header() {
        for resource in [Resource::Collection, Resource::Upload] {
            let fields = reply(resource, &Capabilities::default());
            assert_eq!(fields["tus-version"], "1.0.0");
            assert_eq!(fields["allow"], allowed(resource, &Capabilities::default()));
            assert!(fields.contains_key("tus-extension"));
        }
    }
}
