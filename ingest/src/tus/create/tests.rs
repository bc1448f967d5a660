use super::super::capabilities::Extensions;
use super::super::concat::Authorities;
use super::super::number::{BAD, raw};
use super::*;

const PART: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0a";

fn site() -> Site<'static> {
    Site {
        base: "/files/",
        path: "/files/",
        authorities: &Authorities::Any,
    }
}

fn request(extra: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([("tus-resumable".parse().unwrap(), raw("1.0.0"))]);
    for (name, value) in extra {
        headers.append(*name, raw(value));
    }
    headers
}

fn with(
    extra: &[(&'static str, &str)],
    body: BodySize,
    capabilities: &Capabilities,
) -> Result<Create, Refusal> {
    Create::parse(&request(extra), body, &site(), capabilities)
}

fn parse(extra: &[(&'static str, &str)]) -> Result<Create, Refusal> {
    with(extra, BodySize::Exact(0), &Capabilities::default())
}

fn plan(extra: &[(&'static str, &str)], body: BodySize) -> Result<Plan, Refusal> {
    with(extra, body, &Capabilities::default())?.decide(&[], &Capabilities::default())
}

fn off(extension: Extension) -> Capabilities {
    let extensions = Extensions::all().without(extension);
    Capabilities {
        extensions,
        ..Capabilities::default()
    }
}

#[test]
fn the_request_must_include_upload_length_or_upload_defer_length() {
    assert_eq!(parse(&[]), Err(Refusal::Missing(UPLOAD_LENGTH)));
    assert_eq!(
        parse(&[("upload-length", "100")]).unwrap().length(),
        Some(Length(100))
    );
    assert_eq!(
        parse(&[("upload-defer-length", "1")]).unwrap().length(),
        None
    );
    let both = parse(&[("upload-length", "100"), ("upload-defer-length", "1")]);
    assert_eq!(
        both,
        Err(Refusal::Conflicting(UPLOAD_LENGTH, UPLOAD_DEFER_LENGTH))
    );
}

#[test]
fn if_upload_defer_length_contains_any_other_value_than_1_the_answer_is_400() {
    for bad in ["", "0", "2", "01", "1 ", "true", "1,1", "+1"] {
        let refused = parse(&[("upload-defer-length", bad)]);
        assert_eq!(
            refused,
            Err(Refusal::Malformed(UPLOAD_DEFER_LENGTH)),
            "{bad:?}"
        );
    }
    let twice = parse(&[("upload-defer-length", "1"), ("upload-defer-length", "1")]);
    assert_eq!(twice, Err(Refusal::Malformed(UPLOAD_DEFER_LENGTH)));
}

#[test]
fn upload_length_must_be_a_non_negative_integer() {
    for bad in BAD {
        let refused = parse(&[("upload-length", bad)]);
        assert_eq!(refused, Err(Refusal::Malformed(UPLOAD_LENGTH)), "{bad:?}");
    }
    let twice = parse(&[("upload-length", "5"), ("upload-length", "5")]);
    assert_eq!(twice, Err(Refusal::Malformed(UPLOAD_LENGTH)));
    assert!(parse(&[("upload-length", "9223372036854775807")]).is_ok());
}

#[test]
fn if_the_length_exceeds_the_maximum_the_server_must_respond_with_413() {
    let limits = Capabilities {
        max_size: Some(100),
        ..Capabilities::default()
    };
    let sized = |length| with(&[("upload-length", length)], BodySize::Exact(0), &limits);
    assert!(sized("100").is_ok());
    assert_eq!(sized("101"), Err(Refusal::MaxSize { most: 100 }));
    assert_eq!(sized("101").unwrap_err().status(), 413);
}

#[test]
fn the_server_must_not_process_a_request_of_another_version() {
    let headers = HeaderMap::from_iter([("upload-length".parse().unwrap(), raw("5"))]);
    let refused = Create::parse(
        &headers,
        BodySize::Exact(0),
        &site(),
        &off(Extension::Creation),
    );
    assert_eq!(refused, Err(Refusal::UnsupportedVersion));
}

#[test]
fn a_new_upload_has_an_implicit_offset_of_0_and_an_empty_one_is_complete() {
    let one = plan(&[("upload-length", "1")], BodySize::Exact(0)).unwrap();
    assert!(!one.complete_at_once() && one.first.is_none());
    assert_eq!((one.kind, one.finish), (Kind::Whole, Finish::AtLength));
    let none = plan(&[("upload-length", "0")], BodySize::Exact(0)).unwrap();
    assert!(none.complete_at_once());
    let open = plan(&[("upload-defer-length", "1")], BodySize::Exact(0)).unwrap();
    assert!(!open.complete_at_once() && open.length.is_none());
}

#[test]
fn with_upload_the_client_must_include_the_content_type() {
    let sized = ("upload-length", "5");
    let typed = ("content-type", OFFSET_OCTET_STREAM);
    for body in [BodySize::Exact(5), BodySize::Unknown] {
        for other in [
            vec![sized],
            vec![sized, ("content-type", "application/json")],
        ] {
            let refused = plan(&other, body);
            assert_eq!(
                refused,
                Err(Refusal::ContentType {
                    expected: OFFSET_OCTET_STREAM
                })
            );
        }
        let first = plan(&[sized, typed], body).unwrap().first.unwrap();
        assert_eq!(
            (first.at, first.room.most, first.body),
            (Offset(0), 5, body)
        );
    }
    assert!(
        plan(
            &[sized, ("content-type", "application/json")],
            BodySize::Exact(0)
        )
        .is_ok()
    );
}

#[test]
fn with_upload_similar_rules_as_for_the_patch_request_apply() {
    let typed = ("content-type", OFFSET_OCTET_STREAM);
    let past = plan(&[("upload-length", "5"), typed], BodySize::Exact(6));
    assert_eq!(past, Err(Refusal::PastLength { length: Length(5) }));
    let checked = [
        ("upload-length", "5"),
        typed,
        ("upload-checksum", "crc32 AAAAAA=="),
    ];
    let first = plan(&checked, BodySize::Exact(5)).unwrap().first.unwrap();
    assert!(matches!(first.verify, Verify::Digest(_)));
    let wrong = [("upload-length", "5"), typed, ("upload-checksum", "x")];
    assert_eq!(
        plan(&wrong, BodySize::Exact(5)),
        Err(Refusal::Malformed("upload-checksum"))
    );
    let limits = Capabilities {
        max_size: Some(9),
        max_chunk: Some(4),
        ..Capabilities::default()
    };
    let deferred = with(
        &[("upload-defer-length", "1"), typed],
        BodySize::Exact(5),
        &limits,
    );
    let refused = deferred.unwrap().decide(&[], &limits);
    assert_eq!(refused, Err(Refusal::ChunkTooLarge { most: 4 }));
}

#[test]
fn what_is_switched_off_is_refused() {
    let sized = ("upload-length", "5");
    let typed = ("content-type", OFFSET_OCTET_STREAM);
    let partial = ("upload-concat", "partial");
    let empty = BodySize::Exact(0);
    for (extension, extra, body) in [
        (Extension::Creation, vec![sized], empty),
        (
            Extension::CreationWithUpload,
            vec![sized, typed],
            BodySize::Exact(5),
        ),
        (
            Extension::CreationDeferLength,
            vec![("upload-defer-length", "1")],
            empty,
        ),
        (Extension::Concatenation, vec![sized, partial], empty),
    ] {
        let refused = with(&extra, body, &off(extension));
        assert_eq!(refused, Err(Refusal::ExtensionOff(extension)));
        assert!(
            with(&extra, body, &Capabilities::default()).is_ok(),
            "{extension}"
        );
    }
}

#[test]
fn metadata_may_be_supplied_and_is_kept_as_it_came() {
    let raw = "filename d29ybGQucGRm, is_confidential";
    let created = plan(
        &[("upload-length", "5"), ("upload-metadata", raw)],
        BodySize::Exact(0),
    );
    let metadata = created.unwrap().metadata;
    assert_eq!(metadata.get("filename"), Some(&b"world.pdf"[..]));
    assert_eq!(metadata.header().unwrap(), raw);
    let refused = parse(&[("upload-length", "5"), ("upload-metadata", "a !")]);
    assert_eq!(refused.unwrap_err().code(), "malformed_metadata");
}

#[test]
fn a_partial_upload_is_never_handed_over() {
    let partial = [("upload-length", "5"), ("upload-concat", "partial")];
    let created = plan(&partial, BodySize::Exact(0)).unwrap();
    assert_eq!(
        (created.kind, created.finish),
        (Kind::Partial, Finish::Never)
    );
    assert_eq!(created.concat.unwrap(), "partial");
    let deferred = [("upload-defer-length", "1"), ("upload-concat", "partial")];
    assert!(plan(&deferred, BodySize::Exact(0)).is_ok());
    assert_eq!(
        parse(&[("upload-concat", "partial")]),
        Err(Refusal::Missing(UPLOAD_LENGTH))
    );
}

#[test]
fn the_client_must_not_include_the_upload_length_header_in_the_final_upload_creation() {
    let concat = format!("final;/files/{PART}");
    let concat = ("upload-concat", concat.as_str());
    let lengthy = parse(&[concat, ("upload-length", "5")]);
    assert_eq!(
        lengthy,
        Err(Refusal::Conflicting(UPLOAD_LENGTH, UPLOAD_CONCAT))
    );
    let deferred = parse(&[concat, ("upload-defer-length", "1")]);
    assert_eq!(
        deferred,
        Err(Refusal::Conflicting(UPLOAD_DEFER_LENGTH, UPLOAD_CONCAT))
    );
    let body = with(
        &[concat, ("content-type", OFFSET_OCTET_STREAM)],
        BodySize::Exact(1),
        &Capabilities::default(),
    );
    assert_eq!(body, Err(Refusal::FinalUpload));
    let created = parse(&[concat]).unwrap();
    assert_eq!(created.parts(), [PART.parse().unwrap()]);
}

#[test]
fn a_final_upload_is_planned_from_its_parts() {
    let concat = format!("final;/files/{PART}");
    let created = parse(&[("upload-concat", concat.as_str())]).unwrap();
    let part = Stored {
        kind: Kind::Partial,
        finish: Finish::Never,
        ..Stored::whole(Offset(5), Some(Length(5)))
    };
    let planned = created
        .clone()
        .decide(&[Some(part)], &Capabilities::default())
        .unwrap();
    assert_eq!((planned.length, planned.ready), (Some(Length(5)), true));
    assert_eq!(planned.kind, Kind::Final { assembled: false });
    assert_eq!(planned.parts, [PART.parse().unwrap()]);
    assert_eq!(planned.concat.as_ref().unwrap(), concat.as_str());
    assert!(!planned.complete_at_once());
    let gone = created.decide(&[None], &Capabilities::default());
    assert_eq!(gone, Err(Refusal::NotAPart { number: 1 }));
}

#[test]
fn the_server_must_set_the_location_and_with_a_body_the_offset() {
    let fields = reply("/files/x", None);
    assert_eq!(fields["location"], "/files/x");
    assert!(!fields.contains_key("upload-offset"));
    assert_eq!(reply("/files/x", Some(Offset(0)))["upload-offset"], "0");
}

#[test]
fn the_partial_uploads_metadata_shall_not_be_transferred_to_the_final_upload() {
    let concat = format!("final;/files/{PART}");
    let part = Stored {
        kind: Kind::Partial,
        finish: Finish::Never,
        ..Stored::whole(Offset(5), Some(Length(5)))
    };
    let plan = |extra: &[(&'static str, &str)]| {
        let created = parse(extra).unwrap();
        created
            .decide(&[Some(part)], &Capabilities::default())
            .unwrap()
    };
    let concat = ("upload-concat", concat.as_str());
    assert!(plan(&[concat]).metadata.is_empty());
    let own = plan(&[concat, ("upload-metadata", "filename YQ==")]).metadata;
    assert_eq!(own.get("filename"), Some(&b"a"[..]));
}
