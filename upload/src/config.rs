//! From raw flags to a checked configuration: what exists here is valid and fits together.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::cli::{Algorithm, Args, Wait};
use crate::metadata::Metadata;
use crate::retry::Policy;

/// What tussi's demo client sends without arguments, too.
const DEFAULT_RANDOM: u64 = 1 << 20;

/// Chunk of a verified upload unless one is given: a mismatch costs this much again.
const VERIFIED_CHUNK: u64 = 16 << 20;

/// Chunk of an upload from a pipe unless one is given: this much, twice, is held in memory.
const PIPED_CHUNK: u64 = 8 << 20;

/// The largest chunk that can be held in memory for a pipe.
const PIPED_CHUNK_MAX: u64 = 1 << 30;

/// Everything the flags say.
#[derive(Debug)]
pub(crate) struct Config {
    pub task: Task,
    pub endpoint: Url,
    pub headers: HeaderMap,
    pub cacert: Option<PathBuf>,
    pub insecure: bool,
    pub metadata: Metadata,
    pub jobs: usize,
    pub parallel: u64,
    /// `None`: one request carries all that is missing.
    pub chunk: Option<u64>,
    /// For pipes, whose chunks are held in memory.
    pub piped_chunk: usize,
    pub checksum: Option<Algorithm>,
    pub one_request: u64,
    pub memory: Memory,
    pub ask: bool,
    pub retry: Policy,
    /// Longest silence on a connection.
    pub stall: Duration,
    pub wait: Option<Wait>,
    pub quiet: bool,
    pub json: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    Files(Vec<PathBuf>),
    /// This many random bytes.
    Random(u64),
    Terminate(Vec<Url>),
    Completions(Shell),
    Man,
}

/// Where unfinished uploads are remembered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Off,
    File(PathBuf),
}

impl Config {
    /// Reads the flags and the environment; the error is one line for the user.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Args::command().try_get_matches_from(arguments)?;
        let mut args = Args::from_arg_matches(&matches)?;
        args.metadata = lines_from_environment(&matches, "metadata", args.metadata);
        args.header = lines_from_environment(&matches, "header", args.header);
        Self::check(args).map_err(|reason| {
            Args::command().error(clap::error::ErrorKind::ValueValidation, reason)
        })
    }

    fn check(args: Args) -> Result<Self, String> {
        let mut endpoint = http_url(&args.to)?;
        let mut headers = headers_from(&args.header)?;
        if let Some(basic) = take_credentials(&mut endpoint) {
            headers.entry(AUTHORIZATION).or_insert(basic);
        }
        let chunk = args.chunk_size.map(|size| size.as_u64());
        if chunk == Some(0) {
            return Err("--chunk-size must be at least 1".to_owned());
        }
        let default_chunk = args.checksum.map(|_| VERIFIED_CHUNK);
        Ok(Self {
            task: task_of(&args)?,
            endpoint,
            headers,
            cacert: args.cacert,
            insecure: args.insecure,
            metadata: Metadata::parse(&args.metadata)?,
            jobs: usize::from(args.jobs),
            parallel: u64::from(args.parallel),
            chunk: chunk.or(default_chunk),
            piped_chunk: usize::try_from(chunk.unwrap_or(PIPED_CHUNK).min(PIPED_CHUNK_MAX))
                .map_err(|error| error.to_string())?,
            checksum: args.checksum,
            one_request: args.one_request.as_u64(),
            memory: memory_of(args.no_resume, args.state, &|name| env::var_os(name)),
            ask: !args.yes,
            retry: Policy {
                retries: args.retries,
                base: args.backoff,
            },
            stall: args.timeout,
            wait: args.wait,
            quiet: args.quiet,
            json: args.json,
        })
    }
}

/// A variable holds several values as lines; on the command line a line break is part of the value.
fn lines_from_environment(matches: &ArgMatches, id: &str, values: Vec<String>) -> Vec<String> {
    if matches.value_source(id) != Some(ValueSource::EnvVariable) {
        return values;
    }
    let lines = values.iter().flat_map(|value| value.lines());
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn task_of(args: &Args) -> Result<Task, String> {
    if let Some(shell) = args.completions {
        return Ok(Task::Completions(shell));
    }
    if args.man {
        return Ok(Task::Man);
    }
    if !args.terminate.is_empty() {
        let urls: Result<Vec<Url>, String> =
            args.terminate.iter().map(|url| http_url(url)).collect();
        return Ok(Task::Terminate(urls?));
    }
    if args.files.is_empty() {
        return Ok(Task::Random(
            args.size.map_or(DEFAULT_RANDOM, |size| size.as_u64()),
        ));
    }
    Ok(Task::Files(args.files.clone()))
}

fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("'{text}' is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("'{text}' is not an http:// or https:// URL"));
    }
    Ok(url)
}

