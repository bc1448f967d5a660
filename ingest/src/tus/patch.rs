//! `PATCH`: append bytes to an upload.

use http::HeaderMap;
use shared::size::{Length, Offset};

use super::capabilities::Capabilities;
use super::checksum::Verify;
use super::headers::{self, BodySize, OFFSET_OCTET_STREAM, UPLOAD_LENGTH, UPLOAD_OFFSET};
use super::number;
use super::refusal::Refusal;
use super::stored::{Finish, Kind, Stored};

/// A `PATCH` whose header fields are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    offset: Offset,
    length: Option<Length>,
    body: BodySize,
    /// Judged after the offset: a request for the wrong place gets 409 whatever else is wrong.
    verify: Result<Verify, Refusal>,
}

/// How many body bytes may be taken, and what it means if there are more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes to take at most.
    pub most: u64,
    /// The answer to one byte more. Bytes before it are kept.
    pub beyond: Refusal,
}

/// Bytes to be written, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Where the first byte goes.
    pub at: Offset,
    /// How many may come.
    pub room: Room,
    /// What is known about the body.
    pub body: BodySize,
    /// The upload's length as of this request; to be recorded if it was open before.
    pub length: Option<Length>,
    /// What completes the upload in the protocol of this request.
    pub finish: Finish,
    /// The client said that the upload ends with this body (draft, `Upload-Complete: ?1`).
    pub last: bool,
    /// How the bytes are verified.
    pub verify: Verify,
}

/// Where an upload stands after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its new offset.
    pub offset: Offset,
    /// Its length, if known now.
    pub length: Option<Length>,
    /// Whether it is complete.
    pub complete: bool,
}

/// What to do with a `PATCH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Write.
    Append(Append),
    /// Nothing: the upload was complete before, and the client repeats a request whose answer got
    /// lost. Answer as if it had just succeeded. There is no room for a body that follows.
    AlreadyComplete(Room),
}

impl Patch {
    /// Reads the header fields.
    ///
    /// # Errors
    /// [`Refusal::UnsupportedVersion`], [`Refusal::ContentType`], [`Refusal::Missing`],
    /// [`Refusal::Malformed`].
    pub fn parse(
        headers: &HeaderMap,
        body: BodySize,
        capabilities: &Capabilities,
    ) -> Result<Self, Refusal> {
        headers::require_version(headers)?;
        if !headers::has_media_type(headers, OFFSET_OCTET_STREAM) {
            return Err(Refusal::ContentType {
                expected: OFFSET_OCTET_STREAM,
            });
        }
        let offset = Offset(number::required(headers, UPLOAD_OFFSET)?);
        let length = number::optional(headers, UPLOAD_LENGTH)?.map(Length);
        Ok(Self {
            offset,
            length,
            body,
            verify: Verify::parse(headers, capabilities),
        })
    }

    /// Holds the request against the upload. Nothing of the body has been read, and no writer been
    /// disturbed, before this agreed.
    ///
    /// # Errors
    /// [`Refusal::FinalUpload`], [`Refusal::OffsetMismatch`], [`Refusal::LengthChanged`],
    /// [`Refusal::MaxSize`], [`Refusal::PastLength`], [`Refusal::ChunkTooLarge`], and what
    /// [`Verify::parse`] refuses; the first of these that applies.
    pub fn decide(self, stored: &Stored, capabilities: &Capabilities) -> Result<Plan, Refusal> {
        if let Kind::Final { .. } = stored.kind {
            return Err(Refusal::FinalUpload);
        }
        if self.offset != stored.offset {
            return Err(Refusal::OffsetMismatch {
                asked: self.offset,
                have: stored.offset,
                complete: stored.complete,
            });
        }
        let length = self.length_after(stored, capabilities)?;
        let room = Room::new(stored.offset, length, self.body, capabilities)?;
        if stored.complete {
            return Ok(Plan::AlreadyComplete(room));
        }
        let finish = match stored.kind {
            Kind::Partial => Finish::Never,
            Kind::Whole | Kind::Final { .. } => Finish::AtLength,
        };
        let (at, body, verify) = (stored.offset, self.body, self.verify?);
        Ok(Plan::Append(Append {
            at,
            room,
            body,
            length,
            finish,
            last: false,
            verify,
        }))
    }

