//! Names of the draft's header fields, and their structured values (RFC 9651).
//!
//! A field that is not what it should be is ignored: the draft says so, unlike tus.

use http::HeaderMap;
use sfv::{Dictionary, Item, Parser};
use shared::size::{Length, Offset};

use super::version::Version;
use crate::tus::headers::{UPLOAD_LENGTH, UPLOAD_OFFSET, set, set_number};

/// `Upload-Draft-Interop-Version`
pub const INTEROP_VERSION: &str = "upload-draft-interop-version";
/// `Upload-Complete`
pub const UPLOAD_COMPLETE: &str = "upload-complete";
/// `Upload-Incomplete` (version 3)
pub const UPLOAD_INCOMPLETE: &str = "upload-incomplete";
/// `Upload-Limit`
pub const UPLOAD_LIMIT: &str = "upload-limit";
/// Media type of an append.
pub const PARTIAL_UPLOAD: &str = "application/partial-upload";

/// Largest integer that a structured field can carry.
pub const INTEGER_MAX: u64 = 999_999_999_999_999;

/// All lines of a field as one, as RFC 9651 §4.2 wants it; an item that came twice is none.
pub(super) fn combined(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(|line| line.as_bytes())
        .collect();
    if lines.is_empty() {
        None
    } else {
        Some(lines.join(&b", "[..]))
    }
}

fn item(headers: &HeaderMap, name: &str) -> Option<Item> {
    Parser::new(&combined(headers, name)?).parse().ok()
}

/// A boolean item; its parameters are ignored.
#[must_use]
pub fn boolean(headers: &HeaderMap, name: &str) -> Option<bool> {
    item(headers, name)?.bare_item.as_boolean()
}

/// A non-negative integer item; its parameters are ignored.
#[must_use]
pub fn integer(headers: &HeaderMap, name: &str) -> Option<u64> {
    let value = item(headers, name)?.bare_item.as_integer()?;
    u64::try_from(i64::from(value)).ok()
}

/// A dictionary.
#[must_use]
pub fn dictionary(headers: &HeaderMap, name: &str) -> Option<Dictionary> {
    Parser::new(&combined(headers, name)?).parse().ok()
}

/// Whether the client says that the upload ends with this request: what the field says, and whether
/// it is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// It says so, or the opposite.
    Set(bool),
    /// It is there and says nothing.
    Invalid,
    /// It is not there.
    Absent,
}

/// The completeness flag of a request, by the field of its version.
#[must_use]
pub fn flag(headers: &HeaderMap, version: Version) -> Flag {
    let (name, complete) = match version {
        Version::V3 => (UPLOAD_INCOMPLETE, false),
        Version::V5 | Version::V6 | Version::V8 | Version::Final => (UPLOAD_COMPLETE, true),
    };
    match boolean(headers, name) {
        Some(value) => Flag::Set(value == complete),
        None if headers.contains_key(name) => Flag::Invalid,
        None => Flag::Absent,
    }
}

/// Name of the flag in this version.
#[must_use]
pub fn flag_name(version: Version) -> &'static str {
    match version {
        Version::V3 => UPLOAD_INCOMPLETE,
        Version::V5 | Version::V6 | Version::V8 | Version::Final => UPLOAD_COMPLETE,
    }
}

/// `Upload-Length` of a request.
#[must_use]
pub fn length(headers: &HeaderMap) -> Option<Length> {
    integer(headers, UPLOAD_LENGTH).map(Length)
}

/// Adds the version that is spoken, as every answer does.
pub fn set_version(fields: &mut HeaderMap, version: Version) {
    if let Some(number) = version.number() {
        set_number(fields, INTEROP_VERSION, number);
    }
}

/// Adds the state of an upload: offset, and completeness in every version's words.
pub fn set_state(fields: &mut HeaderMap, version: Version, offset: Offset, complete: bool) {
    set_version(fields, version);
    set_number(fields, UPLOAD_OFFSET, offset.0);
    set_complete(fields, complete);
}

