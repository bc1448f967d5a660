//! Extension Checksum, with trailers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tests::client::Upload;
use tests::http::{Response, chunked};
use tests::pipeline::{BASE_PATH, Ingest, Pipeline};

use super::{BYTES, TUS, bare, extensions, patch, post, send};

/// SHA-1 of `hello world`, as in the protocol's example.
const HELLO_WORLD: &str = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=";
const WRONG: &str = "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// `hello world` by every algorithm that is offered, as `sha1sum` and the like print it.
const DIGESTS: [(&str, &str); 6] = [
    ("sha1", "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed"),
    (
        "sha256",
        "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    ),
    (
        "sha512",
        "309ecc489c12d6eb4cc40f50c902f2b4d0ed77ee511a7c7a9bcd3ca86d4cd86f\
         989dd35bc5ff499670da34255b45b0cfd830e81f605dcf7dc5542e93ae9cd76f",
    ),
    ("md5", "5eb63bbbe01eeed093cb22bb8f5acdc3"),
    ("crc32", "0d4a1185"),
    (
        "blake3",
        "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24",
    ),
];

/// `Upload-Checksum` with a digest that is given in hexadecimal.
fn header(name: &str, hex: &str) -> String {
    let digits = hex.chars().map(|digit| digit.to_digit(16).unwrap());
    let digits: Vec<u8> = digits.map(|digit| u8::try_from(digit).unwrap()).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect();
    format!("{name} {}", STANDARD.encode(bytes))
}

/// PATCH of `hello world` at 0 with a checksum.
fn hello(ingest: &Ingest, upload: &Upload, checksum: &str) -> Response {
    let headers = [("Upload-Checksum", checksum)];
    patch(ingest, upload, 0, &headers, b"hello world")
}

#[test]
fn checksum_must_be_announced_and_its_algorithms_named_by_options() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    assert!(extensions(&ingest).contains(&"checksum".to_owned()));
    let told = bare(&ingest, "OPTIONS", BASE_PATH, &[], b"");
    let mut named: Vec<&str> = told
        .header("Tus-Checksum-Algorithm")
        .unwrap()
        .split(',')
        .collect();
    named.sort_unstable();
    let mut wanted = DIGESTS.map(|(name, _)| name);
    wanted.sort_unstable();
    assert_eq!(named, wanted);
    let off = pipeline.ingest(&["--disable-extensions", "checksum"]);
    let told = bare(&off, "OPTIONS", BASE_PATH, &[], b"");
    assert_eq!(told.header("Tus-Checksum-Algorithm"), None);
    let upload = off.tus().create(11, &[]);
    hello(&off, &upload, HELLO_WORLD).expect(400, []);
}

#[test]
fn names_of_algorithms_must_be_ascii_without_upper_case() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let told = bare(&ingest, "OPTIONS", BASE_PATH, &[], b"");
    let list = told.header("Tus-Checksum-Algorithm").unwrap();
    assert!(
        list.bytes()
            .all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()),
        "{list}"
    );
    let upload = ingest.tus().create(11, &[]);
    hello(&ingest, &upload, &HELLO_WORLD.replace("sha1", "SHA1")).expect(400, []);
}

#[test]
fn the_chunk_must_be_verified_once_it_was_received_with_sha1_at_least() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for (name, digest) in DIGESTS {
        let upload = ingest.tus().create(11, &[]);
        let answer = hello(&ingest, &upload, &header(name, digest));
        answer.expect(204, [("Upload-Offset", "11")]);
        let data = pipeline.spool().path("completed", upload.id());
        assert_eq!(std::fs::read(data).unwrap(), b"hello world", "{name}");
        // One byte of the digest is another.
        let upload = ingest.tus().create(11, &[]);
        let other = digest.replace('e', "f").replace('0', "1");
        let refused = hello(&ingest, &upload, &header(name, &other));
        let refused = refused.expect(460, []);
        assert_eq!(refused.reason, "Checksum Mismatch");
        assert_eq!(upload.offset(), 0, "{name}");
    }
}

#[test]
fn a_checksum_covers_the_chunk_and_not_the_whole() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(16, &[]);
    upload.patch(0, b"first").expect(204, []);
    let headers = [("Upload-Checksum", HELLO_WORLD)];
    let answer = patch(&ingest, &upload, 5, &headers, b"hello world");
    answer.expect(204, [("Upload-Offset", "16")]);
}

