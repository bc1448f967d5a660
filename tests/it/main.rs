//! Whole-process tests: real programs on a real directory, talked to over real sockets.
//!
//! One binary, so that it is linked once. Sizes are quick ones by default and the full ones under
//! `TUSPOOL_LONG=1`; what needs tools or rights that a machine lacks says that it is skipped.

#![expect(
    clippy::unwrap_used,
    reason = "a panic with its place is what a failed step of a test is to do"
)]

mod bad_input;
mod bad_requests;
mod clients;
mod compose;
mod concurrency;
mod conformance;
mod crash;
mod deploy;
mod disk;
mod events;
mod fsck;
mod gluster;
mod hooks;
mod janitor;
mod kills;
mod kubernetes;
mod large;
mod memory;
mod metrics;
mod model;
mod orders;
mod power;
mod proxies;
mod readme;
mod refusals;
mod resume;
mod shutdown;
mod systemd;
mod traps;
mod tussi;
mod tussi_table;
mod urlsession;