    /// Once set the length must not be changed; said again, it must be the same.
    fn length_after(
        &self,
        stored: &Stored,
        capabilities: &Capabilities,
    ) -> Result<Option<Length>, Refusal> {
        match (stored.length, self.length) {
            (known, None) => Ok(known),
            (Some(known), Some(told)) if known == told => Ok(Some(known)),
            (Some(_), Some(_)) => Err(Refusal::LengthChanged),
            (None, Some(told)) => {
                within_max_size(told, capabilities)?;
                match told.remaining(stored.offset) {
                    Some(_) => Ok(Some(told)),
                    // Shorter than what is already here.
                    None => Err(Refusal::PastLength { length: told }),
                }
            }
        }
    }
}

/// # Errors
/// [`Refusal::MaxSize`] for a length that no upload may have.
pub(crate) fn within_max_size(length: Length, capabilities: &Capabilities) -> Result<(), Refusal> {
    match capabilities.max_size {
        Some(most) if most < length.0 => Err(Refusal::MaxSize { most }),
        Some(_) | None => Ok(()),
    }
}

impl Room {
    /// The room for a body at `at`: up to the length, else up to the largest upload there may be,
    /// and never more than one request may carry.
    ///
    /// # Errors
    /// What `beyond` would be, if the body is known to be larger.
    pub fn new(
        at: Offset,
        length: Option<Length>,
        body: BodySize,
        capabilities: &Capabilities,
    ) -> Result<Self, Refusal> {
        let upload = match length {
            Some(length) => {
                let most = length.remaining(at).unwrap_or(0);
                Self {
                    most,
                    beyond: Refusal::PastLength { length },
                }
            }
            // An open length does not lift the limit.
            None => {
                let most = capabilities.max_size.unwrap_or(Length::MAX.0);
                Self {
                    most: most.saturating_sub(at.0),
                    beyond: Refusal::MaxSize { most },
                }
            }
        };
        let room = match capabilities.max_chunk {
            Some(most) if most < upload.most => Self {
                most,
                beyond: Refusal::ChunkTooLarge { most },
            },
            Some(_) | None => upload,
        };
        match body {
            BodySize::Exact(size) if room.most < size => Err(room.beyond),
            BodySize::Exact(_) | BodySize::Unknown => Ok(room),
        }
    }
}

impl Append {
    /// Whether the record of an at-flag upload must say "this is all" before its offset reaches the
    /// length, so that recovery completes what this request completes, and nothing else. In the draft
    /// the end is where the client says so; tus has no such word, and the length is the end.
    #[must_use]
    pub fn flags_end(&self) -> bool {
        match self.finish {
            Finish::AtLength => true,
            Finish::AtFlag => self.last && self.length.is_some(),
            Finish::Never => false,
        }
    }

    /// Where the upload stands after `received` bytes of this body; `ended` says that the body came
    /// to its proper end. The caller never takes more than the room.
    ///
    /// # Errors
    /// [`Refusal::InconsistentLength`] if the client said that the upload ends here, short of its
    /// length. The bytes are kept.
    pub fn reached(&self, received: u64, ended: bool) -> Result<Reached, Refusal> {
        let offset = Offset(self.at.0.saturating_add(received));
        let full = self.length.is_some_and(|length| offset.reaches(length));
        let complete = if self.last && ended {
            if self.length.is_some() && !full {
                return Err(Refusal::InconsistentLength);
            }
            true
        } else {
            full && self.finish != Finish::AtFlag
        };
        let length = if complete {
            Some(Length(offset.0))
        } else {
            self.length
        };
        Ok(Reached {
            offset,
            length,
            complete,
        })
    }
}

/// Header fields of 204: the new offset. `Upload-Expires` comes from [`super::expires`].
#[must_use]
pub fn reply(offset: Offset) -> HeaderMap {
    let mut fields = HeaderMap::new();
    headers::set_number(&mut fields, UPLOAD_OFFSET, offset.0);
    fields
}

#[cfg(test)]
mod tests;
