//! What a pass found and did, counted; told to people in a line and to programs as JSON, and written
//! for Prometheus by `textfile`.

mod textfile;

use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};
use shared::layout::Dir;

use crate::policy::{Found, Verdict};

macro_rules! tallies {
    ($($(#[$doc:meta])* $tally:ident = $name:literal,)*) => {
        /// Something that a pass counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Tally {
            $($(#[$doc])* $tally,)*
        }

        impl Tally {
            /// All of them, in the order in which they are told.
            pub const ALL: &[Self] = &[$(Self::$tally),*];

            /// Its name in JSON and as a label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$tally => $name,)*
                }
            }
        }
    };
}

tallies! {
    /// Unfinished uploads removed because they were idle.
    StaleRemoved = "stale_removed",
    /// Uploads received in full, or half handed over, that were finished.
    Finished = "finished",
    /// Uploads received in full that were removed (`--zombies delete`).
    ZombiesRemoved = "zombies_removed",
    /// Finished uploads that nobody claimed, moved to `failed/`.
    ExpiredMoved = "expired_moved",
    /// Finished uploads that nobody claimed, removed (`--expired delete`).
    ExpiredRemoved = "expired_removed",
    /// Dead letters removed.
    FailedRemoved = "failed_removed",
    /// Claims whose consumer is gone, given back.
    Requeued = "requeued",
    /// Uploads without a usable record, moved to `failed/`.
    TornMoved = "torn_moved",
    /// Receipts removed.
    ReceiptsRemoved = "receipts_removed",
    /// Files that crashes left behind, removed.
    LeftoversRemoved = "leftovers_removed",
    /// Left alone because somebody holds the lock.
    Busy = "busy",
    /// Left alone because `--max-delete` was reached.
    OverLimit = "over_limit",
    /// Names that are not ours.
    Foreign = "foreign",
    /// Uploads that could not be looked at or dealt with.
    Errors = "errors",
}

impl Tally {
    /// Under what an obeyed verdict is counted.
    #[must_use]
    pub fn of(found: Found, verdict: Verdict) -> Option<Self> {
        Some(match (verdict, found) {
            (Verdict::Keep, _) => return None,
            (Verdict::Finish, _) => Self::Finished,
            (Verdict::Requeue, _) => Self::Requeued,
            (Verdict::Fail, Found::Completed) => Self::ExpiredMoved,
            (Verdict::Fail, _) => Self::TornMoved,
            (Verdict::Expire, Found::Completed) => Self::ExpiredRemoved,
            (Verdict::Expire, Found::Failed) => Self::FailedRemoved,
            (Verdict::Expire, Found::Received) => Self::ZombiesRemoved,
            (Verdict::Expire, _) => Self::StaleRemoved,
            (Verdict::Remove, Found::Receipt) => Self::ReceiptsRemoved,
            (Verdict::Remove, _) => Self::LeftoversRemoved,
        })
    }
}

/// The data files found in one directory, when the pass came to it: a dead letter that it makes is
/// counted there by the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stock {
    /// How many.
    pub uploads: u64,
    /// Their sizes together, in bytes; of one in `uploads/` of which nothing is due, what has arrived
    /// by its record.
    pub bytes: u64,
    /// Longest time since one of them changed, in seconds; there by the record too.
    pub oldest_seconds: u64,
}

/// One pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Directory entries seen.
    pub entries: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether it only looked.
    pub dry_run: bool,
    /// Whether it was asked to stop before the end.
    pub interrupted: bool,
    counts: [u64; Tally::ALL.len()],
    stocks: [Stock; Dir::ALL.len()],
}

impl Report {
    /// Counts one.
    pub fn count(&mut self, tally: Tally) {
        self.counts[tally as usize] += 1;
    }

    /// How many were counted.
    #[must_use]
    pub fn counted(&self, tally: Tally) -> u64 {
        self.counts[tally as usize]
    }

    /// Takes a data file into account.
    pub fn saw_data(&mut self, dir: Dir, bytes: u64, age: Duration) {
        let stock = &mut self.stocks[dir as usize];
        stock.uploads += 1;
        // A record can be anybody's, and say anything.
        stock.bytes = stock.bytes.saturating_add(bytes);
        stock.oldest_seconds = stock.oldest_seconds.max(age.as_secs());
    }

