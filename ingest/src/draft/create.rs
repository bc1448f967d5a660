//! Create an upload: any request with content to the collection.

use http::{HeaderMap, Method, StatusCode};
use shared::size::{Length, Offset};

use super::digest::{self, CONTENT_DIGEST, REPR_DIGEST};
use super::disposition;
use super::fields::{self, Flag};
use super::limits;
use super::version::Version;
use crate::tus::capabilities::{Capabilities, Extension};
use crate::tus::checksum::{Algorithm, Announced, Verify};
use crate::tus::create;
use crate::tus::headers::{BodySize, set};
use crate::tus::metadata::Metadata;
use crate::tus::patch::{Append, Reached, Room, within_max_size};
use crate::tus::refusal::Refusal;
use crate::tus::stored::{Finish, Kind};

/// A creation whose header fields are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    version: Version,
    last: bool,
    length: Option<Length>,
    metadata: Metadata,
    body: BodySize,
    content_digest: Option<Announced>,
    whole_digest: Option<Announced>,
    wanted_digest: Option<Algorithm>,
}

/// The upload to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The upload, as tus would create it; carried out in the same way.
    pub upload: create::Plan,
    /// Digest of the whole file, to be recorded and checked before the hand-over.
    pub whole_digest: Option<Announced>,
    /// The digest that the final answer should tell, if the server has it.
    pub wanted_digest: Option<Algorithm>,
}

/// Whether this method creates uploads: all that carry content.
#[must_use]
pub fn is_creation(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

impl Create {
    /// Reads the header fields.
    ///
    /// # Errors
    /// [`Refusal::Missing`] without the completeness flag, [`Refusal::InconsistentLength`] if
    /// `Upload-Length` and a complete body's `Content-Length` differ, [`Refusal::MaxSize`], what
    /// [`disposition::metadata`] and [`digest::announced`] refuse.
    pub fn parse(
        headers: &HeaderMap,
        body: BodySize,
        version: Version,
        capabilities: &Capabilities,
    ) -> Result<Self, Refusal> {
        let Flag::Set(last) = fields::flag(headers, version) else {
            return Err(Refusal::Missing(fields::flag_name(version)));
        };
        let length = agreed([
            fields::length(headers),
            length_by_body(Offset(0), body, last),
        ])?;
        if let Some(length) = length {
            within_max_size(length, capabilities)?;
        }
        Ok(Self {
            version,
            last,
            length,
            metadata: disposition::metadata(headers, &capabilities.metadata)?,
            body,
            content_digest: digest::announced(headers, CONTENT_DIGEST)?,
            whole_digest: digest::announced(headers, REPR_DIGEST)?,
            wanted_digest: digest::wanted(headers),
        })
    }

    /// The metadata, for `--on-create`.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The length, for `--on-create`; `None` if it is open.
    #[must_use]
    pub fn length(&self) -> Option<Length> {
        self.length
    }

    /// Decides what to create.
    ///
    /// # Errors
    /// [`Refusal::Overrun`], [`Refusal::MaxSize`] and [`Refusal::ChunkTooLarge`] for a body that is
    /// too large.
    pub fn decide(self, capabilities: &Capabilities) -> Result<Plan, Refusal> {
        // The content of a complete request is the whole file, and so its digest is that of the
        // whole: checked at the end, it does not keep the bytes of a broken request from counting.
        let (content, whole) = match (self.content_digest, self.last) {
            (Some(content), true) => (None, Some(content)),
            (content, _) => (content, None),
        };
        let finish = match self.length {
            // Nothing can follow. Versions up to 6 need it with `?0`, too: tus-js-client creates an
            // empty upload so, and never comes back.
            Some(Length(0)) if self.last || self.version <= Version::V6 => Finish::AtLength,
            Some(_) | None => Finish::AtFlag,
        };
        let first = if self.body.is_empty() {
            None
        } else {
            let at = Offset(0);
            let room = room(at, self.length, self.body, capabilities)?;
            let verify = content.map_or(Verify::Nothing, Verify::Digest);
            let (body, length, last) = (self.body, self.length, self.last);
            Some(Append {
                at,
                room,
                body,
                length,
                finish,
                last,
                verify,
            })
        };
        let upload = create::Plan {
            length: self.length,
            kind: Kind::Whole,
            finish,
            metadata: self.metadata,
            concat: None,
            parts: Vec::new(),
            ready: false,
            first,
        };
        let whole_digest = self.whole_digest.or(whole);
        Ok(Plan {
            upload,
            whole_digest,
            wanted_digest: self.wanted_digest,
        })
    }
}

/// The one length that these say; `None` if none says any.
///
/// # Errors
/// [`Refusal::InconsistentLength`] if two differ.
pub(super) fn agreed<const N: usize>(said: [Option<Length>; N]) -> Result<Option<Length>, Refusal> {
    let mut lengths = said.into_iter().flatten();
    let first = lengths.next();
    match lengths.all(|length| Some(length) == first) {
        true => Ok(first),
        false => Err(Refusal::InconsistentLength),
    }
}

/// The length that a request tells by being the last one and having a size.
pub(super) fn length_by_body(at: Offset, body: BodySize, last: bool) -> Option<Length> {
    match body {
        BodySize::Exact(size) if last => at.checked_add(size).map(|end| Length(end.0)),
        BodySize::Exact(_) | BodySize::Unknown => None,
    }
}

/// The room for a body; past the length lies no 413 here but the end of the upload.
pub(super) fn room(
    at: Offset,
    length: Option<Length>,
    body: BodySize,
    capabilities: &Capabilities,
) -> Result<Room, Refusal> {
    let overrun = |refusal| match refusal {
        Refusal::PastLength { length } => Refusal::Overrun { length },
        other => other,
    };
    let room = Room::new(at, length, body, capabilities).map_err(overrun)?;
    Ok(Room {
        beyond: overrun(room.beyond),
        ..room
    })
}

/// Whether the draft can be used to create uploads at all.
///
/// # Errors
/// [`Refusal::Method`] if creation is switched off.
pub fn require_creation(capabilities: &Capabilities) -> Result<(), Refusal> {
    match capabilities.offers(Extension::Creation) {
        true => Ok(()),
        false => Err(Refusal::Method { allow: "OPTIONS" }),
    }
}

/// The final answer: 201 with where the upload is and how it stands. `location` is that of the 104.
#[must_use]
pub fn reply(
    version: Version,
    location: &str,
    reached: Reached,
    limit: &str,
) -> (StatusCode, HeaderMap) {
    let mut answer = HeaderMap::new();
    set(&mut answer, "location", location);
    fields::set_state(&mut answer, version, reached.offset, reached.complete);
    limits::announce(&mut answer, version, limit);
    (StatusCode::CREATED, answer)
}

#[cfg(test)]
mod tests;
