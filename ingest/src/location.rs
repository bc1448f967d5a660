//! `Location` of a new upload: the URL by which its client will find it again.
//!
//! Naive clients cannot resolve a relative URL, so it is absolute where we know the name by which
//! the client reaches us. Behind a proxy that nobody told us to trust we do not know it; a relative
//! URL is right there, because the client resolves it against what it asked for. Nothing that an
//! untrusted peer says about itself (`X-Forwarded-*`) ever enters an absolute URL.

use std::net::IpAddr;
use std::str::FromStr;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri, Version, header};
use ipnet::IpNet;
use shared::id::UploadId;

use crate::tus::concat::Authorities;
use crate::tus::headers::{HOST, single};
use crate::tus::refusal::Refusal;

/// `--location`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Absolute, but relative behind a proxy that is not trusted.
    #[default]
    Auto,
    /// Absolute whenever the request names a host.
    Absolute,
    /// Relative to the request.
    Relative,
}

/// A flag value that means nothing. The text says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFlag {
    /// `--location`
    #[error("must be auto, absolute or relative")]
    Mode,
    /// `--public-url`
    #[error("must be http://host or https://host, with a path but no query")]
    PublicUrl,
    /// `--trusted-proxies`
    #[error("{0:?} is neither an IP address, a network (10.0.0.0/8) nor `unix`")]
    Proxy(String),
}

impl FromStr for Mode {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        match text {
            "auto" => Ok(Self::Auto),
            "absolute" => Ok(Self::Absolute),
            "relative" => Ok(Self::Relative),
            _ => Err(InvalidFlag::Mode),
        }
    }
}

/// `--public-url`: what clients write before the base path. Without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    scheme: &'static str,
    authority: String,
    path: String,
}

impl FromStr for PublicUrl {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let uri: Uri = text.parse().map_err(|_| InvalidFlag::PublicUrl)?;
        let scheme = uri
            .scheme_str()
            .and_then(web_scheme)
            .ok_or(InvalidFlag::PublicUrl)?;
        let name = uri.authority().and_then(|name| authority(name.as_str()));
        let plain = uri.query().is_none() && !text.contains('#');
        let authority = name.filter(|_| plain).ok_or(InvalidFlag::PublicUrl)?;
        let path = prefix(uri.path()).ok_or(InvalidFlag::PublicUrl)?;
        Ok(Self {
            scheme,
            authority,
            path,
        })
    }
}

/// `--trusted-proxies`: peers whose `X-Forwarded-*` is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
}

impl TrustedProxies {
    /// Reads addresses, networks in CIDR form, and `unix` for every peer on a Unix socket.
    ///
    /// # Errors
    /// [`InvalidFlag::Proxy`] with the first entry that is none of these.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidFlag> {
        let mut trusted = Self::default();
        for entry in entries.into_iter().map(str::trim) {
            if entry == "unix" {
                trusted.unix = true;
                continue;
            }
            let address = entry.parse::<IpAddr>().map(IpNet::from);
            let network = address.or_else(|_| entry.parse::<IpNet>());
            trusted
                .networks
                .push(network.map_err(|_| InvalidFlag::Proxy(entry.to_owned()))?);
        }
        Ok(trusted)
    }

    /// Whether this peer is trusted; `None` is a peer on a Unix socket. An IPv4 address stays the
    /// same when it arrives on an IPv6 socket (`::ffff:10.0.0.1`).
    #[must_use]
    pub fn trust(&self, peer: Option<IpAddr>) -> bool {
        match peer.map(|address| address.to_canonical()) {
            Some(address) => self
                .networks
                .iter()
                .any(|network| network.contains(&address)),
            None => self.unix,
        }
    }
}

/// What one request tells about the way it came.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Address of the connection's other end; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether the connection to us is encrypted.
    pub tls: bool,
    /// Request target (HTTP/2 and absolute-form requests name the host there).
    pub uri: &'a Uri,
    /// Header fields.
    pub headers: &'a HeaderMap,
}

/// A `Location`, and whether it is relative only because of an untrusted proxy: worth one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Value of the header field.
    pub url: String,
    /// The request came through a proxy that `--trusted-proxies` does not list.
    pub untrusted_proxy: bool,
}

/// Makes the `Location` of each upload.
#[derive(Clone, Debug)]
pub struct Locator {
    /// `--location`
    pub mode: Mode,
    /// `--public-url`
    pub public_url: Option<PublicUrl>,
    /// `--trusted-proxies`
    pub trusted: TrustedProxies,
    /// Path under which uploads lie, with a slash at both ends (`/files/`).
    pub base: String,
}

/// How a client reaches us.
enum Origin {
    /// By this name, and a path before ours.
    Known {
        scheme: &'static str,
        authority: String,
        prefix: String,
    },
    /// By a name that we do not know.
    Unknown { untrusted_proxy: bool },
}

impl Locator {
    /// The `Location` of upload `id`, created by the request with these `facts`.
    #[must_use]
    pub fn locate(&self, facts: &Facts<'_>, id: UploadId) -> Located {
        let base = &self.base;
        match self.origin(facts) {
            Origin::Known {
                scheme,
                authority,
                prefix,
            } => {
                // Both habits are right: the URL of the server, and that of its uploads.
                let prefix = prefix
                    .strip_suffix(base.trim_end_matches('/'))
                    .unwrap_or(&prefix);
                let url = format!("{scheme}://{authority}{prefix}{base}{id}");
                Located {
                    url,
                    untrusted_proxy: false,
                }
            }
            Origin::Unknown { untrusted_proxy } => Located {
                url: relative(facts.uri.path(), id),
                untrusted_proxy,
            },
        }
    }

