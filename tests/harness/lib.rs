//! What the whole-process tests stand on: real programs, real sockets, a real directory.
//!
//! Nothing here is shared with the programs under test. The HTTP client writes and reads bytes
//! itself, the spool is read by plain directory listings: a mistake in a parser of ours cannot
//! hide itself by being made twice. Modules in reading order.

pub mod wait;

pub mod needs;
pub mod payload;
pub mod programs;

pub mod failpoint;
pub mod process;

pub mod client;
pub mod http;
pub mod proxy;
pub mod real_clients;

pub mod hook;
pub mod loop_fs;
pub mod mounts;
pub mod pipeline;
pub mod slips;
pub mod spool;

pub mod ledger;
mod sender;

pub mod load;

pub mod audit;
pub mod write_back;
