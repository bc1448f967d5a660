//! Identity of uploads and claims. A value that exists is valid and safe as a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names one upload for its whole life: in URLs, file names, records, logs and hooks.
///
/// Written as a lower-case hyphenated UUID and parsed from nothing else, so that one upload has
/// exactly one name (`..%2f`, upper case, braces and missing hyphens are all refused).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(Uuid);

/// A string that is not a lower-case hyphenated UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an upload id")]
pub struct InvalidId;

impl UploadId {
    /// Length of the written form in bytes.
    pub const LEN: usize = 36;

    /// A new id. Time ordered (UUID version 7), so that names sort by creation.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// Names one claim: unique to one claimer and one claim, never used again.
///
/// 32 lower-case hexadecimal digits. Uniqueness is what makes the rename to
/// `claimed/{upload}~{claim}` a commit: no other process can have created that name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(Uuid);

impl ClaimId {
    /// Length of the written form in bytes.
    pub const LEN: usize = 32;

    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

/// Gives an id one written form, everywhere the same: parsed, printed and in JSON.
macro_rules! written_only_as {
    ($form:ident, $id:ident) => {
        impl FromStr for $id {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let has_form =
                    text.len() == Self::LEN && !text.bytes().any(|b| b.is_ascii_uppercase());
                let id = has_form.then(|| Uuid::try_parse(text).ok()).flatten();
                id.map(Self).ok_or(InvalidId)
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.$form().fmt(f)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

written_only_as!(as_hyphenated, UploadId);
written_only_as!(as_simple, ClaimId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_canonical_form_is_an_upload_id() {
        let id = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";
        assert_eq!(id.parse::<UploadId>().unwrap().to_string(), id);
        let refused = [
            "",
            "0193A5F0-1C2D-7E3F-8A4B-5C6D7E8F9A0B",
            "0193a5f01c2d7e3f8a4b5c6d7e8f9a0b",
            "{0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b}",
            "urn:uuid:0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
            "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b.meta",
            "../93a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
            "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0\0",
            "..%2f",
        ];
        for text in refused {
            assert_eq!(text.parse::<UploadId>(), Err(InvalidId), "{text:?}");
        }
    }

    #[test]
    fn generated_ids_sort_by_creation() {
        let a = UploadId::generate();
        let b = UploadId::generate();
        assert!(a < b);
        assert!(a.to_string() < b.to_string());
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<UploadId>() {
                prop_assert_eq!(id.to_string(), text.clone());
            }
            if let Ok(id) = text.parse::<ClaimId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
