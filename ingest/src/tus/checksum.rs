//! `Upload-Checksum` and the digests behind it, computed while bytes stream by.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use sha2::Digest as _;

use super::capabilities::{Capabilities, Extension};
use super::headers::{self, UPLOAD_CHECKSUM};
use super::refusal::Refusal;

/// A checksum algorithm, by the name that tus gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-1: the one that every server must have.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// MD5.
    Md5,
    /// CRC-32 (IEEE 802.3), four bytes, most significant first.
    Crc32,
    /// BLAKE3 with its default of 32 bytes.
    Blake3,
}

/// A name that no algorithm has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown checksum algorithm")]
pub struct UnknownAlgorithm;

impl Algorithm {
    /// All, in the order of `Tus-Checksum-Algorithm`: preferred ones first.
    pub const ALL: [Self; 6] = [
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Blake3,
        Self::Md5,
        Self::Crc32,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Md5 => "md5",
            Self::Crc32 => "crc32",
            Self::Blake3 => "blake3",
        }
    }

    /// Size of its digest in bytes.
    #[must_use]
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
            Self::Md5 => 16,
            Self::Crc32 => 4,
        }
    }

    /// Value of `Tus-Checksum-Algorithm`.
    #[must_use]
    pub fn list() -> String {
        Self::ALL.map(Self::name).join(",")
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or(UnknownAlgorithm)
    }
}

/// A digest being computed.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// SHA-1
    Sha1(sha1::Sha1),
    /// SHA-256
    Sha256(sha2::Sha256),
    /// SHA-512
    Sha512(sha2::Sha512),
    /// MD5
    Md5(md5::Md5),
    /// CRC-32
    Crc32(crc32fast::Hasher),
    /// BLAKE3
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
            Algorithm::Md5 => Self::Md5(md5::Md5::new()),
            Algorithm::Crc32 => Self::Crc32(crc32fast::Hasher::new()),
            Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Crc32(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hasher) => hasher.finalize().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
            Self::Md5(hasher) => hasher.finalize().to_vec(),
            Self::Crc32(hasher) => hasher.finalize().to_be_bytes().to_vec(),
            Self::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
        }
    }
}

/// A digest that the client announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// What must come out.
    pub digest: Vec<u8>,
}

impl Announced {
    /// Reads `Upload-Checksum` from header or trailer fields.
    ///
    /// # Errors
    /// [`Refusal::ChecksumAlgorithm`] for an algorithm that is not offered, [`Refusal::Malformed`]
    /// if the field is repeated, not `name Base64`, or its digest has the wrong size.
    pub fn parse(fields: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers::single(fields, UPLOAD_CHECKSUM)? else {
            return Ok(None);
        };
        let malformed = Refusal::Malformed(UPLOAD_CHECKSUM);
        let Some((name, digest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Err(malformed);
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed);
        }
        let algorithm = Algorithm::from_str(name).map_err(|_| Refusal::ChecksumAlgorithm)?;
        match STANDARD.decode(digest) {
            Ok(digest) if digest.len() == algorithm.digest_len() => {
                Ok(Some(Self { algorithm, digest }))
            }
            Ok(_) | Err(_) => Err(malformed),
        }
    }

    /// Holds a finished digest against the announced one.
    ///
    /// # Errors
    /// [`Refusal::ChecksumMismatch`]: the bytes that it was computed over are to be discarded.
    pub fn verify(&self, digest: &[u8]) -> Result<(), Refusal> {
        if self.digest == digest {
            Ok(())
        } else {
            Err(Refusal::ChecksumMismatch)
        }
    }
}

impl fmt::Display for Announced {
    /// `sha256:` and the digest in hexadecimal: the form that records and hooks have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm)?;
        self.digest
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Text that is not an algorithm's name, a colon and a digest of its size in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest")]
pub struct InvalidDigest;

impl FromStr for Announced {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (name, hex) = text.split_once(':').ok_or(InvalidDigest)?;
        let algorithm = Algorithm::from_str(name).map_err(|_| InvalidDigest)?;
        let nibble = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|n| u8::try_from(n).ok())
        };
        let pairs = hex.as_bytes().chunks(2).map(|pair| match *pair {
            [high, low] => Some(nibble(high)? << 4 | nibble(low)?),
            _ => None,
        });
        let digest: Vec<u8> = pairs.collect::<Option<_>>().ok_or(InvalidDigest)?;
        match digest.len() == algorithm.digest_len() {
            true => Ok(Self { algorithm, digest }),
            false => Err(InvalidDigest),
        }
    }
}

/// How the bytes of one request are verified before they count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Not announced: bytes count as they come. Should an `Upload-Checksum` trailer follow all the
    /// same, it is verified, and a mismatch takes the bytes back.
    Nothing,
    /// Announced in the header: no byte counts before the digest is right.
    Digest(Announced),
    /// To follow in the trailer (`Trailer: Upload-Checksum`): no byte counts before it came and is
    /// right. Its algorithm is not known before the end, so the bytes are read again then.
    Trailer,
}

impl Verify {
    /// Reads `Upload-Checksum` and `Trailer`. A header beats an announced trailer.
    ///
    /// # Errors
    /// As [`Announced::parse`]; [`Refusal::ExtensionOff`] if verification is asked for and not
    /// offered: bytes must not pass for verified that were not.
    pub fn parse(headers: &HeaderMap, capabilities: &Capabilities) -> Result<Self, Refusal> {
        if headers.contains_key(UPLOAD_CHECKSUM) {
            capabilities.require(Extension::Checksum)?;
        }
        if let Some(announced) = Announced::parse(headers)? {
            return Ok(Self::Digest(announced));
        }
        if !announces_trailer(headers) {
            return Ok(Self::Nothing);
        }
        capabilities.require(Extension::ChecksumTrailer)?;
        Ok(Self::Trailer)
    }

    /// What the trailer fields, if any came, ask to verify at the end of the body.
    ///
    /// # Errors
    /// As [`Announced::parse`]; [`Refusal::Missing`] if an announced trailer did not come.
    pub fn at_end(&self, trailers: Option<&HeaderMap>) -> Result<Option<Announced>, Refusal> {
        match self {
            Self::Digest(announced) => Ok(Some(announced.clone())),
            Self::Trailer => match trailers.map(Announced::parse).transpose()?.flatten() {
                Some(announced) => Ok(Some(announced)),
                None => Err(Refusal::Missing(UPLOAD_CHECKSUM)),
            },
            Self::Nothing => Ok(trailers.map(Announced::parse).transpose()?.flatten()),
        }
    }

    /// Whether bytes may count before the end of the body.
    #[must_use]
    pub fn counts_at_once(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// Whether a `Trailer` field lists `Upload-Checksum`.
fn announces_trailer(headers: &HeaderMap) -> bool {
    headers
        .get_all(http::header::TRAILER)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|name| {
            name.trim_ascii()
                .eq_ignore_ascii_case(UPLOAD_CHECKSUM.as_bytes())
        })
}

#[cfg(test)]
mod tests;