    /// The data files found in a directory.
    #[must_use]
    pub fn stock(&self, dir: Dir) -> Stock {
        self.stocks[dir as usize]
    }

    /// Whether everything that was due was done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.counted(Tally::Errors) == 0 && self.counted(Tally::OverLimit) == 0
    }

    /// Prints the summary on standard output.
    ///
    /// # Errors
    ///
    /// As write(2).
    pub fn print(&self, json: bool) -> io::Result<()> {
        let line = match json {
            true => serde_json::to_string(self)?,
            false => self.to_string(),
        };
        writeln!(io::stdout(), "{line}")
    }
}

/// Directories that hold data.
fn data_dirs() -> impl Iterator<Item = Dir> {
    Dir::ALL
        .into_iter()
        .filter(|dir| !matches!(dir, Dir::Receipts | Dir::Outbox))
}

/// One line: what was done, and nothing that is zero.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            f.write_str("dry run: ")?;
        }
        write!(
            f,
            "{} entries in {:.1} s",
            self.entries,
            self.took.as_secs_f64()
        )?;
        for &tally in Tally::ALL.iter().filter(|&&tally| self.counted(tally) != 0) {
            write!(
                f,
                ", {} {}",
                self.counted(tally),
                tally.name().replace('_', " ")
            )?;
        }
        if self.interrupted {
            f.write_str(", interrupted")?;
        }
        Ok(())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("entries", &self.entries)?;
        map.serialize_entry("seconds", &self.took.as_secs_f64())?;
        map.serialize_entry("dry_run", &self.dry_run)?;
        map.serialize_entry("interrupted", &self.interrupted)?;
        map.serialize_entry("complete", &self.is_complete())?;
        for &tally in Tally::ALL {
            map.serialize_entry(tally.name(), &self.counted(tally))?;
        }
        let stocks: std::collections::BTreeMap<_, _> = data_dirs()
            .map(|dir| (dir.name(), self.stock(dir)))
            .collect();
        map.serialize_entry("spool", &stocks)?;
        map.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::report) fn report() -> Report {
        let mut report = Report {
            entries: 1200,
            took: Duration::from_millis(1300),
            ..Report::default()
        };
        report.count(Tally::StaleRemoved);
        report.count(Tally::StaleRemoved);
        report.count(Tally::Busy);
        report.saw_data(Dir::Completed, 10, Duration::from_secs(3));
        report.saw_data(Dir::Completed, 5, Duration::from_secs(9));
        report
    }

    #[test]
    fn the_summary_is_one_line_without_zeros() {
        assert_eq!(
            report().to_string(),
            "1200 entries in 1.3 s, 2 stale removed, 1 busy"
        );
        let dry = Report {
            dry_run: true,
            interrupted: true,
            ..Report::default()
        };
        assert_eq!(dry.to_string(), "dry run: 0 entries in 0.0 s, interrupted");
    }

    #[test]
    fn json_has_every_count() {
        let json = serde_json::to_value(report()).unwrap();
        for &tally in Tally::ALL {
            assert_eq!(
                json[tally.name()],
                report().counted(tally),
                "{}",
                tally.name()
            );
        }
        assert_eq!(json["spool"]["completed"]["bytes"], 15);
        assert_eq!(json["spool"]["completed"]["oldest_seconds"], 9);
        assert_eq!(json["complete"], true);
    }

    #[test]
    fn what_was_not_dealt_with_makes_a_pass_incomplete() {
        for tally in [Tally::Errors, Tally::OverLimit] {
            let mut report = report();
            report.count(tally);
            assert!(!report.is_complete());
            assert_eq!(serde_json::to_value(report).unwrap()["complete"], false);
        }
        assert!(
            report().is_complete(),
            "busy is no failure: somebody is at work"
        );
    }

    #[test]
    fn every_deed_is_counted_under_one_name() {
        for found in Found::ALL {
            assert_eq!(Tally::of(found, Verdict::Keep), None);
            for verdict in [
                Verdict::Finish,
                Verdict::Expire,
                Verdict::Fail,
                Verdict::Requeue,
            ] {
                assert!(Tally::of(found, verdict).is_some());
            }
        }
    }
}
