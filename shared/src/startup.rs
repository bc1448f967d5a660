//! How every program starts and stops: flags and environment, logs, exit codes, signals.
//!
//! For the `main` of a program only; nothing else in this crate uses it, and nothing but
//! [`shutdown`] uses an async runtime.
//!
//! ```no_run
//! use shared::startup::{self, Exit, Failure, LogArgs, Program, SpoolArgs};
//!
//! /// What the program is for.
//! #[derive(clap::Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     spool: SpoolArgs,
//!     #[command(flatten)]
//!     log: LogArgs,
//! }
//!
//! impl Program for Args {
//!     const NAME: &'static str = "janitor"; // every flag is also JANITOR_{FLAG}
//!     fn log(&self) -> &LogArgs {
//!         &self.log
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     startup::run_main(|args: Args| {
//!         let entries = std::fs::read_dir(&args.spool.spool).map_err(Failure::usage)?;
//!         tracing::info!(entries = entries.count(), "counted");
//!         Ok(Exit::OK)
//!     })
//! }
//! ```

mod args;
mod command;
mod exit;
mod logs;
mod pages;
pub mod shutdown;
pub mod systemd;
mod values;

pub use args::{OpenError, SpoolArgs};
pub use command::{Program, command, parse_from, run_main};
pub use exit::{Exit, Failure};
pub use logs::{LogArgs, LogFilter, LogFormat};
pub use shutdown::Shutdown;
pub use values::{Bytes, InvalidValue, Mode, Period};
