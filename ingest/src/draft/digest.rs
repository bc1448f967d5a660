//! Digests of the draft (RFC 9530): `Content-Digest` for one request, `Repr-Digest` for the whole
//! file, `Want-Repr-Digest` for the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use sfv::{KeyRef, ListEntry};

use super::fields::dictionary;
use crate::tus::checksum::{Algorithm, Announced};
use crate::tus::headers::set;
use crate::tus::refusal::Refusal;

/// `Content-Digest`
pub const CONTENT_DIGEST: &str = "content-digest";
/// `Repr-Digest`
pub const REPR_DIGEST: &str = "repr-digest";
/// `Want-Repr-Digest`
pub const WANT_REPR_DIGEST: &str = "want-repr-digest";

/// Registered names of algorithms that we have; the first of several given is used.
const NAMES: [(Algorithm, &str); 4] = [
    (Algorithm::Sha256, "sha-256"),
    (Algorithm::Sha512, "sha-512"),
    (Algorithm::Sha1, "sha"),
    (Algorithm::Md5, "md5"),
];

/// The digest in field `name` that can be checked here. Algorithms that we do not have are ignored,
/// and so is a field that is no dictionary (RFC 9651 §4.2).
///
/// # Errors
/// [`Refusal::Malformed`] for a digest that its algorithm cannot have: it could only mismatch.
pub fn announced(headers: &HeaderMap, name: &'static str) -> Result<Option<Announced>, Refusal> {
    let Some(members) = dictionary(headers, name) else {
        return Ok(None);
    };
    for (algorithm, key) in NAMES {
        let Some(member) = member(&members, key) else {
            continue;
        };
        let digest = match member {
            ListEntry::Item(item) => item.bare_item.as_byte_sequence(),
            ListEntry::InnerList(_) => None,
        };
        return match digest {
            Some(digest) if digest.len() == algorithm.digest_len() => Ok(Some(Announced {
                algorithm,
                digest: digest.to_vec(),
            })),
            Some(_) | None => Err(Refusal::Malformed(name)),
        };
    }
    Ok(None)
}

/// The algorithm that the client wants most (1 to 10, 10 most) of those that we have; `None` if it
/// wants none.
#[must_use]
pub fn wanted(headers: &HeaderMap) -> Option<Algorithm> {
    let members = dictionary(headers, WANT_REPR_DIGEST)?;
    let known = NAMES
        .into_iter()
        .filter_map(|(algorithm, key)| Some((weight(&members, key)?, algorithm)));
    // `max_by_key` takes the last of equals, so ours go backwards.
    known
        .rev()
        .max_by_key(|(weight, _)| *weight)
        .map(|(_, algorithm)| algorithm)
}

/// Adds `Repr-Digest` with the digest of a record, if the client wants one of this algorithm.
pub fn answer(fields: &mut HeaderMap, request: &HeaderMap, known: Option<&str>) {
    let known = known.and_then(|known| known.parse::<Announced>().ok());
    if let Some(known) = known.filter(|known| wants(request, known.algorithm)) {
        announce(fields, known.algorithm, &known.digest);
    }
}

/// Whether the client wants this algorithm at all: a weight of 0 is a no.
fn wants(headers: &HeaderMap, algorithm: Algorithm) -> bool {
    let Some(members) = dictionary(headers, WANT_REPR_DIGEST) else {
        return false;
    };
    let named = NAMES.iter().find(|(known, _)| *known == algorithm);
    named.is_some_and(|(_, key)| weight(&members, key).is_some())
}

/// 1 to 10; `None` for an algorithm that is not wanted.
fn weight(members: &sfv::Dictionary, key: &str) -> Option<i64> {
    match member(members, key)? {
        ListEntry::Item(item) => {
            let weight = item.bare_item.as_integer().map(i64::from);
            weight.filter(|weight| (1..=10).contains(weight))
        }
        ListEntry::InnerList(_) => None,
    }
}

/// Adds `Repr-Digest`, if the algorithm has a registered name (BLAKE3 and CRC-32 have none).
pub fn announce(fields: &mut HeaderMap, algorithm: Algorithm, digest: &[u8]) {
    if let Some((_, key)) = NAMES.iter().find(|(known, _)| *known == algorithm) {
        set(
            fields,
            REPR_DIGEST,
            &format!("{key}=:{}:", STANDARD.encode(digest)),
        );
    }
}

