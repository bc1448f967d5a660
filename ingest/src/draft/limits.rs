//! `Upload-Limit`: what may be uploaded, and for how long; and what `OPTIONS` says of the draft.

use std::time::SystemTime;

use http::HeaderMap;

use super::fields::{INTEGER_MAX, PARTIAL_UPLOAD, UPLOAD_LIMIT};
use super::version::{Drafts, Version};
use crate::tus::capabilities::Capabilities;
use crate::tus::expires;
use crate::tus::headers::set;

/// Value of `Upload-Limit` for an upload that was written last at `last_write`; without one, of any
/// upload. `min-size=0` if there is no limit: versions that require the field get one.
#[must_use]
pub fn value(
    capabilities: &Capabilities,
    last_write: Option<SystemTime>,
    now: SystemTime,
) -> String {
    let end = last_write.and_then(|last| expires::at(last, capabilities));
    let age = end.map(|end| end.duration_since(now).map_or(0, |left| left.as_secs()));
    let limits = [
        ("max-size", capabilities.max_size),
        ("max-append-size", capabilities.max_chunk),
        ("max-age", age.map(|seconds| seconds.min(INTEGER_MAX))),
    ];
    // A limit that the field cannot express is none that a client could run into.
    let said = limits.iter().filter_map(|(key, limit)| {
        limit
            .filter(|limit| *limit <= INTEGER_MAX)
            .map(|limit| format!("{key}={limit}"))
    });
    let said: Vec<String> = said.collect();
    if said.is_empty() {
        "min-size=0".to_owned()
    } else {
        said.join(", ")
    }
}

/// Adds `Upload-Limit` for the versions that know it.
pub fn announce(fields: &mut HeaderMap, version: Version, limit: &str) {
    if Version::V6 <= version {
        set(fields, UPLOAD_LIMIT, limit);
    }
}

/// Adds to an answer to `OPTIONS` that the draft is spoken here, if it is.
pub fn announce_support(
    fields: &mut HeaderMap,
    drafts: Drafts,
    capabilities: &Capabilities,
    now: SystemTime,
) {
    if drafts.any() {
        set(fields, "accept-patch", PARTIAL_UPLOAD);
        set(fields, UPLOAD_LIMIT, &value(capabilities, None, now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fields::dictionary;
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn limits_are_told_as_a_dictionary_of_integers() {
        let capabilities = Capabilities {
            max_size: Some(100),
            max_chunk: Some(10),
            expire_after: Some(Duration::from_secs(60)),
            ..Capabilities::default()
        };
        let limit = value(&capabilities, Some(NOW), NOW + Duration::from_secs(15));
        assert_eq!(limit, "max-size=100, max-append-size=10, max-age=45");
        assert_eq!(
            value(&capabilities, None, NOW),
            "max-size=100, max-append-size=10"
        );
        let late = value(&capabilities, Some(NOW), NOW + Duration::from_secs(600));
        assert!(late.ends_with("max-age=0"));
        let mut fields = HeaderMap::new();
        announce(&mut fields, Version::V8, &limit);
        assert_eq!(dictionary(&fields, UPLOAD_LIMIT).unwrap().len(), 3);
    }

    #[test]
    fn without_limits_it_says_min_size_0() {
        assert_eq!(
            value(&Capabilities::default(), Some(NOW), NOW),
            "min-size=0"
        );
        let huge = Capabilities {
            max_size: Some(u64::MAX),
            ..Capabilities::default()
        };
        assert_eq!(value(&huge, None, NOW), "min-size=0");
    }

    #[test]
    fn versions_before_6_are_not_told() {
        for version in [
            Version::V3,
            Version::V5,
            Version::V6,
            Version::V8,
            Version::Final,
        ] {
            let mut fields = HeaderMap::new();
            announce(&mut fields, version, "min-size=0");
            assert_eq!(fields.contains_key(UPLOAD_LIMIT), Version::V6 <= version);
        }
    }

    #[test]
    fn options_name_the_media_type_and_the_limits_only_if_the_draft_is_spoken() {
        let mut fields = HeaderMap::new();
        announce_support(
            &mut fields,
            Drafts::default(),
            &Capabilities::default(),
            NOW,
        );
        assert_eq!(fields["accept-patch"], "application/partial-upload");
        assert_eq!(fields[UPLOAD_LIMIT], "min-size=0");
        let off = Drafts {
            numbered: false,
            headerless: false,
            interim: true,
        };
        let mut fields = HeaderMap::new();
        announce_support(&mut fields, off, &Capabilities::default(), NOW);
        assert!(fields.is_empty());
    }
}
