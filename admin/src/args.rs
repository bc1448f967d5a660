use std::io;
use std::net::{SocketAddr, TcpListener};

/// Where the admin listener is. Flatten it into a program's arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AdminArgs {
    /// Address for /metrics, /healthz and /readyz; not for the public [default: none]
    #[arg(long, value_name = "ADDRESS", help_heading = "Admin")]
    pub admin: Option<SocketAddr>,

    /// Ask the program that runs with this --admin whether it is ready, and end: exit code 0 if so
    #[arg(long, requires = "admin", help_heading = "Admin")]
    pub healthcheck: bool,
}

/// The address of `--admin` cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on --admin {address}")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl AdminArgs {
    /// The listener, if one is wanted.
    ///
    /// # Errors
    /// The address is not ours or in use.
    pub fn bind(&self) -> Result<Option<TcpListener>, BindError> {
        let Some(address) = self.admin else {
            return Ok(None);
        };
        let bound = TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        bound
            .map(Some)
            .map_err(|source| BindError { address, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_bound_unless_asked_for() {
        assert!(AdminArgs::default().bind().unwrap().is_none());
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let args = AdminArgs {
            admin: Some(address),
            healthcheck: false,
        };
        let error = args.bind().unwrap_err().to_string();
        assert_eq!(error, format!("cannot listen on --admin {address}"));
    }
}
