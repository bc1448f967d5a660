//! The flags, each also an environment variable (`--max-size` is `INGEST_MAX_SIZE`), and their
//! defaults with the reason for each number.

use std::path::PathBuf;

use admin::AdminArgs;
use clap::ValueEnum;
use shared::startup::{Bytes, LogArgs, Period, Program, SpoolArgs};

use super::hooks::HookArgs;
use crate::location::{Mode, PublicUrl};
use crate::tus::capabilities::Extension;
use crate::tus::checksum::Algorithm;
use crate::tus::metadata::FileNameRule;

/// Free space that uploads leave to others: enough for records, receipts and a log rotation.
const MIN_FREE_DEFAULT: Bytes = Bytes(256 << 20);
/// More than nginx's default per worker; a connection at rest costs a few KiB.
pub(super) const MAX_CONNECTIONS_DEFAULT: usize = 10_000;
/// As tussi: what a client needs for names and types, not for contents.
const MAX_METADATA_SIZE_DEFAULT: Bytes = Bytes(4096);
/// Long enough for a phone on a train, short enough that 10,000 silent ones do not last.
const HEADER_TIMEOUT_DEFAULT: Period = Period::from_secs(30);
/// Longer than the idle timeout of common proxies' upstream connections (nginx: 60 s), so that
/// the proxy closes first and no request meets a closing connection.
const KEEP_ALIVE_TIMEOUT_DEFAULT: Period = Period::from_secs(75);
/// A body from which nothing came for so long has no sender any more.
const STALL_TIMEOUT_DEFAULT: Period = Period::from_secs(60);
/// Whoever sends at all is served: what is uploaded may come into being as slowly as a log.
const MIN_RATE_DEFAULT: Bytes = Bytes(0);
/// When the janitor removes an idle upload by default: what is promised must be true.
const EXPIRE_AFTER_DEFAULT: Period = Period::from_secs(86_400);
/// Below the 30 s that docker and Kubernetes grant before SIGKILL.
const DRAIN_TIMEOUT_DEFAULT: Period = Period::from_secs(20);

/// Receives resumable uploads (tus 1.0.0) into a spool directory
#[derive(Debug, clap::Parser)]
pub struct Args {
    #[command(flatten)]
    pub(super) spool: SpoolArgs,

    #[command(flatten)]
    pub(super) network: NetworkArgs,

    #[command(flatten)]
    pub(super) protocol: ProtocolArgs,

    #[command(flatten)]
    pub(super) limits: LimitArgs,

    #[command(flatten)]
    pub(super) storage: StorageArgs,

    /// Where metrics and health are told.
    #[command(flatten)]
    pub admin: AdminArgs,

    #[command(flatten)]
    pub(super) hooks: HookArgs,

    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network")]
pub(super) struct NetworkArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1080")]
    pub(super) listen: String,

    /// File to write the bound address to once connections are accepted
    #[arg(long, value_name = "FILE")]
    pub(super) ready_file: Option<PathBuf>,

    /// Path below which uploads are created
    #[arg(long, value_name = "PATH", default_value = "/files/")]
    pub(super) base_path: String,

    /// Connections served at a time; more wait in the kernel's queue [default: 10000, or fewer if
    /// the limit on file descriptors demands it]
    #[arg(long, value_name = "N")]
    pub(super) max_connections: Option<usize>,

    /// Time for a request's headers to arrive
    #[arg(long, value_name = "DURATION", default_value_t = HEADER_TIMEOUT_DEFAULT)]
    pub(super) header_timeout: Period,

    /// Time that a connection may be idle between two requests
    #[arg(long, value_name = "DURATION", default_value_t = KEEP_ALIVE_TIMEOUT_DEFAULT)]
    pub(super) keep_alive_timeout: Period,

    /// Time without a byte after which an upload's connection is given up; its bytes are kept
    #[arg(long, value_name = "DURATION", default_value_t = STALL_TIMEOUT_DEFAULT)]
    pub(super) stall_timeout: Period,

