use std::collections::HashSet;

use super::*;

/// One of each. The match makes a new variant fail to compile until it stands here.
fn all() -> Vec<Refusal> {
    use Refusal as R;
    let one_of_each = vec![
        R::UnsupportedVersion,
        R::UnsupportedDraft,
        R::Missing("upload-length"),
        R::Malformed("upload-length"),
        R::Conflicting("upload-length", "upload-defer-length"),
        R::ContentType {
            expected: headers::OFFSET_OCTET_STREAM,
        },
        R::ExtensionOff(Extension::Checksum),
        R::MaxSize { most: 5 },
        R::PastLength { length: Length(5) },
        R::ChunkTooLarge { most: 5 },
        R::MetadataTooLarge { most: 5 },
        R::Metadata("empty key"),
        R::FileName,
        R::OffsetMismatch {
            asked: Offset(3),
            have: Offset(5),
            complete: false,
        },
        R::LengthChanged,
        R::InconsistentLength,
        R::Overrun { length: Length(5) },
        R::AlreadyComplete,
        R::ChecksumMismatch,
        R::DigestMismatch,
        R::ChecksumAlgorithm,
        R::NotAPart { number: 1 },
        R::PartIncomplete { number: 1 },
        R::TooManyParts { most: 5 },
        R::FinalUpload,
        R::Locked,
        R::NotFound,
        R::Gone,
        R::Method {
            allow: "HEAD, PATCH",
        },
        R::BodyTimeout,
        R::BodyBroken,
        R::InsufficientStorage,
        R::Draining,
        R::rejected(422, "no cats"),
        R::Undecided,
        R::Internal,
    ];
    let kinds: HashSet<_> = one_of_each.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), one_of_each.len(), "each once");
    one_of_each
}

#[test]
fn every_refusal_is_an_error_with_one_printable_line_and_a_code_of_its_own() {
    let mut codes = HashSet::new();
    for refusal in all() {
        let status = refusal.status();
        assert!(
            status.is_client_error() || status.is_server_error(),
            "{refusal:?}"
        );
        let body = refusal.body();
        assert_eq!(body.lines().count(), 1, "{body:?}");
        assert!(body.ends_with('\n') && body.is_ascii() && !body.contains('/') || status == 415);
        assert!(
            refusal
                .code()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_')
        );
        assert!(codes.insert(refusal.code()), "{} twice", refusal.code());
    }
    assert_eq!(codes.len(), 36, "a new variant belongs into all()");
}

#[test]
fn an_unsupported_version_is_412_and_includes_the_tus_version_header() {
    assert_eq!(Refusal::UnsupportedVersion.status(), 412);
    assert_eq!(
        Refusal::UnsupportedVersion.headers()["tus-version"],
        "1.0.0"
    );
}

#[test]
fn an_offset_mismatch_is_409_and_tells_the_right_offset() {
    let refusal = Refusal::OffsetMismatch {
        asked: Offset(3),
        have: Offset(5),
        complete: false,
    };
    assert_eq!(refusal.status(), 409);
    assert_eq!(refusal.headers()["upload-offset"], "5");
    assert_eq!(
        refusal.body(),
        "offset_mismatch: the upload stands at 5, not at 3\n"
    );
}

#[test]
fn a_checksum_mismatch_is_460_with_its_reason_phrase() {
    assert_eq!(Refusal::ChecksumMismatch.status().as_u16(), 460);
    assert_eq!(
        Refusal::ChecksumMismatch.reason(),
        Some("Checksum Mismatch")
    );
    assert_eq!(Refusal::ChecksumAlgorithm.status(), 400);
    assert_eq!(Refusal::ChecksumAlgorithm.reason(), None);
}

#[test]
fn a_method_that_is_not_allowed_names_those_that_are() {
    assert_eq!(
        Refusal::Method {
            allow: "HEAD, PATCH"
        }
        .headers()["allow"],
        "HEAD, PATCH"
    );
}

#[test]
fn a_hooks_refusal_stays_one_line_and_a_refusal() {
    for (status, kept) in [
        (422, 422),
        (503, 503),
        (200, 403),
        (302, 403),
        (99, 403),
        (0, 403),
    ] {
        assert_eq!(
            Refusal::rejected(status, "x").status().as_u16(),
            kept,
            "{status}"
        );
    }
    let refusal = Refusal::rejected(403, "no\r\nSet-Cookie: x\u{1b}[31m");
    assert_eq!(refusal.body(), "rejected: no  Set-Cookie: x [31m\n");
    assert_eq!(Refusal::rejected(403, " \n").body(), "rejected: refused\n");
    assert!(Refusal::rejected(403, &"x".repeat(5000)).body().len() < 300);
}

#[test]
fn a_resource_that_is_not_found_is_answered_without_the_upload_offset_header() {
    for (refusal, status) in [(Refusal::NotFound, 404), (Refusal::Gone, 410)] {
        assert_eq!(refusal.status(), status);
        assert!(!refusal.headers().contains_key("upload-offset"));
    }
}
