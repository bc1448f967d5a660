//! The tus protocol (1.0.0) as pure functions.
//!
//! No I/O, no clock, no async and no HTTP server in this folder: header fields and what the spool
//! knows go in, a decision comes out, and time is an argument. The caller does what was decided and
//! answers with the `reply` function beside it, so that every header name of the protocol is
//! spelled here and nowhere else.
//!
//! One request runs through three steps, in the order that lets a refusal come before
//! `100 Continue` and before a single body byte is read:
//!
//! 1. `parse` reads the header fields: the value exists ⇒ its header fields were valid.
//! 2. `decide` holds it against the stored upload ([`stored::Stored`]).
//! 3. `reply` writes the header fields of the answer.
//!
//! Whatever goes wrong is a [`refusal::Refusal`], which knows its status, its stable code and
//! whether trying again can help.

pub mod capabilities;
pub mod checksum;
pub mod concat;
pub mod create;
pub mod declared;
pub mod expires;
pub mod head;
pub mod headers;
pub mod metadata;
pub mod method;
pub mod number;
pub mod options;
pub mod patch;
pub mod refusal;
pub mod stored;
pub mod terminate;
