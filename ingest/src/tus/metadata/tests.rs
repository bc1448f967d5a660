use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn headers(raw: &[u8]) -> HeaderMap {
    let value = HeaderValue::from_bytes(raw).unwrap();
    HeaderMap::from_iter([(UPLOAD_METADATA.parse().unwrap(), value)])
}

fn parse(raw: &str) -> Result<Metadata, Refusal> {
    Metadata::parse(&headers(raw.as_bytes()), &MetadataRules::default())
}

fn read(raw: &str) -> Vec<(String, Vec<u8>)> {
    parse(raw).unwrap().pairs
}

fn pairs_of(expected: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    expected
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.to_vec()))
        .collect()
}

#[test]
fn it_consists_of_comma_separated_key_value_pairs_separated_by_a_space() {
    let raw = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential";
    let expected = pairs_of(&[
        ("filename", b"world_domination_plan.pdf"),
        ("is_confidential", b""),
    ]);
    assert_eq!(read(raw), expected);
    let spaced = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==, is_confidential ";
    assert_eq!(read(spaced), expected);
    assert_eq!(parse(spaced).unwrap().verbatim().unwrap(), spaced);
}

#[test]
fn the_value_may_be_empty_and_then_the_space_may_be_left_out() {
    assert_eq!(read("a"), pairs_of(&[("a", b"")]));
    assert_eq!(read("a ,b"), pairs_of(&[("a", b""), ("b", b"")]));
    assert_eq!(read("filename"), pairs_of(&[("filename", b"")]));
}

#[test]
fn the_key_must_not_be_empty() {
    for raw in [",", "a,", ",a", "a,,b", "a, ,b", ", "] {
        assert_eq!(parse(raw), Err(Refusal::Metadata("empty key")), "{raw:?}");
    }
}

#[test]
fn all_keys_must_be_unique() {
    for raw in ["a,a", "a YQ==,b,a Yg==", "a YQ==,a YQ=="] {
        assert_eq!(
            parse(raw),
            Err(Refusal::Metadata("a key came twice")),
            "{raw:?}"
        );
    }
    assert_eq!(read("a,A").len(), 2, "keys are compared as they are");
}

#[test]
fn the_value_must_be_base64_encoded() {
    for raw in [
        "a !",
        "a YQ",
        "a YQ=",
        "a YR==",
        "a YQ== ==",
        "a  YQ==",
        "a Y Q==",
        "a -_-_",
        "a YQ===",
    ] {
        assert_eq!(
            parse(raw),
            Err(Refusal::Metadata("value is not Base64")),
            "{raw:?}"
        );
    }
}

#[test]
fn bytes_outside_the_printable_range_are_refused() {
    for byte in (0x80..=0xFF).chain([b'\t']) {
        for raw in [[b'k', byte], [byte, b'k']] {
            let refused = Metadata::parse(&headers(&raw), &MetadataRules::default());
            assert_eq!(
                refused,
                Err(Refusal::Metadata("not printable ASCII")),
                "{byte:#x}"
            );
        }
    }
}

#[test]
fn every_decoded_byte_is_valid_except_in_filename() {
    for byte in 0..=0xFF_u8 {
        let value = STANDARD.encode([byte]);
        assert_eq!(read(&format!("k {value}")), pairs_of(&[("k", &[byte])]));
        let printable = (0x20..=0x7E).contains(&byte);
        assert_eq!(
            parse(&format!("filename {value}")).is_ok(),
            printable,
            "{byte:#x}"
        );
    }
}

#[test]
fn a_filename_is_utf8_without_control_characters_or_printable_ascii() {
    let allowed = |rule: FileNameRule, name: &str| {
        let rules = MetadataRules {
            filename: rule,
            ..MetadataRules::default()
        };
        let raw = format!("filename {}", STANDARD.encode(name));
        Metadata::parse(&headers(raw.as_bytes()), &rules)
    };
    for name in ["grüße.txt", "漢字", "🎞.mp4"] {
        assert!(allowed(FileNameRule::Utf8, name).is_ok());
        assert_eq!(allowed(FileNameRule::Ascii, name), Err(Refusal::FileName));
    }
    for name in ["a\nb", "a\u{7f}", "a\u{85}b", "\0", "a\r"] {
        assert_eq!(
            allowed(FileNameRule::Utf8, name),
            Err(Refusal::FileName),
            "{name:?}"
        );
        assert_eq!(
            allowed(FileNameRule::Ascii, name),
            Err(Refusal::FileName),
            "{name:?}"
        );
    }
    assert!(allowed(FileNameRule::Ascii, "plain (1).txt").is_ok());
    assert_eq!("utf8".parse(), Ok(FileNameRule::Utf8));
    assert_eq!("ascii".parse(), Ok(FileNameRule::Ascii));
    assert_eq!("UTF8".parse::<FileNameRule>(), Err(UnknownRule));
}