    /// Bytes per second below which, over a minute, an upload's connection is given up as one that
    /// stalls; for servers whose connections strangers could occupy by trickling. 0 for never
    #[arg(long, value_name = "SIZE", default_value_t = MIN_RATE_DEFAULT)]
    pub(super) min_rate: Bytes,

    /// Time that running uploads have after SIGTERM; then their bytes are kept and they are told
    /// to come back
    #[arg(long, value_name = "DURATION", default_value_t = DRAIN_TIMEOUT_DEFAULT)]
    pub(super) drain_timeout: Period,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Protocol")]
pub(super) struct ProtocolArgs {
    /// Form of the URL that a new upload gets; auto is absolute, but relative behind a proxy that
    /// is not trusted
    #[arg(long, value_name = "auto|absolute|relative", default_value = "auto")]
    pub(super) location: Mode,

    /// URL by which clients reach this server, if it cannot be told from their requests
    #[arg(long, value_name = "URL")]
    pub(super) public_url: Option<PublicUrl>,

    /// Proxies whose X-Forwarded-* is believed: addresses, networks, or `unix`
    #[arg(long, value_name = "IP|CIDR,…", value_delimiter = ',')]
    pub(super) trusted_proxies: Vec<String>,

    /// Origins whose pages may upload, or * for any; without it no CORS header is sent
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',')]
    pub(super) cors_origin: Vec<String>,

    /// Extensions of tus to switch off
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(super) disable_extensions: Vec<Extension>,

    /// Forms of the IETF draft "Resumable Uploads for HTTP" to speak besides tus: the interop
    /// versions 3, 5, 6 and 8, or with `all` also requests that name none, as the RFC will have
    /// them (experimental)
    #[arg(long, value_name = "off|numbered|all", default_value = "numbered")]
    pub(super) draft: Draft,

    /// Send no 104 (Upload Resumption Supported), for proxies that choke on it
    #[arg(long)]
    pub(super) no_interim: bool,

    /// Digest of the whole file to compute for its record; one that a client declares is always
    /// checked
    #[arg(long, value_name = "sha256|blake3|none", default_value = "none")]
    pub(super) digest: Digest,

    /// Idle time after which an unfinished upload is gone; 0 for never
    #[arg(long, value_name = "DURATION", default_value_t = EXPIRE_AFTER_DEFAULT)]
    pub(super) expire_after: Period,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Largest upload [default: none]
    #[arg(long, value_name = "SIZE")]
    pub(super) max_size: Option<Bytes>,

    /// Largest body of one request; bodies are streamed, so that none is needed [default: none]
    #[arg(long, value_name = "SIZE")]
    pub(super) max_chunk_size: Option<Bytes>,

    /// Longest Upload-Metadata header
    #[arg(long, value_name = "SIZE", default_value_t = MAX_METADATA_SIZE_DEFAULT)]
    pub(super) max_metadata_size: Bytes,

    /// Characters allowed in the metadata value `filename`
    #[arg(long, value_name = "utf8|ascii", default_value = "utf8")]
    pub(super) filename: FileNameRule,

    /// Space that uploads leave free; what would take it is refused with 507
    #[arg(long, value_name = "SIZE", default_value_t = MIN_FREE_DEFAULT)]
    pub(super) min_free: Bytes,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Storage")]
pub(super) struct StorageArgs {
    /// Write large bodies through the page cache also where they are synced: for hooks that read a
    /// file at once, from a disk that is slow to read
    #[arg(long)]
    pub(super) no_direct_io: bool,
}

/// Which forms of the draft are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Draft {
    Off,
    Numbered,
    All,
}

/// Which digest every record gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Digest {
    Sha256,
    Blake3,
    None,
}

impl Digest {
    pub(super) fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Sha256 => Some(Algorithm::Sha256),
            Self::Blake3 => Some(Algorithm::Blake3),
            Self::None => None,
        }
    }
}

impl Program for Args {
    const NAME: &'static str = "ingest";

    fn log(&self) -> &LogArgs {
        &self.log
    }
}
