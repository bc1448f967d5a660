//! The method that a request means, and the methods that a resource has.

use http::{HeaderMap, Method};

use super::capabilities::{Capabilities, Extension};
use super::headers::{METHOD_OVERRIDE, single};
use super::refusal::Refusal;

/// The method to act on: `X-HTTP-Method-Override` if there is one, whatever the actual method is.
/// Its case does not matter (as in tussi).
///
/// # Errors
/// [`Refusal::Malformed`] if it is repeated or no method name.
pub fn effective(actual: &Method, headers: &HeaderMap) -> Result<Method, Refusal> {
    let Some(value) = single(headers, METHOD_OVERRIDE)? else {
        return Ok(actual.clone());
    };
    let upper = value.as_bytes().to_ascii_uppercase();
    Method::from_bytes(&upper).map_err(|_| Refusal::Malformed(METHOD_OVERRIDE))
}

/// What a path under the base path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Where uploads are created (`/files/`).
    Collection,
    /// One upload (`/files/{id}`).
    Upload,
}

/// Value of `Allow` for a resource under this configuration.
#[must_use]
pub fn allowed(resource: Resource, capabilities: &Capabilities) -> &'static str {
    match resource {
        Resource::Collection if capabilities.offers(Extension::Creation) => "OPTIONS, POST",
        Resource::Collection => "OPTIONS",
        Resource::Upload if capabilities.offers(Extension::Termination) => {
            "OPTIONS, HEAD, GET, PATCH, DELETE"
        }
        Resource::Upload => "OPTIONS, HEAD, GET, PATCH",
    }
}

/// Checks that `resource` has `method`.
///
/// # Errors
/// [`Refusal::Method`] with what it has.
pub fn require(
    method: &Method,
    resource: Resource,
    capabilities: &Capabilities,
) -> Result<(), Refusal> {
    let allow = allowed(resource, capabilities);
    match allow.split(", ").any(|known| known == method.as_str()) {
        true => Ok(()),
        false => Err(Refusal::Method { allow }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::Extensions;
    use super::*;

    fn overriding(value: &str) -> HeaderMap {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        HeaderMap::from_iter([(METHOD_OVERRIDE.parse().unwrap(), value)])
    }

    #[test]
    fn the_override_must_be_interpreted_as_the_method_and_the_actual_one_ignored() {
        for actual in [
            Method::POST,
            Method::GET,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            for (value, method) in [
                ("PATCH", Method::PATCH),
                ("DELETE", Method::DELETE),
                ("patch", Method::PATCH),
            ] {
                assert_eq!(effective(&actual, &overriding(value)), Ok(method));
            }
            assert_eq!(effective(&actual, &HeaderMap::new()), Ok(actual.clone()));
        }
    }

    #[test]
    fn an_override_that_is_no_method_is_malformed() {
        for bad in ["", " ", "PA TCH", "PATCH,DELETE", "\u{fc}", "PATCH\t"] {
            let refused = effective(&Method::POST, &overriding(bad));
            assert_eq!(refused, Err(Refusal::Malformed(METHOD_OVERRIDE)), "{bad:?}");
        }
        let mut twice = overriding("PATCH");
        twice.append(METHOD_OVERRIDE, http::HeaderValue::from_static("PATCH"));
        let refused = effective(&Method::POST, &twice);
        assert_eq!(refused, Err(Refusal::Malformed(METHOD_OVERRIDE)));
    }

    #[test]
    fn every_resource_has_its_methods_and_says_so_when_asked_for_another() {
        let on = Capabilities::default();
        let has = |method: &str, resource, capabilities: &Capabilities| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            require(&method, resource, capabilities)
        };
        for method in ["OPTIONS", "HEAD", "GET", "PATCH", "DELETE"] {
            assert_eq!(has(method, Resource::Upload, &on), Ok(()), "{method}");
        }
        for method in ["POST", "PUT", "FROB", "CONNECT", "TRACE", "head"] {
            let refused = has(method, Resource::Upload, &on);
            assert_eq!(
                refused,
                Err(Refusal::Method {
                    allow: "OPTIONS, HEAD, GET, PATCH, DELETE"
                })
            );
        }
        assert_eq!(has("POST", Resource::Collection, &on), Ok(()));
        for method in ["HEAD", "GET", "PATCH", "DELETE"] {
            let refused = has(method, Resource::Collection, &on);
            assert_eq!(
                refused,
                Err(Refusal::Method {
                    allow: "OPTIONS, POST"
                }),
                "{method}"
            );
        }
        let off = Capabilities {
            extensions: Extensions::all()
                .without(Extension::Creation)
                .without(Extension::Termination),
            ..Capabilities::default()
        };
        let refused = has("DELETE", Resource::Upload, &off);
        assert_eq!(
            refused,
            Err(Refusal::Method {
                allow: "OPTIONS, HEAD, GET, PATCH"
            })
        );
        assert_eq!(
            has("POST", Resource::Collection, &off),
            Err(Refusal::Method { allow: "OPTIONS" })
        );
    }
}
