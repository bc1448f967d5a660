//! Whether an upload begins or goes on: how a file is cut into parts, what the state file remembers, what
//! the server still has, and what the user wants.

use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::Range;

use indicatif::HumanBytes;
use reqwest::Url;

use crate::exit::UploadError;
use crate::remember::{Fingerprint, Part, Ticket};
use crate::retry::Request;
use crate::session::Session;
use crate::transfer::Known;

/// Smaller parts would cost more round trips than they save.
const PART_MIN: u64 = 64 << 10;

/// How one file is sent.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One, or several to be joined.
    pub parts: Vec<(Range<u64>, Option<Known>)>,
    pub ticket: Ticket,
}

/// Decides for a file of this length; `fingerprint` is `None` for what cannot be found again.
pub(crate) async fn plan(
    session: &Session,
    shown: &str,
    length: u64,
    fingerprint: Option<Fingerprint>,
) -> Result<Plan, UploadError> {
    let count = if session.offered.offers("concatenation") {
        session.config.parallel
    } else {
        1
    };
    let fresh: Vec<_> = split(length, count)
        .into_iter()
        .map(|range| (range, None))
        .collect();
    let (Some(store), Some(fingerprint)) = (&session.store, fingerprint) else {
        return Ok(Plan {
            parts: fresh,
            ticket: Ticket::default(),
        });
    };
    let found = store.find(&fingerprint)?;
    let remembered = found.as_deref().filter(|parts| covers(parts, length));
    let parts = match remembered {
        Some(parts) => resumed(session, shown, length, parts)
            .await?
            .unwrap_or(fresh),
        None => fresh,
    };
    let part = |(range, known): &(Range<u64>, Option<Known>)| Part {
        from: range.start,
        to: range.end,
        url: known.as_ref().map(|known| known.url.to_string()),
    };
    let entries = parts.iter().map(part).collect();
    let ticket = Ticket::new(store, fingerprint, entries, found.is_some());
    Ok(Plan { parts, ticket })
}

/// `None` when nothing is left on the server, or the user wants to begin anew.
async fn resumed(
    session: &Session,
    shown: &str,
    length: u64,
    parts: &[Part],
) -> Result<Option<Vec<(Range<u64>, Option<Known>)>>, UploadError> {
    let mut known = Vec::with_capacity(parts.len());
    for part in parts {
        known.push((part.from..part.to, look_up(session, shown, part).await?));
    }
    let offsets = known.iter().filter_map(|(_, known)| known.as_ref()?.offset);
    let done: u64 = offsets.sum();
    if known.iter().all(|(_, known)| known.is_none()) {
        session.display.say(&format!(
            "{shown}: the earlier upload is gone: beginning anew"
        ));
        return Ok(None);
    }
    if !wanted(session, shown, done, length).await {
        return Ok(None);
    }
    let have = HumanBytes(done);
    session.display.say(&format!(
        "{shown}: resuming at {have} of {}",
        HumanBytes(length)
    ));
    Ok(Some(known))
}

async fn look_up(
    session: &Session,
    shown: &str,
    part: &Part,
) -> Result<Option<Known>, UploadError> {
    let Some(url) = part.url.as_deref().and_then(|url| Url::parse(url).ok()) else {
        return Ok(None);
    };
    let say = |text: &str| session.display.say(&format!("{shown}: {text}"));
    match session
        .persist(Request::Head, say, || session.client.head(&url))
        .await
    {
        Ok(standing) => {
            let length = part.to - part.from;
            let same = standing.length.is_none_or(|told| told == length);
            let offset = Some(standing.offset);
            Ok((same && standing.offset <= length).then_some(Known { url, offset }))
        }
        Err(ended) if ended.is_gone() => Ok(None),
        Err(ended) => Err(ended.into()),
    }
}

/// Asks on a terminal. An empty answer is yes, and so is the end of the input.
async fn wanted(session: &Session, shown: &str, done: u64, length: u64) -> bool {
    let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !session.config.ask || !interactive {
        return true;
    }
    let _turn = session.asking.lock().await;
    let percent = done.saturating_mul(100).checked_div(length).unwrap_or(100);
    let question = format!("{shown} was uploaded to {percent} % before. Resume? [Y/n] ");
    let display = session.display.clone();
    let asked = tokio::task::spawn_blocking(move || {
        display.without_bars(|| {
            write!(io::stderr(), "{question}").ok();
            let mut line = String::new();
            io::stdin()
                .lock()
                .read_line(&mut line)
                .map(|_| is_yes(&line))
                .unwrap_or(true)
        })
    });
    asked.await.unwrap_or(true)
}

fn is_yes(line: &str) -> bool {
    !line.trim_start().starts_with(['n', 'N'])
}

/// Cuts into at most `count` parts of nearly equal length.
fn split(length: u64, count: u64) -> Vec<Range<u64>> {
    let count = count.min(length / PART_MIN).max(1);
    let cut =
        |index: u64| u64::try_from(u128::from(length) * u128::from(index) / u128::from(count));
    let cut = |index| cut(index).unwrap_or(length);
    (0..count).map(|index| cut(index)..cut(index + 1)).collect()
}

/// Whether parts read from the state file make up the whole.
fn covers(parts: &[Part], length: u64) -> bool {
    let end = parts.iter().try_fold(0, |at, part| {
        (part.from == at && part.from <= part.to).then_some(part.to)
    });
    !parts.is_empty() && end == Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_always_cover_the_file_without_gap_or_overlap() {
        let lengths = [
            0,
            1,
            PART_MIN,
            2 * PART_MIN - 1,
            2 * PART_MIN,
            1 << 30,
            u64::MAX,
        ];
        for length in lengths {
            for count in 1..=64 {
                let ranges = split(length, count);
                let parts: Vec<_> = ranges
                    .iter()
                    .map(|range| Part {
                        from: range.start,
                        to: range.end,
                        url: None,
                    })
                    .collect();
                assert!(covers(&parts, length), "{length} {count}");
                assert!(parts.len() as u64 <= count);
                let too_small =
                    parts.len() > 1 && ranges.iter().any(|r| r.end - r.start < PART_MIN);
                assert!(!too_small, "{length} {count}");
            }
        }
        assert_eq!(split(1 << 20, 4).len(), 4);
    }

    #[test]
    fn parts_that_do_not_fit_together_are_not_believed() {
        let part = |from, to| Part {
            from,
            to,
            url: None,
        };
        assert!(covers(&[part(0, 5), part(5, 9)], 9));
        for wrong in [
            vec![],
            vec![part(0, 5)],
            vec![part(0, 5), part(6, 9)],
            vec![part(0, 6), part(5, 9)],
            vec![part(0, 10), part(10, 9)],
            vec![part(5, 9), part(0, 5)],
        ] {
            assert!(!covers(&wrong, 9), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_no_is_a_no() {
        for yes in ["\n", "", "y\n", "Yes\n", "of course\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["n\n", "N", " no\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
