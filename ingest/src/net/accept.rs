//! The accept loop: how many connections there may be, and what happens when the kernel has no
//! more descriptors.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::connection::{self, Routes, Shared};
use super::in_place::in_place;
use super::listen;

/// Pause before the next `accept` when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`, then closes the listener (new clients are refused at once and go to
/// another process) and asks every connection to end after its current request. The returned
/// future ends when all have.
pub(crate) async fn accept<R: Routes, S: Future<Output = ()>>(
    listener: TcpListener,
    connections_max: usize,
    shared: Arc<Shared<R>>,
    stop: S,
) -> impl Future<Output = ()> + use<R, S> {
    let free = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // The permit comes first: who does not fit stays in the kernel's queue.
            let permit = Arc::clone(&free).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stop => break,
            Some(accepted) = next => accepted,
        };
        let Some((stream, peer)) = accepted_or_pause(accepted).await else {
            continue;
        };
        let connection = connection::serve(
            Arc::clone(&shared),
            stream,
            peer,
            graceful.watcher(),
            permit,
        );
        tokio::spawn(in_place(connection));
    }
    drop(listener);
    shared.stopping.cancel();
    graceful.shutdown()
}

async fn accepted_or_pause(
    accepted: io::Result<(TcpStream, SocketAddr)>,
) -> Option<(TcpStream, SocketAddr)> {
    match accepted {
        Ok((stream, peer)) => {
            if let Err(error) = listen::tune(&stream) {
                debug!(%peer, %error, "could not set a socket option");
            }
            Some((stream, peer))
        }
        Err(error) if is_exhaustion(&error) => {
            warn!(%error, "cannot accept connections");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            None
        }
        // The client gave up while it waited in the queue.
        Err(error) => {
            debug!(%error, "accept failed");
            None
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|raw| exhausted.contains(&Errno::from_raw(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_resources_pauses_the_loop() {
        assert!(is_exhaustion(&io::Error::from_raw_os_error(
            Errno::EMFILE as i32
        )));
        assert!(!is_exhaustion(&io::Error::from_raw_os_error(
            Errno::ECONNABORTED as i32
        )));
        assert!(!is_exhaustion(&io::ErrorKind::TimedOut.into()));
    }
}
