//! janitor

use janitor::config::Args;
use shared::startup::{self, Exit};

fn main() -> std::process::ExitCode {
    startup::run_main(|args: Args| {
        tracing::info!(spool = %args.spool.spool.display(), "started");
        Ok(Exit::OK)
    })
}
