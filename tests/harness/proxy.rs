//! A TCP proxy that breaks connections: at planned positions of the byte stream, in the ways that
//! networks break them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::client::Address;
use crate::http::reset_on_close;

/// A way to break a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see an orderly close in the middle of the body.
    Fin,
    /// Both ends see a reset.
    Reset,
    /// The client sees a reset; the server sees nothing at all, as when a phone leaves the
    /// network: its connection stays open and silent.
    HalfOpen,
    /// Everything reaches the server, but its answer does not come back.
    LoseAnswer,
}

impl Cut {
    /// Every way there is.
    pub const ALL: [Self; 4] = [Self::Fin, Self::Reset, Self::HalfOpen, Self::LoseAnswer];
}

/// Where a proxy cuts: after how many bytes from clients (over all connections), and how.
#[derive(Clone, Debug, Default)]
pub struct Plan(Vec<(u64, Cut)>);

impl Plan {
    /// Relays everything.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// At these positions, in ascending order.
    #[must_use]
    pub fn at(mut cuts: Vec<(u64, Cut)>) -> Self {
        cuts.sort_by_key(|(position, _)| *position);
        Self(cuts)
    }

    /// `count` cuts at random positions within the first `bytes`, in all ways in turn. A client
    /// that sends `bytes` in the end meets all of them: what it sends again counts as well.
    #[must_use]
    pub fn random(seed: u64, count: u32, bytes: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let ways = Cut::ALL.iter().cycle().take(count as usize);
        Self::at(ways.map(|way| (random.u64(1..bytes), *way)).collect())
    }
}

/// The running proxy. Dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Address,
    stopped: AtomicBool,
    cuts: AtomicU64,
    relayed: AtomicU64,
    /// Cuts to come, the next one last.
    plan: Mutex<Vec<(u64, Cut)>>,
    links: Mutex<Vec<Weak<Link>>>,
    /// Connections to the server that stay open and silent though their client is gone.
    silent: Mutex<Vec<Arc<TcpStream>>>,
}

/// A client's connection and the one to the server that belongs to it.
///
/// Each socket has one descriptor only: a reset is sent by the close of the last one.
struct Link {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
    /// Answers are not passed on any more.
    deaf: AtomicBool,
    /// Broken on purpose: nothing is said to the other end.
    broken: AtomicBool,
}

