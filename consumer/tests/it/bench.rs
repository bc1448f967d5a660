//! A spool, a destination, hooks that take notes, and consumers.

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::id::UploadId;
use shared::layout::Dir;
use shared::lookup::{self, Found, State};
use shared::receive::NewData;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::spool::{Options, Spool};
use shared::time::UnixTime;

/// How long anything may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);

pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) spool: Arc<Spool>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        Self {
            dir,
            spool: Arc::new(spool),
        }
    }

    /// Opens the spool that is there now.
    pub(crate) fn open(&mut self) {
        let spool = Spool::open(&self.path("spool"), Options::default()).unwrap();
        self.spool = Arc::new(spool);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A finished upload with the content `hello`.
    pub(crate) fn upload(&self) -> UploadId {
        self.upload_with(|_| ())
    }

    pub(crate) fn upload_with(&self, change: impl FnOnce(&mut Record)) -> UploadId {
        let new = NewData::create(&self.spool).unwrap();
        let id = new.id();
        new.data().write_all_at(b"hello", 0).unwrap();
        let mut record = Record::new(Some(Length(5)), UnixTime::now());
        record.offset = Offset(5);
        change(&mut record);
        new.into_completed(record, UnixTime::now()).unwrap();
        id
    }

    /// A consumer on this spool; `$D` in arguments stands for the bench's directory.
    pub(crate) fn consumer(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consumer"));
        let dir = self.dir.path().to_str().unwrap();
        // First, because an operator's words have to be.
        command.args(args.iter().map(|arg| arg.replace("$D", dir)));
        command.arg("--spool").arg(self.path("spool"));
        command.env("PATH", std::env::var_os("PATH").unwrap());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        command
    }

    /// Runs a consumer to its end.
    pub(crate) fn run(&self, args: &[&str]) -> ExitStatus {
        finish(&mut self.consumer(args).spawn().unwrap())
    }

    pub(crate) fn found(&self, id: UploadId) -> Found {
        lookup::find(&self.spool, id).unwrap().unwrap()
    }

    pub(crate) fn state(&self, id: UploadId) -> State {
        self.found(id).state()
    }

    /// How many uploads wait for their next attempt.
    pub(crate) fn deferred(&self) -> usize {
        self.spool.entries(Dir::Deferred).unwrap().count()
    }

    /// Every name in the spool, without the receipts and the space that consumers keep.
    pub(crate) fn left(&self) -> Vec<String> {
        let dirs = Dir::ALL.into_iter().filter(|dir| *dir != Dir::Receipts);
        let mut names = Vec::new();
        for dir in dirs {
            for entry in std::fs::read_dir(self.spool.layout().dir(dir)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if !name.starts_with(".spare-") {
                    names.push(format!("{}/{name}", dir.name()));
                }
            }
        }
        names.sort();
        names
    }

    /// The record of a delivered upload; for a moment it lies where it was.
    pub(crate) fn receipt(&self, id: UploadId) -> Record {
        let found = self.found(id);
        assert_eq!(found.state(), State::Delivered);
        found.record
    }
}

/// Waits for a process to end by itself.
pub(crate) fn finish(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if deadline < Instant::now() {
            child.kill().unwrap();
            panic!("it did not end by itself");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process lives (a zombie does not).
pub(crate) fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}
