//! Whether the program can do its work at this moment.

use std::fmt;
use std::fs::TryLockError;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::durable::{self, DiskError, OnPath};
use shared::id::UploadId;
use shared::layout::Dir;
use shared::spool::Spool;
use shared::startup::Shutdown;

use crate::look::Look;
use crate::stock;

/// How long one trial of the spool answers for the next questions.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How long the spool may take to answer: less than the timeout of a usual probe.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state behind `/readyz`. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spool: Arc<Spool>,
    shutdown: Shutdown,
    poisoned: AtomicBool,
    trial: Look<Trial>,
}

/// What came of trying the spool out.
#[derive(Debug)]
struct Trial {
    spool: Result<(), SpoolTrouble>,
    space: Result<(), SpaceTrouble>,
}

/// Why the spool cannot be worked on. The details are for the log.
#[derive(Debug, thiserror::Error)]
enum SpoolTrouble {
    #[error("cannot be written")]
    Disk(#[source] DiskError),
    #[error("cannot lock files")]
    NoLocks,
}

/// Why there is no space.
#[derive(Debug, thiserror::Error)]
enum SpaceTrouble {
    #[error("the disk is full")]
    Full,
    #[error("{free} bytes free, {wanted} wanted")]
    Little { free: u64, wanted: u64 },
}

/// One of the things that must be right, by its name in `/readyz?exclude=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Not asked to stop.
    Running,
    /// No sync has failed.
    Sync,
    /// A file can be made in the spool, and locked.
    Spool,
    /// As much is free as must stay free.
    Space,
}

impl Check {
    pub(crate) const ALL: [Self; 4] = [Self::Running, Self::Sync, Self::Spool, Self::Space];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Sync => "sync",
            Self::Spool => "spool",
            Self::Space => "space",
        }
    }
}

/// All checks, one line each.
#[derive(Debug)]
pub(crate) struct Report(Vec<(Check, Result<(), String>)>);

impl Report {
    /// Whether everything is right, or at least everything but the excluded.
    pub(crate) fn is_ready(&self, excluded: &[Check]) -> bool {
        self.0
            .iter()
            .all(|(check, result)| result.is_ok() || excluded.contains(check))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, result) in &self.0 {
            match result {
                Ok(()) => writeln!(f, "ok {}", check.name())?,
                Err(reason) => writeln!(f, "failed {}: {reason}", check.name())?,
            }
        }
        Ok(())
    }
}

impl Health {
    /// Of a program that works on `spool` until `shutdown` and wants `free_bytes_min` to stay
    /// free on its filesystem (0 if that is no concern of the program).
    #[must_use]
    pub fn new(spool: Arc<Spool>, free_bytes_min: u64, shutdown: Shutdown) -> Self {
        let tried = Arc::clone(&spool);
        Self {
            inner: Arc::new(Inner {
                spool,
                shutdown,
                poisoned: AtomicBool::new(false),
                trial: Look::new(move || try_out(&tried, free_bytes_min)),
            }),
        }
    }

    /// A sync has failed: what the kernel holds is not what the disk holds. Only a new process
    /// can promise anything again.
    pub fn poison(&self) {
        if !self.inner.poisoned.swap(true, Ordering::Relaxed) {
            tracing::error!("a sync failed; not ready any more until restarted");
        }
    }

    pub(crate) fn spool(&self) -> &Arc<Spool> {
        &self.inner.spool
    }

    pub(crate) async fn report(&self) -> Report {
        let inner = &self.inner;
        let running = match inner.shutdown.is_running() {
            true => Ok(()),
            false => Err("draining".to_owned()),
        };
        let poisoned = inner.poisoned.load(Ordering::Relaxed) || inner.spool.is_poisoned();
        let sync = match poisoned {
            true => Err("has failed; restart to go on".to_owned()),
            false => Ok(()),
        };
        let seen = inner
            .trial
            .now(|seen| seen.at.elapsed() < FRESH_FOR, PATIENCE)
            .await;
        let trial = seen
            .as_deref()
            .filter(|seen| seen.at.elapsed() < PATIENCE)
            .map(|seen| &seen.value);
        let silent = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
        let spool = trial.map_or_else(silent, |trial| text(&trial.spool));
        let space = trial.map_or_else(silent, |trial| text(&trial.space));
        Report(
            Check::ALL
                .into_iter()
                .zip([running, sync, spool, space])
                .collect(),
        )
    }
}

