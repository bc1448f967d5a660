//! Hears of uploads that arrive. The only file that names `notify`.
//!
//! An event only shortens the wait: what to do is always read from the directory, and a poll
//! comes in any case, because events get lost (queue overflow) or never come (network
//! filesystems tell nothing of other hosts).
//!
//! The watch is armed *before* the scan that finds little, and taken away while there is a
//! backlog of fresh uploads: each upload that comes is two events, which nobody needs while all are
//! busy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{Flag, ModifyKind, RenameMode};
use notify::{
    Config, Event, EventHandler, EventKind, EventKindMask, RecommendedWatcher, RecursiveMode,
    Watcher,
};
use shared::durable;
use shared::id::UploadId;
use shared::layout::{DataAt, Dir, Entry, classify};

/// What the kernel is asked to tell: names that come, and that the directory itself is moved away. Not
/// that a file is opened or goes: the janitor opens every record, consumers claim, and each time all
/// consumers would wake. That the directory is removed would come with the names that go: see
/// [`Watch::is_deaf_to`].
const EVENTS: EventKindMask = EventKindMask::CREATE.union(EventKindMask::MODIFY_NAME);

/// How long after a refusal (no more watches to be had) it is tried again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// This upload's data has come into the directory.
    Arrived(UploadId),
    /// Events were lost: look at everything.
    Lost,
    /// The directory itself was moved away, or another is in its place.
    Replaced,
}

/// A watch on `completed/`.
pub struct Watch {
    dir: PathBuf,
    hear: Arc<dyn Fn(Heard) + Send + Sync>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory when it was last begun to listen.
    listened_to: Option<(u64, u64)>,
    refused_at: Option<Instant>,
}

impl Watch {
    /// A watch on the directory, not armed yet. `hear` is called from another thread and must not
    /// wait.
    pub fn new(dir: PathBuf, hear: impl Fn(Heard) + Send + Sync + 'static) -> Self {
        Self {
            dir,
            hear: Arc::new(hear),
            watcher: None,
            listened_to: None,
            refused_at: None,
        }
    }

    /// Begins to listen; true if that is new, so that what came before must be looked for now.
    pub fn arm(&mut self) -> bool {
        let refused = self.refused_at.is_some_and(|at| at.elapsed() < REFUSED_FOR);
        if self.watcher.is_some() || refused {
            return false;
        }
        // Before the watch: if another takes its place in between, it shows.
        let found = durable::stat(&self.dir).ok().flatten();
        self.listened_to = found.as_ref().map(durable::identity);
        match self.start() {
            Ok(watcher) => {
                if self.refused_at.take().is_some() {
                    tracing::info!("events are to be had again");
                }
                self.watcher = Some(watcher);
                true
            }
            Err(error) => {
                if self.refused_at.is_none() {
                    tracing::warn!(%error, "no events are to be had; only polling");
                }
                self.refused_at = Some(Instant::now());
                false
            }
        }
    }

    /// Whether it listens.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.watcher.is_some()
    }

    /// Whether it listens to another directory than the one that has the name now, of this device and
    /// inode.
    #[must_use]
    pub fn is_deaf_to(&self, found: Option<(u64, u64)>) -> bool {
        self.is_armed() && self.listened_to != found
    }

    /// Stops listening.
    pub fn disarm(&mut self) {
        self.watcher = None;
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let (dir, hear) = (self.dir.clone(), Arc::clone(&self.hear));
        listen(&self.dir, move |event: notify::Result<Event>| {
            for heard in interpret(event, &dir) {
                hear(heard);
            }
        })
    }
}

/// Has a handler told of [`EVENTS`] in a directory.
fn listen(dir: &Path, handler: impl EventHandler) -> notify::Result<RecommendedWatcher> {
    let config = Config::default().with_event_kinds(EVENTS);
    let mut watcher = RecommendedWatcher::new(handler, config)?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("dir", &self.dir)
            .field("armed", &self.watcher.is_some())
            .finish()
    }
}

/// What an event tells, if anything.
fn interpret(event: notify::Result<Event>, dir: &Path) -> Vec<Heard> {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "events may be lost");
            return vec![Heard::Lost];
        }
    };
    if event.attrs.flag() == Some(Flag::Rescan) {
        tracing::warn!("too many events at once; some are lost");
        return vec![Heard::Lost];
    }
    let itself = |path: &PathBuf| path == dir;
    match event.kind {
        // Moved in, or linked in by whoever moves an upload backward.
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) | EventKind::Create(_) => event
            .paths
            .iter()
            .filter_map(|path| arrived(path))
            .collect(),
        EventKind::Modify(ModifyKind::Name(_)) if event.paths.iter().any(itself) => {
            vec![Heard::Replaced]
        }
        EventKind::Any
        | EventKind::Access(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => Vec::new(),
    }
}

