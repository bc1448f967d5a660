use super::super::capabilities::{Extension, Extensions};
use super::super::number::{BAD, raw};
use super::*;

fn request(extra: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("tus-resumable", raw("1.0.0"));
    headers.insert("content-type", raw(OFFSET_OCTET_STREAM));
    for (name, value) in extra {
        headers.append(*name, raw(value));
    }
    headers
}

fn parse(extra: &[(&'static str, &str)]) -> Result<Patch, Refusal> {
    Patch::parse(
        &request(extra),
        BodySize::Exact(1),
        &Capabilities::default(),
    )
}

fn patch(offset: u64, length: Option<u64>, body: BodySize) -> Patch {
    let length = length.map(Length);
    Patch {
        offset: Offset(offset),
        length,
        body,
        verify: Ok(Verify::Nothing),
    }
}

const BODIES: [BodySize; 5] = [
    BodySize::Exact(0),
    BodySize::Exact(1),
    BodySize::Exact(2),
    BodySize::Exact(3),
    BodySize::Unknown,
];

/// Every upload of up to 2 bytes that can exist.
fn uploads() -> Vec<Stored> {
    let mut all = Vec::new();
    for length in [None, Some(0), Some(1), Some(2)] {
        for offset in 0..=length.unwrap_or(2) {
            let whole = Stored::whole(Offset(offset), length.map(Length));
            all.push(whole);
            all.push(Stored {
                kind: Kind::Partial,
                finish: Finish::Never,
                ..whole
            });
            all.push(Stored {
                kind: Kind::Final {
                    assembled: whole.complete,
                },
                ..whole
            });
            all.push(Stored {
                complete: false,
                finish: Finish::AtFlag,
                ..whole
            });
        }
    }
    all
}

/// Every request of up to 3 bytes against every such upload, with and without limits.
fn walk(mut check: impl FnMut(&Stored, &Patch, &Capabilities, Result<Plan, Refusal>)) {
    for stored in uploads() {
        for max_size in [None, Some(1), Some(2)] {
            for max_chunk in [None, Some(1)] {
                let limits = Capabilities {
                    max_size,
                    max_chunk,
                    ..Capabilities::default()
                };
                for body in BODIES {
                    for offset in 0..=3 {
                        for length in [None, Some(0), Some(1), Some(2), Some(3)] {
                            let patch = patch(offset, length, body);
                            let decision = patch.clone().decide(&stored, &limits);
                            check(&stored, &patch, &limits, decision);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn if_the_offsets_do_not_match_the_server_must_respond_with_409_conflict() {
    walk(|stored, patch, _, decision| {
        let mismatch = matches!(decision, Err(Refusal::OffsetMismatch { .. }));
        let final_upload = matches!(stored.kind, Kind::Final { .. });
        assert_eq!(
            mismatch,
            !final_upload && patch.offset != stored.offset,
            "{stored:?} {patch:?}"
        );
        if let Err(Refusal::OffsetMismatch { have, .. }) = decision {
            assert_eq!(have, stored.offset);
        }
    });
}

#[test]
fn the_server_must_respond_with_403_to_patch_against_a_final_upload() {
    walk(|stored, patch, _, decision| {
        let refused = decision == Err(Refusal::FinalUpload);
        assert_eq!(
            refused,
            matches!(stored.kind, Kind::Final { .. }),
            "{stored:?} {patch:?}"
        );
    });
    assert_eq!(Refusal::FinalUpload.status(), 403);
}

#[test]
fn once_set_the_length_must_not_be_changed() {
    walk(|stored, patch, _, decision| {
        let plan = match decision {
            Ok(Plan::Append(plan)) => plan,
            Ok(Plan::AlreadyComplete(_)) => {
                assert!(patch.length.is_none() || patch.length == stored.length);
                return;
            }
            Err(_) => return,
        };
        match stored.length {
            Some(known) => assert_eq!(plan.length, Some(known)),
            None => assert_eq!(plan.length, patch.length),
        }
    });
    let stored = Stored::whole(Offset(1), Some(Length(2)));
    for told in [0, 1, 3] {
        let refused =
            patch(1, Some(told), BodySize::Exact(1)).decide(&stored, &Capabilities::default());
        assert_eq!(refused, Err(Refusal::LengthChanged));
    }
}

#[test]
fn no_plan_lets_an_upload_grow_past_its_length_or_the_maximum_size() {
    walk(|stored, patch, limits, decision| {
        let Ok(Plan::Append(plan)) = decision else {
            return;
        };
        let end = plan.at.0 + plan.room.most;
        assert!(
            plan.length.is_none_or(|length| end <= length.0),
            "{stored:?} {patch:?}"
        );
        if stored.length.is_none() {
            let most = limits.max_size.unwrap_or(Length::MAX.0).max(plan.at.0);
            assert!(end <= most, "{stored:?} {patch:?} {limits:?}");
        }
        assert!(limits.max_chunk.is_none_or(|most| plan.room.most <= most));
        if let BodySize::Exact(size) = plan.body {
            assert!(size <= plan.room.most);
        }
        assert_eq!(plan.room.beyond.status(), 413);
        assert_eq!(plan.at, stored.offset);
    });
}

#[test]
fn what_fits_is_never_refused() {
    walk(|stored, patch, limits, decision| {
        let BodySize::Exact(size) = patch.body else {
            return;
        };
        let length = stored.length.or(patch.length);
        let end = stored.offset.0 + size;
        let fits = patch.offset == stored.offset
            && !matches!(stored.kind, Kind::Final { .. })
            && (patch.length.is_none() || patch.length == length)
            && length.is_none_or(|length| end <= length.0)
            && limits.max_chunk.is_none_or(|most| size <= most)
            && (stored.length.is_some()
                || size == 0 && patch.length.is_none()
                || limits
                    .max_size
                    .is_none_or(|most| length.map_or(end, |l| l.0) <= most));
        assert_eq!(
            decision.is_ok(),
            fits,
            "{stored:?} {patch:?} {limits:?} {decision:?}"
        );
    });
}

#[test]
fn a_complete_upload_takes_the_repetition_of_its_last_request_and_no_bytes() {
    walk(|stored, patch, _, decision| match decision {
        Ok(Plan::AlreadyComplete(room)) => {
            assert!(stored.complete && room.most == 0);
            assert!(matches!(patch.body, BodySize::Exact(0) | BodySize::Unknown));
        }
        Ok(Plan::Append(_)) => assert!(!stored.complete),
        Err(_) => {}
    });
    let complete = Stored::whole(Offset(2), Some(Length(2)));
    let empty = patch(2, None, BodySize::Exact(0)).decide(&complete, &Capabilities::default());
    assert!(matches!(empty, Ok(Plan::AlreadyComplete(_))));
    let more = patch(2, None, BodySize::Exact(1)).decide(&complete, &Capabilities::default());
    assert_eq!(more, Err(Refusal::PastLength { length: Length(2) }));
}

#[test]
fn reaching_the_length_completes_and_nothing_else_does() {
    walk(|stored, _, _, decision| {
        let Ok(Plan::Append(plan)) = decision else {
            return;
        };
        assert_eq!(plan.finish == Finish::Never, stored.kind == Kind::Partial);
        for received in 0..=plan.room.most.min(3) {
            for ended in [false, true] {
                let reached = plan.reached(received, ended).unwrap();
                assert_eq!(reached.offset, Offset(plan.at.0 + received));
                let full = plan.length == Some(Length(reached.offset.0));
                assert_eq!(reached.complete, full);
                assert_eq!(reached.length, plan.length);
            }
        }
    });
}

#[test]
fn a_draft_upload_that_lacks_only_its_flag_is_completed_by_an_empty_tus_patch() {
    let flagless = Stored {
        complete: false,
        finish: Finish::AtFlag,
        ..Stored::whole(Offset(2), Some(Length(2)))
    };
    let decision =
        patch(2, Some(2), BodySize::Exact(0)).decide(&flagless, &Capabilities::default());
    let Ok(Plan::Append(plan)) = decision else {
        panic!("{decision:?}")
    };
    assert!(plan.reached(0, true).unwrap().complete);
}

#[test]
fn max_size_holds_for_a_deferred_length_too() {
    let limits = Capabilities {
        max_size: Some(1000),
        ..Capabilities::default()
    };
    let open = Stored::whole(Offset(0), None);
    let refused = Err(Refusal::MaxSize { most: 1000 });
    assert_eq!(
        patch(0, None, BodySize::Exact(5000)).decide(&open, &limits),
        refused
    );
    assert_eq!(
        patch(0, Some(5000), BodySize::Exact(10)).decide(&open, &limits),
        refused
    );
    let chunked = patch(0, None, BodySize::Unknown).decide(&open, &limits);
    let Ok(Plan::Append(plan)) = chunked else {
        panic!("{chunked:?}")
    };
    assert_eq!(
        plan.room,
        Room {
            most: 1000,
            beyond: Refusal::MaxSize { most: 1000 }
        }
    );
    let unlimited = patch(0, None, BodySize::Unknown).decide(&open, &Capabilities::default());
    let Ok(Plan::Append(plan)) = unlimited else {
        panic!("{unlimited:?}")
    };
    assert_eq!(plan.room.most, Length::MAX.0);
}

#[test]
fn a_length_below_what_has_been_received_is_refused() {
    let open = Stored::whole(Offset(2), None);
    let refused = patch(2, Some(1), BodySize::Exact(0)).decide(&open, &Capabilities::default());
    assert_eq!(refused, Err(Refusal::PastLength { length: Length(1) }));
}

#[test]
fn all_patch_requests_must_use_the_offset_octet_stream_content_type() {
    let mut headers = request(&[("upload-offset", "0")]);
    for other in [
        "text/plain",
        "application/octet-stream",
        "application/partial-upload",
        "",
    ] {
        headers.insert("content-type", raw(other));
        let refused = Patch::parse(&headers, BodySize::Exact(1), &Capabilities::default());
        assert_eq!(
            refused,
            Err(Refusal::ContentType {
                expected: OFFSET_OCTET_STREAM
            })
        );
        assert_eq!(refused.unwrap_err().status(), 415);
    }
    headers.remove("content-type");
    let refused = Patch::parse(&headers, BodySize::Exact(1), &Capabilities::default());
    assert_eq!(refused.unwrap_err().status(), 415);
}

#[test]
fn the_offset_must_be_a_non_negative_integer() {
    assert_eq!(parse(&[]), Err(Refusal::Missing(UPLOAD_OFFSET)));
    for bad in BAD {
        assert_eq!(
            parse(&[("upload-offset", bad)]),
            Err(Refusal::Malformed(UPLOAD_OFFSET))
        );
        let lengths = parse(&[("upload-offset", "0"), ("upload-length", bad)]);
        assert_eq!(lengths, Err(Refusal::Malformed(UPLOAD_LENGTH)), "{bad:?}");
    }
    let twice = parse(&[("upload-offset", "0"), ("upload-offset", "0")]);
    assert_eq!(twice, Err(Refusal::Malformed(UPLOAD_OFFSET)));
    assert!(parse(&[("upload-offset", "0")]).is_ok());
}

#[test]
fn the_server_must_not_process_a_request_of_another_version() {
    let mut headers = request(&[("upload-offset", "nonsense")]);
    headers.insert("tus-resumable", raw("0.2.2"));
    headers.remove("content-type");
    let refused = Patch::parse(&headers, BodySize::Exact(1), &Capabilities::default());
    assert_eq!(refused, Err(Refusal::UnsupportedVersion));
}

#[test]
fn a_wrong_offset_is_told_before_a_wrong_checksum_header_and_before_413() {
    let stored = Stored::whole(Offset(1), Some(Length(2)));
    let wrong = parse(&[("upload-offset", "0"), ("upload-checksum", "nonsense")]).unwrap();
    let refused = wrong.decide(&stored, &Capabilities::default());
    assert!(matches!(refused, Err(Refusal::OffsetMismatch { .. })));
    let right = parse(&[("upload-offset", "1"), ("upload-checksum", "nonsense")]).unwrap();
    let refused = right.decide(&stored, &Capabilities::default());
    assert_eq!(refused, Err(Refusal::Malformed("upload-checksum")));
    let large = patch(0, None, BodySize::Exact(5)).decide(&stored, &Capabilities::default());
    assert!(matches!(large, Err(Refusal::OffsetMismatch { .. })));
}

#[test]
fn a_checksum_that_would_not_be_verified_is_refused() {
    let off = Capabilities {
        extensions: Extensions::all().without(Extension::Checksum),
        ..Capabilities::default()
    };
    let headers = request(&[
        ("upload-offset", "0"),
        ("upload-checksum", "crc32 AAAAAA=="),
    ]);
    let patch = Patch::parse(&headers, BodySize::Exact(1), &off).unwrap();
    let refused = patch.decide(&Stored::whole(Offset(0), Some(Length(2))), &off);
    assert_eq!(refused, Err(Refusal::ExtensionOff(Extension::Checksum)));
}

#[test]
fn the_answer_includes_the_new_offset() {
    assert_eq!(reply(Offset(100))["upload-offset"], "100");
}

#[test]
fn the_new_offset_must_be_the_sum_of_the_offset_before_and_the_number_of_bytes_received() {
    let stored = Stored::whole(Offset(70), Some(Length(100)));
    let decision = patch(70, None, BodySize::Exact(30)).decide(&stored, &Capabilities::default());
    let Ok(Plan::Append(plan)) = decision else {
        panic!("{decision:?}")
    };
    for received in 0..=30 {
        let reached = plan.reached(received, received == 30).unwrap();
        assert_eq!(reached.offset, Offset(70 + received));
        assert_eq!(reached.complete, received == 30);
    }
}

#[test]
fn if_the_checksum_may_mismatch_the_upload_and_its_offset_must_not_be_updated_before_the_end() {
    let stored = Stored::whole(Offset(0), Some(Length(5)));
    for (extra, at_once) in [
        (vec![], true),
        (vec![("upload-checksum", "crc32 AAAAAA==")], false),
        (vec![("trailer", "Upload-Checksum")], false),
        (vec![("trailer", "X-Other")], true),
    ] {
        let fields: Vec<_> = extra.into_iter().chain([("upload-offset", "0")]).collect();
        let decision = parse(&fields)
            .unwrap()
            .decide(&stored, &Capabilities::default());
        let Ok(Plan::Append(plan)) = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(plan.verify.counts_at_once(), at_once, "{fields:?}");
    }
}
