//! The server in this process, spoken to over raw sockets: no client library hides a byte.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod checksum;
mod concat;
mod connections;
mod create;
mod digest;
mod draft;
mod events;
mod http;
mod http2;
mod on_create;
mod resume;
mod server;
mod shutdown;
mod state;
mod takeover;
