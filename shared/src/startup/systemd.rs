//! What systemd gives to a service, and wants to hear from it. Without systemd nothing happens.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use sd_notify::NotifyState;

/// A socket that was handed over, and its name (`FileDescriptorName=`, else the unit's).
#[derive(Debug)]
pub struct Inherited {
    /// What the unit calls it.
    pub name: String,
    /// The socket.
    pub listener: TcpListener,
}

/// Why what was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// `LISTEN_FDS` and its companions make no sense, or the system said no.
    #[error("the sockets that systemd hands over cannot be used")]
    Unusable(#[source] io::Error),
    /// Not a TCP socket that listens.
    #[error("{name} is not a listening TCP socket")]
    NotListening {
        /// Which.
        name: String,
    },
}

/// The program does its work from now on (`Type=notify`).
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The program has begun to end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// The sockets that were handed over (`.socket` units). Call it once: it takes them.
///
/// # Errors
/// Something else was handed over.
pub fn inherited() -> Result<Vec<Inherited>, InheritError> {
    let given = sd_notify::listen_fds_with_names().map_err(InheritError::Unusable)?;
    let take = |(fd, name)| {
        #[expect(
            unsafe_code,
            reason = "a number in the environment has no safe interface"
        )]
        // SAFETY: LISTEN_PID was checked to be ours, so that these descriptors were opened for
        // us, and nothing but this function, which is called once, takes them.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        listening(fd, name)
    };
    given.map(take).collect()
}

fn listening(fd: OwnedFd, name: String) -> Result<Inherited, InheritError> {
    if is_tcp_listener(&fd) != Ok(true) {
        return Err(InheritError::NotListening { name });
    }
    let listener = TcpListener::from(fd);
    // systemd hands them over blocking.
    let set = listener.set_nonblocking(true);
    set.map_err(InheritError::Unusable)?;
    Ok(Inherited { name, listener })
}

fn is_tcp_listener(fd: &OwnedFd) -> Result<bool, Errno> {
    use std::os::fd::AsRawFd;
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let internet = matches!(
        address.family(),
        Some(nix::sys::socket::AddressFamily::Inet | nix::sys::socket::AddressFamily::Inet6)
    );
    Ok(internet && getsockopt(&fd.as_fd(), sockopt::AcceptConn)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn take(fd: impl Into<OwnedFd>) -> Result<Inherited, String> {
        listening(fd.into(), "web".to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_listening_tcp_socket_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        let taken = take(listener).unwrap();
        assert_eq!(taken.listener.local_addr().unwrap(), address);
        let flags = nix::fcntl::fcntl(&taken.listener, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert_ne!(
            flags & nix::libc::O_NONBLOCK,
            0,
            "tokio refuses blocking sockets"
        );
        let dir = tempfile::tempdir().unwrap();
        let others: [OwnedFd; 4] = [
            connected.into(),
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            UnixListener::bind(dir.path().join("s")).unwrap().into(),
            File::open("/dev/null").unwrap().into(),
        ];
        for other in others {
            assert_eq!(
                take(other).unwrap_err(),
                "web is not a listening TCP socket"
            );
        }
    }

    #[test]
    fn without_systemd_nothing_is_handed_over() {
        assert!(inherited().unwrap().is_empty());
        ready();
    }
}
