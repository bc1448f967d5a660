//! What clients were told: each upload, how it is sent and how much of it was acknowledged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::Tus;
use crate::payload;

/// A way to send an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// All of it in the request that creates it.
    Whole,
    /// Many PATCHes.
    Patches,
    /// One long PATCH in frames of random sizes, watched by HEAD meanwhile.
    Stream,
    /// PATCHes with a checksum, some of which are wrong.
    Checksummed,
    /// The length comes with the last PATCH.
    Deferred,
    /// Three parts that are joined in the end.
    Concatenated,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Whole,
        Self::Patches,
        Self::Stream,
        Self::Checksummed,
        Self::Deferred,
        Self::Concatenated,
    ];

    /// Those that a server says it can take (`Tus-Extension`).
    #[must_use]
    pub fn offered(tus: &Tus) -> Vec<Self> {
        let options = tus.request("OPTIONS", tus.base_path(), &[], b"");
        let offered = options.header("Tus-Extension").unwrap_or_default();
        let needs = |shape: &Self| match shape {
            Self::Patches | Self::Stream => "creation",
            Self::Whole => "creation-with-upload",
            Self::Checksummed => "checksum",
            Self::Deferred => "creation-defer-length",
            Self::Concatenated => "concatenation",
        };
        let is_offered = |shape: &Self| offered.split(',').any(|name| name.trim() == needs(shape));
        Self::ALL.into_iter().filter(is_offered).collect()
    }
}

/// One upload, and what its client was told about it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number: it names the file and seeds its bytes.
    pub number: u32,
    /// How it is sent.
    pub shape: Shape,
    /// Its bytes as a whole.
    pub length: usize,
    /// The resource, once a 201 came.
    pub url: Option<String>,
    /// The largest offset that a 2xx to a POST, PATCH or HEAD told: the client may forget what is
    /// below it.
    pub acknowledged: usize,
    /// Whether the client was told that all of it has arrived.
    pub complete: bool,
    /// The parts, for a concatenation.
    pub parts: Vec<Part>,
    /// What the server said, if it was something after which a client gives up.
    pub refused: Option<String>,
}

/// A part of a concatenation.
#[derive(Clone, Debug)]
pub struct Part {
    /// The resource.
    pub url: String,
    /// Where in the whole it begins and ends.
    pub range: (usize, usize),
    /// The largest offset within it that was acknowledged.
    pub acknowledged: usize,
}

impl Entry {
    /// The client's file name.
    #[must_use]
    pub fn filename(&self) -> String {
        filename(self.number)
    }

    /// What a client does that is told that its upload is gone: it begins anew.
    pub fn begin_anew(&mut self) {
        self.url = None;
        self.acknowledged = 0;
        self.parts.clear();
    }

    /// The bytes that are to arrive.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        payload::bytes(u64::from(self.number), self.length)
    }
}

/// The file name of an upload's number.
#[must_use]
pub fn filename(number: u32) -> String {
    format!("{number:06}.bin")
}

/// Everything that clients were told.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Entry>>>);

impl Ledger {
    /// What clients knew at an earlier moment.
    #[must_use]
    pub fn as_of(entries: Vec<Entry>) -> Self {
        Self(Arc::new(Mutex::new(entries)))
    }

    /// A copy as of now, taken at one moment.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Opens an entry; returns its number.
    pub(crate) fn open(&self, shape: Shape, length: usize) -> u32 {
        let mut entries = self.locked();
        let number = u32::try_from(entries.len()).expect("a test ends before that");
        let (url, acknowledged, complete) = (None, 0, false);
        entries.push(Entry {
            number,
            shape,
            length,
            url,
            acknowledged,
            complete,
            parts: Vec::new(),
            refused: None,
        });
        number
    }

    pub(crate) fn entry(&self, number: u32) -> Entry {
        let entries = self.locked();
        entries[number as usize].clone()
    }

    pub(crate) fn note(&self, number: u32, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.locked();
        change(&mut entries[number as usize]);
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
