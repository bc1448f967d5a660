use http::HeaderValue;

use super::super::fields::{UPLOAD_COMPLETE, UPLOAD_INCOMPLETE};
use super::super::version::Version::{self, Final, V3, V5, V6, V8};
use super::*;

const VERSIONS: [Version; 5] = [V3, V5, V6, V8, Final];

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn append(
    version: Version,
    offset: u64,
    last: bool,
    length: Option<u64>,
    body: BodySize,
) -> Append {
    let (offset, length) = (Offset(offset), length.map(Length));
    Append {
        version,
        offset,
        last,
        length,
        body,
        digest: None,
    }
}

/// Every upload of up to 2 bytes, begun in either protocol.
fn uploads() -> Vec<Stored> {
    let mut all = Vec::new();
    for length in [None, Some(0), Some(1), Some(2)] {
        for offset in 0..=length.unwrap_or(2) {
            let tus = Stored::whole(Offset(offset), length.map(Length));
            let draft = Stored {
                finish: Finish::AtFlag,
                complete: false,
                ..tus
            };
            all.extend([tus, draft]);
            all.push(Stored {
                kind: Kind::Partial,
                finish: Finish::Never,
                ..tus
            });
            all.push(Stored {
                kind: Kind::Final {
                    assembled: tus.complete,
                },
                ..tus
            });
            if tus.complete {
                all.push(Stored {
                    complete: true,
                    ..draft
                });
            }
        }
    }
    all
}

