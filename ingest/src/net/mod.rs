//! Connections: the listener, the accept loop, one connection's life and its byte stream.
//!
//! hyper has no body timeout, no write timeout, and drops a connection with unread data so that the
//! kernel resets it; warp's own server sets no timeout at all. Everything of that kind is done
//! here, and nothing here knows the protocol of uploads.

pub(crate) mod accept;
pub(crate) mod connection;
pub(crate) mod exchange;
mod head;
mod in_place;
pub mod listen;
pub(crate) mod pages;
mod socket;
mod unread;
pub(crate) mod wire;
