//! What a command writes: logged line by line, its end kept, both in bounded memory.

/// Longest line that is logged, in bytes; the rest of a longer one is dropped.
const LINE_BYTES_MAX: usize = 4096;

/// Bytes of one stream of one run that are logged. A command that writes more than this is
/// telling nobody anything; it goes on, but unheard.
pub(super) const LOGGED_BYTES_MAX: usize = 1 << 20;

/// Bytes of one stream of one run that are searched for lines at all; reading on costs next to
/// nothing then.
const SEARCHED_BYTES_MAX: u64 = 16 << 20;

/// Bytes kept of the end of standard error, for the reason of a failure.
pub const TAIL_BYTES: usize = 8 * 1024;

/// Splits a stream into lines, within bounds.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// Whether the rest of the current line is being dropped.
    too_long: bool,
    logged: usize,
    dropped: u64,
}

impl Lines {
    /// Takes the next bytes and says each line that they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], say: &mut impl FnMut(&str)) {
        if LOGGED_BYTES_MAX <= self.logged || SEARCHED_BYTES_MAX <= self.dropped {
            self.dropped += bytes.len() as u64;
            return;
        }
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line);
            self.complete(say);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes);
    }

    /// The stream has ended: says what was not terminated, and how much was left out.
    pub(super) fn finish(mut self, say: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.complete(say);
        }
        if self.dropped != 0 {
            say(&format!("({} bytes more were not logged)", self.dropped));
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let budget = LOGGED_BYTES_MAX - self.logged.min(LOGGED_BYTES_MAX);
        let room = LINE_BYTES_MAX
            .min(budget)
            .saturating_sub(self.partial.len());
        let kept = if self.too_long {
            0
        } else {
            bytes.len().min(room)
        };
        self.partial
            .extend_from_slice(bytes.get(..kept).unwrap_or_default());
        self.too_long |= kept < bytes.len();
        self.dropped += (bytes.len() - kept) as u64;
    }

    fn complete(&mut self, say: &mut impl FnMut(&str)) {
        // A line costs more than its bytes: an endless stream of empty ones must end as well.
        self.logged += self.partial.len() + 1;
        if self.logged <= LOGGED_BYTES_MAX {
            say(&printable(&self.partial));
        }
        self.partial.clear();
        self.too_long = false;
    }
}

/// Text that cannot forge log lines or move a terminal's cursor.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// The last [`TAIL_BYTES`] of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let fresh = bytes
            .get(bytes.len().saturating_sub(TAIL_BYTES)..)
            .unwrap_or_default();
        let excess = (self.0.len() + fresh.len()).saturating_sub(TAIL_BYTES);
        self.0.drain(..excess);
        self.0.extend_from_slice(fresh);
    }

    /// As text; what is not UTF-8, or cut at the front, is replaced.
    pub(super) fn into_text(self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut said) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, &mut |line| said.push(line.to_owned()));
        }
        lines.finish(&mut |line| said.push(line.to_owned()));
        said
    }

    #[test]
    fn lines_are_whole_whatever_the_chunks() {
        assert_eq!(said(&[b"a", b"b\nc\n\nd"]), ["ab", "c", "", "d"]);
        assert_eq!(said(&[]), [""; 0]);
        assert_eq!(said(&[b"dos\r\n"]), ["dos"]);
    }

    #[test]
    fn a_line_cannot_forge_another_or_steer_a_terminal() {
        assert_eq!(
            said(&[b"a\x1b[2Jb\rc\0\xff\n"]),
            ["a\u{fffd}[2Jb\u{fffd}c\u{fffd}\u{fffd}"]
        );
    }

    #[test]
    fn an_endless_line_is_cut_and_counted() {
        let endless = vec![b'x'; 100_000];
        let said = said(&[&endless, b"\nnext\n"]);
        assert_eq!(said[0].len(), LINE_BYTES_MAX);
        assert_eq!(
            said[1..],
            ["next".to_owned(), {
                format!("({} bytes more were not logged)", 100_000 - LINE_BYTES_MAX)
            }]
        );
    }

    #[test]
    fn a_flood_ends_at_the_budget() {
        for line in [&b"\n"[..], b"some words\n", &[b'x'; 5000]] {
            let (mut lines, mut bytes, mut count) = (Lines::default(), 0, 0);
            for _ in 0..(4 * LOGGED_BYTES_MAX / line.len()) {
                lines.push(line, &mut |said| {
                    bytes += said.len();
                    count += 1;
                });
                assert!(lines.partial.capacity() <= 2 * LINE_BYTES_MAX);
            }
            assert!(bytes <= LOGGED_BYTES_MAX && count <= LOGGED_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn the_tail_is_the_end_of_the_stream(chunks in proptest::collection::vec(0..20_000usize, 0..6)) {
            let (mut tail, mut all) = (Tail::default(), Vec::new());
            for (index, length) in chunks.into_iter().enumerate() {
                let chunk = vec![b'a' + u8::try_from(index).unwrap(); length];
                tail.push(&chunk);
                all.extend(chunk);
            }
            let expected = &all[all.len().saturating_sub(TAIL_BYTES)..];
            let tail = tail.into_text();
            prop_assert_eq!(tail.as_bytes(), expected);
        }
    }
}
