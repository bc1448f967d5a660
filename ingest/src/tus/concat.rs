//! `Upload-Concat`: whether an upload is a part, or made of parts and which.

use http::{HeaderMap, HeaderValue};
use shared::id::UploadId;
use shared::size::Length;

use super::capabilities::{Capabilities, Extension};
use super::headers::{self, UPLOAD_CONCAT};
use super::refusal::Refusal;
use super::stored::{Kind, Stored};

/// Hosts whose URLs name uploads of this server, as `host` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Any: the client reaches us by a name that we do not know (a relative `Location` was handed
    /// out). The id alone decides then; it cannot be guessed, and nothing is ever fetched.
    Any,
    /// These, compared without case.
    Only(Vec<String>),
}

/// Where this server's uploads are, as the client of one request sees it.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Path under which uploads lie, with a slash at its end (`/files/`).
    pub base: &'a str,
    /// Path of the request: what relative references are relative to.
    pub path: &'a str,
    /// Our names.
    pub authorities: &'a Authorities,
}

/// A valid `Upload-Concat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concat {
    /// This upload is a part.
    Partial,
    /// This upload is made of these, in this order. One may come more than once.
    Final(Vec<UploadId>),
}

impl Concat {
    /// Reads `Upload-Concat`; beside it stands what the client sent, which HEAD repeats.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::TooManyParts`], [`Refusal::NotAPart`] for a URL that is
    /// none of ours, [`Refusal::ExtensionOff`].
    pub fn parse(
        headers: &HeaderMap,
        site: &Site<'_>,
        capabilities: &Capabilities,
    ) -> Result<Option<(Self, HeaderValue)>, Refusal> {
        let Some(verbatim) = headers::single(headers, UPLOAD_CONCAT)? else {
            return Ok(None);
        };
        capabilities.require(Extension::Concatenation)?;
        let malformed = Refusal::Malformed(UPLOAD_CONCAT);
        let text = verbatim.to_str().map_err(|_| malformed.clone())?.trim();
        if text == "partial" {
            return Ok(Some((Self::Partial, verbatim.clone())));
        }
        let urls = text
            .strip_prefix("final;")
            .ok_or_else(|| malformed.clone())?;
        let urls: Vec<&str> = urls.split_ascii_whitespace().collect();
        if urls.is_empty() {
            return Err(malformed);
        }
        if capabilities.max_parts < urls.len() {
            return Err(Refusal::TooManyParts {
                most: capabilities.max_parts,
            });
        }
        let parts = urls
            .iter()
            .enumerate()
            .map(|(at, url)| {
                site.resolve(url)
                    .ok_or(Refusal::NotAPart { number: at + 1 })
            })
            .collect::<Result<_, _>>()?;
        Ok(Some((Self::Final(parts), verbatim.clone())))
    }
}

impl Site<'_> {
    /// The upload that `url` names: absolute, or relative to the request.
    #[must_use]
    pub fn resolve(&self, url: &str) -> Option<UploadId> {
        if url.contains(['?', '#', '\\']) {
            return None;
        }
        let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
        let rest = match () {
            () if lower.starts_with("http://") => url.get(7..),
            () if lower.starts_with("https://") => url.get(8..),
            () => url.strip_prefix("//"),
        };
        match rest {
            Some(rest) => self.resolve_absolute(rest),
            None if url.starts_with('/') => self.id_under_base(url),
            None => self.id_under_base(&merge(self.path, url)?),
        }
    }

    /// `rest` is `authority/path`.
    fn resolve_absolute(&self, rest: &str) -> Option<UploadId> {
        let slash = rest.find('/')?;
        let (authority, path) = rest.split_at_checked(slash)?;
        match self.authorities {
            // A proxy may have changed the path too.
            Authorities::Any => path.rsplit('/').next()?.parse().ok(),
            Authorities::Only(ours) => ours
                .iter()
                .any(|name| portless(name).eq_ignore_ascii_case(portless(authority)))
                .then(|| self.id_under_base(path))?,
        }
    }

    fn id_under_base(&self, path: &str) -> Option<UploadId> {
        let id = match self.authorities {
            Authorities::Any => path.rsplit('/').next()?,
            Authorities::Only(_) => path.strip_prefix(self.base)?,
        };
        id.parse().ok()
    }
}

/// Without a default port, which clients drop or write as they like.
fn portless(authority: &str) -> &str {
    let without = authority
        .strip_suffix(":80")
        .or_else(|| authority.strip_suffix(":443"));
    without.unwrap_or(authority)
}

/// Resolves the relative reference `reference` against the path `base` (RFC 3986 §5.2), as far as
/// upload URLs need it: leading `./` and `../`.
fn merge(base: &str, reference: &str) -> Option<String> {
    let mut directory = base.rsplit_once('/')?.0;
    let mut rest = reference;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            directory = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
            rest = after;
        } else {
            return Some(format!("{directory}/{rest}"));
        }
    }
}

/// A concatenation that may be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Size of the final upload: the sum of the parts, known once each part's length is.
    pub length: Option<Length>,
    /// Whether all parts are complete, so that it can be assembled now.
    pub ready: bool,
}

/// Decides whether these parts, in the order named, can make a final upload. `None` stands for a
/// part that does not exist (any more).
///
/// # Errors
/// [`Refusal::NotAPart`], [`Refusal::PartIncomplete`] where unfinished parts are not taken,
/// [`Refusal::MaxSize`] for a sum that no upload may have.
pub fn decide(parts: &[Option<Stored>], capabilities: &Capabilities) -> Result<Plan, Refusal> {
    let mut sum = Some(0_u64);
    let mut ready = true;
    for (at, part) in parts.iter().enumerate() {
        let number = at + 1;
        let part = part.filter(|part| part.kind == Kind::Partial);
        let part = part.ok_or(Refusal::NotAPart { number })?;
        if !part.complete && !capabilities.offers(Extension::ConcatenationUnfinished) {
            return Err(Refusal::PartIncomplete { number });
        }
        ready &= part.complete;
        let most = capabilities.max_size.unwrap_or(Length::MAX.0);
        // What has been received counts, too: a part without a length is at least that long.
        let known = part.length.map_or(part.offset.0, |length| length.0);
        sum = match (sum, part.length) {
            (Some(sum), length) => {
                let more = sum.checked_add(known).filter(|total| *total <= most);
                let more = more.ok_or(Refusal::MaxSize { most })?;
                length.map(|_| more)
            }
            (None, _) => None,
        };
    }
    Ok(Plan {
        length: sum.map(Length),
        ready,
    })
}

/// Size of a final upload: the sum of its parts, once each has told its own. `None` stands for a
/// part that does not exist (any more).
#[must_use]
pub fn length(parts: &[Option<Stored>]) -> Option<Length> {
    let lengths = parts.iter().map(|part| Some((*part)?.length?.0));
    let sum = lengths.reduce(|sum, length| sum?.checked_add(length?));
    sum.flatten().map(Length)
}

#[cfg(test)]
mod tests;
