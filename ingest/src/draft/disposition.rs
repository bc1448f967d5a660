//! The file name in `Content-Disposition` (RFC 6266, RFC 8187), and the rest of what describes the
//! file: the metadata of a draft upload.

use http::{HeaderMap, header};

use super::fields::PARTIAL_UPLOAD;
use crate::tus::headers::{UPLOAD_METADATA, has_media_type};
use crate::tus::metadata::{FILENAME, FILETYPE, Metadata, MetadataRules};
use crate::tus::refusal::Refusal;

/// The metadata of a draft upload, under the keys that tus clients use: `filename` from
/// `Content-Disposition`, `filetype` from `Content-Type`. tus-js-client sends `Upload-Metadata` in
/// the draft, too; that says it all then.
///
/// # Errors
/// As [`Metadata::parse`]. [`Refusal::FileName`] only if none of the names given is allowed: a
/// client may give a plain one for servers that cannot do with the other.
pub fn metadata(headers: &HeaderMap, rules: &MetadataRules) -> Result<Metadata, Refusal> {
    if headers.contains_key(UPLOAD_METADATA) {
        return Metadata::parse(headers, rules);
    }
    let file_type = headers.get(header::CONTENT_TYPE).filter(|value| {
        !value.is_empty() && value.to_str().is_ok() && !has_media_type(headers, PARTIAL_UPLOAD)
    });
    let with = |name: Option<&Vec<u8>>| {
        let name = name.map(|name| (FILENAME.to_owned(), name.clone()));
        let file_type = file_type.map(|value| (FILETYPE.to_owned(), value.as_bytes().to_vec()));
        Metadata::from_pairs(name.into_iter().chain(file_type).collect(), rules)
    };
    let names = file_names(headers);
    let mut answers = names.iter().map(|name| with(Some(name)));
    let Some(first) = answers.next() else {
        return with(None);
    };
    first.or_else(|refusal| answers.find_map(Result::ok).ok_or(refusal))
}

/// The file names given, best one first: `filename*`, then `filename`.
fn file_names(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let Some(value) = headers.get(header::CONTENT_DISPOSITION) else {
        return Vec::new();
    };
    let (mut extended, mut plain) = (None, None);
    for (name, value) in parameters(value.as_bytes()) {
        if name.eq_ignore_ascii_case(b"filename*") && extended.is_none() {
            extended = decode_extended(&value);
        } else if name.eq_ignore_ascii_case(b"filename") && plain.is_none() {
            plain = Some(as_utf8(&value)).filter(|name| !name.is_empty());
        }
    }
    extended.into_iter().chain(plain).collect()
}

/// Parameters behind the disposition type, quotes and backslashes undone. Reading ends where the
/// value makes no sense; what came before stands.
fn parameters(value: &[u8]) -> Vec<(&[u8], Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = after(value, b';').unwrap_or_default();
    while let Some(equals) = rest.iter().position(|byte| *byte == b'=') {
        let (name, behind) = rest.split_at(equals);
        let behind = behind.get(1..).unwrap_or_default().trim_ascii_start();
        let value = match behind.strip_prefix(b"\"") {
            Some(quoted) => match unquote(quoted) {
                Some((value, behind)) => {
                    rest = after(behind, b';').unwrap_or_default();
                    value
                }
                None => break,
            },
            None => {
                let end = behind
                    .iter()
                    .position(|byte| *byte == b';')
                    .unwrap_or(behind.len());
                let (value, behind) = behind.split_at(end);
                rest = behind.get(1..).unwrap_or_default();
                value.trim_ascii().to_vec()
            }
        };
        found.push((name.trim_ascii(), value));
    }
    found
}

/// What follows the first `separator`.
fn after(bytes: &[u8], separator: u8) -> Option<&[u8]> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    bytes.get(at + 1..)
}

/// A quoted string whose opening quote has been read, and what follows it.
fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((value, bytes.as_slice())),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
}

/// `UTF-8'language'percent-encoded` (RFC 8187), as UTF-8; also ISO-8859-1, which it succeeded.
fn decode_extended(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts = value.splitn(3, |byte| *byte == b'\'');
    let (charset, _language, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let hex = [*rest.next()?, *rest.next()?];
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push(u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).ok()?);
        } else {
            bytes.push(*byte);
        }
    }
    let name = match charset.to_ascii_lowercase().as_slice() {
        b"utf-8" => std::str::from_utf8(&bytes).is_ok().then_some(bytes)?,
        b"iso-8859-1" => latin_1(&bytes),
        _ => return None,
    };
    Some(name).filter(|name| !name.is_empty())
}

/// Bytes beyond ASCII in a plain `filename`: UTF-8 from most clients, else ISO-8859-1.
fn as_utf8(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.to_vec(),
        Err(_) => latin_1(bytes),
    }
}

