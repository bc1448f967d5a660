//! Every way in which an upload request can be refused, with the answer that says so.
//!
//! The one place where a refusal gets its status and its code. No match here has a `_` arm, so a
//! new variant does not compile before it has chosen both.

use http::{HeaderMap, StatusCode};
use shared::size::{Length, Offset};

use super::capabilities::Extension;
use super::headers::{self, set, set_number};

/// A refused request. The text (`Display`) is one line for the client: no paths, no internals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `Tus-Resumable` is missing or names a version that is not spoken here.
    #[error("Tus-Resumable must be {}", headers::VERSION)]
    UnsupportedVersion,
    /// `Upload-Draft-Interop-Version` is unknown and nothing else tells how to read the request.
    #[error("this version of the resumable upload draft is not spoken here")]
    UnsupportedDraft,
    /// A header field that the request needs.
    #[error("header field {0} is missing")]
    Missing(&'static str),
    /// A header field that cannot be read, or that came more than once.
    #[error("header field {0} is malformed")]
    Malformed(&'static str),
    /// Two header fields that exclude each other.
    #[error("header fields {0} and {1} exclude each other")]
    Conflicting(&'static str, &'static str),
    /// The body is not labelled as upload bytes.
    #[error("Content-Type must be {expected}")]
    ContentType {
        /// The media type that would have been right.
        expected: &'static str,
    },
    /// The request needs an extension that is switched off.
    #[error("extension {} is switched off here", .0.name())]
    ExtensionOff(Extension),
    /// Larger than any upload may be.
    #[error("an upload may have {most} bytes at most")]
    MaxSize {
        /// The limit in bytes.
        most: u64,
    },
    /// More bytes than the upload has.
    #[error("the upload ends after {} bytes", .length)]
    PastLength {
        /// Where it ends.
        length: Length,
    },
    /// More bytes than one request may carry.
    #[error("one request may carry {most} bytes at most")]
    ChunkTooLarge {
        /// The limit in bytes.
        most: u64,
    },
    /// `Upload-Metadata` is longer than allowed.
    #[error("Upload-Metadata may have {most} bytes at most")]
    MetadataTooLarge {
        /// The limit in bytes.
        most: usize,
    },
    /// `Upload-Metadata` breaks the rules of the protocol.
    #[error("Upload-Metadata is malformed: {0}")]
    Metadata(&'static str),
    /// The `filename` in the metadata has characters that a file name may not have here.
    #[error("the file name has characters that are not allowed")]
    FileName,
    /// The bytes do not belong where the upload stands.
    #[error("the upload stands at {have}, not at {asked}")]
    OffsetMismatch {
        /// `Upload-Offset` of the request.
        asked: Offset,
        /// `Upload-Offset` that would have been right.
        have: Offset,
        /// Whether the upload is complete (the draft's answer tells it).
        complete: bool,
    },
    /// A second, different length for one upload.
    #[error("the length of an upload cannot be changed")]
    LengthChanged,
    /// Lengths within one draft request, or with what is stored, that do not fit together.
    #[error("the lengths given for this upload do not agree")]
    InconsistentLength,
    /// A draft request with bytes past the upload's length. It ends the upload: the draft wants it
    /// deactivated, because the client contradicts itself.
    #[error("the upload has {} bytes and this request more; it is given up", .length)]
    Overrun {
        /// Where it should have ended.
        length: Length,
    },
    /// A draft request to append to an upload that is complete.
    #[error("the upload is already complete")]
    AlreadyComplete,
    /// The bytes are not those that were announced. They are discarded.
    #[error("the checksum of the received bytes does not match")]
    ChecksumMismatch,
    /// As [`Self::ChecksumMismatch`], in the draft (`Content-Digest`, `Repr-Digest`).
    #[error("the digest of the received bytes does not match")]
    DigestMismatch,
    /// A checksum algorithm that is not offered.
    #[error("this checksum algorithm is not supported")]
    ChecksumAlgorithm,
    /// `Upload-Concat` names something that is no partial upload of this server.
    #[error("part {number} is not a partial upload of this server")]
    NotAPart {
        /// Which one, counted from 1.
        number: usize,
    },
    /// `Upload-Concat` names a part that is not complete, and unfinished ones are not taken.
    #[error("part {number} is not complete")]
    PartIncomplete {
        /// Which one, counted from 1.
        number: usize,
    },
    /// `Upload-Concat` names too many parts.
    #[error("an upload may be made of {most} parts at most")]
    TooManyParts {
        /// The limit.
        most: usize,
    },
    /// Bytes for a final upload, which is made of its parts only.
    #[error("a final upload takes no bytes")]
    FinalUpload,
    /// Another request holds the upload and is receiving.
    #[error("another request is working on this upload")]
    Locked,
    /// No such upload.
    #[error("no such upload")]
    NotFound,
    /// There was such an upload: terminated or expired.
    #[error("this upload is gone")]
    Gone,
    /// The resource does not have this method.
    #[error("method not allowed")]
    Method {
        /// Value of `Allow`.
        allow: &'static str,
    },
    /// No body byte came for too long. What had come is kept.
    #[error("no bytes came for too long")]
    BodyTimeout,
    /// The body broke off or was not framed correctly. What had come is kept.
    #[error("the request body broke off")]
    BodyBroken,
    /// Too little space left.
    #[error("not enough space for this upload")]
    InsufficientStorage,
    /// The server is shutting down. What had come is kept.
    #[error("the server is shutting down")]
    Draining,
    /// The operator's `--on-create` refused the upload.
    #[error("{text}")]
    Rejected {
        /// 4xx or 5xx.
        status: StatusCode,
        /// One printable line.
        text: String,
    },
    /// The operator's `--on-create` did not say yes or no: it failed, or took too long.
    #[error("it cannot be decided now whether this upload may begin")]
    Undecided,
    /// Something failed here that is not the client's business; the log tells what.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// A refusal by `--on-create` with its own `status` and `text`. A status that refuses nothing
    /// becomes 403, line breaks and control characters become spaces, and the text is cut to 200
    /// characters: what a hook prints must not break the answer.
    #[must_use]
    pub fn rejected(status: u16, text: &str) -> Self {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::FORBIDDEN);
        let line: String = text
            .trim()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(200)
            .collect();
        let text = if line.is_empty() {
            "refused".to_owned()
        } else {
            line
        };
        Self::Rejected { status, text }
    }

    /// Status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnsupportedVersion => StatusCode::PRECONDITION_FAILED,
            Self::UnsupportedDraft
            | Self::Missing(_)
            | Self::Malformed(_)
            | Self::Conflicting(..)
            | Self::ExtensionOff(_)
            | Self::MetadataTooLarge { .. }
            | Self::Metadata(_)
            | Self::FileName
            | Self::LengthChanged
            | Self::InconsistentLength
            | Self::Overrun { .. }
            | Self::AlreadyComplete
            | Self::DigestMismatch
            | Self::ChecksumAlgorithm
            | Self::NotAPart { .. }
            | Self::PartIncomplete { .. }
            | Self::TooManyParts { .. }
            | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MaxSize { .. } | Self::PastLength { .. } | Self::ChunkTooLarge { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::OffsetMismatch { .. } => StatusCode::CONFLICT,
            Self::ChecksumMismatch => checksum_mismatch(),
            Self::FinalUpload => StatusCode::FORBIDDEN,
            Self::Locked => StatusCode::LOCKED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Gone => StatusCode::GONE,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
            Self::Draining | Self::Undecided => StatusCode::SERVICE_UNAVAILABLE,
            Self::Rejected { status, .. } => *status,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Stable name of the refusal: for clients, logs and metrics. Never changes once released.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnsupportedDraft => "unsupported_draft_version",
            Self::Missing(_) => "missing_header",
            Self::Malformed(_) => "malformed_header",
            Self::Conflicting(..) => "conflicting_headers",
            Self::ContentType { .. } => "content_type",
            Self::ExtensionOff(_) => "extension_off",
            Self::MaxSize { .. } => "max_size_exceeded",
            Self::PastLength { .. } => "length_exceeded",
            Self::ChunkTooLarge { .. } => "chunk_too_large",
            Self::MetadataTooLarge { .. } => "metadata_too_large",
            Self::Metadata(_) => "malformed_metadata",
            Self::FileName => "file_name",
            Self::OffsetMismatch { .. } => "offset_mismatch",
            Self::LengthChanged => "length_changed",
            Self::InconsistentLength => "inconsistent_length",
            Self::Overrun { .. } => "overrun",
            Self::AlreadyComplete => "already_complete",
            Self::ChecksumMismatch => "checksum_mismatch",
            Self::DigestMismatch => "digest_mismatch",
            Self::ChecksumAlgorithm => "checksum_algorithm",
            Self::NotAPart { .. } => "not_a_part",
            Self::PartIncomplete { .. } => "part_incomplete",
            Self::TooManyParts { .. } => "too_many_parts",
            Self::FinalUpload => "final_upload",
            Self::Locked => "locked",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Method { .. } => "method_not_allowed",
            Self::BodyTimeout => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::InsufficientStorage => "insufficient_storage",
            Self::Draining => "shutting_down",
            Self::Rejected { .. } => "rejected",
            Self::Undecided => "undecided",
            Self::Internal => "internal_error",
        }
    }

    /// Reason phrase, where HTTP libraries do not know the status.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        (self.status() == checksum_mismatch()).then_some(headers::CHECKSUM_MISMATCH)
    }

    /// Body of the answer: the code and one line of text.
    #[must_use]
    pub fn body(&self) -> String {
        format!("{}: {self}\n", self.code())
    }

    /// Header fields that the answer needs beside `Tus-Resumable` and what every answer has.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        if let Self::OffsetMismatch { have, .. } = self {
            set_number(&mut fields, headers::UPLOAD_OFFSET, have.0);
        }
        if let Self::UnsupportedVersion = self {
            set(&mut fields, headers::TUS_VERSION, headers::VERSION);
        }
        if let Self::Method { allow } = self {
            set(&mut fields, "allow", allow);
        }
        // tus-js-client has delays of its own; others need a hint, or they hammer.
        if let Self::Locked | Self::Draining | Self::Undecided = self {
            set(&mut fields, "retry-after", "1");
        }
        set(
            &mut fields,
            headers::CONTENT_TYPE,
            "text/plain; charset=utf-8",
        );
        set(&mut fields, "cache-control", "no-store");
        fields
    }
}

/// Status 460, which tus made up.
fn checksum_mismatch() -> StatusCode {
    StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests;
