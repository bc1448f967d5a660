//! From flags and environment ([`Args`]) to what the server runs with ([`Config`]).
//!
//! Everything that can be wrong with a flag is found here, before anything is bound or touched.

mod args;
mod hooks;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use shared::size::Length;
use shared::startup::SpoolArgs;

pub use self::args::Args;
use self::args::{Draft, LimitArgs, MAX_CONNECTIONS_DEFAULT};
pub use self::hooks::Hooks;
use crate::cors::{Cors, InvalidOrigin};
use crate::draft::version::Drafts;
use crate::hooks::InvalidHook;
use crate::hooks::webhook::InvalidSecret;
use crate::location::{InvalidFlag, Locator, TrustedProxies};
use crate::process::affordable_connections;
use crate::tus::capabilities::{Capabilities, Extensions};
use crate::tus::checksum::Algorithm;
use crate::tus::metadata::{FileNameRule, MetadataRules};

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
    /// Digest that every record gets.
    pub digest: Option<Algorithm>,
    /// Whether large bodies may be written past the page cache.
    pub direct_io: bool,
    /// Forms of the IETF draft that are spoken.
    pub drafts: Drafts,
    /// Whose pages may use the server from a browser.
    pub cors: Cors,
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
    /// Bytes per second that a body must bring on average over a minute; 0 for however few.
    pub rate_min: u64,
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
    /// `--cors-origin` has an entry that is no origin.
    #[error("--cors-origin: {0}")]
    Cors(InvalidOrigin),
    /// A limit of zero would refuse everything.
    #[error("{0} must not be 0")]
    Zero(&'static str),
    /// A hook that can never work.
    #[error("{0}: {1}")]
    Hook(&'static str, InvalidHook),
    /// Messages to an endpoint are always signed.
    #[error("--event-url needs --event-secret or --event-secret-file")]
    NoSecret,
    /// One of the two would be ignored.
    #[error("--event-secret and --event-secret-file exclude each other")]
    TwoSecrets,
    /// Not a secret of the Standard Webhooks scheme.
    #[error("--event-secret: {0}")]
    Secret(InvalidSecret),
    /// The file cannot be read.
    #[error("--event-secret-file {}: {reason}", path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in the system's words.
        reason: String,
    },
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
            storage,
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
            digest: protocol.digest.algorithm(),
            direct_io: !storage.no_direct_io,
            drafts: Drafts {
                numbered: protocol.draft != Draft::Off,
                headerless: protocol.draft == Draft::All,
                interim: !protocol.no_interim,
            },
            cors: Cors::parse(protocol.cors_origin.iter().map(String::as_str))
                .map_err(InvalidConfig::Cors)?,
            extensions: disabled
                .into_iter()
                .fold(Extensions::all(), Extensions::without),
            expire_after: Some(protocol.expire_after.0).filter(|span| !span.is_zero()),
            base_path,
            connections: Connections {
                max: match network.max_connections {
                    Some(asked) => positive("--max-connections", asked)?,
                    None => affordable_connections(MAX_CONNECTIONS_DEFAULT),
                },
                header_timeout: positive("--header-timeout", network.header_timeout)?.0,
                keep_alive_timeout: positive("--keep-alive-timeout", network.keep_alive_timeout)?.0,
                stall_timeout: positive("--stall-timeout", network.stall_timeout)?.0,
                rate_min: network.min_rate.0,
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
mod tests;