fn latin_1(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .map(char::from)
        .collect::<String>()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::tus::metadata::FileNameRule;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn name_of(disposition: &[u8]) -> Option<String> {
        let headers = headers(&[("content-disposition", disposition)]);
        let metadata = metadata(&headers, &MetadataRules::default()).unwrap();
        metadata
            .get(FILENAME)
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
    }

    #[test]
    fn the_file_name_is_read_as_rfc_6266_and_rfc_8187_say() {
        let cases: [(&[u8], Option<&str>); 20] = [
            (
                b"inline; filename=\"file name.jpg\"; filename*=UTF-8''file%20name.jpg",
                Some("file name.jpg"),
            ),
            (b"inline;filename=plain.txt", Some("plain.txt")),
            (
                b"attachment; FileName = \"a;b=c.txt\" ; x=y",
                Some("a;b=c.txt"),
            ),
            (b"inline; filename=\"a\\\"b\\\\c\"", Some("a\"b\\c")),
            (
                b"inline; filename*=utf-8'de'gr%C3%BC%c3%9Fe.txt; filename=gruesse.txt",
                Some("gr\u{fc}\u{df}e.txt"),
            ),
            (
                b"inline; filename*=iso-8859-1''gr%FC%DFe",
                Some("gr\u{fc}\u{df}e"),
            ),
            (
                b"inline; filename=\"gr\xc3\xbc\xc3\x9fe\"",
                Some("gr\u{fc}\u{df}e"),
            ),
            (b"inline; filename=\"gr\xfc\xdfe\"", Some("gr\u{fc}\u{df}e")),
            (b"inline; filename*=UTF-8''%FF; filename=ok", Some("ok")),
            (b"inline; filename*=UTF-8''%2; filename=ok", Some("ok")),
            (b"inline; filename*=UTF-8''%zz; filename=ok", Some("ok")),
            (b"inline; filename*=koi8-r''x; filename=ok", Some("ok")),
            (b"inline; filename*=UTF-8''%0a; filename=ok", Some("ok")),
            (b"inline; filename=\"a%20b\"", Some("a%20b")),
            (b"inline; filename=first; filename=second", Some("first")),
            (b"inline; filename=\"never closed", None),
            (b"inline; filename=", None),
            (b"inline; filename*=UTF-8''", None),
            (b"inline", None),
            (b"", None),
        ];
        for (disposition, name) in cases {
            let shown = String::from_utf8_lossy(disposition);
            assert_eq!(name_of(disposition).as_deref(), name, "{shown}");
        }
    }

    #[test]
    fn a_name_that_is_not_allowed_is_refused_unless_another_one_is() {
        let rules = MetadataRules {
            filename: FileNameRule::Ascii,
            ..MetadataRules::default()
        };
        let both = headers(&[(
            "content-disposition",
            b"inline; filename*=UTF-8''%C3%BC; filename=u",
        )]);
        assert_eq!(
            metadata(&both, &rules).unwrap().get(FILENAME),
            Some(&b"u"[..])
        );
        let one = headers(&[("content-disposition", b"inline; filename*=UTF-8''%C3%BC")]);
        assert_eq!(metadata(&one, &rules), Err(Refusal::FileName));
        let control = headers(&[("content-disposition", b"inline; filename*=UTF-8''a%0Ab")]);
        assert_eq!(
            metadata(&control, &MetadataRules::default()),
            Err(Refusal::FileName)
        );
    }

    #[test]
    fn the_content_type_describes_the_file_unless_it_describes_an_append() {
        let typed = |value: &[u8]| {
            let metadata = metadata(
                &headers(&[("content-type", value)]),
                &MetadataRules::default(),
            );
            metadata.unwrap().get(FILETYPE).map(<[u8]>::to_vec)
        };
        assert_eq!(typed(b"video/mp4").unwrap(), b"video/mp4");
        assert_eq!(
            typed(b"text/plain; charset=utf-8").unwrap(),
            b"text/plain; charset=utf-8"
        );
        assert_eq!(typed(b"application/partial-upload"), None);
        assert_eq!(typed(b""), None);
        assert_eq!(typed(b"text/\xff"), None);
    }

    #[test]
    fn upload_metadata_says_it_all_if_it_is_there() {
        let fields = [
            ("upload-metadata", &b"filename YQ==,k"[..]),
            ("content-disposition", &b"inline; filename=other"[..]),
            ("content-type", &b"video/mp4"[..]),
        ];
        let metadata = metadata(&headers(&fields), &MetadataRules::default()).unwrap();
        assert_eq!(metadata.iter().count(), 2);
        assert_eq!(metadata.get(FILENAME), Some(&b"a"[..]));
        assert_eq!(metadata.verbatim().unwrap(), "filename YQ==,k");
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_ignored(value in proptest::collection::vec(0x20_u8..=0xFF, 0..60)) {
            prop_assume!(!value.contains(&0x7F));
            let mut disposition = b"inline; filename=\"".to_vec();
            disposition.extend(&value);
            for tried in [value, disposition] {
                let headers = headers(&[("content-disposition", &tried)]);
                if let Ok(metadata) = metadata(&headers, &MetadataRules::default()) {
                    prop_assert!(metadata.get(FILENAME).is_none_or(|name| std::str::from_utf8(name).is_ok()));
                }
            }
        }

        #[test]
        fn what_prints_parses_back(name in "[^\\pC]{1,20}") {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let plain = format!("inline; filename=\"{quoted}\"");
            prop_assert_eq!(name_of(plain.as_bytes()), Some(name.clone()));
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let extended = format!("inline; filename=x; filename*=UTF-8''{encoded}");
            prop_assert_eq!(name_of(extended.as_bytes()), Some(name));
        }
    }
}
