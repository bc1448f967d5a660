//! Tidies a spool: expires what nobody finishes or fetches, finishes what was left half done and
//! removes what crashes leave behind. Never needed for correctness: whoever comes across a
//! half-done step takes it further.

pub mod policy;

pub mod look;
pub mod report;
pub mod sweep;

pub mod config;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use shared::durable::Durability;
use shared::probe::Probe;
use shared::spool::{Options, Spool};
use shared::startup::{self, Exit, Failure, Shutdown};
use shared::time::UnixTime;
use tokio::time::MissedTickBehavior;

use config::Args;
use report::Report;
use sweep::{Rules, Spools, sweep};

/// The whole program, with the flags and the environment of this process.
pub fn main() -> ExitCode {
    startup::run_main(|args: Args| run(&args))
}

/// What it does: one pass, or one every so often until it is asked to stop.
///
/// # Errors
///
/// What makes the spool or a flag unusable, with [`Exit::USAGE`].
pub fn run(args: &Args) -> Result<Exit, Failure> {
    if let Some(path) = &args.textfile {
        check_textfile(path)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        // Before the first line of the log: who reads it may send a signal.
        let shutdown = Shutdown::on_signals()?;
        let (spools, probe) = open(args)?;
        let rules = Arc::new(args.rules(probe.is_network()));
        tokio::select! {
            ended = passes(args, &spools, &rules, &shutdown) => ended,
            () = shutdown.now() => Ok(Exit::FAILURE),
        }
    });
    // After a second signal a pass may hang on a disk that does not answer.
    runtime.shutdown_background();
    ended
}

fn open(args: &Args) -> Result<(Spools, Probe), Failure> {
    let opened = match args.dry_run {
        true => args.spool.open_existing(),
        false => args.spool.open(),
    };
    let (spool, probe) = opened.map_err(Failure::usage)?;
    tracing::info!(spool = %args.spool.spool.display(), filesystem = %probe, "spool opened");
    let unsynced = Options {
        durability: Durability::None,
        ..args.spool.options()
    };
    let quick = Spool::open(&args.spool.spool, unsynced).map_err(Failure::usage)?;
    let spools = Spools {
        kept: Arc::new(spool),
        quick: Arc::new(quick),
    };
    Ok((spools, probe))
}

/// A textfile that cannot be written should be told before the first pass, not after it.
fn check_textfile(path: &Path) -> Result<(), Failure> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name_is_fine = path.file_name().is_some() && !path.is_dir();
    if name_is_fine && dir.is_dir() {
        return Ok(());
    }
    let why = format!(
        "--textfile {}: not a file in an existing directory",
        path.display()
    );
    Err(Failure::usage(why))
}

async fn passes(
    args: &Args,
    spools: &Spools,
    rules: &Arc<Rules>,
    shutdown: &Shutdown,
) -> Result<Exit, Failure> {
    let Some(every) = args.every else {
        let report = pass(spools, rules, shutdown).await?;
        tell(args, &report)?;
        return Ok(if report.is_complete() {
            Exit::OK
        } else {
            Exit::FAILURE
        });
    };
    let mut ticks = tokio::time::interval(every.0);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while shutdown.is_running() {
        tokio::select! {
            _ = ticks.tick() => {
                let report = pass(spools, rules, shutdown).await?;
                // The next pass can do better, and the log has said what went wrong.
                if let Err(failure) = tell(args, &report) {
                    tracing::error!("{failure}");
                }
            }
            () = shutdown.draining() => {}
        }
    }
    Ok(Exit::OK)
}

async fn pass(spools: &Spools, rules: &Arc<Rules>, shutdown: &Shutdown) -> Result<Report, Failure> {
    let (spools, rules, shutdown) = (spools.clone(), Arc::clone(rules), shutdown.clone());
    let pass = move || {
        let now = sweep::clock(&spools.kept);
        sweep(&spools, &rules, now, &|| !shutdown.is_running())
    };
    Ok(tokio::task::spawn_blocking(pass).await?)
}

fn tell(args: &Args, report: &Report) -> Result<(), Failure> {
    report.print(args.json)?;
    if let Some(path) = &args.textfile {
        report.write_textfile(path, UnixTime::now())?;
    }
    Ok(())
}
