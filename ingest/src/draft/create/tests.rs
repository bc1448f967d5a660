use http::HeaderValue;

use super::super::fields::{UPLOAD_COMPLETE, UPLOAD_INCOMPLETE};
use super::super::version::Version::{self, Final, V3, V5, V6, V8};
use super::*;

const VERSIONS: [Version; 5] = [V3, V5, V6, V8, Final];
const EMPTY: BodySize = BodySize::Exact(0);

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// Parses with the flag set to `last` in the words of the version.
fn parse(
    version: Version,
    last: bool,
    extra: &[(&'static str, &str)],
    body: BodySize,
) -> Result<Create, Refusal> {
    let mut headers = headers(extra);
    let (name, value) = match version {
        V3 => (UPLOAD_INCOMPLETE, !last),
        _ => (UPLOAD_COMPLETE, last),
    };
    headers.insert(
        name,
        HeaderValue::from_static(if value { "?1" } else { "?0" }),
    );
    Create::parse(&headers, body, version, &Capabilities::default())
}

fn plan(
    version: Version,
    last: bool,
    extra: &[(&'static str, &str)],
    body: BodySize,
) -> Result<Plan, Refusal> {
    parse(version, last, extra, body)?.decide(&Capabilities::default())
}

#[test]
fn the_flag_is_what_makes_it_a_creation() {
    for version in VERSIONS {
        let name = fields::flag_name(version);
        for bad in [None, Some("yes"), Some("1"), Some("?1, ?1"), Some("")] {
            let headers = bad.map_or_else(HeaderMap::new, |value| headers(&[(name, value)]));
            let refused = Create::parse(&headers, EMPTY, version, &Capabilities::default());
            assert_eq!(refused, Err(Refusal::Missing(name)));
        }
        assert!(parse(version, true, &[], EMPTY).is_ok());
    }
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        assert!(is_creation(&method));
    }
    assert!(!is_creation(&Method::GET) && !is_creation(&Method::DELETE));
}

#[test]
fn the_length_is_told_by_the_field_or_by_the_size_of_a_complete_body_and_both_must_agree() {
    for version in VERSIONS {
        for last in [false, true] {
            for body in [
                EMPTY,
                BodySize::Exact(5),
                BodySize::Exact(9),
                BodySize::Unknown,
            ] {
                for told in [None, Some(5), Some(9)] {
                    let text = told.map(|told: u64| told.to_string());
                    let extra: Vec<_> = text
                        .iter()
                        .map(|text| ("upload-length", text.as_str()))
                        .collect();
                    let by_body = match body {
                        BodySize::Exact(size) if last => Some(size),
                        _ => None,
                    };
                    let parsed = parse(version, last, &extra, body).map(|create| create.length());
                    let expected = match (told, by_body) {
                        (Some(told), Some(size)) if told != size => {
                            Err(Refusal::InconsistentLength)
                        }
                        (told, size) => Ok(told.or(size).map(Length)),
                    };
                    assert_eq!(parsed, expected, "{version:?} {last} {body:?} {told:?}");
                }
            }
        }
    }
}

#[test]
fn an_invalid_length_is_ignored() {
    for bad in ["", "-1", "+5", "5.0", "five", "1000000000000000", "5, 5"] {
        let parsed = parse(V8, false, &[("upload-length", bad)], EMPTY).unwrap();
        assert_eq!(parsed.length(), None, "{bad:?}");
    }
}

#[test]
fn careful_creation_makes_an_open_upload_without_bytes() {
    for version in VERSIONS {
        let upload = plan(version, false, &[], EMPTY).unwrap().upload;
        assert_eq!((upload.length, upload.finish), (None, Finish::AtFlag));
        assert!(upload.first.is_none() && !upload.complete_at_once());
    }
}

#[test]
fn an_empty_complete_request_is_an_empty_file() {
    for version in VERSIONS {
        let upload = plan(version, true, &[], EMPTY).unwrap().upload;
        assert_eq!(upload.length, Some(Length(0)));
        assert!(upload.complete_at_once() && upload.first.is_none());
        let chunked = plan(version, true, &[], BodySize::Unknown).unwrap().upload;
        let reached = chunked.first.unwrap().reached(0, true).unwrap();
        assert_eq!((reached.length, reached.complete), (Some(Length(0)), true));
    }
}

#[test]
fn tus_js_client_creates_an_empty_file_carefully_and_never_comes_back() {
    for version in VERSIONS {
        let upload = plan(version, false, &[("upload-length", "0")], EMPTY)
            .unwrap()
            .upload;
        assert_eq!(upload.complete_at_once(), version <= V6, "{version:?}");
    }
}

#[test]
fn a_complete_request_is_complete_only_when_its_body_came_to_its_end() {
    for version in VERSIONS {
        for (body, length) in [
            (BodySize::Exact(5), Some(Length(5))),
            (BodySize::Unknown, None),
        ] {
            let first = plan(version, true, &[], body)
                .unwrap()
                .upload
                .first
                .unwrap();
            assert!(first.last && first.verify.counts_at_once());
            // Without a length, recovery could not tell the end: it is flagged with the hand-over.
            assert_eq!(first.flags_end(), length.is_some());
            assert_eq!((first.length, first.finish), (length, Finish::AtFlag));
            let cut = first.reached(3, false).unwrap();
            assert_eq!(
                (cut.offset, cut.length, cut.complete),
                (Offset(3), length, false)
            );
            let whole = first.reached(5, true).unwrap();
            assert_eq!((whole.length, whole.complete), (Some(Length(5)), true));
        }
    }
}

#[test]
fn an_incomplete_request_never_completes_also_at_the_length() {
    for version in VERSIONS {
        let upload = plan(
            version,
            false,
            &[("upload-length", "5")],
            BodySize::Exact(5),
        );
        let first = upload.unwrap().upload.first.unwrap();
        assert!(!first.flags_end());
        let reached = first.reached(5, true).unwrap();
        assert_eq!((reached.length, reached.complete), (Some(Length(5)), false));
    }
}

#[test]
fn bytes_past_the_length_and_past_the_limits_are_refused() {
    let overrun = Refusal::Overrun { length: Length(5) };
    let refused = plan(V8, false, &[("upload-length", "5")], BodySize::Exact(6));
    assert_eq!(refused, Err(overrun.clone()));
    let chunked = plan(V8, false, &[("upload-length", "5")], BodySize::Unknown);
    let room = chunked.unwrap().upload.first.unwrap().room;
    assert_eq!(
        room,
        Room {
            most: 5,
            beyond: overrun
        }
    );
    let limits = Capabilities {
        max_size: Some(9),
        max_chunk: Some(4),
        ..Capabilities::default()
    };
    let limited = |extra: &[(&'static str, &str)], body| {
        Create::parse(&headers(extra), body, V8, &limits)?.decide(&limits)
    };
    let complete = (UPLOAD_COMPLETE, "?1");
    let refused = limited(&[complete], BodySize::Exact(10));
    assert_eq!(refused, Err(Refusal::MaxSize { most: 9 }));
    let refused = limited(&[complete], BodySize::Exact(5));
    assert_eq!(refused, Err(Refusal::ChunkTooLarge { most: 4 }));
    let refused = limited(&[(UPLOAD_COMPLETE, "?0"), ("upload-length", "10")], EMPTY);
    assert_eq!(refused, Err(Refusal::MaxSize { most: 9 }));
}

#[test]
fn the_content_digest_of_a_complete_request_is_that_of_the_whole_file() {
    let digest = "md5=:AAAAAAAAAAAAAAAAAAAAAA==:";
    let content = ("content-digest", digest);
    let whole = plan(V8, true, &[content], BodySize::Exact(5)).unwrap();
    assert_eq!(whole.whole_digest.unwrap().digest, [0; 16]);
    assert!(whole.upload.first.unwrap().verify.counts_at_once());
    let part = plan(V8, false, &[content], BodySize::Exact(5)).unwrap();
    assert_eq!(part.whole_digest, None);
    assert!(!part.upload.first.unwrap().verify.counts_at_once());
    let both = [("repr-digest", digest), ("want-repr-digest", "sha-256=1")];
    let declared = plan(V8, false, &both, EMPTY).unwrap();
    assert!(declared.whole_digest.is_some());
    assert_eq!(declared.wanted_digest, Some(Algorithm::Sha256));
    let bad = plan(V8, false, &[("repr-digest", "md5=:AA==:")], EMPTY);
    assert_eq!(bad, Err(Refusal::Malformed(REPR_DIGEST)));
}

#[test]
fn the_answer_carries_the_location_and_the_state() {
    let reached = Reached {
        offset: Offset(5),
        length: None,
        complete: false,
    };
    let (status, answer) = reply(V8, "http://h/files/x", reached, "min-size=0");
    assert_eq!(status, 201);
    for (name, value) in [
        ("location", "http://h/files/x"),
        ("upload-offset", "5"),
        (UPLOAD_COMPLETE, "?0"),
        (UPLOAD_INCOMPLETE, "?1"),
        ("upload-limit", "min-size=0"),
        ("upload-draft-interop-version", "8"),
    ] {
        assert_eq!(answer[name], value);
    }
}

#[test]
fn it_needs_the_creation_extension() {
    use crate::tus::capabilities::Extensions;
    assert_eq!(require_creation(&Capabilities::default()), Ok(()));
    let extensions = Extensions::all().without(Extension::Creation);
    let off = Capabilities {
        extensions,
        ..Capabilities::default()
    };
    assert_eq!(require_creation(&off).unwrap_err().status(), 405);
}
