//! What the pipeline costs: starts the real programs on a fresh filesystem, drives them, verifies
//! every byte, and prints one table per scenario.
//!
//! The figure to trust is the server's CPU time (user + system, all its processes): wall time is
//! the machine's mood. Servers that are compared run in the same rounds, one after the other, and
//! each row is the median and the minimum of its rounds.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

mod client;
mod disk;
mod payload;
mod process;
mod scenarios;
mod servers;
mod sink;
mod table;

use anyhow::Context;
use clap::Parser;

use scenarios::Scenario;

/// Measures the pipeline, alone and beside others.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Args {
    /// What to measure; all but the longest, if nothing is named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Interleaved rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Filesystem to make for every run
    #[arg(long, default_value = "ext4")]
    fs: disk::Fs,
    /// Directory in which `bench/peers/install` has put the other servers
    #[arg(long, default_value = "target/peers")]
    peers: std::path::PathBuf,
    /// Directory for the images of the filesystems; /dev/shm for a disk that costs nothing
    #[arg(long, default_value = "/var/tmp")]
    images: std::path::PathBuf,
    /// Connections of `small`
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<u64>,
    /// Leave the other servers out
    #[arg(long)]
    alone: bool,
    /// Sizes and counts divided by this: to try the program, not to quote figures
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// Directory with ingest, consumer and janitor [default: beside this program]
    #[arg(long)]
    bin: Option<std::path::PathBuf>,
    #[command(subcommand)]
    internal: Option<Internal>,
}

#[derive(clap::Subcommand, Debug)]
enum Internal {
    /// The bare read/write loop that the others are compared with
    #[command(hide = true)]
    Sink(sink::Args),
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Internal::Sink(args)) = &args.internal {
        return sink::run(args);
    }
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "making filesystems needs root"
    );
    describe(&args)?;
    let chosen = if args.scenarios.is_empty() {
        Scenario::usual()
    } else {
        &args.scenarios
    };
    for &scenario in chosen {
        scenario
            .run(&args)
            .with_context(|| format!("scenario {scenario:?}"))?;
    }
    Ok(())
}

/// The command and the machine, so that figures are never without them.
fn describe(args: &Args) -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("bench {}\n", words.join(" "));
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    println!(
        "{cores} cores, {}, Linux {}, {:?} on a loop device with its image in {}; load at the start {}\n",
        model.unwrap_or("unknown CPU"),
        kernel.trim(),
        args.fs,
        args.images.display(),
        load.split(' ').next().unwrap_or_default(),
    );
    Ok(())
}
