//! The program: the worker, or the operator's tool if one of its words comes first.

use std::process::ExitCode;

use shared::startup::{self, Exit, Failure};

use crate::config::{Args, Config};
use crate::operate::{self, Tool};
use crate::run;

/// The whole program, with the flags and the environment of this process.
pub fn main() -> ExitCode {
    if Tool::is_asked_for(std::env::args_os().nth(1).as_deref()) {
        return startup::run_main(|tool: Tool| operate::run(tool.operate));
    }
    startup::run_main(|args: Args| {
        if args.admin.healthcheck {
            return Ok(admin::healthcheck(&args.admin).map(|()| Exit::OK)?);
        }
        let config = Config::check(args.work).map_err(Failure::usage)?;
        let admin = args.admin.bind().map_err(Failure::usage)?;
        run::run(config, admin)
    })
}
