//! The IETF draft "Resumable Uploads for HTTP" as pure functions, on the same URLs and the same
//! stored uploads as tus. Experimental, as the draft is.
//!
//! Interop versions 3, 5, 6 and 8 are told apart by `Upload-Draft-Interop-Version`; the form that
//! the RFC will have (no such field, `Upload-Complete` alone) by [`version::Drafts::headerless`].
//! They differ less than their numbers say:
//!
//! | | 3 | 5 | 6 | 8, RFC |
//! |---|---|---|---|---|
//! | "this is all" | `Upload-Incomplete: ?0` | `Upload-Complete: ?1` | same | same |
//! | type of an append | any | any | `application/partial-upload` | same |
//! | `Upload-Limit` | | | yes | required |
//! | an append wants | | | `Upload-Offset` | `Upload-Complete` |
//!
//! Every answer carries the fields of all versions, which satisfies each. Length and offset never
//! complete an upload that was begun here; the flag does. An upload begun in tus is complete at its
//! length, whoever sends the last byte.

pub mod append;
pub mod cancel;
pub mod create;
pub mod digest;
pub mod disposition;
pub mod fields;
pub mod interim;
pub mod limits;
pub mod offset;
pub mod problem;
pub mod version;
