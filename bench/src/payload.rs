//! The bytes that are sent: the same everywhere, different at every offset, cheap to compare.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};

/// Period of the pattern: a prime, so that no block, page or chunk size divides it.
const PERIOD: usize = 16_777_213;

/// An endless pattern of random bytes.
pub(crate) struct Payload(Vec<u8>);

impl Payload {
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; PERIOD + (1 << 20)];
        fastrand::Rng::with_seed(7).fill(&mut bytes[..PERIOD]);
        bytes.copy_within(..1 << 20, PERIOD);
        Self(bytes)
    }

    /// Up to 1 MiB from `offset` on.
    pub(crate) fn at(&self, offset: u64, most: u64) -> &[u8] {
        #[expect(clippy::cast_possible_truncation, reason = "below PERIOD and 1 MiB")]
        let (start, len) = (
            (offset % PERIOD as u64) as usize,
            most.min(1 << 20) as usize,
        );
        &self.0[start..start + len]
    }

    /// Whether a file holds exactly the pattern's first `length` bytes, `shift` bytes further on.
    pub(crate) fn verify(&self, path: &Path, shift: u64, length: u64) -> Result<()> {
        let file = File::open(path)?;
        ensure!(
            file.metadata()?.len() == length,
            "{} has the wrong size",
            path.display()
        );
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            let expected = self.at(at + shift, length - at);
            let got = &mut buffer[..expected.len()];
            file.read_exact_at(got, at)?;
            ensure!(
                got == expected,
                "{} differs in the MiB at {at}",
                path.display()
            );
            at += expected.len() as u64;
        }
        Ok(())
    }
}