/// `user:password@` becomes a header, so that it is sent to relative and absolute upload URLs alike and
/// never stands in a state file or a message.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let user = percent_decoded(url.username());
    let password = percent_decoded(url.password().unwrap_or_default());
    let basic = BASE64_STANDARD.encode([&user[..], b":", &password[..]].concat());
    // Only URLs without a host cannot hold credentials, and those were refused before.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Basic {basic}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() {
            tail.get(2..).unwrap_or_default()
        } else {
            tail
        };
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn headers_from(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| "a --header lacks its colon".to_owned())?;
        let name = HeaderName::try_from(name.trim())
            .map_err(|_| format!("'{}' is not the name of a header", name.trim()))?;
        let mut value = HeaderValue::try_from(value.trim())
            .map_err(|_| format!("the value of the header {name} has characters not allowed"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Where the state file is, by the XDG base directory specification; off when no home is known.
fn memory_of(
    no_resume: bool,
    given: Option<PathBuf>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Memory {
    if no_resume {
        return Memory::Off;
    }
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let default = || {
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        Some(
            absolute("XDG_STATE_HOME")
                .or_else(home)?
                .join("tuspool/uploads.json"),
        )
    };
    given.or_else(default).map_or(Memory::Off, Memory::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Config, String> {
        let all = [&["upload"], arguments].concat();
        Config::read(all.into_iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn without_files_one_mebibyte_of_random_data_is_sent() {
        assert!(matches!(read(&[]).unwrap().task, Task::Random(1_048_576)));
        assert!(matches!(
            read(&["--size", "0"]).unwrap().task,
            Task::Random(0)
        ));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_offending_word() {
        for (arguments, word) in [
            (&["--to", "ftp://host/"][..], "ftp://host/"),
            (&["--to", "example.org/files"], "example.org/files"),
            (&["--size", "-1"], "-1"),
            (&["--size", "1", "file"], "--size"),
            (&["--chunk-size", "0"], "--chunk-size"),
            (&["--parallel", "0"], "--parallel"),
            (&["--checksum", "sha3"], "sha3"),
            (&["--header", "NoColon"], "--header"),
            (&["--header", "A B: c"], "A B"),
            (&["--header", "A: \u{1}"], "a"),
            (&["--metadata", "a b=c"], "a b"),
            (&["--terminate", "x"], "x"),
            (&["--terminate", "http://h/x", "file"], "--terminate"),
        ] {
            let message = read(arguments).expect_err(&arguments.join(" "));
            assert!(message.contains(word), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn credentials_in_the_url_become_a_header() {
        let config = read(&["--to", "http://me:p%40ss@host/files/"]).unwrap();
        assert_eq!(config.endpoint.as_str(), "http://host/files/");
        let expected = format!("Basic {}", BASE64_STANDARD.encode("me:p@ss"));
        assert_eq!(
            config.headers.get(AUTHORIZATION).unwrap(),
            expected.as_str()
        );
    }

    #[test]
    fn a_given_authorization_wins_over_the_url() {
        let config = read(&["--to", "http://me:x@host/", "-H", "Authorization: Bearer t"]).unwrap();
        assert_eq!(config.headers.get(AUTHORIZATION).unwrap(), "Bearer t");
    }

    #[test]
    fn a_verified_upload_is_chunked_by_itself() {
        assert_eq!(read(&[]).unwrap().chunk, None);
        assert_eq!(
            read(&["--checksum", "md5"]).unwrap().chunk,
            Some(VERIFIED_CHUNK)
        );
        assert_eq!(
            read(&["--checksum", "md5", "-c", "1KiB"]).unwrap().chunk,
            Some(1024)
        );
    }

    #[test]
    fn the_state_file_is_where_xdg_says() {
        let at = |variables: &[(&str, &str)], given: Option<&str>, off| {
            let look = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(*value))
            };
            memory_of(off, given.map(PathBuf::from), &look)
        };
        let file = |path: &str| Memory::File(path.into());
        let home = ("HOME", "/home/me");
        assert_eq!(
            at(&[home], None, false),
            file("/home/me/.local/state/tuspool/uploads.json")
        );
        let xdg = ("XDG_STATE_HOME", "/state");
        assert_eq!(
            at(&[home, xdg], None, false),
            file("/state/tuspool/uploads.json")
        );
        let relative = ("XDG_STATE_HOME", "state");
        let ignored = file("/home/me/.local/state/tuspool/uploads.json");
        assert_eq!(at(&[home, relative], None, false), ignored);
        assert_eq!(at(&[], None, false), Memory::Off);
        assert_eq!(at(&[], Some("here"), false), file("here"));
        assert_eq!(at(&[home], None, true), Memory::Off);
    }
}
