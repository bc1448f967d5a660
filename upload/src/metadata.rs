//! `Upload-Metadata`: what the user says about a file, and what its name tells.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// Keys and values in the order in which they are sent. Every key is valid and stands once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata(Vec<(String, String)>);

impl Metadata {
    /// From `KEY=VALUE` words; a word without `=` is a key without a value. The error is for the user.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut metadata = Self::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if !is_key(key) {
                let rule = "printable ASCII without space and comma";
                return Err(format!("'{key}' cannot be a metadata key ({rule})"));
            }
            if metadata.get(key).is_some() {
                return Err(format!("the metadata key '{key}' is given twice"));
            }
            metadata.0.push((key.to_owned(), value.to_owned()));
        }
        Ok(metadata)
    }

    /// With `filename` and `filetype` from the name and, below a directory, `relativePath`; what is
    /// there already stays.
    pub(crate) fn completed(&self, name: &str, relative_path: Option<&str>) -> Self {
        let mut whole = Self(Vec::with_capacity(self.0.len() + 3));
        let filetype = mime_guess::from_path(Path::new(name)).first_raw();
        let known = [
            ("filename", Some(name).filter(|name| !name.is_empty())),
            ("filetype", filetype),
            ("relativePath", relative_path),
        ];
        for (key, value) in known {
            let given = self.get(key).is_some();
            if let (false, Some(value)) = (given, value) {
                whole.0.push((key.to_owned(), value.to_owned()));
            }
        }
        whole.0.extend(self.0.iter().cloned());
        whole
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The header's value; `None` when there is nothing to say.
    pub(crate) fn header(&self) -> Option<String> {
        let pairs = self.0.iter().map(|(key, value)| match value.as_str() {
            "" => key.clone(),
            value => format!("{key} {}", BASE64_STANDARD.encode(value)),
        });
        Some(pairs.collect::<Vec<_>>().join(",")).filter(|header| !header.is_empty())
    }
}

/// tus 1.0.0, Upload-Metadata: "The key MUST NOT contain spaces and commas and MUST NOT be empty. The
/// key SHOULD be ASCII encoded".
fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(words: &[&str]) -> Result<Metadata, String> {
        Metadata::parse(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn every_single_byte_key_is_judged_by_the_rule() {
        for byte in 0..=127_u8 {
            let key = char::from(byte).to_string();
            let allowed = (b'!'..=b'~').contains(&byte) && byte != b',';
            assert_eq!(is_key(&key), allowed, "{byte}");
        }
        assert!(!is_key(""));
        assert!(!is_key("schlüssel"));
    }

    #[test]
    fn the_header_is_as_in_the_protocol_text() {
        let metadata = parse(&["filename=world_domination_plan.pdf", "is_confidential"]).unwrap();
        let expected = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential";
        assert_eq!(metadata.header().unwrap(), expected);
        assert_eq!(Metadata::default().header(), None);
    }

    #[test]
    fn a_value_may_hold_equals_signs_and_line_breaks() {
        let metadata = parse(&["formula=a=b\nc"]).unwrap();
        assert_eq!(metadata.get("formula"), Some("a=b\nc"));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(parse(&["a=1", "a=2"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn name_and_type_are_filled_in_unless_given() {
        let filled = parse(&["project=x"])
            .unwrap()
            .completed("photo.jpg", Some("trip/photo.jpg"));
        assert_eq!(filled.get("filename"), Some("photo.jpg"));
        assert_eq!(filled.get("filetype"), Some("image/jpeg"));
        assert_eq!(filled.get("relativePath"), Some("trip/photo.jpg"));
        assert_eq!(filled.get("project"), Some("x"));
        let given = parse(&["filename=other", "filetype=text/x"])
            .unwrap()
            .completed("a.jpg", None);
        assert_eq!(
            given,
            parse(&["filename=other", "filetype=text/x"]).unwrap()
        );
        assert_eq!(
            Metadata::default()
                .completed("unknown", None)
                .get("filetype"),
            None
        );
    }

    proptest! {
        #[test]
        fn every_value_comes_back_from_the_header(key in "[!-+.-<>-~]{1,8}", value in ".*") {
            let metadata = parse(&[&format!("{key}={value}")]).unwrap();
            let header = metadata.header().unwrap();
            let (sent_key, sent) = header.split_once(' ').unwrap_or((&header, ""));
            prop_assert_eq!(sent_key, key);
            prop_assert_eq!(BASE64_STANDARD.decode(sent).unwrap(), value.into_bytes());
            prop_assert!(header.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
        }
    }
}
