//! `Upload-Metadata`: read, checked, kept byte for byte, and written again where no client wrote it.
//!
//! ```text
//! Upload-Metadata: filename d29ybGQucGRm,is_confidential
//!                  key      Base64       key without a value
//! ```
//!
//! Every key that the protocol allows is kept, also those that tussi drops (`a.b`); every decoded
//! byte is a value, except in `filename`, which becomes a name somewhere.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};

use super::headers::{self, UPLOAD_METADATA};
use super::refusal::Refusal;

/// Key whose value names the file.
pub const FILENAME: &str = "filename";
/// Key whose value is the media type; what clients use by convention.
pub const FILETYPE: &str = "filetype";

/// What a `filename` may contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileNameRule {
    /// UTF-8 without control characters.
    #[default]
    Utf8,
    /// 0x20 to 0x7E, as tussi has it.
    Ascii,
}

/// A name that no rule has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be utf8 or ascii")]
pub struct UnknownRule;

impl FromStr for FileNameRule {
    type Err = UnknownRule;

    fn from_str(name: &str) -> Result<Self, UnknownRule> {
        match name {
            "utf8" => Ok(Self::Utf8),
            "ascii" => Ok(Self::Ascii),
            _ => Err(UnknownRule),
        }
    }
}

impl FileNameRule {
    fn allows(self, name: &[u8]) -> bool {
        match self {
            Self::Utf8 => {
                std::str::from_utf8(name).is_ok_and(|name| !name.chars().any(char::is_control))
            }
            Self::Ascii => name.iter().all(|byte| (0x20..=0x7E).contains(byte)),
        }
    }
}

/// Limits of `Upload-Metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataRules {
    /// Longest header value in bytes.
    pub max_raw: usize,
    /// What a `filename` may contain.
    pub filename: FileNameRule,
}

impl Default for MetadataRules {
    /// 4096 bytes, UTF-8.
    fn default() -> Self {
        Self {
            max_raw: 4096,
            filename: FileNameRule::Utf8,
        }
    }
}

/// Checked metadata of one upload, in the client's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pairs: Vec<(String, Vec<u8>)>,
    verbatim: Option<HeaderValue>,
}

impl Metadata {
    /// Reads `Upload-Metadata`. Without the field, or with an empty one, there is no metadata.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it came twice, [`Refusal::MetadataTooLarge`], [`Refusal::Metadata`]
    /// if it breaks the protocol's rules, [`Refusal::FileName`].
    pub fn parse(headers: &HeaderMap, rules: &MetadataRules) -> Result<Self, Refusal> {
        let Some(raw) = headers::single(headers, UPLOAD_METADATA)? else {
            return Ok(Self::default());
        };
        if rules.max_raw < raw.len() {
            return Err(Refusal::MetadataTooLarge {
                most: rules.max_raw,
            });
        }
        if raw.as_bytes().trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let metadata = Self {
            pairs: pairs(raw.as_bytes())?,
            verbatim: Some(raw.clone()),
        };
        metadata.checked(rules.filename)
    }

    /// Metadata that did not come as `Upload-Metadata` (the draft has no such field).
    ///
    /// # Errors
    /// As [`Self::parse`], for the same rules.
    pub fn from_pairs(
        pairs: Vec<(String, Vec<u8>)>,
        rules: &MetadataRules,
    ) -> Result<Self, Refusal> {
        unique(&pairs)?;
        let raw: usize = pairs
            .iter()
            .map(|(key, value)| key.len() + value.len() * 4 / 3 + 4)
            .sum();
        if rules.max_raw < raw {
            return Err(Refusal::MetadataTooLarge {
                most: rules.max_raw,
            });
        }
        Self {
            pairs,
            verbatim: None,
        }
        .checked(rules.filename)
    }

    fn checked(self, rule: FileNameRule) -> Result<Self, Refusal> {
        let allowed = self.get(FILENAME).is_none_or(|name| rule.allows(name));
        if allowed {
            Ok(self)
        } else {
            Err(Refusal::FileName)
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.pairs
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_slice())
    }

    /// Keys and values in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Exactly what the client sent; `None` if it sent nothing or spoke another protocol.
    #[must_use]
    pub fn verbatim(&self) -> Option<&HeaderValue> {
        self.verbatim.as_ref()
    }

    /// What HEAD answers: the client's header field, else one made of the pairs.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        self.verbatim.clone().or_else(|| serialize(self.iter()))
    }
}

/// The header field for `pairs`; `None` without any. A key that the field cannot carry (records of
/// other programs) is left out.
pub fn serialize<'a>(pairs: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<HeaderValue> {
    let mut text = String::new();
    for (key, value) in pairs.filter(|(key, _)| is_key(key.as_bytes())) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        if !value.is_empty() {
            text.push(' ');
            STANDARD.encode_string(value, &mut text);
        }
    }
    if text.is_empty() {
        None
    } else {
        HeaderValue::from_str(&text).ok()
    }
}

fn pairs(raw: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
    if !raw.iter().all(|byte| (0x20..=0x7E).contains(byte)) {
        return Err(Refusal::Metadata("not printable ASCII"));
    }
    let pairs = raw
        .split(|byte| *byte == b',')
        .map(pair)
        .collect::<Result<Vec<_>, _>>()?;
    unique(&pairs)?;
    Ok(pairs)
}

fn pair(raw: &[u8]) -> Result<(String, Vec<u8>), Refusal> {
    let raw = raw.trim_ascii();
    let (key, value) = match raw.iter().position(|byte| *byte == b' ') {
        Some(space) => (&raw[..space], &raw[space + 1..]),
        None => (raw, &raw[raw.len()..]),
    };
    if !is_key(key) {
        return Err(Refusal::Metadata("empty key"));
    }
    let key = String::from_utf8_lossy(key).into_owned();
    let value = STANDARD
        .decode(value)
        .map_err(|_| Refusal::Metadata("value is not Base64"))?;
    Ok((key, value))
}

fn is_key(key: &[u8]) -> bool {
    !key.is_empty()
        && key
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

fn unique(pairs: &[(String, Vec<u8>)]) -> Result<(), Refusal> {
    let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).any(|two| two[0] == two[1]) {
        true => Err(Refusal::Metadata("a key came twice")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