    /// The hosts whose URLs name our uploads in this request (`Upload-Concat`).
    #[must_use]
    pub fn authorities(&self, facts: &Facts<'_>) -> Authorities {
        match self.origin(facts) {
            Origin::Known { authority, .. } => {
                let public = self.public_url.as_ref().map(|url| url.authority.clone());
                let names = [Some(authority), requested_host(facts), public];
                Authorities::Only(names.into_iter().flatten().collect())
            }
            Origin::Unknown { .. } => Authorities::Any,
        }
    }

    fn origin(&self, facts: &Facts<'_>) -> Origin {
        let unknown = Origin::Unknown {
            untrusted_proxy: false,
        };
        if self.mode == Mode::Relative {
            return unknown;
        }
        if let Some(url) = &self.public_url {
            let PublicUrl {
                scheme,
                authority,
                path,
            } = url.clone();
            return Origin::Known {
                scheme,
                authority,
                prefix: path,
            };
        }
        let trusted = self.trusted.trust(facts.peer);
        let said = if trusted {
            Forwarded::read(facts.headers)
        } else {
            Forwarded::default()
        };
        let scheme = if facts.tls { "https" } else { "http" };
        let proxied = !trusted && shows_a_proxy(facts.headers)
            || said.scheme.is_none() && comes_from_another_scheme(facts.headers, scheme);
        if self.mode == Mode::Auto && proxied {
            return Origin::Unknown {
                untrusted_proxy: true,
            };
        }
        let Some(authority) = said.host.or_else(|| requested_host(facts)) else {
            return unknown;
        };
        let scheme = said.scheme.unwrap_or(scheme);
        Origin::Known {
            scheme,
            authority,
            prefix: said.prefix.unwrap_or_default(),
        }
    }
}

/// What a trusted proxy says about the client's request.
#[derive(Default)]
struct Forwarded {
    scheme: Option<&'static str>,
    host: Option<String>,
    prefix: Option<String>,
}

impl Forwarded {
    /// The first value of each field is the client's side of the chain. What is not a scheme, a
    /// host or a path is ignored.
    fn read(headers: &HeaderMap) -> Self {
        let first = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            value.split(',').next().map(str::trim)
        };
        Self {
            scheme: first("x-forwarded-proto")
                .or_else(|| parameter(first("forwarded")?, "proto"))
                .and_then(web_scheme),
            host: first("x-forwarded-host")
                .or_else(|| parameter(first("forwarded")?, "host"))
                .and_then(authority),
            prefix: first("x-forwarded-prefix").and_then(prefix),
        }
    }
}

/// A parameter of the first element of `Forwarded` (RFC 7239).
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(known, _)| known.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

fn web_scheme(name: &str) -> Option<&'static str> {
    ["http", "https"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name))
}

/// `host` or `host:port`, without user information.
fn authority(text: &str) -> Option<String> {
    let name: Authority = text.parse().ok()?;
    let plain = !name.host().is_empty() && !text.contains('@');
    plain.then(|| text.to_owned())
}

/// A path with a slash before and none behind it; empty for `/`.
fn prefix(text: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte);
    // `//host` at the start of a path would read as a host.
    let plain = text.starts_with('/') && !text.starts_with("//") && text.bytes().all(legal);
    plain.then(|| text.trim_end_matches('/').to_owned())
}

/// Checks that a request says which host it is for: in HTTP/1.1 by one `Host`, which may be empty
/// (RFC 9112 §3.2). HTTP/1.0 need not say it, and HTTP/2 does so in the request target.
///
/// # Errors
/// [`Refusal::Missing`], or [`Refusal::Malformed`] for more than one and for what is no host.
pub fn require_host(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    if Version::HTTP_11 < version {
        return Ok(());
    }
    let names_one = |host: &HeaderValue| {
        let host = host.to_str();
        host.is_ok_and(|host| host.is_empty() || authority(host).is_some())
    };
    match single(headers, HOST)? {
        Some(host) if names_one(host) => Ok(()),
        Some(_) => Err(Refusal::Malformed(HOST)),
        None if version == Version::HTTP_11 => Err(Refusal::Missing(HOST)),
        None => Ok(()),
    }
}

/// The one host that the request names.
fn requested_host(facts: &Facts<'_>) -> Option<String> {
    if let Some(name) = facts.uri.authority() {
        return authority(name.as_str());
    }
    let host = single(facts.headers, HOST).ok()??;
    authority(host.to_str().ok()?)
}

fn shows_a_proxy(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || name == "forwarded" || name == "via"
    })
}

/// Whether the page that sent the request was loaded over the other one of http and https: then
/// something between us and the browser changes the scheme.
fn comes_from_another_scheme(headers: &HeaderMap, ours: &str) -> bool {
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|origin| origin.to_str().ok());
    let scheme = origin
        .and_then(|origin| origin.split_once("://"))
        .map(|(scheme, _)| scheme);
    scheme
        .and_then(web_scheme)
        .is_some_and(|scheme| scheme != ours)
}

/// Relative to the last path segment, so that it is right behind a proxy that changes the path too.
fn relative(path: &str, id: UploadId) -> String {
    match path.rsplit('/').next() {
        Some(last) if !last.is_empty() => format!("{last}/{id}"),
        Some(_) | None => id.to_string(),
    }
}

#[cfg(test)]
mod tests;
