//! What is done about a body that no handler read to its end: a client that goes on sending it must
//! still learn of its answer.
//!
//! On HTTP/1 a small rest is read before the answer, so that the connection can go on; after a larger
//! one it ends with a lingering close (`wire`). On HTTP/2 the answer goes out at once, and what the
//! client sends meanwhile is read beside it.

use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::exchange::Unread;
use super::wire::{LINGER_BYTES_MAX, LINGER_MAX};

/// An unread body this small is read out, so that the connection survives a refusal.
const READ_OUT_BYTES_MAX: u64 = 256 << 10;
const READ_OUT_MAX: Duration = Duration::from_millis(500);

/// Reads a small rest of a body. `false` if the rest is larger, of unknown size, late, or not to
/// be asked for (a client that waits for `100 Continue` would take the reading as consent).
pub(super) async fn read_out(unread: Unread, expects_continue: bool) -> bool {
    let Some(mut body) = unread.body else {
        return true;
    };
    let waits = expects_continue && !unread.polled;
    if waits
        || body
            .size_hint()
            .upper()
            .is_none_or(|rest| READ_OUT_BYTES_MAX < rest)
    {
        return false;
    }
    let to_the_end = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(READ_OUT_MAX, to_the_end).await.unwrap_or(false)
}

/// Reads and discards what comes of a body on HTTP/2, until its end or the limits of a lingering
/// close. A body that is dropped resets its stream (`NO_ERROR`, RFC 9113 §8.1), and curl was seen to
/// forget the answer when the reset came right behind it; one that is kept and not read stops its
/// client at the window of the stream, and may stop all others at that of the connection.
///
/// It needs no limit of its own on how many there may be: each is one of the connection's streams
/// until it ends.
pub(super) async fn discard(mut body: Incoming) {
    let within_the_limit = async {
        let mut left = LINGER_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // However it ends: there is nobody to tell.
    timeout(LINGER_MAX, within_the_limit).await.ok();
}
