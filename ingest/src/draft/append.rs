//! Append to an upload: `PATCH`.

use http::{HeaderMap, StatusCode};
use shared::size::{Length, Offset};

use super::create::{agreed, length_by_body, room};
use super::digest::{self, CONTENT_DIGEST};
use super::fields::{self, Flag, PARTIAL_UPLOAD};
use super::version::Version;
use crate::tus::capabilities::Capabilities;
use crate::tus::checksum::{Announced, Verify};
use crate::tus::headers::{BodySize, UPLOAD_OFFSET, has_media_type};
use crate::tus::patch::{self, Plan, Reached, Room, within_max_size};
use crate::tus::refusal::Refusal;
use crate::tus::stored::{Finish, Kind, Stored};

/// An append whose header fields are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    version: Version,
    offset: Offset,
    last: bool,
    length: Option<Length>,
    body: BodySize,
    digest: Option<Announced>,
}

impl Append {
    /// Reads the header fields.
    ///
    /// # Errors
    /// [`Refusal::ContentType`] from version 6 on, [`Refusal::Missing`] without `Upload-Offset` or
    /// the completeness flag, what [`digest::announced`] refuses.
    pub fn parse(headers: &HeaderMap, body: BodySize, version: Version) -> Result<Self, Refusal> {
        if Version::V6 <= version && !has_media_type(headers, PARTIAL_UPLOAD) {
            return Err(Refusal::ContentType {
                expected: PARTIAL_UPLOAD,
            });
        }
        let offset = fields::integer(headers, UPLOAD_OFFSET).map(Offset);
        let last = match fields::flag(headers, version) {
            Flag::Set(last) => last,
            // Before version 8 the flag could be left out of the last request.
            Flag::Absent if version <= Version::V6 => true,
            Flag::Absent | Flag::Invalid => {
                return Err(Refusal::Missing(fields::flag_name(version)));
            }
        };
        Ok(Self {
            version,
            offset: offset.ok_or(Refusal::Missing(UPLOAD_OFFSET))?,
            last,
            length: fields::length(headers),
            body,
            digest: digest::announced(headers, CONTENT_DIGEST)?,
        })
    }

    /// Holds the request against the upload, before its body is read or a writer disturbed.
    ///
    /// # Errors
    /// [`Refusal::FinalUpload`], [`Refusal::OffsetMismatch`], [`Refusal::AlreadyComplete`],
    /// [`Refusal::InconsistentLength`], [`Refusal::Overrun`], [`Refusal::MaxSize`],
    /// [`Refusal::ChunkTooLarge`].
    pub fn decide(self, stored: &Stored, capabilities: &Capabilities) -> Result<Plan, Refusal> {
        if let Kind::Final { .. } = stored.kind {
            return Err(Refusal::FinalUpload);
        }
        let at = stored.offset;
        if self.offset != at {
            let (asked, have, complete) = (self.offset, at, stored.complete);
            return Err(Refusal::OffsetMismatch {
                asked,
                have,
                complete,
            });
        }
        if stored.complete {
            return self.repeated(stored);
        }
        let by_body = length_by_body(at, self.body, self.last);
        let length = agreed([stored.length, self.length, by_body])?;
        if let (Some(length), None) = (length, stored.length) {
            within_max_size(length, capabilities)?;
            length.remaining(at).ok_or(Refusal::InconsistentLength)?;
        }
        let room = room(at, length, self.body, capabilities)?;
        let verify = self.digest.map_or(Verify::Nothing, Verify::Digest);
        let (body, last, finish) = (self.body, self.last, stored.finish);
        Ok(Plan::Append(patch::Append {
            at,
            room,
            body,
            length,
            finish,
            last,
            verify,
        }))
    }

    /// A complete upload must not be changed, and requests that would are refused. One that changes
    /// nothing repeats what was answered already, where that can be: the draft wants it refused
    /// since version 8, but an upload begun in tus is complete before its client said so.
    fn repeated(&self, stored: &Stored) -> Result<Plan, Refusal> {
        let lenient = self.version <= Version::V6 || stored.finish != Finish::AtFlag;
        match self.body {
            BodySize::Exact(0) if lenient => {
                let room = Room {
                    most: 0,
                    beyond: Refusal::InconsistentLength,
                };
                Ok(Plan::AlreadyComplete(room))
            }
            BodySize::Exact(0) | BodySize::Unknown => Err(Refusal::AlreadyComplete),
            BodySize::Exact(_) => Err(Refusal::InconsistentLength),
        }
    }
}

/// The answer: 200 to the request that completed the upload, 204 to the others.
#[must_use]
pub fn reply(version: Version, reached: Reached) -> (StatusCode, HeaderMap) {
    let mut answer = HeaderMap::new();
    fields::set_state(&mut answer, version, reached.offset, reached.complete);
    let status = if reached.complete {
        StatusCode::OK
    } else {
        StatusCode::NO_CONTENT
    };
    (status, answer)
}

#[cfg(test)]
mod tests;
