//! The listening socket and the options of each accepted one.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

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

/// A listener on `addr`, non-blocking, ready for [`crate::run`]. Port 0 lets the kernel choose.
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