impl Proxy {
    /// Listens on a port of its own and relays to `upstream` by `plan`.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn start(upstream: &Address, mut plan: Plan) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        plan.0.reverse();
        let shared = Arc::new(Shared {
            upstream: upstream.clone(),
            stopped: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            plan: Mutex::new(plan.0),
            links: Mutex::new(Vec::new()),
            silent: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were broken so far.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// How many bytes from clients were passed on so far.
    #[must_use]
    pub fn relayed(&self) -> u64 {
        self.shared.relayed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for link in locked(&self.shared.links)
            .drain(..)
            .filter_map(|link| link.upgrade())
        {
            shut(&link.client, Shutdown::Both);
            shut(&link.server, Shutdown::Both);
        }
        locked(&self.shared.silent).clear();
        // The accepting thread sees `stopped` at its next connection: this one.
        drop(TcpStream::connect_timeout(
            &self.address,
            Duration::from_secs(1),
        ));
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                let upstream = shared.upstream.get();
                match TcpStream::connect_timeout(&upstream, Duration::from_secs(5)) {
                    Ok(server) => shared.relay(client, server),
                    // A server that is down looks like any other broken connection.
                    Err(_) => reset_on_close(&client),
                }
            });
        }
    }

    fn relay(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        // Delayed small packets would only make tests slower.
        drop(client.set_nodelay(true).and(server.set_nodelay(true)));
        let link = Arc::new(Link {
            client: Arc::new(client),
            server: Arc::new(server),
            deaf: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        });
        {
            let mut links = locked(&self.links);
            links.retain(|link| link.strong_count() > 0);
            links.push(Arc::downgrade(&link));
        }
        let answers = {
            let (shared, link) = (Arc::clone(self), Arc::clone(&link));
            std::thread::spawn(move || shared.relay_answers(&link))
        };
        self.relay_requests(&link);
        drop(link);
        drop(answers.join());
    }

    /// Client to server, with the cuts.
    fn relay_requests(&self, link: &Link) {
        let (mut client, mut server) = (&*link.client, &*link.server);
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = client.read(&mut buffer) {
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                let (pass, cut) = self.judge(rest.len());
                if server.write_all(&rest[..pass]).is_err() {
                    return shut(client, Shutdown::Both);
                }
                rest = &rest[pass..];
                match cut {
                    None => (),
                    Some(Cut::LoseAnswer) => link.deaf.store(true, Ordering::SeqCst),
                    Some(cut) => return self.cut(cut, link),
                }
            }
        }
        if !link.broken.load(Ordering::SeqCst) {
            // The client has finished or is gone: the server sees the same.
            shut(server, Shutdown::Write);
        }
    }

    /// Server to client. What is answered on a deaf connection is lost together with it.
    fn relay_answers(&self, link: &Link) {
        let (mut client, mut server) = (&*link.client, &*link.server);
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = server.read(&mut buffer) {
            if link.deaf.load(Ordering::SeqCst) {
                return self.cut(Cut::Reset, link);
            }
            if client.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        if !link.broken.load(Ordering::SeqCst) {
            // Only this direction: the client may read the last answer while it still sends.
            shut(client, Shutdown::Write);
        }
    }

    /// How many of `n` bytes from a client pass before the next cut, which is then used up.
    fn judge(&self, n: usize) -> (usize, Option<Cut>) {
        let mut plan = locked(&self.plan);
        let before = self.relayed.load(Ordering::SeqCst);
        let due = plan.pop_if(|(position, _)| *position <= before + n as u64);
        let pass = due.map_or(n, |(position, _)| {
            usize::try_from(position.saturating_sub(before)).unwrap_or(n)
        });
        self.relayed.fetch_add(pass as u64, Ordering::SeqCst);
        (pass, due.map(|(_, cut)| cut))
    }

    fn cut(&self, cut: Cut, link: &Link) {
        if link.broken.swap(true, Ordering::SeqCst) {
            return;
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
        if cut == Cut::Fin {
            shut(&link.client, Shutdown::Both);
            return shut(&link.server, Shutdown::Both);
        }
        reset_on_close(&link.client);
        if cut == Cut::HalfOpen {
            locked(&self.silent).push(Arc::clone(&link.server));
        } else {
            reset_on_close(&link.server);
        }
        // Sends nothing, but ends the thread that reads, and with it the last use of the socket.
        shut(&link.client, Shutdown::Read);
        shut(&link.server, Shutdown::Read);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that is gone already is as good as shut.
fn shut(socket: &TcpStream, how: Shutdown) {
    drop(socket.shutdown(how));
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A server that reads all of a connection, then answers; returns what it read and how the
    /// reading ended.
    fn reader(
        answer: &'static [u8],
    ) -> (Address, std::thread::JoinHandle<(usize, io::Result<()>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::new(listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            let mut all = Vec::new();
            let ended = socket.read_to_end(&mut all);
            drop(socket.write_all(answer));
            (all.len(), ended.map(drop))
        });
        (address, thread)
    }

    fn send_through(plan: Plan) -> (u64, io::Result<Vec<u8>>, usize, io::Result<()>) {
        let (address, server) = reader(b"answer");
        let proxy = Proxy::start(&address, plan);
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        drop(client.write_all(&[7; 100_000]));
        drop(client.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let answered = client.read_to_end(&mut answer).map(|_| answer);
        let (received, ended) = server.join().unwrap();
        (proxy.cuts(), answered, received, ended)
    }

    #[test]
    fn without_a_cut_everything_passes_both_ways() {
        let (cuts, answer, received, ended) = send_through(Plan::none());
        assert_eq!(
            (cuts, answer.unwrap().as_slice(), received),
            (0, b"answer".as_slice(), 100_000)
        );
        ended.unwrap();
    }

    #[test]
    fn each_kind_of_cut_looks_as_it_should_at_both_ends() {
        let kind = |error: io::Error| error.kind();
        for cut in Cut::ALL {
            let (cuts, answer, received, ended) = send_through(Plan::at(vec![(54_321, cut)]));
            assert_eq!(cuts, 1, "{cut:?}");
            let answer = answer.map(|bytes| bytes.len()).map_err(kind);
            let ended = ended.map_err(kind);
            let reset = Err(io::ErrorKind::ConnectionReset);
            match cut {
                // Closed with bytes of the client still unread, so it may also look like a reset.
                Cut::Fin => {
                    assert!(matches!(
                        answer,
                        Ok(0) | Err(io::ErrorKind::ConnectionReset)
                    ));
                    assert_eq!((received, ended), (54_321, Ok(())));
                }
                Cut::Reset => {
                    assert_eq!(
                        (answer, ended),
                        (reset, Err(io::ErrorKind::ConnectionReset))
                    );
                }
                Cut::HalfOpen => {
                    assert_eq!(answer, reset);
                    assert_eq!((received, ended), (54_321, Err(io::ErrorKind::WouldBlock)));
                }
                Cut::LoseAnswer => {
                    assert_eq!(answer, reset);
                    assert_eq!((received, ended), (100_000, Ok(())));
                }
            }
        }
    }

    #[test]
    fn a_random_plan_is_the_same_for_the_same_seed_and_uses_every_cut() {
        let plan = Plan::random(1, 12, 1000);
        assert_eq!(
            format!("{plan:?}"),
            format!("{:?}", Plan::random(1, 12, 1000))
        );
        assert_eq!(plan.0.len(), 12);
        assert!(plan.0.is_sorted_by_key(|(position, _)| *position));
        for cut in Cut::ALL {
            assert_eq!(
                plan.0.iter().filter(|(_, way)| *way == cut).count(),
                3,
                "{cut:?}"
            );
        }
    }
}
