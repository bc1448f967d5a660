//! The command line as clap sees it. What the values mean together is decided in `config`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser, ValueEnum, ValueHint};
use clap_complete::Shell;

/// Where a server started without arguments listens.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:1080/files/";

const AFTER_HELP: &str = "\
EXIT CODES
  0    everything was uploaded (with --wait: and delivered)
  1    a file could not be read, changed while it was read, or another local error
  2    wrong usage; nothing was sent
  3    the server refused (a 4xx status, or it lacks what was asked for)
  4    given up: the server could not be reached, or retries brought no progress
  5    uploaded, but the server's processing failed, or the upload was removed (--wait)
  6    uploaded, but not delivered within the time given to --wait
  130  interrupted (143: terminated); the same command goes on where it stopped
With several files each one is tried; the exit code is that of the first that failed.

EXAMPLES
  upload report.pdf --to https://example.org/files/
  upload photos/ --to https://example.org/files/ --metadata album=2024 --wait=10m
  tar c data | upload - --to https://example.org/files/ --metadata filename=data.tar
  upload disk.img --parallel 4            (send four parts at once)
  upload disk.img --checksum sha256       (have every chunk verified)
  upload                                  (1 MiB of random data, to try a server)

The proxy variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are honoured.";

/// Upload files to a tus 1.0.0 server, and resume where an earlier attempt stopped.
///
/// Each file becomes one upload. Directories are walked; the path of each file below them is sent as
/// `relativePath`. `-` (or a pipe) is read to its end and sent while its length is still unknown.
/// Without files, 1 MiB of random data is sent.
///
/// Every flag can also be set by the environment variable named beside it.
#[derive(Debug, Parser)]
#[command(
    name = "upload",
    version,
    after_help = "Exit codes and examples: --help",
    after_long_help = AFTER_HELP,
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub(crate) struct Args {
    /// Files, directories, or `-` for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub files: Vec<PathBuf>,

    /// Send this much random data instead of a file, such as `10MiB`
    #[arg(
        help_heading = "What to send",
        long,
        env = "UPLOAD_SIZE",
        value_name = "SIZE"
    )]
    #[arg(conflicts_with = "files")]
    pub size: Option<ByteSize>,

    /// Metadata of the upload; may be repeated
    ///
    /// `filename` and `filetype` are filled in from the file's name unless they are given here.
    /// In the environment variable: one pair a line.
    #[arg(help_heading = "What to send", short, long, env = "UPLOAD_METADATA")]
    #[arg(value_name = "KEY=VALUE")]
    pub metadata: Vec<String>,

    /// The server's upload endpoint
    #[arg(
        help_heading = "Where to",
        short,
        long,
        env = "UPLOAD_TO",
        value_name = "URL"
    )]
    #[arg(default_value = DEFAULT_ENDPOINT, alias = "url", value_hint = ValueHint::Url)]
    pub to: String,

    /// A header sent with every request, such as `Authorization: Bearer x`; may be repeated
    ///
    /// In the environment variable: one header a line.
    #[arg(help_heading = "Where to", short = 'H', long, env = "UPLOAD_HEADER")]
    #[arg(value_name = "NAME: VALUE", hide_env_values = true)]
    pub header: Vec<String>,

    /// Trust the certificates in this PEM file too
    #[arg(
        help_heading = "Where to",
        long,
        env = "UPLOAD_CACERT",
        value_name = "FILE"
    )]
    #[arg(value_hint = ValueHint::FilePath)]
    pub cacert: Option<PathBuf>,

    /// Accept any TLS certificate: only for tests
    #[arg(help_heading = "Where to", long, env = "UPLOAD_INSECURE")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// How many files are sent at the same time
    #[arg(
        help_heading = "How to send",
        short,
        long,
        env = "UPLOAD_JOBS",
        value_name = "N"
    )]
    #[arg(default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,

    /// Send each file in this many parts at once (extension concatenation)
    ///
    /// A server without the extension gets the file in one piece, with a remark.
    #[arg(
        help_heading = "How to send",
        short,
        long,
        env = "UPLOAD_PARALLEL",
        value_name = "N"
    )]
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallel: u16,

    /// Send at most this much in one request; without it, one request carries all that is missing
    ///
    /// Standard input goes in chunks of 8 MiB and verified uploads in chunks of 16 MiB by default.
    #[arg(
        help_heading = "How to send",
        short,
        long,
        env = "UPLOAD_CHUNK_SIZE",
        value_name = "SIZE"
    )]
    pub chunk_size: Option<ByteSize>,

    /// Have the server verify each chunk by this checksum (extension checksum)
    #[arg(
        help_heading = "How to send",
        long,
        env = "UPLOAD_CHECKSUM",
        value_name = "ALGORITHM"
    )]
    pub checksum: Option<Algorithm>,

    /// Send files up to this size in the very request that creates the upload; 0 for never
    ///
    /// Needs the extension creation-with-upload. It saves a round trip; if the answer to such a request
    /// is lost, the file is sent again and the server may end up with it twice.
    #[arg(
        help_heading = "How to send",
        long,
        env = "UPLOAD_ONE_REQUEST",
        value_name = "SIZE"
    )]
    #[arg(default_value = "256KiB")]
    pub one_request: ByteSize,

    /// Where unfinished uploads are remembered [default: tuspool/uploads.json in $XDG_STATE_HOME or ~/.local/state]
    #[arg(
        help_heading = "Resuming and retrying",
        long,
        env = "UPLOAD_STATE",
        value_name = "FILE"
    )]
    #[arg(value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,

    /// Neither resume earlier uploads nor remember these
    #[arg(help_heading = "Resuming and retrying", long, env = "UPLOAD_NO_RESUME")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub no_resume: bool,

    /// Resume without asking; so it is too when standard input is not a terminal
    #[arg(
        help_heading = "Resuming and retrying",
        short,
        long,
        env = "UPLOAD_YES"
    )]
    #[arg(value_parser = BoolishValueParser::new())]
    pub yes: bool,

    /// Give up after this many retries in a row that brought no progress
    #[arg(
        help_heading = "Resuming and retrying",
        long,
        env = "UPLOAD_RETRIES",
        value_name = "N"
    )]
    #[arg(default_value_t = 8)]
    pub retries: u32,

    /// Longest pause before the first retry; it doubles with each further one, up to 30 s
    ///
    /// The pause is drawn at random below that limit, so that many clients do not return together.
    /// A longer one named by the server (Retry-After) is kept to, up to 5 minutes.
    #[arg(help_heading = "Resuming and retrying", long, env = "UPLOAD_BACKOFF")]
    #[arg(value_name = "DURATION", default_value = "500ms", value_parser = humantime::parse_duration)]
    pub backoff: Duration,

    /// Take a connection for lost when nothing moved on it for this long
    #[arg(help_heading = "Resuming and retrying", long, env = "UPLOAD_TIMEOUT")]
    #[arg(value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// Wait until the server has delivered each upload, at most this long [default: for ever]
    ///
    /// The server must answer `GET` on an upload with its state in JSON, as tuspool's ingest does.
    #[arg(
        help_heading = "Afterwards",
        short,
        long,
        env = "UPLOAD_WAIT",
        value_name = "DURATION"
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = FOR_EVER)]
    #[arg(value_parser = wait_from)]
    pub wait: Option<Wait>,

    /// Remove this upload from the server instead of sending anything; may be repeated
    #[arg(help_heading = "Afterwards", long, value_name = "URL", value_hint = ValueHint::Url)]
    #[arg(conflicts_with_all = ["files", "size"], env = "UPLOAD_TERMINATE")]
    pub terminate: Vec<String>,

    /// Show nothing but errors
    #[arg(help_heading = "Output", short, long, env = "UPLOAD_QUIET")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// Print one JSON object a line for each upload that ended
    #[arg(help_heading = "Output", long, env = "UPLOAD_JSON")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Print a completion script for this shell
    #[arg(help_heading = "Other", long, value_name = "SHELL")]
    pub completions: Option<Shell>,

    /// Print the man page
    #[arg(help_heading = "Other", long)]
    pub man: bool,

    /// Print help: -h in short, --help in full
    #[arg(help_heading = "Other", short, long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Print the version
    #[arg(help_heading = "Other", short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What `--wait` stands for when no duration follows.
