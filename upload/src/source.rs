//! Where the bytes come from: anything that can be read again at a given place, so that a broken
//! transfer can go on from the server's offset. Nothing here is held in memory beyond one buffer,
//! but for the chunk of a pipe.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

use crate::exit::UploadError;
use crate::text::printable;

/// Bytes with known places.
#[derive(Debug)]
pub(crate) enum Source {
    File(OpenFile),
    Random(Random),
    /// One chunk of a pipe: `bytes` stand at `start` and following.
    Chunk {
        start: u64,
        bytes: Bytes,
    },
}

/// A file that is held open, so that replacing it by rename does no harm.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    path: String,
    length: u64,
    modified: Option<SystemTime>,
}

/// Random data that is the same each time one place is read.
#[derive(Debug)]
pub(crate) struct Random {
    pub seed: u64,
    pub length: u64,
}

impl OpenFile {
    /// Opens a file and notes its size and modification time.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Self::from_file(file, printable(&path.to_string_lossy()))
    }

    /// An open file under a name for messages.
    pub(crate) fn from_file(file: File, path: String) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            length: found.len(),
            modified: found.modified().ok(),
            file,
            path,
        })
    }

    /// In bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// When the file was last written to, as far as the filesystem tells.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    fn changed(&self) -> UploadError {
        UploadError::Changed {
            path: self.path.clone(),
        }
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> UploadError {
        UploadError::local(format!("failed to read {}", self.path))
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), UploadError> {
        match self.file.read_exact_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            other => other.map_err(self.failed()),
        }
    }

    fn check_unchanged(&self) -> Result<(), UploadError> {
        let now = self.file.metadata().map_err(self.failed())?;
        let same = now.len() == self.length && now.modified().ok() == self.modified;
        if same { Ok(()) } else { Err(self.changed()) }
    }
}

impl Random {
    /// SplitMix64 (Steele, Lea, Flood 2014) of the index of each eight bytes.
    fn word(&self, index: u64) -> [u8; 8] {
        let mut z = self
            .seed
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    fn fill(&self, at: u64, buffer: &mut [u8]) {
        let mut at = at;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let usable = word.get((at % 8) as usize..).unwrap_or_default();
            let count = usable.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(usable.get(..count).unwrap_or_default());
            at += count as u64;
            rest = later;
        }
    }
}

impl Source {
    /// The first place after the last byte.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::File(file) => file.length,
            Self::Random(random) => random.length,
            Self::Chunk { start, bytes } => start + bytes.len() as u64,
        }
    }

    /// The first place that can be read.
    pub(crate) fn start(&self) -> u64 {
        match self {
            Self::File(_) | Self::Random(_) => 0,
            Self::Chunk { start, .. } => *start,
        }
    }

    /// Fills the buffer from the given place.
    ///
    /// # Errors
    /// [`UploadError::Changed`] when the file is shorter than it was, and when the buffer holds its last
    /// bytes but the file was written to meanwhile.
    pub(crate) fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), UploadError> {
        match self {
            Self::File(file) => {
                file.read_at(at, buffer)?;
                if at + buffer.len() as u64 == file.length {
                    file.check_unchanged()?;
                }
            }
            Self::Random(random) => random.fill(at, buffer),
            Self::Chunk { start, bytes } => {
                let from = usize::try_from(at - start).unwrap_or(usize::MAX);
                let part = bytes.get(from..).and_then(|rest| rest.get(..buffer.len()));
                let part = part.ok_or_else(|| {
                    UploadError::local("failed to read a chunk")(
                        io::ErrorKind::UnexpectedEof.into(),
                    )
                })?;
                buffer.copy_from_slice(part);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(source: &Source, at: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        source.read_at(at, &mut buffer).unwrap();
        buffer
    }

    #[test]
    fn random_data_is_the_same_however_it_is_cut() {
        let source = Source::Random(Random {
            seed: 7,
            length: 40,
        });
        let whole = read(&source, 0, 40);
        for from in 0..40 {
            for to in from..=40 {
                let part = read(&source, from as u64, to - from);
                assert_eq!(part, whole[from..to], "{from}..{to}");
            }
        }
        let other = Source::Random(Random {
            seed: 8,
            length: 40,
        });
        assert_ne!(read(&other, 0, 40), whole);
    }

    #[test]
    fn a_chunk_is_addressed_by_its_place_in_the_pipe() {
        let source = Source::Chunk {
            start: 100,
            bytes: Bytes::from_static(b"abcdef"),
        };
        assert_eq!((source.start(), source.end()), (100, 106));
        assert_eq!(read(&source, 102, 3), b"cde");
        assert!(source.read_at(104, &mut [0; 3]).is_err());
    }

    #[test]
    fn the_last_bytes_of_a_file_that_grew_are_held_back() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = Source::File(OpenFile::open(file.path()).unwrap());
        file.write_all(b"more").unwrap();
        assert_eq!(read(&source, 0, 9), b"012345678");
        let error = source.read_at(5, &mut [0; 5]).unwrap_err();
        assert!(matches!(error, UploadError::Changed { .. }), "{error}");
    }

    #[test]
    fn a_file_that_shrank_is_noticed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = Source::File(OpenFile::open(file.path()).unwrap());
        file.as_file().set_len(4).unwrap();
        let error = source.read_at(2, &mut [0; 4]).unwrap_err();
        assert!(matches!(error, UploadError::Changed { .. }), "{error}");
    }

    #[test]
    fn a_file_written_in_place_is_noticed_by_its_time() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = Source::File(OpenFile::open(file.path()).unwrap());
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        file.as_file().set_modified(later).unwrap();
        assert!(source.read_at(0, &mut [0; 10]).is_err());
    }
}
