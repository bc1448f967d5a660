//! What lies in the spool, counted on the disk: one pass over its directories, in constant memory.
//!
//! A pass over a million uploads takes seconds. So the figures are kept until twenty times as
//! long as the pass took has gone by: whoever asks, counting takes at most a twentieth of one CPU.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::statvfs::statvfs;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use shared::durable::{self, DiskError};
use shared::layout::{Dir, Entry};
use shared::spool::Spool;

use crate::look::{Look, Seen};

/// Figures younger than this are never counted again.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// Time at rest for each second of counting.
const REST_FACTOR: u32 = 20;
/// How long a scrape waits for fresh figures before it makes do with the last ones. Prometheus
/// gives up after 10 s by default.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directories that hold data. Receipts and events are records only, and the most.
const DIRS: [Dir; 6] = [
    Dir::Uploads,
    Dir::Completed,
    Dir::Claimed,
    Dir::Deferred,
    Dir::Held,
    Dir::Failed,
];

/// One pass over the spool.
#[derive(Debug)]
struct Stock {
    counted_at: SystemTime,
    /// As [`DIRS`]; `None` where the directory could not be read.
    dirs: [Option<DirStock>; DIRS.len()],
    space: Option<Space>,
}

/// The data files of one directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DirStock {
    uploads: u64,
    bytes: u64,
    /// Blocks set aside beyond the files' ends.
    reserved_bytes: u64,
    oldest: Option<SystemTime>,
}

/// The spool's filesystem.
#[derive(Clone, Copy, Debug)]
struct Space {
    size_bytes: u64,
    free_bytes: u64,
    free_inodes: u64,
}

impl DirStock {
    fn of(spool: &Spool, dir: Dir) -> Result<Self, DiskError> {
        let mut stock = Self::default();
        for entry in spool.entries(dir)? {
            let Entry::Data(id, at) = entry? else {
                continue;
            };
            // It may have moved on since it was listed.
            if let Some(file) = durable::stat(&spool.layout().data(id, at))? {
                stock.add(file.len(), file.blocks(), file.modified().ok());
            }
        }
        Ok(stock)
    }

