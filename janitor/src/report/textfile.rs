//! The figures of a pass for Prometheus, in a file that the node exporter reads.

use std::io::Write as _;
use std::path::Path;

use shared::durable::{self, DiskError, OnPath};
use shared::layout::Dir;
use shared::time::UnixTime;

use super::{Report, Stock, Tally, data_dirs};

/// One gauge: its name without the project's prefix, what it tells, and its samples: labels, value.
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Vec<(String, String)>,
}

impl Family {
    fn one(name: &'static str, help: &'static str, value: impl ToString) -> Self {
        let samples = vec![(String::new(), value.to_string())];
        Self {
            name,
            help,
            samples,
        }
    }

    fn labelled<'a>(
        name: &'static str,
        help: &'static str,
        label: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) -> Self {
        let sample =
            |(of, value): (&str, u64)| (format!("{{{label}=\"{of}\"}}"), value.to_string());
        Self {
            name,
            help,
            samples: values.map(sample).collect(),
        }
    }

    fn text(&self) -> String {
        let (name, help) = (format!("tuspool_{}", self.name), self.help);
        let head = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        let samples = self.samples.iter();
        let lines = samples.map(|(labels, value)| format!("{name}{labels} {value}\n"));
        head + &lines.collect::<String>()
    }
}

impl Report {
    /// The figures in Prometheus' text format.
    #[must_use]
    pub fn prometheus(&self, ended_at: UnixTime) -> String {
        self.families(ended_at).iter().map(Family::text).collect()
    }

    fn families(&self, ended_at: UnixTime) -> [Family; 8] {
        let complete = u8::from(self.is_complete() && !self.interrupted);
        let took = format!("{:.3}", self.took.as_secs_f64());
        let results = Tally::ALL.iter().map(|&t| (t.name(), self.counted(t)));
        let per_dir = |value: fn(Stock) -> u64| {
            data_dirs().map(move |dir: Dir| (dir.name(), value(self.stock(dir))))
        };
        [
            Family::one(
                "janitor_last_pass_timestamp_seconds",
                "When the last pass ended.",
                ended_at,
            ),
            Family::one(
                "janitor_last_pass_duration_seconds",
                "How long it took.",
                took,
            ),
            Family::one(
                "janitor_last_pass_complete",
                "1 if everything that was due was done.",
                complete,
            ),
            Family::one(
                "janitor_last_pass_entries",
                "Directory entries seen.",
                self.entries,
            ),
            Family::labelled(
                "janitor_last_pass_results",
                "What the last pass did and left alone.",
                "what",
                results,
            ),
            Family::labelled(
                "janitor_last_pass_uploads",
                "Data files in the spool.",
                "dir",
                per_dir(|stock| stock.uploads),
            ),
            Family::labelled(
                "janitor_last_pass_bytes",
                "Sizes of the data files in the spool; in uploads, what has arrived.",
                "dir",
                per_dir(|stock| stock.bytes),
            ),
            Family::labelled(
                "janitor_last_pass_oldest_age_seconds",
                "Longest time since a data file changed.",
                "dir",
                per_dir(|stock| stock.oldest_seconds),
            ),
        ]
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

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
    fn a_pass_that_left_something_undone_or_was_interrupted_is_told_as_incomplete() {
        let says = |report: &Report, line: &str| {
            let text = report.prometheus(UnixTime::default());
            text.lines().any(|l| l == line)
        };
        assert!(says(&report(), "tuspool_janitor_last_pass_complete 1"));
        let (mut undone, mut interrupted) = (report(), report());
        undone.count(Tally::OverLimit);
        interrupted.interrupted = true;
        for report in [undone, interrupted] {
            assert!(says(&report, "tuspool_janitor_last_pass_complete 0"));
        }
    }
}
