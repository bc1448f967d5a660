//! `HEAD`: where an upload stands.

use http::{HeaderMap, HeaderValue};

use super::headers::{self, UPLOAD_DEFER_LENGTH, UPLOAD_LENGTH, UPLOAD_OFFSET};
use super::refusal::Refusal;
use super::stored::{Finish, Kind, Stored};

/// Checks the header fields of a `HEAD`.
///
/// # Errors
/// [`Refusal::UnsupportedVersion`].
pub fn parse(headers: &HeaderMap) -> Result<(), Refusal> {
    headers::require_version(headers)
}

/// What the client sent at creation and HEAD repeats, byte for byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo<'a> {
    /// `Upload-Metadata`
    pub metadata: Option<&'a HeaderValue>,
    /// `Upload-Concat`
    pub concat: Option<&'a HeaderValue>,
}

/// Header fields of 200. `Upload-Expires` comes from [`super::expires`].
#[must_use]
pub fn reply(stored: &Stored, echo: Echo<'_>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    headers::set(&mut fields, "cache-control", "no-store");
    if stored.kind != (Kind::Final { assembled: false }) {
        headers::set_number(&mut fields, UPLOAD_OFFSET, stored.offset.0);
    }
    match stored.length {
        Some(length) if !awaits_flag(stored) => {
            headers::set_number(&mut fields, UPLOAD_LENGTH, length.0);
        }
        // Of a final upload whose parts are open nothing is deferred: its length is theirs.
        None if matches!(stored.kind, Kind::Final { .. }) => {}
        Some(_) | None => headers::set(&mut fields, UPLOAD_DEFER_LENGTH, "1"),
    }
    for (name, value) in [
        (headers::UPLOAD_METADATA, echo.metadata),
        (headers::UPLOAD_CONCAT, echo.concat),
    ] {
        if let Some(value) = value {
            fields.insert(name, value.clone());
        }
    }
    fields
}

/// Whether all bytes of a draft upload are here and it still waits for `Upload-Complete: ?1`.
///
/// To a tus client "offset = length" means "done", and it would never come back. Shown as deferred,
/// the length is told once more with the next `PATCH`, which completes the upload.
fn awaits_flag(stored: &Stored) -> bool {
    stored.finish == Finish::AtFlag
        && !stored.complete
        && stored
            .length
            .is_some_and(|length| stored.offset.reaches(length))
}

#[cfg(test)]
mod tests {
    use shared::size::{Length, Offset};

    use super::*;

    fn shown(stored: &Stored) -> (Option<u64>, Option<u64>, bool) {
        let fields = reply(stored, Echo::default());
        assert_eq!(fields["cache-control"], "no-store");
        let number = |name: &str| {
            fields
                .get(name)
                .map(|v| v.to_str().unwrap().parse().unwrap())
        };
        let deferred = fields
            .get(UPLOAD_DEFER_LENGTH)
            .map(|value| assert_eq!(value, "1"));
        (
            number(UPLOAD_OFFSET),
            number(UPLOAD_LENGTH),
            deferred.is_some(),
        )
    }

    /// Every kind × finish × offset and length up to 2 × complete where it can be.
    fn every_upload() -> Vec<Stored> {
        let mut all = Vec::new();
        for kind in [
            Kind::Whole,
            Kind::Partial,
            Kind::Final { assembled: false },
            Kind::Final { assembled: true },
        ] {
            for finish in [Finish::AtLength, Finish::AtFlag, Finish::Never] {
                for length in [None, Some(0), Some(1), Some(2)] {
                    for offset in 0..=length.unwrap_or(2) {
                        for complete in [false, true] {
                            let (offset, length) = (Offset(offset), length.map(Length));
                            if complete && length.is_none_or(|length| !offset.reaches(length)) {
                                continue;
                            }
                            all.push(Stored {
                                offset,
                                length,
                                complete,
                                kind,
                                finish,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    #[test]
    fn the_server_must_always_include_the_upload_offset_even_if_0_or_completed() {
        for stored in every_upload() {
            let (offset, ..) = shown(&stored);
            let assembling = stored.kind == Kind::Final { assembled: false };
            assert_eq!(
                offset,
                (!assembling).then_some(stored.offset.0),
                "{stored:?}"
            );
        }
    }

    #[test]
    fn head_says_offset_equals_length_only_of_an_upload_that_no_client_need_touch_again() {
        for stored in every_upload() {
            let (offset, length, deferred) = shown(&stored);
            assert!(!(deferred && length.is_some()));
            if length.is_some() && offset == length {
                assert!(
                    stored.complete || stored.finish != Finish::AtFlag,
                    "{stored:?}"
                );
            }
            assert!(length.is_none() || length == stored.length.map(|l| l.0));
        }
    }

    #[test]
    fn as_long_as_the_length_is_not_known_upload_defer_length_is_set() {
        let open = Stored::whole(Offset(3), None);
        assert_eq!(shown(&open), (Some(3), None, true));
        let known = Stored::whole(Offset(3), Some(Length(5)));
        assert_eq!(shown(&known), (Some(3), Some(5), false));
    }

    #[test]
    fn a_draft_upload_that_only_lacks_its_flag_is_shown_as_open() {
        let flagless = Stored {
            complete: false,
            finish: Finish::AtFlag,
            ..Stored::whole(Offset(5), Some(Length(5)))
        };
        assert_eq!(shown(&flagless), (Some(5), None, true));
        let complete = Stored {
            complete: true,
            ..flagless
        };
        assert_eq!(shown(&complete), (Some(5), Some(5), false));
        let earlier = Stored {
            offset: Offset(4),
            ..flagless
        };
        assert_eq!(shown(&earlier), (Some(4), Some(5), false));
    }

    #[test]
    fn a_final_upload_shows_no_offset_before_the_concatenation_is_finished() {
        let mut stored = Stored {
            kind: Kind::Final { assembled: false },
            complete: false,
            ..Stored::whole(Offset(0), Some(Length(11)))
        };
        assert_eq!(shown(&stored), (None, Some(11), false));
        stored.length = None;
        assert_eq!(shown(&stored), (None, None, false));
        let done = Stored {
            kind: Kind::Final { assembled: true },
            ..Stored::whole(Offset(11), Some(Length(11)))
        };
        assert_eq!(shown(&done), (Some(11), Some(11), false));
    }

    #[test]
    fn metadata_and_concat_are_included_as_specified_by_the_client_during_the_creation() {
        let metadata = HeaderValue::from_static("filename  odd spacing,is_confidential");
        let concat = HeaderValue::from_static("final;/files/a /files/b");
        let echo = Echo {
            metadata: Some(&metadata),
            concat: Some(&concat),
        };
        let fields = reply(&Stored::whole(Offset(0), Some(Length(1))), echo);
        assert_eq!(fields[headers::UPLOAD_METADATA], metadata);
        assert_eq!(fields[headers::UPLOAD_CONCAT], concat);
        let without = reply(&Stored::whole(Offset(0), None), Echo::default());
        assert!(!without.contains_key(headers::UPLOAD_METADATA));
        assert!(!without.contains_key(headers::UPLOAD_CONCAT));
    }

    #[test]
    fn the_server_must_not_process_a_request_of_another_version() {
        assert_eq!(parse(&HeaderMap::new()), Err(Refusal::UnsupportedVersion));
    }
}
