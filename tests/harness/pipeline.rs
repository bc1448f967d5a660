//! A spool with the programs around it, made for one test and gone after it.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::client::{Address, Tus};
use crate::failpoint::{self, Failpoint};
use crate::needs::Need;
use crate::process::{Finished, Process};
use crate::programs::{Program, scratch_dir};
use crate::slips::{self, Slip};
use crate::spool::SpoolView;
use crate::wait::{PATIENCE, wait_until};

/// Where uploads are in the URLs of the tests.
pub const BASE_PATH: &str = "/files/";

/// A temporary directory with a spool, a destination, logs and whatever a test adds.
///
/// Kept if `TUSPOOL_KEEP=1`, to be looked into after a failure.
pub struct Pipeline {
    root: TempDir,
    spool: SpoolView,
    started: Cell<u32>,
    slip: Cell<Option<Slip>>,
    /// The boot id that programs see, if not the machine's.
    boot: RefCell<Option<PathBuf>>,
}

/// What it takes to [reboot](Pipeline::reboot).
pub const REBOOT_NEEDS: [Need; 2] = [Need::Root, Need::Tool("unshare")];

impl Pipeline {
    /// A pipeline whose spool does not exist yet: the first program makes it.
    ///
    /// # Panics
    /// If no temporary directory can be made.
    #[must_use]
    pub fn new() -> Self {
        let root = Self::root();
        let spool = SpoolView::new(&root.path().join("spool"));
        Self::assemble(root, spool)
    }

    /// A pipeline whose spool lies elsewhere, as on a file system made for the test.
    ///
    /// # Panics
    /// If no temporary directory can be made.
    #[must_use]
    pub fn with_spool(spool: &Path) -> Self {
        Self::assemble(Self::root(), SpoolView::new(spool))
    }

    fn root() -> TempDir {
        let mut builder = tempfile::Builder::new();
        builder
            .prefix("pipeline-")
            .disable_cleanup(std::env::var_os("TUSPOOL_KEEP").is_some());
        builder
            .tempdir_in(scratch_dir())
            .expect("the target directory is writable")
    }

    fn assemble(root: TempDir, spool: SpoolView) -> Self {
        let pipeline = Self {
            root,
            spool,
            started: Cell::new(0),
            slip: Cell::new(None),
            boot: RefCell::new(None),
        };
        for directory in ["logs", "out"] {
            std::fs::create_dir(pipeline.path(directory)).expect("a new directory is empty");
        }
        pipeline
    }

    /// A path in the pipeline's own directory (not in the spool).
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The destination directory that tests deliver to.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// The spool.
    #[must_use]
    pub fn spool(&self) -> &SpoolView {
        &self.spool
    }