    fn add(&mut self, len: u64, blocks: u64, modified: Option<SystemTime>) {
        self.uploads += 1;
        self.bytes = self.bytes.saturating_add(len);
        let allocated = blocks.saturating_mul(512);
        // The rest of the last block is no reservation.
        let written = len.next_multiple_of(4096);
        self.reserved_bytes += allocated.saturating_sub(written);
        self.oldest = match (self.oldest, modified) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl Stock {
    fn count(spool: &Spool) -> Self {
        let dirs = DIRS.map(|dir| match DirStock::of(spool, dir) {
            Ok(stock) => Some(stock),
            Err(error) => {
                tracing::warn!(%error, "cannot count a directory of the spool");
                None
            }
        });
        Self {
            counted_at: SystemTime::now(),
            dirs,
            space: Space::of(spool),
        }
    }

    /// Of the directories that could be read.
    fn dirs(&self) -> impl Iterator<Item = (Dir, DirStock)> {
        DIRS.into_iter()
            .zip(self.dirs)
            .filter_map(|(dir, stock)| Some((dir, stock?)))
    }
}

impl Space {
    fn of(spool: &Spool) -> Option<Self> {
        match statvfs(spool.layout().root()) {
            Ok(stat) => Some(Self {
                size_bytes: stat.blocks().saturating_mul(stat.fragment_size()),
                free_bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
                free_inodes: stat.files_available(),
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot ask the spool's filesystem for its free space");
                None
            }
        }
    }
}

/// Free bytes on the spool's filesystem, for who is not root.
pub(crate) fn free_bytes(spool: &Spool) -> Option<u64> {
    Space::of(spool).map(|space| space.free_bytes)
}

/// The spool's figures as metrics.
#[derive(Debug)]
pub(crate) struct StockMetrics {
    look: Look<Stock>,
}

impl StockMetrics {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self {
            look: Look::new(move || Stock::count(&spool)),
        }
    }

    /// Counts again unless the figures are fresh.
    pub(crate) async fn refresh(&self) {
        self.look.now(is_fresh, PATIENCE).await;
    }
}

fn is_fresh(seen: &Seen<Stock>) -> bool {
    let rest = seen.took.saturating_mul(REST_FACTOR).max(FRESH_FOR);
    Instant::now().saturating_duration_since(seen.at) < rest
}

impl Collector for StockMetrics {
    fn encode(&self, mut out: DescriptorEncoder) -> fmt::Result {
        let Some(seen) = self.look.last() else {
            return Ok(());
        };
        let stock = &seen.value;
        let now = SystemTime::now();
        let age = |stock: DirStock| {
            let oldest = stock
                .oldest
                .and_then(|oldest| now.duration_since(oldest).ok());
            oldest.unwrap_or_default().as_secs_f64()
        };
        let by_dir = |value: &dyn Fn(DirStock) -> f64| -> Vec<_> {
            stock.dirs().map(|(dir, of)| (dir, value(of))).collect()
        };
        per_dir(
            &mut out,
            "spool_uploads",
            "Data files in the spool",
            &by_dir(&|s| s.uploads as f64),
        )?;
        per_dir(
            &mut out,
            "spool_bytes",
            "Sizes of the data files in the spool",
            &by_dir(&|s| s.bytes as f64),
        )?;
        per_dir(
            &mut out,
            "spool_oldest_age_seconds",
            "Longest time since a data file changed",
            &by_dir(&age),
        )?;
        let reserved: u64 = stock.dirs().map(|(_, of)| of.reserved_bytes).sum();
        one(
            &mut out,
            "spool_reserved_bytes",
            "Space set aside for uploads, not yet written",
            reserved as f64,
        )?;
        if let Some(space) = stock.space {
            one(
                &mut out,
                "spool_free_bytes",
                "Free space on the spool's filesystem",
                space.free_bytes as f64,
            )?;
            one(
                &mut out,
                "spool_size_bytes",
                "Size of the spool's filesystem",
                space.size_bytes as f64,
            )?;
            one(
                &mut out,
                "spool_free_inodes",
                "Files that can still be made there",
                space.free_inodes as f64,
            )?;
        }
        let counted_at = stock.counted_at.duration_since(SystemTime::UNIX_EPOCH);
        one(
            &mut out,
            "spool_count_timestamp_seconds",
            "When the spool was last counted",
            counted_at.unwrap_or_default().as_secs_f64(),
        )?;
        one(
            &mut out,
            "spool_count_duration_seconds",
            "How long that took",
            seen.took.as_secs_f64(),
        )
    }
}

/// As [`one`], for each directory.
fn per_dir(
    out: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: &[(Dir, f64)],
) -> fmt::Result {
    let help = format!("{help}.");
    let mut family = out.encode_descriptor(name, &help, None, MetricType::Gauge)?;
    for (dir, value) in values {
        let labels = [("dir", dir.name())];
        ConstGauge::new(*value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A gauge. The registry ends each help text with a full stop; so do we.
pub(crate) fn one(out: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    let help = format!("{help}.");
    ConstGauge::new(value).encode(out.encode_descriptor(name, &help, None, MetricType::Gauge)?)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use shared::id::{ClaimId, UploadId};
    use shared::layout::{DataAt, RecordAt};
    use shared::spool::Options;

    use super::*;
    use crate::text::Format;

    fn spool(dir: &tempfile::TempDir) -> Arc<Spool> {
        Arc::new(Spool::open(&dir.path().join("spool"), Options::default()).unwrap())
    }

    fn put(spool: &Spool, at: DataAt, bytes: usize) -> std::path::PathBuf {
        let path = spool.layout().data(UploadId::generate(), at);
        std::fs::write(&path, vec![1; bytes]).unwrap();
        path
    }

    #[test]
    fn data_files_are_counted_where_they_lie_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        let claim = ClaimId::generate();
        let places = [
            (DataAt::Uploads, 1),
            (DataAt::Completed, 2),
            (DataAt::Claimed(claim), 3),
            (DataAt::Deferred(7), 4),
            (DataAt::Held, 5),
            (DataAt::Failed, 6),
        ];
        for (at, count) in places {
            for _ in 0..count {
                put(&spool, at, 10);
            }
        }
        let id = UploadId::generate();
        std::fs::write(spool.layout().record(id, RecordAt::Completed), "x").unwrap();
        std::fs::write(spool.layout().reason(id), "x").unwrap();
        std::fs::write(spool.layout().dir(Dir::Held).join("README"), "x").unwrap();
        let stock = Stock::count(&spool);
        let counted: Vec<_> = stock.dirs().map(|(_, of)| (of.uploads, of.bytes)).collect();
        assert_eq!(
            counted,
            [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60)]
        );
        assert!(0 < stock.space.unwrap().free_bytes);
    }

    #[test]
    fn the_oldest_file_gives_the_age() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        put(&spool, DataAt::Completed, 1);
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let file = std::fs::File::options()
            .write(true)
            .open(put(&spool, DataAt::Completed, 1))
            .unwrap();
        file.set_modified(old).unwrap();
        put(&spool, DataAt::Completed, 1);
        let stock = DirStock::of(&spool, Dir::Completed).unwrap();
        assert_eq!(stock.oldest, Some(old));
    }

    #[test]
    fn blocks_beyond_the_end_are_reserved() {
        let mut stock = DirStock::default();
        stock.add(10, 8, None); // one block of 4 KiB
        assert_eq!(stock.reserved_bytes, 0);
        stock.add(0, 16, None);
        assert_eq!(stock.reserved_bytes, 8192);
        stock.add(1 << 30, 0, None); // sparse
        assert_eq!(stock.reserved_bytes, 8192);
    }

    #[test]
    fn figures_are_kept_twenty_times_as_long_as_counting_took() {
        let stock = |age: u64, took: u64| Seen {
            at: Instant::now()
                .checked_sub(Duration::from_secs(age))
                .unwrap(),
            took: Duration::from_secs(took),
            value: Stock {
                counted_at: SystemTime::UNIX_EPOCH,
                dirs: [None; DIRS.len()],
                space: None,
            },
        };
        for (age, took, expected) in [(0, 0, true), (6, 0, false), (30, 2, true), (41, 2, false)] {
            assert_eq!(is_fresh(&stock(age, took)), expected, "{age} {took}");
        }
    }

    #[tokio::test]
    async fn the_figures_are_metrics_once_counted() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        put(&spool, DataAt::Completed, 7);
        let metrics = Arc::new(StockMetrics::new(Arc::clone(&spool)));
        let mut registry = Registry::with_prefix("tuspool");
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        assert_eq!(Format::OpenMetrics.encode(&registry).unwrap(), "# EOF\n");
        metrics.refresh().await;
        let text = Format::Prometheus.encode(&registry).unwrap();
        for line in [
            "# HELP tuspool_spool_uploads Data files in the spool.",
            "# TYPE tuspool_spool_uploads gauge",
            "tuspool_spool_uploads{dir=\"completed\"} 1.0",
            "tuspool_spool_bytes{dir=\"completed\"} 7.0",
            "tuspool_spool_uploads{dir=\"failed\"} 0.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        put(&spool, DataAt::Completed, 7);
        metrics.refresh().await;
        let again = Format::Prometheus.encode(&registry).unwrap();
        assert!(
            again.contains("dir=\"completed\"} 1.0"),
            "counted again at once"
        );
    }
}
