//! HTTP in, spool out: the only crate that names HTTP.
//!
//! Modules in reading order: what the server runs with, the protocol, how bytes reach us, what
//! they do to the spool, how it starts and stops.

pub mod config;

pub mod cors;
pub mod draft;
pub mod location;
pub mod tus;

pub mod net;

mod events;
mod hooks;

mod append;
mod assemble;
mod assembler;
mod body;
mod digests;
mod ledger;
mod space;
mod uploads;
mod writers;

mod error;
mod ingest;
mod routes;

mod process;
mod program;
pub mod server;

pub use program::main;

#[global_allocator]
static ALLOCATOR: net::pages::Paged = net::pages::Paged;
