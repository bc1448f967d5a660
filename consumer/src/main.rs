//! The consumer's entry point.

use std::process::ExitCode;

use consumer::config::{Args, Config};
use consumer::operate::Tool;
use shared::startup::{self, Exit, Failure};

fn main() -> ExitCode {
    if Tool::is_asked_for(std::env::args_os().nth(1).as_deref()) {
        return startup::run_main(|tool: Tool| consumer::operate::run(tool.operate));
    }
    startup::run_main(|args: Args| {
        if args.admin.healthcheck {
            return Ok(admin::healthcheck(&args.admin).map(|()| Exit::OK)?);
        }
        let config = Config::check(args.work).map_err(Failure::usage)?;
        let admin = args.admin.bind().map_err(Failure::usage)?;
        consumer::run::run(config, admin)
    })
}