#[test]
fn a_mismatch_must_discard_the_chunk_and_leave_upload_and_offset() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(16, &[]);
    upload.patch(0, b"first").expect(204, []);
    let headers = [("Upload-Checksum", WRONG)];
    patch(&ingest, &upload, 5, &headers, b"hello world").expect(460, []);
    upload.head().expect(200, [("Upload-Offset", "5")]);
    assert_eq!(pipeline.spool().record("uploads", upload.id())["offset"], 5);
    // Nothing was handed over, and the right bytes still fit.
    let headers = [("Upload-Checksum", HELLO_WORLD)];
    patch(&ingest, &upload, 5, &headers, b"hello world").expect(204, []);
    let data = pipeline.spool().path("completed", upload.id());
    assert_eq!(std::fs::read(data).unwrap(), b"firsthello world");
}

#[test]
fn a_checksum_that_cannot_be_verified_is_400_and_must_change_nothing() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(11, &[]);
    let before = std::fs::read(
        pipeline
            .spool()
            .path("uploads", &format!("{}.meta", upload.id())),
    );
    let before = before.unwrap();
    for bad in [
        "sha3 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1",
        "sha1 ",
        "",
        "sha1 AAAA",
        "sha1 !!!!",
        "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1,Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    ] {
        let refused = hello(&ingest, &upload, bad);
        assert_eq!(refused.status, 400, "{bad:?}");
    }
    let twice = [
        ("Upload-Checksum", HELLO_WORLD),
        ("Upload-Checksum", HELLO_WORLD),
    ];
    patch(&ingest, &upload, 0, &twice, b"hello world").expect(400, []);
    assert_eq!(upload.offset(), 0);
    let after = std::fs::read(
        pipeline
            .spool()
            .path("uploads", &format!("{}.meta", upload.id())),
    );
    assert_eq!(after.unwrap(), before);
}

#[test]
fn the_bytes_of_a_creation_are_verified_in_the_same_way() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let create = |checksum| {
        let headers = [
            BYTES,
            ("Upload-Length", "11"),
            ("Upload-Checksum", checksum),
        ];
        post(&ingest, &headers, b"hello world")
    };
    create(WRONG).expect(460, []);
    create("sha9 AAAA").expect(400, []);
    assert_eq!(pipeline.spool().data_in("completed"), Vec::<String>::new());
    create(HELLO_WORLD).expect(201, [("Upload-Offset", "11")]);
}

/// A PATCH of `hello world` in chunks, followed by a trailer.
fn with_trailer(
    ingest: &Ingest,
    upload: &Upload,
    announced: bool,
    trailer: Option<&str>,
) -> Response {
    let mut headers = vec![
        TUS,
        BYTES,
        ("Upload-Offset", "0"),
        ("Transfer-Encoding", "chunked"),
    ];
    if announced {
        headers.push(("Trailer", "Upload-Checksum"));
    }
    let mut connection = send(ingest, "PATCH", upload.path(), &headers, b"");
    let trailer: Vec<_> = trailer
        .map(|value| ("Upload-Checksum", value))
        .into_iter()
        .collect();
    let body = chunked(&[b"hello", b" world"], &trailer);
    connection.send(&body).unwrap();
    connection.receive("PATCH").unwrap()
}

#[test]
fn trailers_must_be_announced_as_checksum_trailer_and_are_verified() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    assert!(extensions(&ingest).contains(&"checksum-trailer".to_owned()));
    for (name, digest) in DIGESTS {
        let upload = ingest.tus().create(11, &[]);
        let right = header(name, digest);
        with_trailer(&ingest, &upload, true, Some(&right)).expect(204, [("Upload-Offset", "11")]);
    }
    let off = pipeline.ingest(&["--disable-extensions", "checksum-trailer"]);
    assert!(!extensions(&off).contains(&"checksum-trailer".to_owned()));
}

#[test]
fn a_trailer_that_mismatches_or_cannot_be_verified_must_change_nothing() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    for (announced, trailer, status) in [
        (true, Some(WRONG), 460),
        (true, Some("sha9 AAAA"), 400),
        (true, Some("sha1 AAAA"), 400),
        (true, None, 400),
        // It must be announced; one that comes all the same is no less a checksum.
        (false, Some(WRONG), 460),
    ] {
        let upload = ingest.tus().create(11, &[]);
        let refused = with_trailer(&ingest, &upload, announced, trailer);
        assert_eq!(refused.status, status, "{announced} {trailer:?}");
        assert_eq!(upload.offset(), 0, "{announced} {trailer:?}");
        hello(&ingest, &upload, HELLO_WORLD).expect(204, []);
    }
}
