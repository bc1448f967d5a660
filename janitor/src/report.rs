//! What a pass found and did: for people, for programs and for Prometheus.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};
use shared::durable::{self, DiskError, OnPath};
use shared::layout::Dir;
use shared::time::UnixTime;

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

    /// The figures in Prometheus' text format.
    #[must_use]
    pub fn prometheus(&self, ended_at: UnixTime) -> String {
        let mut out = String::new();
        let mut family = |name: &str, help: &str, samples: &[(String, String)]| {
            let name = format!("tuspool_{name}");
            // Writing to a string does not fail.
            write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n").ok();
            for (labels, value) in samples {
                writeln!(out, "{name}{labels} {value}").ok();
            }
        };
        let one = |value: String| vec![(String::new(), value)];
        let per_dir = |value: &dyn Fn(Stock) -> u64| -> Vec<_> {
            let sample = |dir: &Dir| {
                (
                    label("dir", dir.name()),
                    value(self.stock(*dir)).to_string(),
                )
            };
            data_dirs().map(|dir| sample(&dir)).collect()
        };
        let tallies: Vec<_> = Tally::ALL
            .iter()
            .map(|&t| (label("what", t.name()), self.counted(t).to_string()))
            .collect();
        let took = format!("{:.3}", self.took.as_secs_f64());
        family(
            "janitor_last_pass_timestamp_seconds",
            "When the last pass ended.",
            &one(ended_at.to_string()),
        );
        family(
            "janitor_last_pass_duration_seconds",
            "How long it took.",
            &one(took),
        );
        let complete = u8::from(self.is_complete() && !self.interrupted);
        family(
            "janitor_last_pass_complete",
            "1 if everything that was due was done.",
            &one(complete.to_string()),
        );
        family(
            "janitor_last_pass_entries",
            "Directory entries seen.",
            &one(self.entries.to_string()),
        );
        family(
            "janitor_last_pass_results",
            "What the last pass did and left alone.",
            &tallies,
        );
        family(
            "janitor_last_pass_uploads",
            "Data files in the spool.",
            &per_dir(&|s| s.uploads),
        );
        family(
            "janitor_last_pass_bytes",
            "Sizes of the data files in the spool; in uploads, what has arrived.",
            &per_dir(&|s| s.bytes),
        );
        family(
            "janitor_last_pass_oldest_age_seconds",
            "Longest time since a data file changed.",
            &per_dir(&|s| s.oldest_seconds),
        );
        out
    }

    /// Writes [`Self::prometheus`] to a file, whole or not at all.
    ///
    /// # Errors
    ///
    /// As open(2), write(2) and rename(2); the old file is still there then.
    pub fn write_textfile(&self, path: &Path, ended_at: UnixTime) -> Result<(), DiskError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not `*.prom`: the collector must not read it half written.
        let temp = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        durable::unlink(&temp)?;
        let text = self.prometheus(ended_at);
        let written = durable::create_new(&temp, 0o644).and_then(|mut file| {
            file.write_all(text.as_bytes()).on("write", &temp)?;
            durable::rename(&temp, path)
        });
        if written.is_err() {
            durable::unlink(&temp).ok();
        }
        written
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

fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{value}\"}}")
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
mod tests {
    use super::*;

    fn report() -> Report {
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
            assert!(
                report
                    .prometheus(UnixTime::default())
                    .contains("last_pass_complete 0")
            );
        }
        assert!(
            report().is_complete(),
            "busy is no failure: somebody is at work"
        );
    }

    #[test]
    fn the_textfile_is_replaced_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("janitor.prom");
        std::fs::write(&path, "old").unwrap();
        report()
            .write_textfile(&path, UnixTime::from_micros(12_500_000))
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in [
            "# TYPE tuspool_janitor_last_pass_results gauge",
            "tuspool_janitor_last_pass_results{what=\"stale_removed\"} 2",
            "tuspool_janitor_last_pass_timestamp_seconds 12.500000",
            "tuspool_janitor_last_pass_uploads{dir=\"completed\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let nowhere = dir.path().join("none/janitor.prom");
        assert!(
            report()
                .write_textfile(&nowhere, UnixTime::default())
                .is_err()
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