#[test]
fn keys_that_the_protocol_allows_are_kept_also_where_tussi_drops_them() {
    assert_eq!(read("a.b,c:d YQ==").len(), 2);
}

#[test]
fn the_header_may_be_as_long_as_the_limit_and_no_longer() {
    let rules = MetadataRules {
        max_raw: 4,
        ..MetadataRules::default()
    };
    assert!(Metadata::parse(&headers(b"abcd"), &rules).is_ok());
    let refused = Metadata::parse(&headers(b"abcde"), &rules);
    assert_eq!(refused, Err(Refusal::MetadataTooLarge { most: 4 }));
    assert_eq!(refused.unwrap_err().status(), 400);
    let pairs = pairs_of(&[("filename", &[b'x'; 5000])]);
    let refused = Metadata::from_pairs(pairs, &MetadataRules::default());
    assert_eq!(refused, Err(Refusal::MetadataTooLarge { most: 4096 }));
}

#[test]
fn an_absent_or_empty_header_is_no_metadata_and_a_repeated_one_is_malformed() {
    let none = Metadata::parse(&HeaderMap::new(), &MetadataRules::default()).unwrap();
    assert!(none.is_empty() && none.header().is_none());
    assert_eq!(parse("").unwrap(), none);
    let mut twice = headers(b"a");
    twice.append(UPLOAD_METADATA, HeaderValue::from_static("b"));
    let refused = Metadata::parse(&twice, &MetadataRules::default());
    assert_eq!(refused, Err(Refusal::Malformed(UPLOAD_METADATA)));
}

#[test]
fn keys_that_a_header_cannot_carry_are_left_out_of_it() {
    let pairs: [(&str, &[u8]); 5] = [
        ("a b", b"1"),
        ("ok", b"a"),
        ("", b"2"),
        ("ü", b"3"),
        ("x,y", b"4"),
    ];
    assert_eq!(serialize(pairs.into_iter()).unwrap(), "ok YQ==");
    assert_eq!(serialize([("", b"".as_slice())].into_iter()), None);
}

proptest! {
    #[test]
    fn what_prints_parses_back(
        map in proptest::collection::btree_map("[!-+--~]{1,8}", proptest::collection::vec(any::<u8>(), 0..20), 1..8)
    ) {
        let map: BTreeMap<String, Vec<u8>> =
            map.into_iter().filter(|(key, _)| key != FILENAME).collect();
        let header = serialize(map.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        let Some(header) = header else { return Ok(()) };
        let parsed = Metadata::parse(&headers(header.as_bytes()), &MetadataRules::default()).unwrap();
        prop_assert_eq!(parsed.header().unwrap(), header);
        prop_assert_eq!(parsed.pairs.into_iter().collect::<BTreeMap<_, _>>(), map);
    }

    #[test]
    fn any_header_is_metadata_or_refused(raw in proptest::collection::vec(0x20_u8..=0xFF, 0..60)) {
        prop_assume!(!raw.contains(&0x7F));
        if let Ok(metadata) = Metadata::parse(&headers(&raw), &MetadataRules::default()) {
            let shown = metadata.verbatim().map_or(&b""[..], HeaderValue::as_bytes);
            prop_assert!(shown == raw || metadata.is_empty());
        }
    }

    #[test]
    fn near_misses_are_metadata_or_refused(raw in "[ab ,=Y!]{0,16}") {
        let keys = parse(&raw).map_or(0, |metadata| metadata.iter().count());
        prop_assert!(keys <= raw.split(',').count());
    }
}
