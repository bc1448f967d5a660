//! `Upload-Checksum`: computed from the piece as it stands on the disk, before it is sent.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};

use crate::body::Piece;
use crate::cli::Algorithm;
use crate::exit::UploadError;

/// Read at once.
const BUFFER: u64 = 256 << 10;

impl Algorithm {
    /// The name in `Tus-Checksum-Algorithm` and `Upload-Checksum`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
            Self::Md5 => "md5",
            Self::Crc32 => "crc32",
        }
    }
}

enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
    // Two kilobytes; the others are small.
    Blake3(Box<blake3::Hasher>),
    Md5(Md5),
    Crc32(crc32fast::Hasher),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
            Algorithm::Md5 => Self::Md5(Md5::new()),
            Algorithm::Crc32 => Self::Crc32(crc32fast::Hasher::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Crc32(hasher) => hasher.update(bytes),
        }
    }

    /// Base64; CRC-32 as four bytes, the highest first.
    fn finish(self) -> String {
        match self {
            Self::Sha1(hasher) => BASE64_STANDARD.encode(hasher.finalize()),
            Self::Sha256(hasher) => BASE64_STANDARD.encode(hasher.finalize()),
            Self::Sha512(hasher) => BASE64_STANDARD.encode(hasher.finalize()),
            Self::Blake3(hasher) => BASE64_STANDARD.encode(hasher.finalize().as_bytes()),
            Self::Md5(hasher) => BASE64_STANDARD.encode(hasher.finalize()),
            Self::Crc32(hasher) => BASE64_STANDARD.encode(hasher.finalize().to_be_bytes()),
        }
    }
}

/// The header's value for a piece. Reads the piece: not for the async threads.
pub(crate) fn of(algorithm: Algorithm, piece: &Piece) -> Result<String, UploadError> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; BUFFER as usize];
    let mut at = piece.from;
    while at < piece.to {
        let count = (piece.to - at).min(BUFFER);
        let part = buffer.get_mut(..count as usize).unwrap_or_default();
        piece.source.read_at(at, part)?;
        hasher.update(part);
        at += count;
    }
    Ok(format!("{} {}", algorithm.name(), hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::source::Source;

    #[test]
    fn known_digests_come_out() {
        let bytes = Bytes::from_static(b"hello world");
        let source = Arc::new(Source::Chunk { start: 0, bytes });
        for (algorithm, expected) in [
            // The example of tus 1.0.0, Upload-Checksum.
            (Algorithm::Sha1, "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
            (
                Algorithm::Sha256,
                "sha256 uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=",
            ),
            (
                Algorithm::Sha512,
                "sha512 MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw==",
            ),
            (
                Algorithm::Blake3,
                "blake3 10mB76cKDIgLjYwZhdB128v2ebmaX5kU5ar5a4ManiQ=",
            ),
            (Algorithm::Md5, "md5 XrY7u+Ae7tCTyyK7j1rNww=="),
            (Algorithm::Crc32, "crc32 DUoRhQ=="),
        ] {
            let piece = Piece {
                source: Arc::clone(&source),
                from: 0,
                to: 11,
            };
            assert_eq!(of(algorithm, &piece).unwrap(), expected);
        }
    }

    #[test]
    fn a_piece_longer_than_the_buffer_is_hashed_whole() {
        let bytes = Bytes::from(vec![7; 3 * BUFFER as usize + 5]);
        let expected = BASE64_STANDARD.encode(Md5::digest(&bytes[1..]));
        let piece = Piece {
            from: 1,
            to: bytes.len() as u64,
            source: Arc::new(Source::Chunk { start: 0, bytes }),
        };
        assert_eq!(
            of(Algorithm::Md5, &piece).unwrap(),
            format!("md5 {expected}")
        );
    }
}