const FOR_EVER: &str = "forever";

/// How long `--wait` waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    ForEver,
    AtMost(Duration),
}

fn wait_from(text: &str) -> Result<Wait, humantime::DurationError> {
    if text == FOR_EVER {
        return Ok(Wait::ForEver);
    }
    humantime::parse_duration(text).map(Wait::AtMost)
}

/// A checksum by the name that it has in `Upload-Checksum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
    Blake3,
    Md5,
    Crc32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_also_comes_from_the_environment() {
        for argument in Args::command().get_arguments() {
            let Some(long) = argument.get_long() else {
                continue;
            };
            if ["help", "version", "man", "completions"].contains(&long) {
                continue;
            }
            let expected = format!("UPLOAD_{}", long.to_uppercase().replace('-', "_"));
            let variable = argument
                .get_env()
                .map(|name| name.to_string_lossy().into_owned());
            assert_eq!(variable, Some(expected), "--{long}");
            assert!(
                argument.get_help_heading().is_some(),
                "--{long} stands in no group"
            );
        }
    }

    #[test]
    fn wait_takes_a_duration_after_an_equals_sign_only() {
        let wait =
            |args: &[&str]| Args::try_parse_from([&["upload"], args].concat()).map(|a| a.wait);
        assert_eq!(wait(&[]).unwrap(), None);
        assert_eq!(wait(&["--wait", "file"]).unwrap(), Some(Wait::ForEver));
        let five_minutes = Some(Wait::AtMost(Duration::from_secs(300)));
        assert_eq!(wait(&["--wait=5m"]).unwrap(), five_minutes);
        assert!(wait(&["--wait=soon"]).is_err());
    }
}
