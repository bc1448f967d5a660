//! `--healthcheck`: what a container engine runs inside the container, where there is no shell
//! and no curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::AdminArgs;

/// Shorter than the timeout that container engines give a health check by default (30 s).
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Why the program that was asked is not ready.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Without an address there is nobody to ask.
    #[error("--healthcheck needs --admin")]
    NoAddress,
    /// Nobody answered.
    #[error("no answer from {address}")]
    Silent {
        /// Who was asked.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It said so itself.
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Asks `/readyz` of the program that runs with this `--admin`. Blocks for a few seconds at most.
///
/// # Errors
/// It is not ready, or not there.
pub fn healthcheck(args: &AdminArgs) -> Result<(), Unhealthy> {
    let address = reachable(args.admin.ok_or(Unhealthy::NoAddress)?);
    let answer = ask(address).map_err(|source| Unhealthy::Silent { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let failed: Vec<_> = body
        .lines()
        .filter(|line| line.starts_with("failed"))
        .collect();
    Err(Unhealthy::NotReady(failed.join("; ")))
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// What listens on every address is asked on the loopback one.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answered_with(answer: &'static str) -> Result<(), Unhealthy> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = Some(listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = io::BufReader::new(&stream).lines().map(Result::unwrap);
            let request: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            stream.write_all(answer.as_bytes()).unwrap();
            request
        });
        let args = AdminArgs {
            admin,
            healthcheck: true,
        };
        let verdict = healthcheck(&args);
        assert_eq!(server.join().unwrap()[0], "GET /readyz HTTP/1.1");
        verdict
    }

    #[test]
    fn only_a_200_is_healthy() {
        answered_with("HTTP/1.1 200 OK\r\n\r\nok running\n").unwrap();
        let answer = "HTTP/1.1 503 Service Unavailable\r\n\r\nok sync\nfailed space: full\n";
        let error = answered_with(answer).unwrap_err();
        assert_eq!(error.to_string(), "not ready: failed space: full");
        assert!(answered_with("").is_err());
    }

    #[test]
    fn nobody_there_is_not_healthy() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let args = AdminArgs {
            admin: Some(free),
            healthcheck: true,
        };
        assert!(matches!(healthcheck(&args), Err(Unhealthy::Silent { .. })));
        assert!(matches!(
            healthcheck(&AdminArgs::default()),
            Err(Unhealthy::NoAddress)
        ));
    }

    #[test]
    fn every_address_is_asked_on_the_loopback_one() {
        for (listened, asked) in [
            ("0.0.0.0:9", "127.0.0.1:9"),
            ("[::]:9", "[::1]:9"),
            ("10.1.2.3:9", "10.1.2.3:9"),
        ] {
            assert_eq!(reachable(listened.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
