//! From flags and environment ([`Args`]) to what the server runs with ([`Config`]).
//!
//! Everything that can be wrong with a flag is found here, before anything is bound or touched.

mod hooks;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use admin::AdminArgs;
use shared::size::Length;
use shared::startup::{Bytes, LogArgs, Period, Program, SpoolArgs};

use self::hooks::HookArgs;
pub use self::hooks::Hooks;
use crate::location::{InvalidFlag, Locator, Mode, PublicUrl, TrustedProxies};
use crate::tus::capabilities::{Capabilities, Extension, Extensions};
use crate::tus::metadata::{FileNameRule, MetadataRules};

/// Free space that uploads leave to others: enough for records, receipts and a log rotation.
const MIN_FREE_DEFAULT: Bytes = Bytes(256 << 20);
/// More than nginx's default per worker; a connection at rest costs a few KiB.
const MAX_CONNECTIONS_DEFAULT: usize = 10_000;
/// As tussi: what a client needs for names and types, not for contents.
const MAX_METADATA_SIZE_DEFAULT: Bytes = Bytes(4096);
/// Long enough for a phone on a train, short enough that 10,000 silent ones do not last.
const HEADER_TIMEOUT_DEFAULT: Period = Period::from_secs(30);
/// Longer than the idle timeout of common proxies' upstream connections (nginx: 60 s), so that
/// the proxy closes first and no request meets a closing connection.
const KEEP_ALIVE_TIMEOUT_DEFAULT: Period = Period::from_secs(75);
/// A body from which nothing came for so long has no sender any more.
const STALL_TIMEOUT_DEFAULT: Period = Period::from_secs(60);
/// When the janitor removes an idle upload by default: what is promised must be true.
const EXPIRE_AFTER_DEFAULT: Period = Period::from_secs(86_400);
/// Below the 30 s that docker and Kubernetes grant before SIGKILL.
const DRAIN_TIMEOUT_DEFAULT: Period = Period::from_secs(20);

/// Receives resumable uploads (tus 1.0.0) into a spool directory
#[derive(Debug, clap::Parser)]
pub struct Args {
    #[command(flatten)]
    pub(crate) spool: SpoolArgs,

    #[command(flatten)]
    pub(crate) network: NetworkArgs,

    #[command(flatten)]
    pub(crate) protocol: ProtocolArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Where metrics and health are told.
    #[command(flatten)]
    pub admin: AdminArgs,

    #[command(flatten)]
    pub(crate) hooks: HookArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1080")]
    listen: String,

    /// File to write the bound address to once connections are accepted
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,

    /// Path below which uploads are created
    #[arg(long, value_name = "PATH", default_value = "/files/")]
    base_path: String,

    /// Connections served at a time; more wait in the kernel's queue
    #[arg(long, value_name = "N", default_value_t = MAX_CONNECTIONS_DEFAULT)]
    max_connections: usize,

    /// Time for a request's headers to arrive
    #[arg(long, value_name = "TIME", default_value_t = HEADER_TIMEOUT_DEFAULT)]
    header_timeout: Period,

    /// Time that a connection may be idle between two requests
    #[arg(long, value_name = "TIME", default_value_t = KEEP_ALIVE_TIMEOUT_DEFAULT)]
    keep_alive_timeout: Period,

    /// Time without a byte after which an upload's connection is given up; its bytes are kept
    #[arg(long, value_name = "TIME", default_value_t = STALL_TIMEOUT_DEFAULT)]
    stall_timeout: Period,

    /// Time that running uploads have after SIGTERM; then their bytes are kept and they are told
    /// to come back
    #[arg(long, value_name = "TIME", default_value_t = DRAIN_TIMEOUT_DEFAULT)]
    drain_timeout: Period,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Protocol")]
pub(crate) struct ProtocolArgs {
    /// Form of the URL that a new upload gets; auto is absolute, but relative behind a proxy that
    /// is not trusted
    #[arg(long, value_name = "auto|absolute|relative", default_value = "auto")]
    location: Mode,

    /// URL by which clients reach this server, if it cannot be told from their requests
    #[arg(long, value_name = "URL")]
    public_url: Option<PublicUrl>,

    /// Proxies whose X-Forwarded-* is believed: addresses, networks, or `unix`
    #[arg(long, value_name = "IP|CIDR,…", value_delimiter = ',')]
    trusted_proxies: Vec<String>,

    /// Extensions of tus to switch off
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    disable_extensions: Vec<Extension>,

