//! A position in an upload and the size of one: two types, so that a mix-up does not compile.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A byte position in an upload: how much of it has been received (tus `Upload-Offset`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub u64);

/// The size of a whole upload in bytes (tus `Upload-Length`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Length(pub u64);

impl Offset {
    /// The position `bytes` further on; `None` past `u64::MAX`.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Whether an upload of this length has been received in full.
    #[must_use]
    pub fn reaches(self, length: Length) -> bool {
        self.0 == length.0
    }
}

impl Length {
    /// Largest length an upload may have: file sizes are signed on Linux (`off_t`).
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Bytes that are still to come at `offset`; `None` if the offset lies past the end.
    #[must_use]
    pub fn remaining(self, offset: Offset) -> Option<u64> {
        self.0.checked_sub(offset.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
