//! The server from its first connection to its last.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admin::{Admin, Health, IngestMetrics};
use shared::durable;
use shared::spool::Spool;
use shared::startup::{OpenError, Shutdown, systemd};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::events::Events;
use crate::ingest::Ingest;
use crate::net::accept::accept;
use crate::net::connection::{Shared, Timeouts};
use crate::net::listen::Listeners;
use crate::routes;
use crate::uploads::{self, Uploads};

/// Connections that may linger at their end at a time; others are closed at once.
const LINGERERS_MAX: usize = 256;

/// After the drain time: for the last bytes to be synced and the last answers to be read.
const LAST_WORDS: Duration = Duration::from_secs(7);

/// At the end, for listeners to hear what happened last. What is owed is on disk.
const EVENTS_FLUSH: Duration = Duration::from_secs(3);

/// How often the uploads are summed up: other processes create and end some, too.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Why the server could not start to serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be the spool.
    #[error(transparent)]
    Spool(#[from] OpenError),
    /// The spool cannot be read.
    #[error("cannot use the spool")]
    Uploads(#[source] io::Error),
    /// The listener cannot be used with the runtime.
    #[error("cannot accept connections")]
    Listener(#[source] io::Error),
    /// The file that tells the bound address could not be written.
    #[error("cannot write the ready file")]
    ReadyFile(#[source] io::Error),
}

/// A server whose spool has been tried out.
pub struct Server {
    config: Config,
    spool: Arc<Spool>,
    events: Arc<Events>,
    uploads: Uploads,
}

impl Server {
    /// Opens the spool, creating it where its parent exists.
    ///
    /// # Errors
    /// Why it cannot be one. Nothing is bound yet.
    pub fn open(config: Config) -> Result<Self, StartError> {
        let args = &config.spool;
        let (spool, probe) = args.open()?;
        if config.limits.size_max.is_none() {
            warn!("no --max-size: one upload may take all space but --min-free");
        }
        info!(spool = %args.spool.display(), filesystem = %probe, "spool opened");
        let policy = uploads::Policy {
            free_bytes_min: config.limits.free_bytes_min,
            digest: config.digest,
            direct_io: config.direct_io,
        };
        let spool = Arc::new(spool);
        let events = Events::new(Arc::clone(&spool), config.hooks.events.clone());
        let told = Arc::clone(&events);
        let uploads = Uploads::new(Arc::clone(&spool), &policy, &probe, told);
        Ok(Self {
            spool,
            events,
            uploads: uploads.map_err(StartError::Uploads)?,
            config,
        })
    }

    /// Serves `listeners` until `shutdown` and all its consequences.
    ///
    /// Asked to stop, it accepts nobody any more and lets uploads go on for the drain time; then
    /// it keeps what they have sent and tells them to come back. Asked again, it returns at once:
    /// what is lost then is what a SIGKILL would cost.
    ///
    /// # Errors
    /// When it cannot begin. Once it serves, it does so to its end.
    pub async fn run(self, listeners: Listeners, shutdown: Shutdown) -> Result<(), StartError> {
        let metrics = self.tell_of_itself(listeners.admin, &shutdown);
        let metrics = metrics.map_err(StartError::Listener)?;
        let Self {
            config,
            uploads,
            events,
            ..
        } = self;
        let listener = listeners.uploads;
        let address = listener.local_addr().map_err(StartError::Listener)?;
        listener
            .set_nonblocking(true)
            .map_err(StartError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(StartError::Listener)?;
        let cut = CancellationToken::new();
        let ingest = Arc::new(Ingest::new(&config, uploads, metrics.clone(), cut.clone()));
        events.start();
        let sweeper = tokio::spawn(look_after(Arc::clone(&ingest), shutdown.clone()));
        let assembler = tokio::spawn(ingest.uploads.assembling());
        let connections = config.connections;
        let shared = Arc::new(Shared {
            routes: warp::service(routes::routes(ingest)),
            timeouts: Timeouts {
                header: connections.header_timeout,
                keep_alive: connections.keep_alive_timeout,
            },
            lingerers: Arc::new(Semaphore::new(LINGERERS_MAX)),
            metrics,
            stopping: CancellationToken::new(),
        });
        if let Some(path) = &config.ready_file {
            announce(path, &address.to_string()).map_err(StartError::ReadyFile)?;
        }
        info!(%address, url = format!("http://{address}{}", config.base_path), "accepting uploads");
        systemd::ready();
        let ended = accept(listener, connections.max, shared, shutdown.draining()).await;
        tokio::select! {
            () = async {
                drain(ended, config.drain_timeout, &cut).await;
                events.flush(EVENTS_FLUSH).await;
            } => info!("stopped"),
            () = shutdown.now() => warn!("stopped at once"),
        }
        sweeper.abort();
        assembler.abort();
        Ok(())
    }

    /// Counts from now on, and answers on `listener` who asks what was counted. A draining server
    /// still tells that it drains.
    fn tell_of_itself(
        &self,
        listener: Option<TcpListener>,
        shutdown: &Shutdown,
    ) -> io::Result<IngestMetrics> {
        let mut admin = Admin::new("ingest");
        let metrics = IngestMetrics::register(admin.registry());
        let free_bytes_min = self.config.limits.free_bytes_min;
        let health = Health::new(Arc::clone(&self.spool), free_bytes_min, shutdown.clone());
        if let Some(listener) = listener {
            tokio::spawn(admin.serve(listener, health.clone())?);
        }
        let counted = metrics.clone();
        durable::observe_syncs(move |took, error| {
            counted.sync(took, error.is_none());
            // A full disk is no reason to doubt what it says; anything else is.
            if error.is_some_and(|error| !durable::is_full(error)) {
                health.poison();
            }
        });
        Ok(metrics)
    }
}

/// What needs no request: once at the start, and again and again where uploads must be summed up.
async fn look_after(ingest: Arc<Ingest>, shutdown: Shutdown) {
    loop {
        let (sweeping, stop) = (Arc::clone(&ingest), shutdown.clone());
        let swept =
            tokio::task::spawn_blocking(move || sweeping.uploads.sweep(|| stop.is_running()));
        match swept.await {
            Ok(Ok(true)) => tokio::time::sleep(SWEEP_EVERY).await,
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => {
                warn!(%error, "cannot look through the uploads");
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        }
    }
}

async fn drain(ended: impl Future<Output = ()>, drain_timeout: Duration, cut: &CancellationToken) {
    info!(
        ?drain_timeout,
        "stopping; uploads may go on for the drain time"
    );
    let mut ended = std::pin::pin!(ended);
    if timeout(drain_timeout, ended.as_mut()).await.is_ok() {
        return;
    }
    info!("the drain time is over; uploads are told to come back");
    cut.cancel();
    if timeout(LAST_WORDS, ended).await.is_err() {
        warn!("some connections did not end in time");
    }
}

/// Writes the bound address so that a reader sees all of it or nothing.
fn announce(path: &Path, address: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(hidden);
    std::fs::write(&temporary, format!("{address}\n"))?;
    durable::rename(&temporary, path).map_err(|error| error.source)
}
