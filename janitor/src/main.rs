//! janitor: see `--help`.

use janitor::config::Args;
use shared::startup;

fn main() -> std::process::ExitCode {
    startup::run_main(|args: Args| janitor::run(&args))
}
