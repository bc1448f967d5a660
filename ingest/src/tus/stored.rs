//! What a decision needs to know about an upload that exists.

use shared::size::{Length, Offset};

/// The facts about one stored upload, read from its record.
///
/// An upload that was terminated or has expired is not one of them: looking it up is already
/// [`super::refusal::Refusal::Gone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes received and kept: the record's watermark.
    pub offset: Offset,
    /// Size of the whole upload; `None` while the client has not told it.
    pub length: Option<Length>,
    /// Whether nothing can be appended any more: received in full, and flagged if it needs a flag.
    /// A partial upload is complete when it is full, although it is never handed over.
    pub complete: bool,
    /// What it is in a concatenation.
    pub kind: Kind,
    /// What completes it.
    pub finish: Finish,
}

/// The part that an upload plays in a concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None: an upload by itself.
    Whole,
    /// A part, to be put together with others.
    Partial,
    /// Made of parts. Until it is `assembled` its offset means nothing.
    Final {
        /// Whether all bytes are in place.
        assembled: bool,
    },
}

/// What makes an upload complete. It is chosen when the upload is created; a request of the other
/// protocol may still complete it in its own way ([`super::patch::Append::finish`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The last byte (tus).
    AtLength,
    /// A request that says so (IETF draft, `Upload-Complete: ?1`).
    AtFlag,
    /// Nothing: a part of a concatenation.
    Never,
}

impl Stored {
    /// A whole tus upload that stands at `offset`; for callers and tests that need no more.
    #[must_use]
    pub fn whole(offset: Offset, length: Option<Length>) -> Self {
        let complete = length.is_some_and(|length| offset.reaches(length));
        Self {
            offset,
            length,
            complete,
            kind: Kind::Whole,
            finish: Finish::AtLength,
        }
    }
}