    /// Idle time after which an unfinished upload is gone; 0 for never
    #[arg(long, value_name = "TIME", default_value_t = EXPIRE_AFTER_DEFAULT)]
    expire_after: Period,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Largest upload [default: none]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Bytes>,

    /// Largest body of one request; bodies are streamed, so that none is needed [default: none]
    #[arg(long, value_name = "SIZE")]
    max_chunk_size: Option<Bytes>,

    /// Longest Upload-Metadata header
    #[arg(long, value_name = "SIZE", default_value_t = MAX_METADATA_SIZE_DEFAULT)]
    max_metadata_size: Bytes,

    /// Characters allowed in the metadata value `filename`
    #[arg(long, value_name = "utf8|ascii", default_value = "utf8")]
    filename: FileNameRule,

    /// Space that uploads leave free; what would take it is refused with 507
    #[arg(long, value_name = "SIZE", default_value_t = MIN_FREE_DEFAULT)]
    min_free: Bytes,
}

impl Program for Args {
    const NAME: &'static str = "ingest";

    fn log(&self) -> &LogArgs {
        &self.log
    }
}

/// What the server runs with. Every value has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The spool's directory.
    pub spool: SpoolArgs,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to write the bound address.
    pub ready_file: Option<PathBuf>,
    /// Where uploads live; begins and ends with a slash.
    pub base_path: String,
    /// How the URL of an upload is made.
    pub locator: Locator,
    /// Extensions that are offered.
    pub extensions: Extensions,
    /// Idle time after which an unfinished upload is gone.
    pub expire_after: Option<Duration>,
    /// Bounds on connections.
    pub connections: Connections,
    /// Time that running uploads have once the server is asked to stop.
    pub drain_timeout: Duration,
    /// Bounds on uploads.
    pub limits: Limits,
    /// What the operator's own programs are asked and told.
    pub hooks: Hooks,
}

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// How many at a time.
    pub max: usize,
    /// For a request's headers to arrive.
    pub header_timeout: Duration,
    /// Between two requests.
    pub keep_alive_timeout: Duration,
    /// Without a byte of a body.
    pub stall_timeout: Duration,
}

/// Bounds on uploads.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest upload in bytes.
    pub size_max: Option<Length>,
    /// Largest body of one request in bytes.
    pub body_bytes_max: Option<u64>,
    /// Longest `Upload-Metadata` in bytes.
    pub metadata_bytes_max: usize,
    /// Characters allowed in `filename`.
    pub filename: FileNameRule,
    /// Bytes that uploads leave free on the spool's filesystem.
    pub free_bytes_min: u64,
}

/// A flag whose value is of the right form but makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidConfig {
    /// `--listen` is neither address and port nor a name that resolves.
    #[error("--listen '{0}' is not an address like 127.0.0.1:1080")]
    Listen(String),
    /// `--base-path` could not be part of a URL as it is.
    #[error("--base-path '{0}' is not a path of letters, digits, '-', '_', '.', '~' and '/'")]
    BasePath(String),
    /// `--trusted-proxies` has an entry that is none.
    #[error("--trusted-proxies: {0}")]
    Proxies(InvalidFlag),
    /// A limit of zero would refuse everything.
    #[error("{0} must not be 0")]
    Zero(&'static str),
    /// A length that no file can have.
    #[error("--max-size is larger than a file can be")]
    TooLarge,
}

impl TryFrom<Args> for Config {
    type Error = InvalidConfig;

    fn try_from(args: Args) -> Result<Self, InvalidConfig> {
        let Args {
            spool,
            network,
            protocol,
            limits,
            admin: _,
            hooks,
            log: _,
        } = args;
        let base_path = normalize(&network.base_path)?;
        let disabled = protocol.disable_extensions;
        Ok(Self {
            spool,
            listen: resolve(&network.listen)?,
            ready_file: network.ready_file,
            locator: Locator {
                mode: protocol.location,
                public_url: protocol.public_url,
                trusted: TrustedProxies::parse(protocol.trusted_proxies.iter().map(String::as_str))
                    .map_err(InvalidConfig::Proxies)?,
                base: base_path.clone(),
            },
            extensions: disabled
                .into_iter()
                .fold(Extensions::all(), Extensions::without),
            expire_after: Some(protocol.expire_after.0).filter(|span| !span.is_zero()),
            base_path,
            connections: Connections {
                max: positive("--max-connections", network.max_connections)?,
                header_timeout: positive("--header-timeout", network.header_timeout)?.0,
                keep_alive_timeout: positive("--keep-alive-timeout", network.keep_alive_timeout)?.0,
                stall_timeout: positive("--stall-timeout", network.stall_timeout)?.0,
            },
            drain_timeout: network.drain_timeout.0,
            limits: Limits::try_from(limits)?,
            hooks: Hooks::try_from(hooks)?,
        })
    }
}

