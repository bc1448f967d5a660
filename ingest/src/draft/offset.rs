//! Offset retrieval: `HEAD`, and from version 8 on `GET`.

use http::{HeaderMap, StatusCode};

use super::fields;
use super::limits;
use super::version::Version;
use crate::tus::headers::{UPLOAD_LENGTH, set, set_number};
use crate::tus::stored::{Kind, Stored};

/// The answer: 204 and how the upload stands. The caller of `GET` has a body and answers 200.
#[must_use]
pub fn reply(version: Version, stored: &Stored, limit: &str) -> (StatusCode, HeaderMap) {
    let mut answer = HeaderMap::new();
    set(&mut answer, "cache-control", "no-store");
    let assembling = stored.kind == (Kind::Final { assembled: false });
    let complete = stored.complete && !assembling;
    fields::set_state(&mut answer, version, stored.offset, complete);
    // Versions before 6 have no length. tus-js-client takes it there all the same, and an upload
    // that only lacks its flag for a complete one: without the length it sends the flag.
    if let Some(length) = stored.length.filter(|_| complete || Version::V6 <= version) {
        set_number(&mut answer, UPLOAD_LENGTH, length.0);
    }
    limits::announce(&mut answer, version, limit);
    (StatusCode::NO_CONTENT, answer)
}

#[cfg(test)]
mod tests {
    use shared::size::{Length, Offset};

    use super::*;
    use crate::tus::stored::Finish;

    fn flagless() -> Stored {
        let whole = Stored::whole(Offset(5), Some(Length(5)));
        Stored {
            finish: Finish::AtFlag,
            complete: false,
            ..whole
        }
    }

    #[test]
    fn it_includes_offset_completeness_length_and_limits_and_is_not_stored() {
        let (status, answer) = reply(Version::V8, &flagless(), "max-size=9");
        assert_eq!(status, 204);
        for (name, value) in [
            ("upload-offset", "5"),
            ("upload-complete", "?0"),
            ("upload-incomplete", "?1"),
            ("upload-length", "5"),
            ("upload-limit", "max-size=9"),
            ("cache-control", "no-store"),
            ("upload-draft-interop-version", "8"),
        ] {
            assert_eq!(answer[name], value, "{name}");
        }
        assert!(!answer.contains_key("tus-resumable"));
        let complete = Stored {
            complete: true,
            ..flagless()
        };
        assert_eq!(
            reply(Version::V8, &complete, "min-size=0").1["upload-complete"],
            "?1"
        );
    }

    #[test]
    fn the_length_is_left_out_if_unknown_and_before_version_6_while_incomplete() {
        let open = Stored::whole(Offset(5), None);
        assert!(
            !reply(Version::V8, &open, "")
                .1
                .contains_key("upload-length")
        );
        for version in [Version::V3, Version::V5] {
            assert!(
                !reply(version, &flagless(), "")
                    .1
                    .contains_key("upload-length")
            );
            let complete = Stored {
                complete: true,
                ..flagless()
            };
            assert_eq!(reply(version, &complete, "").1["upload-length"], "5");
        }
    }

    #[test]
    fn a_final_upload_is_incomplete_until_it_is_assembled() {
        let whole = Stored::whole(Offset(5), Some(Length(5)));
        for assembled in [false, true] {
            let stored = Stored {
                kind: Kind::Final { assembled },
                ..whole
            };
            let answer = reply(Version::V8, &stored, "").1;
            assert_eq!(
                answer["upload-complete"],
                if assembled { "?1" } else { "?0" }
            );
        }
    }
}
