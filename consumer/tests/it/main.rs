//! The consumer as a process, on a real spool.

#![allow(
    clippy::unwrap_used,
    reason = "a panic with its place is what a failed step of a test is to do"
)]

mod bench;
mod contained;
mod fairness;
mod matrix;
mod surroundings;