fn walk(mut check: impl FnMut(&Stored, &Append, &Capabilities, Result<Plan, Refusal>)) {
    let bodies = [0, 1, 2, 3]
        .map(BodySize::Exact)
        .into_iter()
        .chain([BodySize::Unknown]);
    for stored in uploads() {
        for body in bodies.clone() {
            for version in VERSIONS {
                for (max_size, max_chunk) in [(None, None), (Some(1), None), (None, Some(1))] {
                    let limits = Capabilities {
                        max_size,
                        max_chunk,
                        ..Capabilities::default()
                    };
                    for offset in 0..=3 {
                        for last in [false, true] {
                            for length in [None, Some(0), Some(1), Some(2), Some(3)] {
                                let append = append(version, offset, last, length, body);
                                let decision = append.clone().decide(&stored, &limits);
                                check(&stored, &append, &limits, decision);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn if_the_offset_does_not_match_the_server_must_reject_with_409() {
    walk(|stored, append, _, decision| {
        let mismatch = matches!(decision, Err(Refusal::OffsetMismatch { .. }));
        let final_upload = matches!(stored.kind, Kind::Final { .. });
        assert_eq!(mismatch, !final_upload && append.offset != stored.offset);
        if let Err(Refusal::OffsetMismatch { have, complete, .. }) = decision {
            assert_eq!((have, complete), (stored.offset, stored.complete));
        }
    });
}

#[test]
fn a_complete_upload_is_never_modified() {
    walk(|stored, append, _, decision| {
        if !stored.complete {
            assert!(!matches!(decision, Ok(Plan::AlreadyComplete(_))));
            assert_ne!(decision, Err(Refusal::AlreadyComplete));
            return;
        }
        match decision {
            Ok(Plan::AlreadyComplete(room)) => {
                assert_eq!((room.most, append.body), (0, BodySize::Exact(0)));
                assert!(append.version <= V6 || stored.finish != Finish::AtFlag);
            }
            Ok(Plan::Append(plan)) => panic!("{stored:?} {append:?} {plan:?}"),
            Err(refusal) => assert!(refusal.status().is_client_error(), "{refusal:?}"),
        }
    });
    let complete = Stored {
        finish: Finish::AtFlag,
        ..Stored::whole(Offset(2), Some(Length(2)))
    };
    let on = Capabilities::default();
    let more = append(V8, 2, true, None, BodySize::Exact(1)).decide(&complete, &on);
    assert_eq!(more, Err(Refusal::InconsistentLength));
    let empty = append(V8, 2, true, None, BodySize::Exact(0)).decide(&complete, &on);
    assert_eq!(empty, Err(Refusal::AlreadyComplete));
}

#[test]
fn every_length_that_is_told_must_be_the_same() {
    walk(|stored, append, _, decision| {
        let by_body = length_by_body(stored.offset, append.body, append.last);
        let lengths: Vec<_> = [stored.length, append.length, by_body]
            .into_iter()
            .flatten()
            .collect();
        let differ = lengths.windows(2).any(|two| two[0] != two[1]);
        match decision {
            Ok(Plan::Append(plan)) => {
                assert!(!differ);
                assert_eq!(plan.length, lengths.first().copied());
            }
            Err(Refusal::InconsistentLength) => {
                let short = lengths.iter().any(|length| length.0 < stored.offset.0);
                assert!(differ || short || stored.complete, "{stored:?} {append:?}");
            }
            _ => {}
        }
    });
}

#[test]
fn the_offset_never_exceeds_the_length_or_a_limit() {
    walk(|stored, append, limits, decision| {
        let Ok(Plan::Append(plan)) = decision else {
            return;
        };
        let end = plan.at.0 + plan.room.most;
        assert!(
            plan.length.is_none_or(|length| end <= length.0),
            "{stored:?} {append:?}"
        );
        assert!(limits.max_chunk.is_none_or(|most| plan.room.most <= most));
        if stored.length.is_none() {
            assert!(
                limits
                    .max_size
                    .is_none_or(|most| end <= most.max(plan.at.0))
            );
        }
        assert_ne!(
            plan.room.beyond.code(),
            "length_exceeded",
            "the draft has no such 413"
        );
    });
}

#[test]
fn the_flag_completes_and_for_an_upload_begun_in_the_draft_nothing_else_does() {
    walk(|stored, append, _, decision| {
        let Ok(Plan::Append(plan)) = decision else {
            return;
        };
        for received in 0..=plan.room.most.min(3) {
            let full = plan.length == Some(Length(plan.at.0 + received));
            let cut = plan.reached(received, false).unwrap();
            assert_eq!(cut.complete, full && stored.finish != Finish::AtFlag);
            match plan.reached(received, true) {
                Ok(ended) => {
                    let flagged = append.last && (full || plan.length.is_none());
                    let by_length = full && stored.finish != Finish::AtFlag;
                    assert_eq!(
                        ended.complete,
                        flagged || by_length,
                        "{stored:?} {append:?}"
                    );
                    assert!(!ended.complete || ended.length == Some(Length(ended.offset.0)));
                }
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::InconsistentLength);
                    assert!(append.last && !full && plan.length.is_some());
                }
            }
        }
    });
}

#[test]
fn an_empty_append_with_the_flag_completes_at_the_length() {
    let flagless = Stored {
        complete: false,
        finish: Finish::AtFlag,
        ..Stored::whole(Offset(2), Some(Length(2)))
    };
    for version in VERSIONS {
        let decision = append(version, 2, true, None, BodySize::Exact(0))
            .decide(&flagless, &Capabilities::default());
        let Ok(Plan::Append(plan)) = decision else {
            panic!("{decision:?}")
        };
        assert!(plan.reached(0, true).unwrap().complete);
    }
}

#[test]
fn beyond_the_length_the_request_is_rejected_and_the_upload_given_up() {
    let stored = Stored {
        finish: Finish::AtFlag,
        ..Stored::whole(Offset(1), Some(Length(2)))
    };
    let on = Capabilities::default();
    let overrun = Refusal::Overrun { length: Length(2) };
    let known = append(V8, 1, false, None, BodySize::Exact(2)).decide(&stored, &on);
    assert_eq!(known, Err(overrun.clone()));
    let Ok(Plan::Append(plan)) = append(V8, 1, false, None, BodySize::Unknown).decide(&stored, &on)
    else {
        panic!()
    };
    assert_eq!(
        plan.room,
        Room {
            most: 1,
            beyond: overrun
        }
    );
}

#[test]
fn from_version_6_on_it_must_be_labelled_as_a_partial_upload() {
    for version in VERSIONS {
        let flag = fields::flag_name(version);
        let base = [("upload-offset", "0"), (flag, "?0")];
        let plain = Append::parse(&headers(&base), BodySize::Unknown, version);
        assert_eq!(plain.is_ok(), version < V6, "{version:?}");
        if V6 <= version {
            assert_eq!(
                plain,
                Err(Refusal::ContentType {
                    expected: PARTIAL_UPLOAD
                })
            );
        }
        let labelled = [
            base[0],
            base[1],
            ("content-type", "application/partial-upload"),
        ];
        assert!(Append::parse(&headers(&labelled), BodySize::Unknown, version).is_ok());
    }
}

#[test]
fn the_flag_must_be_there_since_version_8_and_before_its_absence_means_the_end() {
    let labelled = [("upload-offset", "0"), ("content-type", PARTIAL_UPLOAD)];
    for version in VERSIONS {
        let name = fields::flag_name(version);
        let absent = Append::parse(&headers(&labelled), BodySize::Unknown, version);
        match version <= V6 {
            true => assert!(absent.unwrap().last),
            false => assert_eq!(absent, Err(Refusal::Missing(name))),
        }
        let invalid = [labelled[0], labelled[1], (name, "yes")];
        let invalid = Append::parse(&headers(&invalid), BodySize::Unknown, version);
        assert_eq!(
            invalid,
            Err(Refusal::Missing(name)),
            "an end must not be guessed"
        );
    }
    let older = [labelled[0], (UPLOAD_INCOMPLETE, "?1")];
    assert!(
        !Append::parse(&headers(&older), BodySize::Unknown, V3)
            .unwrap()
            .last
    );
    let newer = [labelled[0], labelled[1], (UPLOAD_COMPLETE, "?1")];
    assert!(
        Append::parse(&headers(&newer), BodySize::Unknown, Final)
            .unwrap()
            .last
    );
}

#[test]
fn an_offset_that_is_missing_or_no_integer_is_missing() {
    for bad in ["", "+5", "-1", "5.0", "5, 5", "1000000000000000", "?0"] {
        let pairs = [
            ("upload-offset", bad),
            (UPLOAD_COMPLETE, "?0"),
            ("content-type", PARTIAL_UPLOAD),
        ];
        let refused = Append::parse(&headers(&pairs), BodySize::Unknown, V8);
        assert_eq!(refused, Err(Refusal::Missing(UPLOAD_OFFSET)), "{bad:?}");
    }
}

#[test]
fn a_content_digest_keeps_the_bytes_from_counting_before_it_matches() {
    let pairs = [
        ("upload-offset", "0"),
        (UPLOAD_COMPLETE, "?0"),
        ("content-type", PARTIAL_UPLOAD),
        ("content-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"),
    ];
    let parsed = Append::parse(&headers(&pairs), BodySize::Exact(1), V8).unwrap();
    let stored = Stored {
        finish: Finish::AtFlag,
        ..Stored::whole(Offset(0), None)
    };
    let Ok(Plan::Append(plan)) = parsed.decide(&stored, &Capabilities::default()) else {
        panic!()
    };
    assert!(!plan.verify.counts_at_once());
}

#[test]
fn the_answer_tells_offset_and_completeness() {
    let reached = Reached {
        offset: Offset(5),
        length: Some(Length(5)),
        complete: true,
    };
    let (status, answer) = reply(V6, reached);
    assert_eq!(status, 200);
    assert_eq!(answer["upload-offset"], "5");
    assert_eq!(answer[UPLOAD_COMPLETE], "?1");
    let (status, answer) = reply(
        V6,
        Reached {
            complete: false,
            ..reached
        },
    );
    assert_eq!(status, 204);
    assert_eq!(answer[UPLOAD_COMPLETE], "?0");
}