fn text<E: fmt::Display>(result: &Result<(), E>) -> Result<(), String> {
    result.as_ref().map_err(ToString::to_string).copied()
}

fn try_out(spool: &Spool, free_bytes_min: u64) -> Trial {
    let free = stock::free_bytes(spool);
    let space = match free.filter(|free| *free < free_bytes_min) {
        Some(free) => Err(SpaceTrouble::Little {
            free,
            wanted: free_bytes_min,
        }),
        None => Ok(()),
    };
    match make_and_lock(spool) {
        // Nothing was learnt about the rest; a full disk is no reason to doubt it.
        Err(SpoolTrouble::Disk(error)) if error.is_full() => Trial {
            spool: Ok(()),
            space: Err(SpaceTrouble::Full),
        },
        Err(trouble) => {
            tracing::warn!(error = %causes(&trouble), "the spool cannot be used");
            Trial {
                spool: Err(trouble),
                space,
            }
        }
        Ok(()) => Trial {
            spool: Ok(()),
            space,
        },
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", causes(source)),
        None => error.to_string(),
    }
}

/// Makes a temporary file, which the janitor knows how to tidy away should we die here, and takes
/// its lock through one descriptor so that another cannot have it.
fn make_and_lock(spool: &Spool) -> Result<(), SpoolTrouble> {
    let path = spool.temp(Dir::Uploads, UploadId::generate());
    let mut file = spool.create_file(&path).map_err(SpoolTrouble::Disk)?;
    let written = file
        .write_all(b"?")
        .on("write", &path)
        .map_err(SpoolTrouble::Disk);
    let excluded = written.and_then(|()| {
        let other = durable::open(&path, true).map_err(SpoolTrouble::Disk)?;
        match file.try_lock().and_then(|()| other.try_lock()) {
            Err(TryLockError::WouldBlock) => Ok(()),
            Ok(()) | Err(TryLockError::Error(_)) => Err(SpoolTrouble::NoLocks),
        }
    });
    durable::unlink(&path).map_err(SpoolTrouble::Disk)?;
    excluded
}

#[cfg(test)]
mod tests {
    use shared::spool::Options;
    use shared::startup::shutdown::Trigger;

    use super::*;

    struct Rig {
        dir: tempfile::TempDir,
        spool: Arc<Spool>,
        trigger: Trigger,
        health: Health,
    }

    fn rig(free_bytes_min: u64) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        let spool = Arc::new(spool);
        let (trigger, shutdown) = Shutdown::manual();
        let health = Health::new(Arc::clone(&spool), free_bytes_min, shutdown);
        Rig {
            dir,
            spool,
            trigger,
            health,
        }
    }

    async fn failed(health: &Health) -> Vec<Check> {
        let report = health.report().await;
        report
            .0
            .into_iter()
            .filter(|(_, result)| result.is_err())
            .map(|(check, _)| check)
            .collect()
    }

    #[tokio::test]
    async fn a_program_with_a_good_spool_is_ready_and_leaves_nothing_behind() {
        let rig = rig(1);
        let report = rig.health.report().await;
        assert_eq!(
            report.to_string(),
            "ok running\nok sync\nok spool\nok space\n"
        );
        assert!(report.is_ready(&[]));
        let uploads = rig.spool.layout().dir(Dir::Uploads);
        assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_draining_program_is_not_ready() {
        let rig = rig(0);
        rig.trigger.next();
        assert_eq!(failed(&rig.health).await, [Check::Running]);
    }

    #[tokio::test]
    async fn a_failed_sync_is_never_forgotten() {
        let rig = rig(0);
        rig.health.clone().poison();
        assert_eq!(failed(&rig.health).await, [Check::Sync]);
    }

    #[tokio::test]
    async fn a_spool_that_is_gone_is_not_ready() {
        let rig = rig(0);
        std::fs::remove_dir_all(rig.dir.path().join("spool")).unwrap();
        let report = rig.health.report().await;
        assert!(
            report
                .to_string()
                .contains("failed spool: cannot be written\n"),
            "{report}"
        );
        assert!(
            !report
                .to_string()
                .contains(rig.dir.path().to_str().unwrap()),
            "{report}"
        );
    }

    #[tokio::test]
    async fn too_little_space_can_be_excluded() {
        let rig = rig(u64::MAX);
        let report = rig.health.report().await;
        assert!(
            !report.is_ready(&[]) && report.is_ready(&[Check::Space]),
            "{report}"
        );
        assert_eq!(failed(&rig.health).await, [Check::Space]);
    }
}