fn arrived(path: &Path) -> Option<Heard> {
    match classify(Dir::Completed, path.file_name()?) {
        Entry::Data(id, DataAt::Completed) => Some(Heard::Arrived(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn watch(dir: &Path) -> (Watch, mpsc::Receiver<Heard>) {
        let (sender, heard) = mpsc::channel();
        let hear = move |news| {
            sender.send(news).ok();
        };
        (Watch::new(dir.to_owned(), hear), heard)
    }

    #[test]
    fn data_that_is_moved_or_linked_in_is_heard_of_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for dir in [&from, &to] {
            std::fs::create_dir(dir).unwrap();
        }
        let (mut watch, heard) = watch(&to);
        assert!(watch.arm() && !watch.arm());
        let (moved, linked) = (UploadId::generate(), UploadId::generate());
        for name in [
            "foreign".to_owned(),
            format!("{moved}.meta"),
            moved.to_string(),
        ] {
            std::fs::write(from.join(&name), "x").unwrap();
            durable::rename(&from.join(&name), &to.join(&name)).unwrap();
        }
        std::fs::write(to.join(moved.to_string()), "written to").unwrap();
        std::fs::write(from.join("data"), "x").unwrap();
        durable::link(&from.join("data"), &to.join(linked.to_string())).unwrap();
        assert_eq!(heard.recv_timeout(LONG), Ok(Heard::Arrived(moved)));
        assert_eq!(heard.recv_timeout(LONG), Ok(Heard::Arrived(linked)));
    }

    #[test]
    fn who_opens_writes_or_takes_a_file_wakes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (watched, away) = (dir.path().join("completed"), dir.path().join("away"));
        std::fs::create_dir(&watched).unwrap();
        let (file, last) = (watched.join("file"), watched.join("last"));
        std::fs::write(&file, "x").unwrap();
        let (sender, events) = mpsc::channel::<notify::Result<Event>>();
        let _watcher = listen(&watched, sender).unwrap();
        std::fs::read(&file).unwrap();
        std::fs::write(&file, "y").unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, private).unwrap();
        durable::rename(&file, &away).unwrap();
        std::fs::write(&last, "x").unwrap();
        let first = events.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(first.paths, [last], "{first:?}");
    }

    #[test]
    fn a_directory_that_is_moved_away_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let watched = dir.path().join("completed");
        std::fs::create_dir(&watched).unwrap();
        let (mut watch, heard) = watch(&watched);
        assert!(watch.arm());
        durable::rename(&watched, &dir.path().join("away")).unwrap();
        assert_eq!(heard.recv_timeout(LONG), Ok(Heard::Replaced));
    }

    #[test]
    fn a_watch_on_a_directory_that_was_removed_is_deaf_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (watched, next) = (dir.path().join("completed"), dir.path().join("next"));
        let found = || {
            let stat = durable::stat(&watched).unwrap();
            stat.as_ref().map(durable::identity)
        };
        for dir in [&watched, &next] {
            std::fs::create_dir(dir).unwrap();
        }
        let (mut watch, _heard) = watch(&watched);
        assert!(!watch.is_deaf_to(found()), "it does not listen");
        assert!(watch.arm());
        assert!(!watch.is_deaf_to(found()));
        std::fs::remove_dir(&watched).unwrap();
        assert!(watch.is_deaf_to(found()));
        durable::rename(&next, &watched).unwrap();
        assert!(watch.is_deaf_to(found()));
        watch.disarm();
        assert!(watch.arm() && !watch.is_deaf_to(found()));
    }

    #[test]
    fn lost_events_are_told() {
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(interpret(Ok(lost), Path::new("/x")), [Heard::Lost]);
        let error = notify::Error::generic("gone");
        assert_eq!(interpret(Err(error), Path::new("/x")), [Heard::Lost]);
    }

    #[test]
    fn a_watch_that_cannot_be_had_is_no_failure() {
        let (mut watch, _heard) = watch(Path::new("/nonexistent"));
        assert!(!watch.arm());
        assert!(!watch.arm(), "and is not tried again at once");
        watch.disarm();
    }

    #[test]
    fn a_disarmed_watch_is_silent_and_can_be_armed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, heard) = watch(dir.path());
        assert!(watch.arm());
        watch.disarm();
        let (first, second) = (UploadId::generate(), UploadId::generate());
        std::fs::write(dir.path().join(first.to_string()), "x").unwrap();
        assert!(watch.arm());
        std::fs::write(dir.path().join(second.to_string()), "x").unwrap();
        assert_eq!(heard.recv_timeout(LONG), Ok(Heard::Arrived(second)));
    }
}
