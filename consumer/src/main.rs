//! The consumer's entry point.

use std::process::ExitCode;

use consumer::config::{Args, Config};
use shared::startup::{self, Failure};

fn main() -> ExitCode {
    startup::run_main(|args: Args| {
        let config = Config::check(args.work).map_err(Failure::usage)?;
        consumer::run::run(config)
    })
}
