//! `POST`: create an upload, with its first bytes, as a part, or out of parts.

use http::{HeaderMap, HeaderValue};
use shared::id::UploadId;
use shared::size::{Length, Offset};

use super::capabilities::{Capabilities, Extension};
use super::checksum::Verify;
use super::concat::{self, Concat, Site};
use super::headers::{
    self, BodySize, OFFSET_OCTET_STREAM, UPLOAD_CONCAT, UPLOAD_DEFER_LENGTH, UPLOAD_LENGTH,
    UPLOAD_OFFSET,
};
use super::metadata::Metadata;
use super::number;
use super::patch::{Append, Room, within_max_size};
use super::refusal::Refusal;
use super::stored::{Finish, Kind, Stored};

/// A `POST` whose header fields are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    length: Option<Length>,
    metadata: Metadata,
    concat: Option<(Concat, HeaderValue)>,
    body: BodySize,
    verify: Verify,
}

/// The upload to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its length, unless that is open.
    pub length: Option<Length>,
    /// What it is in a concatenation.
    pub kind: Kind,
    /// What will complete it.
    pub finish: Finish,
    /// Its metadata.
    pub metadata: Metadata,
    /// `Upload-Concat` as it came.
    pub concat: Option<HeaderValue>,
    /// What a final upload is made of, in order.
    pub parts: Vec<UploadId>,
    /// Whether a final upload can be assembled now.
    pub ready: bool,
    /// Bytes that came along: written as by a `PATCH`. `None` if there is no body.
    pub first: Option<Append>,
}

impl Create {
    /// Reads the header fields.
    ///
    /// # Errors
    /// [`Refusal::UnsupportedVersion`], [`Refusal::ExtensionOff`], [`Refusal::Missing`] (no length),
    /// [`Refusal::Malformed`], [`Refusal::Conflicting`], [`Refusal::MaxSize`], what
    /// [`Metadata::parse`], [`Concat::parse`] and [`Verify::parse`] refuse, and
    /// [`Refusal::ContentType`] for a body that is not labelled as upload bytes.
    pub fn parse(
        headers: &HeaderMap,
        body: BodySize,
        site: &Site<'_>,
        capabilities: &Capabilities,
    ) -> Result<Self, Refusal> {
        headers::require_version(headers)?;
        capabilities.require(Extension::Creation)?;
        let concat = Concat::parse(headers, site, capabilities)?;
        let length = length(
            headers,
            concat.as_ref().map(|(concat, _)| concat),
            capabilities,
        )?;
        let metadata = Metadata::parse(headers, &capabilities.metadata)?;
        let mut verify = Verify::Nothing;
        if !body.is_empty() {
            if let Some((Concat::Final(_), _)) = concat {
                return Err(Refusal::FinalUpload);
            }
            capabilities.require(Extension::CreationWithUpload)?;
            if !headers::has_media_type(headers, OFFSET_OCTET_STREAM) {
                return Err(Refusal::ContentType {
                    expected: OFFSET_OCTET_STREAM,
                });
            }
            verify = Verify::parse(headers, capabilities)?;
        }
        Ok(Self {
            length,
            metadata,
            concat,
            body,
            verify,
        })
    }

    /// The metadata, for `--on-create`.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The length, for `--on-create`; `None` if it is open or that of parts.
    #[must_use]
    pub fn length(&self) -> Option<Length> {
        self.length
    }

    /// The parts that [`Self::decide`] needs to know about; none but for a final upload.
    #[must_use]
    pub fn parts(&self) -> &[UploadId] {
        match &self.concat {
            Some((Concat::Final(parts), _)) => parts,
            Some((Concat::Partial, _)) | None => &[],
        }
    }

    /// Decides what to create. `parts` are the uploads named by [`Self::parts`], in that order.
    ///
    /// # Errors
    /// What [`concat::decide`] refuses; [`Refusal::PastLength`], [`Refusal::MaxSize`] and
    /// [`Refusal::ChunkTooLarge`] for a body that is too large.
    pub fn decide(
        self,
        parts: &[Option<Stored>],
        capabilities: &Capabilities,
    ) -> Result<Plan, Refusal> {
        let (mut length, mut ready, mut ids) = (self.length, false, Vec::new());
        let (concat, verbatim) = self.concat.unzip();
        let (kind, finish) = match concat {
            None => (Kind::Whole, Finish::AtLength),
            Some(Concat::Partial) => (Kind::Partial, Finish::Never),
            Some(Concat::Final(named)) => {
                let plan = concat::decide(parts, capabilities)?;
                (length, ready, ids) = (plan.length, plan.ready, named);
                (Kind::Final { assembled: false }, Finish::AtLength)
            }
        };
        let first = if self.body.is_empty() {
            None
        } else {
            let (at, body, verify) = (Offset(0), self.body, self.verify);
            let room = Room::new(at, length, body, capabilities)?;
            Some(Append {
                at,
                room,
                body,
                length,
                finish,
                last: false,
                verify,
            })
        };
        let metadata = self.metadata;
        Ok(Plan {
            length,
            kind,
            finish,
            metadata,
            concat: verbatim,
            parts: ids,
            ready,
            first,
        })
    }
}

impl Plan {
    /// Whether the upload is complete as soon as it exists: it has no bytes, and its end needs no
    /// flag that is still to come.
    #[must_use]
    pub fn complete_at_once(&self) -> bool {
        let awaits_something =
            self.finish == Finish::AtFlag || matches!(self.kind, Kind::Final { .. });
        self.length == Some(Length(0)) && !awaits_something
    }
}

/// `Upload-Length`, or `Upload-Defer-Length: 1`, and exactly one of them; a final upload has
/// neither.
fn length(
    headers: &HeaderMap,
    concat: Option<&Concat>,
    capabilities: &Capabilities,
) -> Result<Option<Length>, Refusal> {
    let length = number::optional(headers, UPLOAD_LENGTH)?.map(Length);
    let deferred = match headers::single(headers, UPLOAD_DEFER_LENGTH)? {
        None => false,
        Some(one) if one == "1" => true,
        Some(_) => return Err(Refusal::Malformed(UPLOAD_DEFER_LENGTH)),
    };
    match (length, deferred, concat) {
        (Some(_), true, _) => Err(Refusal::Conflicting(UPLOAD_LENGTH, UPLOAD_DEFER_LENGTH)),
        (Some(_), _, Some(Concat::Final(_))) => {
            Err(Refusal::Conflicting(UPLOAD_LENGTH, UPLOAD_CONCAT))
        }
        (_, true, Some(Concat::Final(_))) => {
            Err(Refusal::Conflicting(UPLOAD_DEFER_LENGTH, UPLOAD_CONCAT))
        }
        (None, false, Some(Concat::Final(_))) => Ok(None),
        (None, false, Some(Concat::Partial) | None) => Err(Refusal::Missing(UPLOAD_LENGTH)),
        (None, true, _) => {
            capabilities.require(Extension::CreationDeferLength)?;
            Ok(None)
        }
        (Some(length), false, _) => {
            within_max_size(length, capabilities)?;
            Ok(Some(length))
        }
    }
}

/// Header fields of 201: where the upload is, and its offset if a body came along. `Upload-Expires`
/// comes from [`super::expires`].
#[must_use]
pub fn reply(location: &str, stored_with_body: Option<Offset>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    headers::set(&mut fields, "location", location);
    if let Some(offset) = stored_with_body {
        headers::set_number(&mut fields, UPLOAD_OFFSET, offset.0);
    }
    fields
}

#[cfg(test)]
mod tests;
