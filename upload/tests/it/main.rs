//! The program as its users start it, against a server that misbehaves on demand and,
//! where they are installed, against other people's servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod exits;
mod output;
mod peers;
mod resuming;
mod sending;
mod stub;
mod waiting;

/// All that the stub knows.
const EVERYTHING: &str = "creation,creation-with-upload,creation-defer-length,concatenation,\
                          checksum,termination";

/// Bytes of which no two stretches are alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
