//! The program: flags to configuration, a listener, a runtime, and the exit code.

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use shared::startup::{self, Exit, Failure, Shutdown};

use crate::config::{Args, Config};
use crate::net::listen::Listeners;
use crate::process;
use crate::server::Server;

/// A worker that the kernel holds in a throttled `write` must not stall the others: more workers
/// than cores cost nothing measurable.
const WORKERS_MIN: usize = 8;

/// A sync that hangs in the kernel must not keep a stopped server alive for ever.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The whole program, with the flags and the environment of this process.
pub fn main() -> ExitCode {
    startup::run_main(serve)
}

fn serve(args: Args) -> Result<Exit, Failure> {
    let admin = args.admin.clone();
    if admin.healthcheck {
        return Ok(admin::healthcheck(&admin).map(|()| Exit::OK)?);
    }
    let config = Config::try_from(args).map_err(Failure::usage)?;
    let listen = config.listen;
    let connections_max = config.connections.max;
    let server = Server::open(config).map_err(Failure::usage)?;
    let listeners = Listeners::open(listen, &admin).map_err(Failure::usage)?;
    // Nothing is logged before it is certain that there is a server: what is wrong is one line.
    process::prepare(connections_max);
    let cores = available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS_MIN.max(2 * cores))
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        server.run(listeners, shutdown).await.map_err(Failure::from)
    });
    runtime.shutdown_timeout(LEAVE_WITHIN);
    served.map(|()| Exit::OK)
}