impl Config {
    /// The protocol's side of it.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let limits = &self.limits;
        Capabilities {
            extensions: self.extensions,
            expire_after: self.expire_after,
            max_size: limits.size_max.map(|size| size.0),
            max_chunk: limits.body_bytes_max,
            metadata: MetadataRules {
                max_raw: limits.metadata_bytes_max,
                filename: limits.filename,
            },
            ..Capabilities::default()
        }
    }
}

impl TryFrom<LimitArgs> for Limits {
    type Error = InvalidConfig;

    fn try_from(args: LimitArgs) -> Result<Self, InvalidConfig> {
        let size_max = args
            .max_size
            .map(|size| positive("--max-size", size))
            .transpose()?;
        let size_max = size_max.map(|size| Length(size.0));
        if size_max.is_some_and(|size| Length::MAX < size) {
            return Err(InvalidConfig::TooLarge);
        }
        let body_bytes_max = args
            .max_chunk_size
            .map(|size| positive("--max-chunk-size", size));
        Ok(Self {
            size_max,
            body_bytes_max: body_bytes_max.transpose()?.map(|size| size.0),
            metadata_bytes_max: usize::try_from(args.max_metadata_size.0).unwrap_or(usize::MAX),
            filename: args.filename,
            free_bytes_min: args.min_free.0,
        })
    }
}

fn positive<T: PartialEq + Default>(flag: &'static str, value: T) -> Result<T, InvalidConfig> {
    if value == T::default() {
        Err(InvalidConfig::Zero(flag))
    } else {
        Ok(value)
    }
}

fn resolve(listen: &str) -> Result<SocketAddr, InvalidConfig> {
    let resolved = listen
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next());
    resolved.ok_or_else(|| InvalidConfig::Listen(listen.to_owned()))
}

/// `/files`, `files/` and `/files/` are one path.
fn normalize(path: &str) -> Result<String, InvalidConfig> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    let inner = path.trim_matches('/');
    let segments_fine = inner.is_empty() || inner.split('/').all(|s| !matches!(s, "" | "." | ".."));
    if path.is_empty() || !path.bytes().all(allowed) || !segments_fine {
        return Err(InvalidConfig::BasePath(path.to_owned()));
    }
    Ok(if inner.is_empty() {
        "/".to_owned()
    } else {
        format!("/{inner}/")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use shared::durable::Durability;

    use super::*;

    fn config(args: &[&str]) -> Result<Config, InvalidConfig> {
        let args = ["ingest", "--spool", "/nowhere"].iter().chain(args);
        Config::try_from(Args::try_parse_from(args).unwrap())
    }

    #[test]
    fn the_defaults_are_what_the_documentation_says() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:1080".parse().unwrap());
        assert_eq!(config.base_path, "/files/");
        assert_eq!(config.spool.durability, Durability::EveryPatch);
        assert_eq!(config.limits.metadata_bytes_max, 4096);
        assert_eq!(config.limits.size_max, None);
        assert_eq!(config.limits.body_bytes_max, None);
        assert_eq!(config.limits.filename, FileNameRule::Utf8);
    }

    #[test]
    fn a_base_path_is_made_to_begin_and_end_with_a_slash() {
        for path in ["/files/", "/files", "files", "files/"] {
            assert_eq!(normalize(path).unwrap(), "/files/", "{path}");
        }
        assert_eq!(normalize("/").unwrap(), "/");
        assert_eq!(normalize("/a/b-c").unwrap(), "/a/b-c/");
        for path in [
            "", "/a//b", "/../x", "/a/./b", "/a?b", "/a b", "/ä", "/%41", "/a#",
        ] {
            assert!(normalize(path).is_err(), "{path}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let cases: [(&[&str], InvalidConfig); 6] = [
            (&["--max-size", "0"], InvalidConfig::Zero("--max-size")),
            (&["--max-size", "15EiB"], InvalidConfig::TooLarge),
            (
                &["--max-chunk-size", "0"],
                InvalidConfig::Zero("--max-chunk-size"),
            ),
            (
                &["--max-connections", "0"],
                InvalidConfig::Zero("--max-connections"),
            ),
            (
                &["--stall-timeout", "0"],
                InvalidConfig::Zero("--stall-timeout"),
            ),
            (
                &["--listen", "nonsense"],
                InvalidConfig::Listen("nonsense".to_owned()),
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(config(args).unwrap_err(), expected, "{args:?}");
        }
    }
}