    /// A program on this spool, not yet started: `{program} --spool … {args}`.
    ///
    /// Its environment holds nothing but `PATH`: every flag may also come from a variable.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(&self, program: Program, args: &[A]) -> Command {
        let mut command = match &*self.boot.borrow() {
            None => bare_command(program),
            Some(id) => booted_as(id, program),
        };
        command.arg("--spool").arg(self.spool.root()).args(args);
        command
    }

    /// Starts a command with its output in the pipeline's logs.
    #[must_use]
    pub fn start(&self, name: &str, command: Command) -> Process {
        let n = self.started.get() + 1;
        self.started.set(n);
        Process::start(&format!("{n:02}-{name}"), command, &self.path("logs"))
    }

    /// Starts a program that goes on running.
    #[must_use]
    pub fn spawn<A: AsRef<OsStr>>(&self, program: Program, args: &[A]) -> Process {
        self.start(program.name(), self.command(program, args))
    }

    /// Starts a program with failpoints armed.
    #[must_use]
    pub fn spawn_failing<A: AsRef<OsStr>>(
        &self,
        program: Program,
        args: &[A],
        failpoints: &[Failpoint],
    ) -> Process {
        let mut command = self.command(program, args);
        failpoint::arm(&mut command, failpoints);
        self.start(program.name(), command)
    }

    /// Starts a consumer that looks around every second.
    #[must_use]
    pub fn consumer(&self, args: &[&str]) -> Process {
        self.spawn(Program::Consumer, &[args, &["--poll", "1s"]].concat())
    }

    /// Runs a program to its end.
    #[must_use]
    pub fn run<A: AsRef<OsStr>>(&self, program: Program, args: &[A]) -> Finished {
        self.spawn(program, args).finish(PATIENCE)
    }

    /// Starts ingest on a free port of 127.0.0.1 and waits until it is ready.
    #[must_use]
    pub fn ingest(&self, args: &[&str]) -> Ingest<'_> {
        self.ingest_failing(args, &[])
    }

    /// As [`ingest`](Self::ingest), with failpoints armed.
    #[must_use]
    pub fn ingest_failing(&self, args: &[&str], failpoints: &[Failpoint]) -> Ingest<'_> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (process, address) = self.start_ingest(&args, failpoints);
        Ingest {
            pipeline: self,
            args,
            process,
            address: Address::new(address),
        }
    }

    /// Lets every program that is started from now on find itself in another boot of the machine.
    ///
    /// # Panics
    /// If no boot id can be written down.
    pub fn reboot(&self) {
        let id = self.path(&format!("boot-{}", self.started.get()));
        let words: [u16; 8] = std::array::from_fn(|_| fastrand::u16(..));
        let [a, b, c, d, e, f, g, h] = words;
        let text = format!("{a:04x}{b:04x}-{c:04x}-{d:04x}-{e:04x}-{f:04x}{g:04x}{h:04x}\n");
        std::fs::write(&id, text).expect("the pipeline's directory is writable");
        *self.boot.borrow_mut() = Some(id);
    }

    /// Lets every ingest that is started from now on make a mistake; none any more with `None`.
    pub fn plant(&self, slip: Option<Slip>) {
        self.slip.set(slip);
    }

    fn start_ingest(&self, args: &[String], failpoints: &[Failpoint]) -> (Process, SocketAddr) {
        let ready = self.path(&format!("ready-{}", self.started.get()));
        let mut command = self.command(Program::Ingest, args);
        command.args(["--listen", "127.0.0.1:0", "--base-path", BASE_PATH]);
        command.arg("--ready-file").arg(&ready);
        failpoint::arm(&mut command, failpoints);
        if let Some(slip) = self.slip.get() {
            slip.plant(&slips::build(self.root.path()), &mut command);
        }
        let mut process = self.start("ingest", command);
        let address = wait_until("ingest to be ready", || {
            if let Some(status) = process.poll() {
                panic!("ingest ended ({status}) before it was ready");
            }
            let text = std::fs::read_to_string(&ready).ok()?;
            text.trim()
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .parse()
                .ok()
        });
        (process, address)
    }
}

impl Drop for Pipeline {
    #[expect(clippy::print_stderr, reason = "a failing test shows what it left")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {} ---\n{:#?}",
                self.spool.root().display(),
                self.spool.listing()
            );
        }
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

/// A program with an environment of nothing but `PATH`, and no arguments.
#[must_use]
pub fn bare_command(program: Program) -> Command {
    bare(Command::new(program.path()))
}

/// The same, for which the kernel's boot id is what stands in a file. It is the same process in the
/// end: each of these commands becomes the next.
fn booted_as(id: &Path, program: Program) -> Command {
    let mut command = bare(Command::new("unshare"));
    let bind = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    command
        .args(["--mount", "--propagation", "slave", "sh", "-c", bind])
        .arg(id)
        .arg(program.path());
    command
}

fn bare(mut command: Command) -> Command {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for passed_on in ["RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(passed_on) {
            command.env(passed_on, value);
        }
    }
    command
}

/// A running ingest. Clients made from it find it again after a restart.
pub struct Ingest<'a> {
    pipeline: &'a Pipeline,
    args: Vec<String>,
    /// The process, to be signalled and looked at.
    pub process: Process,
    address: Address,
}

impl Ingest<'_> {
    /// A client.
    #[must_use]
    pub fn tus(&self) -> Tus {
        Tus::new(&self.address, BASE_PATH)
    }

    /// Where it listens; follows restarts.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// SIGKILL, then a new process with the same flags.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        self.restart();
    }

    /// A new process with the same flags and no failpoints, once the old one has ended.
    pub fn restart(&mut self) {
        self.process.kill();
        let (process, address) = self.pipeline.start_ingest(&self.args, &[]);
        self.process = process;
        self.address.set(address);
    }
}
