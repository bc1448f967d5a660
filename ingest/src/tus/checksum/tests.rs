use http::HeaderValue;
use proptest::prelude::*;

use super::super::capabilities::Extensions;
use super::*;

fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn checksum(value: &str) -> Result<Option<Announced>, Refusal> {
    Announced::parse(&fields(&[(UPLOAD_CHECKSUM, value)]))
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    STANDARD.encode(hasher.finish())
}

#[test]
fn the_server_supports_at_least_the_sha1_checksum_algorithm() {
    // The protocol's own example.
    let announced = checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
        .unwrap()
        .unwrap();
    let mut hasher = Hasher::new(announced.algorithm);
    hasher.update(b"hello ");
    hasher.update(b"world");
    assert_eq!(announced.verify(&hasher.finish()), Ok(()));
}

#[test]
fn every_algorithm_computes_the_known_digest_of_hello_world() {
    // By `printf 'hello world' | openssl dgst` (crc32: zlib; blake3: b3sum), in Base64.
    for (algorithm, expected) in [
        (Algorithm::Sha1, "Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
        (
            Algorithm::Sha256,
            "uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=",
        ),
        (Algorithm::Md5, "XrY7u+Ae7tCTyyK7j1rNww=="),
        (Algorithm::Crc32, "DUoRhQ=="),
        (
            Algorithm::Blake3,
            "10mB76cKDIgLjYwZhdB128v2ebmaX5kU5ar5a4ManiQ=",
        ),
        (
            Algorithm::Sha512,
            "MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw==",
        ),
    ] {
        assert_eq!(digest(algorithm, b"hello world"), expected, "{algorithm}");
    }
}

#[test]
fn the_names_of_the_checksum_algorithms_only_consist_of_ascii_without_uppercase() {
    for algorithm in Algorithm::ALL {
        assert!(
            algorithm
                .name()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        );
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
        let digest = Hasher::new(algorithm).finish();
        assert_eq!(digest.len(), algorithm.digest_len());
    }
}

#[test]
fn bad_request_if_the_checksum_algorithm_is_not_supported_by_the_server() {
    for name in ["sha3", "SHA1", "sha-1", "x"] {
        let refused = checksum(&format!("{name} Kq5sNclPz7QV2+lfQIuc6R7oRu0="));
        assert_eq!(refused, Err(Refusal::ChecksumAlgorithm), "{name}");
        assert_eq!(refused.unwrap_err().status(), 400);
    }
}

#[test]
fn the_header_consists_of_the_name_and_the_base64_encoded_checksum_separated_by_a_space() {
    for bad in [
        "",
        " ",
        "sha1",
        "sha1 ",
        "sha1 !",
        "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
        "sha1 YQ==",
        " sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=, sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "\u{fc} YQ==",
    ] {
        assert_eq!(
            checksum(bad),
            Err(Refusal::Malformed(UPLOAD_CHECKSUM)),
            "{bad:?}"
        );
    }
    assert_eq!(Announced::parse(&HeaderMap::new()), Ok(None));
    let good = (UPLOAD_CHECKSUM, "crc32 AAAAAA==");
    let twice = Announced::parse(&fields(&[good, good]));
    assert_eq!(twice, Err(Refusal::Malformed(UPLOAD_CHECKSUM)));
}

#[test]
fn a_trailer_must_be_announced_using_the_trailer_header() {
    let capabilities = Capabilities::default();
    let verify = |pairs: &[(&'static str, &str)]| Verify::parse(&fields(pairs), &capabilities);
    for listed in [
        "Upload-Checksum",
        "upload-checksum",
        "X-Other, upload-checksum ,Y",
    ] {
        assert_eq!(
            verify(&[("trailer", listed)]),
            Ok(Verify::Trailer),
            "{listed}"
        );
    }
    assert_eq!(
        verify(&[("trailer", "X"), ("trailer", "Upload-Checksum")]),
        Ok(Verify::Trailer)
    );
    for other in ["", "X-Upload-Checksum", "Upload-Checksums", ","] {
        assert_eq!(
            verify(&[("trailer", other)]),
            Ok(Verify::Nothing),
            "{other}"
        );
    }
    let both = verify(&[
        ("trailer", "Upload-Checksum"),
        (UPLOAD_CHECKSUM, "crc32 AAAAAA=="),
    ]);
    assert!(matches!(both, Ok(Verify::Digest(_))));
}

#[test]
fn verification_that_is_not_offered_is_refused_and_not_skipped() {
    let without = |extension| Capabilities {
        extensions: Extensions::all().without(extension),
        ..Capabilities::default()
    };
    let header = fields(&[(UPLOAD_CHECKSUM, "crc32 AAAAAA==")]);
    let trailer = fields(&[("trailer", "Upload-Checksum")]);
    let off = without(Extension::Checksum);
    assert_eq!(
        Verify::parse(&header, &off),
        Err(Refusal::ExtensionOff(Extension::Checksum))
    );
    let refused = Err(Refusal::ExtensionOff(Extension::ChecksumTrailer));
    assert_eq!(Verify::parse(&trailer, &off), refused);
    let off = without(Extension::ChecksumTrailer);
    assert_eq!(Verify::parse(&trailer, &off), refused);
    assert!(Verify::parse(&header, &off).is_ok());
    assert_eq!(Verify::parse(&HeaderMap::new(), &off), Ok(Verify::Nothing));
}

#[test]
fn an_announced_trailer_must_come_and_an_unannounced_one_is_verified_all_the_same() {
    let came = fields(&[(UPLOAD_CHECKSUM, "crc32 AAAAAA==")]);
    let announced = Announced {
        algorithm: Algorithm::Crc32,
        digest: vec![0; 4],
    };
    let (none, other) = (HeaderMap::new(), fields(&[("x", "y")]));
    for absent in [None, Some(&none), Some(&other)] {
        let missing = Err(Refusal::Missing(UPLOAD_CHECKSUM));
        assert_eq!(Verify::Trailer.at_end(absent), missing);
        assert_eq!(Verify::Nothing.at_end(absent), Ok(None));
    }
    assert_eq!(
        Verify::Trailer.at_end(Some(&came)),
        Ok(Some(announced.clone()))
    );
    assert_eq!(
        Verify::Nothing.at_end(Some(&came)),
        Ok(Some(announced.clone()))
    );
    let header = Verify::Digest(announced.clone());
    assert_eq!(header.at_end(None), Ok(Some(announced)));
    assert!(Verify::Nothing.counts_at_once());
    assert!(!Verify::Trailer.counts_at_once() && !header.counts_at_once());
}

proptest! {
    #[test]
    fn what_prints_parses_back(which in 0..Algorithm::ALL.len(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let algorithm = Algorithm::ALL[which];
        let announced = checksum(&format!("{algorithm} {}", digest(algorithm, &bytes))).unwrap().unwrap();
        let mut hasher = Hasher::new(algorithm);
        for byte in &bytes {
            hasher.update(&[*byte]);
        }
        prop_assert_eq!(announced.verify(&hasher.finish()), Ok(()));
        let mut longer = Hasher::new(algorithm);
        longer.update(&bytes);
        longer.update(&[0]);
        prop_assert_eq!(announced.verify(&longer.finish()), Err(Refusal::ChecksumMismatch));
    }

    #[test]
    fn a_digest_in_a_record_parses_back(which in 0..Algorithm::ALL.len(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut hasher = Hasher::new(Algorithm::ALL[which]);
        hasher.update(&bytes);
        let announced = Announced { algorithm: Algorithm::ALL[which], digest: hasher.finish() };
        prop_assert_eq!(announced.to_string().parse(), Ok(announced));
    }

    #[test]
    fn any_text_is_a_digest_or_not(text in "(md5:|crc32:)?[0-9a-g:]{0,34}") {
        if let Ok(announced) = text.parse::<Announced>() {
            prop_assert_eq!(announced.to_string(), text);
        }
    }

    #[test]
    fn any_header_is_read_or_refused(value in "[ -~]{0,60}") {
        let announced = checksum(&value);
        prop_assert!(!matches!(announced, Ok(None)));
    }
}

#[test]
fn a_digest_that_differs_in_one_bit_or_in_length_is_a_mismatch() {
    for algorithm in Algorithm::ALL {
        let digest = Hasher::new(algorithm).finish();
        let announced = Announced {
            algorithm,
            digest: digest.clone(),
        };
        assert_eq!(announced.verify(&digest), Ok(()));
        for bit in 0..digest.len() * 8 {
            let mut other = digest.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(announced.verify(&other), Err(Refusal::ChecksumMismatch));
        }
        assert!(announced.verify(&digest[1..]).is_err() && announced.verify(&[]).is_err());
    }
}
