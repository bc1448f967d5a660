//! The bytes of a head: its columns, and the check behind them.

use std::fmt::{self, Display, Write as _};

use super::{FORMAT, HEAD_LEN, Record, Unsettled};
use crate::time::iso8601_duration;

/// Bytes of the head that its check covers.
const CHECKED_LEN: usize = 490;

/// What stands between the head's fields and its check.
const CHECK_MARK: &str = ",\"check\":\"";

/// Longest digest that the head has room for: `sha512` would not fit, `sha256:` + 64 does.
const DIGEST_MAX: usize = 75;

/// With what the bytes of a record begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A whole head of ours.
    Ours,
    /// A head of ours whose check does not fit.
    Torn,
    /// Anything else: what another tool wrote anew has no such head, and is not torn.
    Other,
}

/// With what these bytes begin.
pub(super) fn start(bytes: &[u8]) -> Start {
    let head = bytes.get(..HEAD_LEN);
    let Some((checked, rest)) = head.and_then(|head| head.split_at_checked(CHECKED_LEN)) else {
        return Start::Other;
    };
    let Some(check) = rest.strip_prefix(CHECK_MARK.as_bytes()) else {
        return Start::Other;
    };
    let expected = format!("{:08x}\"", crc32fast::hash(checked));
    match check.starts_with(expected.as_bytes()) {
        false => Start::Torn,
        true if check.ends_with(b",") => Start::Ours,
        true => Start::Other,
    }
}

impl Record {
    /// The head: [`HEAD_LEN`] bytes that end in a comma, values padded to fixed widths.
    #[must_use]
    pub fn head(&self) -> [u8; HEAD_LEN] {
        let digest = self
            .digest
            .as_deref()
            .filter(|d| d.len() <= DIGEST_MAX && is_plain(d));
        let mut head = Columns::default();
        head.left("{\"format\":", 0, FORMAT);
        head.right(",\"offset\":", 20, self.offset.0);
        head.right(",\"length\":", 20, OrNull(self.length.map(|l| l.0)));
        head.right(",\"last_write\":", 17, self.last_write);
        head.left(",\"flagged\":", 5, self.flagged);
        head.left(",\"place\":", 12, Quoted(Some(self.place.name())));
        // Only an upload that is being received is unsettled: it has no claim and no end, and its two
        // fields stand in their room.
        match &self.unsettled {
            None => head.left(",\"claim\":", 34, Quoted(self.claim)),
            Some(Unsettled { synced, .. }) => {
                let in_its_room = format_args!("null,\"synced\":{}", synced.0);
                head.left(",\"claim\":", 34, in_its_room);
            }
        }
        head.right(",\"attempts\":", 10, self.attempts);
        head.right(",\"not_before\":", 10, OrNull(self.not_before));
        let finished_at = self.finished_at.map(|at| at.iso8601());
        head.left(",\"finished_at\":", 29, Quoted(finished_at));
        let duration = self.duration().map(iso8601_duration);
        head.left(",\"duration\":", 24, Quoted(duration));
        head.left(",\"digest\":", 77, Quoted(digest));
        head.left(",\"joined_into\":", 38, Quoted(self.joined_into));
        match &self.unsettled {
            None => head.right(",\"ended_at\":", 17, OrNull(self.ended_at)),
            Some(Unsettled { boot, .. }) => {
                head.right(",\"ended_at\":", 4, OrNull(self.ended_at));
                head.left(",\"boot\":", 0, Quoted(Some(boot)));
            }
        }
        head.closed()
    }
}

fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_'))
}

/// A head that is being written, from left to right over blanks.
struct Columns {
    bytes: [u8; HEAD_LEN],
    at: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            bytes: [b' '; HEAD_LEN],
            at: 0,
        }
    }
}

impl Columns {
    /// Writes a name, and behind it a value to the left of `width` bytes.
    fn left(&mut self, name: &str, width: usize, value: impl Display) {
        self.write(name);
        let start = self.at;
        self.write(value);
        self.at = self.at.max(start + width);
    }

    /// Writes a name, and behind it a value to the right of `width` bytes.
    fn right(&mut self, name: &str, width: usize, value: impl Display) {
        self.write(name);
        let start = self.at;
        self.write(value);
        let blanks = width.saturating_sub(self.at - start);
        self.bytes[start..start + width.max(self.at - start)].rotate_right(blanks);
        self.at += blanks;
    }

    fn write(&mut self, value: impl Display) {
        let written = write!(self, "{value}");
        debug_assert!(written.is_ok(), "a value is wider than its column");
    }

    /// The head with its check.
    fn closed(mut self) -> [u8; HEAD_LEN] {
        debug_assert!(self.at <= CHECKED_LEN, "{}", self.at);
        let check = crc32fast::hash(&self.bytes[..CHECKED_LEN]);
        self.at = CHECKED_LEN;
        self.write(format_args!("{CHECK_MARK}{check:08x}\""));
        self.bytes[HEAD_LEN - 1] = b',';
        self.bytes
    }
}

impl fmt::Write for Columns {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.at + text.len();
        let room = self.bytes.get_mut(self.at..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.at = end;
        Ok(())
    }
}

/// A value or `null`.
struct OrNull<T>(Option<T>);

impl<T: Display> Display for OrNull<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// A value without anything to escape, or `null`.
struct Quoted<T>(Option<T>);

impl<T: Display> Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => write!(f, "\"{value}\""),
            None => f.write_str("null"),
        }
    }
}