/// Adds completeness in every version's words.
pub fn set_complete(fields: &mut HeaderMap, complete: bool) {
    set(fields, UPLOAD_COMPLETE, if complete { "?1" } else { "?0" });
    set(
        fields,
        UPLOAD_INCOMPLETE,
        if complete { "?0" } else { "?1" },
    );
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn one(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        HeaderMap::from_iter([(name.parse().unwrap(), value)])
    }

    #[test]
    fn a_boolean_is_an_item_and_other_values_are_ignored() {
        for (text, value) in [
            ("?1", Some(true)),
            ("?0", Some(false)),
            ("  ?1  ", Some(true)),
            ("?1;a=b;c", Some(true)),
            ("?2", None),
            ("1", None),
            ("true", None),
            ("?1, ?1", None),
            ("?1 x", None),
            ("", None),
            ("\u{fc}", None),
        ] {
            assert_eq!(
                boolean(&one(UPLOAD_COMPLETE, text), UPLOAD_COMPLETE),
                value,
                "{text:?}"
            );
        }
        let mut twice = one(UPLOAD_COMPLETE, "?1");
        twice.append(UPLOAD_COMPLETE, HeaderValue::from_static("?1"));
        assert_eq!(boolean(&twice, UPLOAD_COMPLETE), None);
    }

    #[test]
    fn an_integer_is_not_negative_and_has_15_digits_at_most() {
        for (text, value) in [
            ("0", Some(0)),
            ("5;x=?1", Some(5)),
            ("-0", Some(0)),
            ("999999999999999", Some(INTEGER_MAX)),
            ("1000000000000000", None),
            ("9223372036854775808", None),
            ("-1", None),
            ("+5", None),
            ("5.0", None),
            ("5, 6", None),
            ("?1", None),
            ("", None),
        ] {
            assert_eq!(
                integer(&one(UPLOAD_OFFSET, text), UPLOAD_OFFSET),
                value,
                "{text:?}"
            );
        }
    }

    #[test]
    fn version_3_says_it_the_other_way_round() {
        for (text, said) in [("?0", false), ("?1", true)] {
            let newer = flag(&one(UPLOAD_COMPLETE, text), Version::V8);
            assert_eq!(newer, Flag::Set(said));
            let older = flag(&one(UPLOAD_INCOMPLETE, text), Version::V3);
            assert_eq!(older, Flag::Set(!said));
            let other = flag(&one(UPLOAD_INCOMPLETE, text), Version::V8);
            assert_eq!(other, Flag::Absent);
        }
        assert_eq!(
            flag(&one(UPLOAD_COMPLETE, "yes"), Version::V8),
            Flag::Invalid
        );
    }

    #[test]
    fn every_answer_satisfies_every_version() {
        let mut fields = HeaderMap::new();
        set_state(&mut fields, Version::V6, Offset(5), false);
        for (name, value) in [
            (INTEROP_VERSION, "6"),
            (UPLOAD_OFFSET, "5"),
            (UPLOAD_COMPLETE, "?0"),
            (UPLOAD_INCOMPLETE, "?1"),
        ] {
            assert_eq!(fields[name], value);
        }
        let mut fields = HeaderMap::new();
        set_state(&mut fields, Version::Final, Offset(5), true);
        assert!(!fields.contains_key(INTEROP_VERSION));
        assert_eq!(fields[UPLOAD_COMPLETE], "?1");
        assert_eq!(fields[UPLOAD_INCOMPLETE], "?0");
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_ignored(value in "[ -~]{0,40}") {
            let headers = one(UPLOAD_OFFSET, &value);
            if let Some(number) = integer(&headers, UPLOAD_OFFSET) {
                prop_assert!(number <= INTEGER_MAX);
            }
            prop_assert!(!(boolean(&headers, UPLOAD_OFFSET).is_some() && integer(&headers, UPLOAD_OFFSET).is_some()));
            let _dictionary = dictionary(&headers, UPLOAD_OFFSET);
        }

        #[test]
        fn what_prints_parses_back(number in 0..=INTEGER_MAX, complete: bool) {
            let mut fields = HeaderMap::new();
            set_state(&mut fields, Version::V8, Offset(number), complete);
            prop_assert_eq!(integer(&fields, UPLOAD_OFFSET), Some(number));
            prop_assert_eq!(flag(&fields, Version::V8), Flag::Set(complete));
            prop_assert_eq!(flag(&fields, Version::V3), Flag::Set(complete));
            prop_assert_eq!(integer(&fields, INTEROP_VERSION), Some(8));
        }
    }
}
