//! Which protocol a request speaks.

use http::{HeaderMap, Method};

use super::fields::{self, INTEROP_VERSION, UPLOAD_COMPLETE};
use crate::tus::headers::TUS_RESUMABLE;
use crate::tus::refusal::Refusal;

/// A version of the draft. Ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Interop version 3, draft -01 (iOS 17).
    V3,
    /// Interop version 5, draft -03 (iOS 18.0, tus-js-client `ietf-draft-03`).
    V5,
    /// Interop version 6, drafts -04 and -05 (iOS 18.1, tus-js-client `ietf-draft-05`).
    V6,
    /// Interop version 8, drafts -09 to -12 (iOS 26).
    V8,
    /// As 8, without the interop field: what the RFC will be.
    Final,
}

impl Version {
    /// All with a number.
    pub const NUMBERED: [Self; 4] = [Self::V3, Self::V5, Self::V6, Self::V8];

    /// Its interop version; the final form has none.
    #[must_use]
    pub fn number(self) -> Option<u64> {
        match self {
            Self::V3 => Some(3),
            Self::V5 => Some(5),
            Self::V6 => Some(6),
            Self::V8 => Some(8),
            Self::Final => None,
        }
    }
}

/// What is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafts {
    /// The numbered versions.
    pub numbered: bool,
    /// The form that the RFC will have: a request without `Tus-Resumable` may be one of the draft.
    pub headerless: bool,
    /// The 104 (off behind proxies that choke on it).
    pub interim: bool,
}

impl Default for Drafts {
    /// The numbered versions, with the 104.
    fn default() -> Self {
        Self {
            numbered: true,
            headerless: false,
            interim: true,
        }
    }
}

impl Drafts {
    /// Whether any form is spoken.
    #[must_use]
    pub fn any(self) -> bool {
        self.numbered || self.headerless
    }
}

/// The protocol of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// tus 1.0.0 (or a request that will get its 412).
    Tus,
    /// The draft.
    Draft(Version),
}

impl Protocol {
    /// Tells the protocol of a request. `method` is the effective one.
    ///
    /// # Errors
    /// [`Refusal::UnsupportedDraft`] for an interop version that is not spoken, if nothing else says
    /// how to read the request. It is never taken for a tus request and answered with 412.
    pub fn of(method: &Method, headers: &HeaderMap, drafts: Drafts) -> Result<Self, Refusal> {
        if drafts.numbered {
            let number = fields::integer(headers, INTEROP_VERSION);
            let known = |version: &Version| version.number() == number && number.is_some();
            if let Some(version) = Version::NUMBERED.into_iter().find(known) {
                return Ok(Self::Draft(version));
            }
        }
        if headers.contains_key(TUS_RESUMABLE) {
            return Ok(Self::Tus);
        }
        if drafts.headerless && is_headerless(method, headers) {
            return Ok(Self::Draft(Version::Final));
        }
        let names_a_version = headers.contains_key(INTEROP_VERSION);
        match drafts.numbered && names_a_version && *method != Method::OPTIONS {
            true => Err(Refusal::UnsupportedDraft),
            false => Ok(Self::Tus),
        }
    }
}

/// Whether a request without `Tus-Resumable` is one of the final form. `HEAD` and `DELETE` carry
/// nothing that says so.
fn is_headerless(method: &Method, headers: &HeaderMap) -> bool {
    match *method {
        Method::HEAD | Method::DELETE => true,
        Method::OPTIONS | Method::GET => false,
        _ => headers.contains_key(UPLOAD_COMPLETE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn of(
        method: Method,
        pairs: &[(&'static str, &str)],
        drafts: Drafts,
    ) -> Result<Protocol, Refusal> {
        Protocol::of(&method, &headers(pairs), drafts)
    }

    const METHODS: [Method; 6] = [
        Method::POST,
        Method::HEAD,
        Method::PATCH,
        Method::DELETE,
        Method::GET,
        Method::OPTIONS,
    ];

    #[test]
    fn a_known_interop_version_makes_it_a_draft_request_whatever_else_is_there() {
        for method in METHODS {
            for (number, version) in [
                ("3", Version::V3),
                ("5", Version::V5),
                ("6;x", Version::V6),
                ("8", Version::V8),
            ] {
                let fields = [(INTEROP_VERSION, number), (TUS_RESUMABLE, "1.0.0")];
                for some in [&fields[..1], &fields[..]] {
                    let protocol = of(method.clone(), some, Drafts::default());
                    assert_eq!(protocol, Ok(Protocol::Draft(version)));
                }
            }
        }
    }

    #[test]
    fn an_unknown_version_is_never_answered_as_tus() {
        for number in [
            "", "0", "1", "2", "4", "7", "9", "-8", "08x", "8.0", "?1", "eight", "8, 8",
        ] {
            let refused = of(
                Method::POST,
                &[(INTEROP_VERSION, number)],
                Drafts::default(),
            );
            assert_eq!(refused, Err(Refusal::UnsupportedDraft), "{number}");
            let tus = [(INTEROP_VERSION, number), (TUS_RESUMABLE, "1.0.0")];
            assert_eq!(of(Method::POST, &tus, Drafts::default()), Ok(Protocol::Tus));
        }
        let newer = [(INTEROP_VERSION, "9"), (UPLOAD_COMPLETE, "?1")];
        let headerless = Drafts {
            headerless: true,
            ..Drafts::default()
        };
        assert_eq!(
            of(Method::POST, &newer, headerless),
            Ok(Protocol::Draft(Version::Final))
        );
    }

    #[test]
    fn the_final_form_is_known_by_upload_complete_alone_and_only_if_switched_on() {
        let headerless = Drafts {
            headerless: true,
            ..Drafts::default()
        };
        let flag = [(UPLOAD_COMPLETE, "?0")];
        for method in METHODS {
            let always = matches!(method, Method::HEAD | Method::DELETE);
            let never = matches!(method, Method::GET | Method::OPTIONS);
            let with = of(method.clone(), &flag, headerless).unwrap();
            assert_eq!(with == Protocol::Draft(Version::Final), !never, "{method}");
            let without = of(method.clone(), &[], headerless).unwrap();
            assert_eq!(
                without == Protocol::Draft(Version::Final),
                always,
                "{method}"
            );
            assert_eq!(
                of(method.clone(), &flag, Drafts::default()),
                Ok(Protocol::Tus)
            );
            let tus = [(TUS_RESUMABLE, "1.0.0"), (UPLOAD_COMPLETE, "?0")];
            assert_eq!(of(method, &tus, headerless), Ok(Protocol::Tus));
        }
    }

    #[test]
    fn switched_off_the_draft_is_not_spoken() {
        let off = Drafts {
            numbered: false,
            headerless: false,
            interim: false,
        };
        assert!(!off.any());
        assert_eq!(
            of(Method::POST, &[(INTEROP_VERSION, "8")], off),
            Ok(Protocol::Tus)
        );
    }
}
