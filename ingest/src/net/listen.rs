//! The listening socket and the options of each accepted one.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use admin::{AdminArgs, BindError};
use shared::startup::systemd::{self, InheritError, Inherited};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel completes before we accept them. Linux cuts it at
/// `net.core.somaxconn` (4096 by default); a burst beyond it costs a client a SYN retry.
const BACKLOG: i32 = 4096;

/// First keep-alive probe after this silence; the body's stall timeout comes first for uploads.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// How long an answer may lie unacknowledged before the kernel gives the peer up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// What systemd calls the socket for metrics and health (`FileDescriptorName=`); any other name
/// is the one for uploads.
pub const ADMIN_SOCKET: &str = "admin";

/// What the server answers on.
#[derive(Debug)]
pub struct Listeners {
    /// Clients with uploads.
    pub uploads: TcpListener,
    /// Who asks for metrics and health.
    pub admin: Option<TcpListener>,
}

/// Why there is nothing to answer on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is not ours or in use.
    #[error("cannot listen on {address}")]
    Bind {
        /// Of `--listen`.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The same for `--admin`.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// What was handed over is of no use.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// Which of several sockets is meant cannot be told.
    #[error("two sockets were handed over for the same: {0}")]
    Twice(String),
}

impl Listeners {
    /// The sockets that systemd hands over; for what it does not, those of the flags.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn open(listen: SocketAddr, admin: &AdminArgs) -> Result<Self, ListenError> {
        let (uploads, for_admin) = sort(systemd::inherited()?)?;
        let bound = |source| ListenError::Bind {
            address: listen,
            source,
        };
        Ok(Self {
            uploads: uploads.map_or_else(|| bind(listen), Ok).map_err(bound)?,
            admin: match for_admin {
                Some(listener) => Some(listener),
                None => admin.bind()?,
            },
        })
    }
}

type Sorted = (Option<TcpListener>, Option<TcpListener>);

/// Those for uploads and for the admin listener.
fn sort(inherited: Vec<Inherited>) -> Result<Sorted, ListenError> {
    let (mut uploads, mut admin) = (None, None);
    for Inherited { name, listener } in inherited {
        let place = match name.as_str() {
            ADMIN_SOCKET => &mut admin,
            _ => &mut uploads,
        };
        if place.replace(listener).is_some() {
            return Err(ListenError::Twice(name));
        }
    }
    Ok((uploads, admin))
}

/// A listener on `addr`, non-blocking, ready for the server. Port 0 lets the kernel choose.
///
/// # Errors
/// Whatever `socket`, `bind` and `listen` say, most often that the address is in use.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart fails while connections of the previous process are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sets what every accepted connection needs. A refusal is not worth losing the connection for.
pub(crate) fn tune(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    // Answers are one small write: Nagle would only delay the second of two pipelined ones.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(names: &[&str]) -> Vec<Inherited> {
        let inherit = |name: &&str| Inherited {
            name: (*name).to_owned(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        names.iter().map(inherit).collect()
    }

    #[test]
    fn sockets_are_told_apart_by_their_names() {
        for (names, expected) in [
            (&[][..], (false, false)),
            (&["ingest.socket"], (true, false)),
            (&["admin"], (false, true)),
            (&["admin", "uploads"], (true, true)),
        ] {
            let (uploads, admin) = sort(inherited(names)).unwrap();
            assert_eq!((uploads.is_some(), admin.is_some()), expected, "{names:?}");
        }
        for names in [&["a", "b"][..], &["admin", "x", "admin"]] {
            assert!(sort(inherited(names)).is_err(), "{names:?}");
        }
    }
}
