//! Tidies a spool: expires what nobody finishes or fetches, finishes what was left half done and
//! removes what crashes leave behind. Never needed for correctness: whoever comes across a
//! half-done step takes it further.

pub mod config;
pub mod policy;
pub mod report;
