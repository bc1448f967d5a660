//! A digest of the whole file that the client declares in its metadata.
//!
//! tus has none, so the key is the algorithm's name and the value its digest in hexadecimal, as
//! `sha256sum` and the like print it: `Upload-Metadata: sha256 <Base64 of the hexadecimal>`.

use super::checksum::{Algorithm, Announced};
use super::metadata::Metadata;
use super::refusal::Refusal;

/// Algorithms that may be declared, the one to use first first. CRC-32 is no digest of a file.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Sha256,
    Algorithm::Blake3,
    Algorithm::Sha512,
    Algorithm::Sha1,
    Algorithm::Md5,
];

/// The digest that must come out of the whole file, to be checked before the hand-over. A value may
/// be empty: the key alone declares nothing.
///
/// # Errors
/// [`Refusal::Metadata`] for a value that this algorithm's digest cannot be: the client counts on
/// a check that could not be made.
pub fn digest(metadata: &Metadata) -> Result<Option<Announced>, Refusal> {
    for algorithm in ALGORITHMS {
        let Some(value) = metadata
            .get(algorithm.name())
            .filter(|value| !value.is_empty())
        else {
            continue;
        };
        let text = std::str::from_utf8(value).unwrap_or_default();
        let announced = format!("{algorithm}:{text}").parse::<Announced>();
        return announced
            .map(Some)
            .map_err(|_| Refusal::Metadata("digest is not hexadecimal"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::metadata::MetadataRules;
    use super::*;

    fn declared(pairs: &[(&str, &[u8])]) -> Result<Option<Announced>, Refusal> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.to_vec()));
        digest(&Metadata::from_pairs(pairs.collect(), &MetadataRules::default()).unwrap())
    }

    #[test]
    fn the_algorithms_name_is_the_key_and_the_strongest_one_counts() {
        let (md5, sha256) = ("00".repeat(16), "Ab".repeat(32));
        let pairs = [
            ("md5", md5.as_bytes()),
            ("sha256", sha256.as_bytes()),
            ("filename", b"a"),
        ];
        let expected = Announced {
            algorithm: Algorithm::Sha256,
            digest: vec![0xAB; 32],
        };
        assert_eq!(declared(&pairs), Ok(Some(expected)));
        assert_eq!(
            declared(&pairs[..1]).unwrap().unwrap().algorithm,
            Algorithm::Md5
        );
    }

    #[test]
    fn other_keys_declare_nothing_and_neither_does_a_key_without_a_value() {
        for key in ["checksum", "crc32", "SHA256", "sha-256"] {
            assert_eq!(declared(&[(key, b"00")]), Ok(None), "{key}");
        }
        assert_eq!(declared(&[("sha256", b"")]), Ok(None));
    }

    #[test]
    fn what_no_digest_can_be_is_refused() {
        for bad in [
            "00",
            "xyz",
            &"00".repeat(31),
            &"0g".repeat(32),
            &"00".repeat(33),
            "\u{fc}",
        ] {
            let refused = declared(&[("sha256", bad.as_bytes())]);
            assert_eq!(
                refused,
                Err(Refusal::Metadata("digest is not hexadecimal")),
                "{bad}"
            );
        }
        assert!(declared(&[("sha256", b"\xff\xff")]).is_err());
    }
}
