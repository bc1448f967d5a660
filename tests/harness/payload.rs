//! Reproducible bytes to upload, and the digest that tells whether they arrived.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Bytes that no compression, hole or repetition could fake; the same for the same seed.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(length);
    let mut stream = Stream::new(seed, length as u64);
    stream
        .read_to_end(&mut all)
        .expect("reading from memory does not fail");
    all
}

/// The bytes of [`bytes`] one after the other, without holding them all.
pub struct Stream {
    random: fastrand::Rng,
    left: u64,
}

impl Stream {
    /// The first `length` bytes of the sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            left: length,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // Whole blocks of 8 only (but for the end), so that the sequence does not depend on how
        // it is read.
        let room = if into.len() >= 8 {
            into.len() & !7
        } else {
            into.len()
        };
        let take = usize::try_from(self.left).map_or(room, |left| left.min(room));
        debug_assert!(
            take == 0 || into.len() >= 8 || self.left < 8,
            "read at least 8 bytes"
        );
        for block in into[..take].chunks_mut(8) {
            block.copy_from_slice(&self.random.u64(..).to_le_bytes()[..block.len()]);
        }
        self.left -= take as u64;
        Ok(take)
    }
}

/// Writes [`bytes`] into a new file; returns their digest.
///
/// # Errors
/// Whatever creating or writing the file meets.
pub fn write_file(path: &Path, seed: u64, length: u64) -> io::Result<String> {
    let mut file = File::create(path)?;
    let mut stream = Stream::new(seed, length);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
    }
}

/// SHA-256 of a byte string, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Whatever opening or reading it meets.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_and_a_block_of_one_seed_are_the_same_bytes() {
        let all = bytes(7, 100_003);
        assert_eq!(all.len(), 100_003);
        let mut streamed = Vec::new();
        let mut stream = Stream::new(7, 100_003);
        let mut buffer = [0; 1000];
        loop {
            let n = stream.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            streamed.extend_from_slice(&buffer[..n]);
        }
        assert!(streamed == all);
        assert!(bytes(8, 100_003) != all);
    }

    #[test]
    fn a_file_has_the_digest_that_was_reported_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let digest = write_file(&path, 3, 2_500_001).unwrap();
        assert_eq!(digest, sha256_file(&path).unwrap());
        assert_eq!(digest, sha256(&bytes(3, 2_500_001)));
        // FIPS 180-4, the empty message
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
    }
}
