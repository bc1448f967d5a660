//! `104 Upload Resumption Supported`: tells the client where its upload is before its body is read.
//! Apple's clients send the whole file in one request and cannot resume without it.

use super::version::{Drafts, Version};

/// The bytes of the 104 for an HTTP/1.1 connection, to be written before the first body byte is
/// read and before anything of the final answer. Its `Location` is that of the final answer.
///
/// `None` if none may be sent: to a client that named no version, or if it is switched off.
#[must_use]
pub fn response(version: Version, drafts: Drafts, location: &str, limit: &str) -> Option<Vec<u8>> {
    let number = version.number().filter(|_| drafts.interim)?;
    // Both values are made by us; a line break in one must not become a header field all the same.
    if [location, limit]
        .iter()
        .any(|value| value.bytes().any(|byte| byte.is_ascii_control()))
    {
        return None;
    }
    let mut text = format!(
        "HTTP/1.1 104 Upload Resumption Supported\r\n\
         Location: {location}\r\n\
         Upload-Draft-Interop-Version: {number}\r\n"
    );
    if Version::V6 <= version {
        text.push_str(&format!("Upload-Limit: {limit}\r\n"));
    }
    text.push_str("\r\n");
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(version: Version, drafts: Drafts) -> Option<String> {
        let bytes = response(version, drafts, "http://h/files/x", "min-size=0")?;
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn it_carries_the_location_the_clients_version_and_the_limits() {
        let expected = "HTTP/1.1 104 Upload Resumption Supported\r\nLocation: http://h/files/x\r\n\
                        Upload-Draft-Interop-Version: 8\r\nUpload-Limit: min-size=0\r\n\r\n";
        assert_eq!(text(Version::V8, Drafts::default()).unwrap(), expected);
        let oldest = text(Version::V3, Drafts::default()).unwrap();
        assert!(oldest.contains("Version: 3\r\n") && !oldest.contains("Limit"));
    }

    #[test]
    fn it_must_not_be_sent_when_the_interop_version_is_missing_or_when_switched_off() {
        assert_eq!(text(Version::Final, Drafts::default()), None);
        let off = Drafts {
            interim: false,
            ..Drafts::default()
        };
        for version in Version::NUMBERED {
            assert_eq!(text(version, off), None);
        }
    }

    #[test]
    fn no_value_becomes_a_header_field() {
        let split = response(
            Version::V8,
            Drafts::default(),
            "x\r\nSet-Cookie: y",
            "min-size=0",
        );
        assert_eq!(split, None);
    }
}