fn member<'a>(members: &'a sfv::Dictionary, key: &str) -> Option<&'a ListEntry> {
    members.get(KeyRef::from_str(key).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    fn read(value: &str) -> Result<Option<Announced>, Refusal> {
        announced(&one(CONTENT_DIGEST, value), CONTENT_DIGEST)
    }

    #[test]
    fn the_strongest_digest_that_we_have_is_used() {
        // RFC 9530, appendix B: {"hello": "world"} and a line break.
        let sha256 = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        let found = read(&format!(
            "unixsum=:AA==:, {sha256}, md5=:AAAAAAAAAAAAAAAAAAAAAA==:"
        ));
        let found = found.unwrap().unwrap();
        assert_eq!(found.algorithm, Algorithm::Sha256);
        let mut hasher = crate::tus::checksum::Hasher::new(found.algorithm);
        hasher.update(b"{\"hello\": \"world\"}\n");
        assert_eq!(found.verify(&hasher.finish()), Ok(()));
        let md5 = read("md5=:AAAAAAAAAAAAAAAAAAAAAA==:").unwrap().unwrap();
        assert_eq!(md5.algorithm, Algorithm::Md5);
    }

    #[test]
    fn what_cannot_be_read_or_checked_is_ignored_and_what_cannot_match_is_malformed() {
        for ignored in ["", "garbage!", "crc32c=:AAAAAA==:", "SHA-256=:AA==:"] {
            assert_eq!(read(ignored), Ok(None), "{ignored:?}");
        }
        assert_eq!(announced(&HeaderMap::new(), CONTENT_DIGEST), Ok(None));
        for bad in [
            "sha-256",
            "sha-256=5",
            "sha-256=:AA==:",
            "sha-256=(:AA==:)",
            "sha-256=\"x\"",
        ] {
            assert_eq!(
                read(bad),
                Err(Refusal::Malformed(CONTENT_DIGEST)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_client_gets_the_digest_that_it_wants_most() {
        for (value, expected) in [
            ("sha-256=1", Some(Algorithm::Sha256)),
            ("sha-256=3, sha-512=10", Some(Algorithm::Sha512)),
            ("sha-512=5, sha-256=5", Some(Algorithm::Sha256)),
            ("sha-256=0, md5=1", Some(Algorithm::Md5)),
            ("sha-256=0", None),
            ("sha-256=11", None),
            ("unixsum=10", None),
            ("sha-256", None),
            ("", None),
        ] {
            assert_eq!(wanted(&one(WANT_REPR_DIGEST, value)), expected, "{value:?}");
        }
    }

    #[test]
    fn a_known_digest_is_answered_to_who_wants_its_algorithm() {
        let known = format!("sha256:{}", "00".repeat(32));
        let answered = |wanted: &str, known: Option<&str>| {
            let mut fields = HeaderMap::new();
            answer(&mut fields, &one(WANT_REPR_DIGEST, wanted), known);
            fields
                .get(REPR_DIGEST)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let expected = format!("sha-256=:{}:", STANDARD.encode([0; 32]));
        for wanted in ["sha-256=1", "sha-512=10, sha-256=3"] {
            assert_eq!(
                answered(wanted, Some(&known)).as_ref(),
                Some(&expected),
                "{wanted}"
            );
            assert_eq!(answered(wanted, None), None);
            assert_eq!(answered(wanted, Some("blake3:00")), None);
        }
        for other in ["sha-256=0", "sha-512=1", "", "garbage!"] {
            assert_eq!(answered(other, Some(&known)), None, "{other}");
        }
    }

    #[test]
    fn an_algorithm_without_a_registered_name_is_not_announced() {
        let mut fields = HeaderMap::new();
        announce(&mut fields, Algorithm::Blake3, &[0; 32]);
        assert!(fields.is_empty());
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(digest in proptest::collection::vec(any::<u8>(), 32)) {
            let mut fields = HeaderMap::new();
            announce(&mut fields, Algorithm::Sha256, &digest);
            let expected = Announced { algorithm: Algorithm::Sha256, digest };
            prop_assert_eq!(announced(&fields, REPR_DIGEST), Ok(Some(expected)));
        }

        #[test]
        fn any_value_is_read_ignored_or_refused(value in "[ -~]{0,60}") {
            if let Ok(Some(found)) = read(&value) {
                prop_assert_eq!(found.digest.len(), found.algorithm.digest_len());
            }
            let _wanted = wanted(&one(WANT_REPR_DIGEST, &value));
        }
    }
}
