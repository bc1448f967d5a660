//! What this server offers: limits and extensions, as configured, and the header fields that say so.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderMap;

use super::checksum::Algorithm;
use super::headers::{self, set, set_number};
use super::metadata::MetadataRules;
use super::refusal::Refusal;

/// An extension of tus 1.0.0, by the name that `Tus-Extension` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// `POST` makes an upload.
    Creation,
    /// … and may carry its first bytes.
    CreationWithUpload,
    /// … and may leave its length open.
    CreationDeferLength,
    /// `DELETE` ends an upload.
    Termination,
    /// `Upload-Checksum` guards a request's bytes.
    Checksum,
    /// … and may follow them as a trailer.
    ChecksumTrailer,
    /// Idle uploads go away, and say when.
    Expiration,
    /// Uploads may be put together from parts.
    Concatenation,
    /// … which need not be complete when that is asked for.
    ConcatenationUnfinished,
}

impl Extension {
    /// All, in the order of `Tus-Extension`.
    pub const ALL: [Self; 9] = [
        Self::Creation,
        Self::CreationWithUpload,
        Self::CreationDeferLength,
        Self::Termination,
        Self::Checksum,
        Self::ChecksumTrailer,
        Self::Expiration,
        Self::Concatenation,
        Self::ConcatenationUnfinished,
    ];

    /// Its name in `Tus-Extension` and in our flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creation => "creation",
            Self::CreationWithUpload => "creation-with-upload",
            Self::CreationDeferLength => "creation-defer-length",
            Self::Termination => "termination",
            Self::Checksum => "checksum",
            Self::ChecksumTrailer => "checksum-trailer",
            Self::Expiration => "expiration",
            Self::Concatenation => "concatenation",
            Self::ConcatenationUnfinished => "concatenation-unfinished",
        }
    }

    /// The extension without which this one means nothing and is not offered.
    fn base(self) -> Option<Self> {
        match self {
            Self::CreationWithUpload | Self::CreationDeferLength | Self::Concatenation => {
                Some(Self::Creation)
            }
            Self::ChecksumTrailer => Some(Self::Checksum),
            Self::ConcatenationUnfinished => Some(Self::Concatenation),
            Self::Creation | Self::Termination | Self::Checksum | Self::Expiration => None,
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no extension has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an extension of tus")]
pub struct UnknownExtension;

impl FromStr for Extension {
    type Err = UnknownExtension;

    fn from_str(name: &str) -> Result<Self, UnknownExtension> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or(UnknownExtension)
    }
}

/// The extensions that are switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions(u16);

impl Extensions {
    /// Every extension.
    #[must_use]
    pub fn all() -> Self {
        Extension::ALL
            .into_iter()
            .fold(Self(0), |set, extension| Self(set.0 | extension.bit()))
    }

    /// All of these but `extension`, and what builds on it.
    #[must_use]
    pub fn without(self, extension: Extension) -> Self {
        Self(self.0 & !extension.bit())
    }

    /// Whether `extension` and what it builds on are switched on.
    #[must_use]
    pub fn has(self, extension: Extension) -> bool {
        self.0 & extension.bit() != 0 && extension.base().is_none_or(|base| self.has(base))
    }
}

/// The protocol's side of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Extensions that are switched on.
    pub extensions: Extensions,
    /// Largest upload in bytes (`--max-size`).
    pub max_size: Option<u64>,
    /// Most bytes that one request may carry (`--max-chunk-size`).
    pub max_chunk: Option<u64>,
    /// Rules for `Upload-Metadata`.
    pub metadata: MetadataRules,
    /// Idle time after which an unfinished upload is removed; `None` if that never happens.
    pub expire_after: Option<Duration>,
    /// Most parts that a concatenation may have.
    pub max_parts: usize,
}

impl Default for Capabilities {
    /// Everything on, no limits but those of the metadata and 1000 parts, uploads never expire.
    fn default() -> Self {
        Self {
            extensions: Extensions::all(),
            max_size: None,
            max_chunk: None,
            metadata: MetadataRules::default(),
            expire_after: None,
            max_parts: 1000,
        }
    }
}

impl Capabilities {
    /// Whether `extension` is offered: switched on, and true for this configuration.
    #[must_use]
    pub fn offers(&self, extension: Extension) -> bool {
        let true_here = extension != Extension::Expiration || self.expire_after.is_some();
        true_here && self.extensions.has(extension)
    }

    /// Refuses what needs an extension that is not offered.
    ///
    /// # Errors
    /// [`Refusal::ExtensionOff`].
    pub fn require(&self, extension: Extension) -> Result<(), Refusal> {
        if self.offers(extension) {
            Ok(())
        } else {
            Err(Refusal::ExtensionOff(extension))
        }
    }

    /// Adds `Tus-Version`, `Tus-Extension`, `Tus-Max-Size` and `Tus-Checksum-Algorithm`: the truth
    /// about this configuration.
    pub fn announce(&self, fields: &mut HeaderMap) {
        set(fields, headers::TUS_VERSION, headers::VERSION);
        let offered: Vec<&str> = Extension::ALL
            .into_iter()
            .filter(|extension| self.offers(*extension))
            .map(Extension::name)
            .collect();
        if !offered.is_empty() {
            set(fields, headers::TUS_EXTENSION, &offered.join(","));
        }
        if let Some(most) = self.max_size {
            set_number(fields, headers::TUS_MAX_SIZE, most);
        }
        if self.offers(Extension::Checksum) {
            set(fields, headers::TUS_CHECKSUM_ALGORITHM, &Algorithm::list());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(capabilities: &Capabilities) -> HeaderMap {
        let mut fields = HeaderMap::new();
        capabilities.announce(&mut fields);
        fields
    }

    /// Each of the 512 ways to switch extensions.
    fn every_choice() -> impl Iterator<Item = Extensions> {
        (0..1_u16 << Extension::ALL.len()).map(Extensions)
    }

    #[test]
    fn names_parse_back_and_nothing_else_does() {
        for extension in Extension::ALL {
            assert_eq!(extension.name().parse(), Ok(extension));
        }
        for other in [
            "",
            "Creation",
            "creation ",
            "getting",
            "creation,termination",
        ] {
            assert_eq!(other.parse::<Extension>(), Err(UnknownExtension));
        }
    }

    #[test]
    fn tus_extension_is_a_comma_separated_list_of_what_is_offered_and_no_more() {
        for extensions in every_choice() {
            for expire_after in [None, Some(Duration::from_secs(60))] {
                let capabilities = Capabilities {
                    extensions,
                    expire_after,
                    ..Capabilities::default()
                };
                let fields = announced(&capabilities);
                let listed: Vec<Extension> = fields
                    .get("tus-extension")
                    .map(|list| {
                        list.to_str()
                            .unwrap()
                            .split(',')
                            .map(|e| e.parse().unwrap())
                    })
                    .into_iter()
                    .flatten()
                    .collect();
                for extension in Extension::ALL {
                    assert_eq!(listed.contains(&extension), capabilities.offers(extension));
                    assert_eq!(
                        capabilities.require(extension).is_ok(),
                        listed.contains(&extension)
                    );
                }
            }
        }
    }

    #[test]
    fn if_no_extensions_are_supported_the_tus_extension_header_is_omitted() {
        let none = Capabilities {
            extensions: Extensions(0),
            ..Capabilities::default()
        };
        assert!(!announced(&none).contains_key("tus-extension"));
        assert_eq!(announced(&none)["tus-version"], "1.0.0");
    }

    #[test]
    fn without_creation_the_server_does_not_offer_creation_with_upload_either() {
        let off = Extensions::all().without(Extension::Creation);
        for dependent in [
            Extension::CreationWithUpload,
            Extension::CreationDeferLength,
            Extension::Concatenation,
        ] {
            assert!(!off.has(dependent), "{dependent}");
        }
        assert!(!off.has(Extension::ConcatenationUnfinished));
        assert!(off.has(Extension::Termination) && off.has(Extension::Checksum));
        let off = Extensions::all().without(Extension::Checksum);
        assert!(!off.has(Extension::ChecksumTrailer));
    }

    #[test]
    fn expiration_is_offered_only_if_uploads_expire() {
        let mut capabilities = Capabilities::default();
        assert!(!capabilities.offers(Extension::Expiration));
        capabilities.expire_after = Some(Duration::from_secs(1));
        assert!(capabilities.offers(Extension::Expiration));
        capabilities.extensions = Extensions::all().without(Extension::Expiration);
        assert!(!capabilities.offers(Extension::Expiration));
    }

    #[test]
    fn tus_max_size_is_set_if_there_is_a_known_hard_limit() {
        assert!(!announced(&Capabilities::default()).contains_key("tus-max-size"));
        let limited = Capabilities {
            max_size: Some(1 << 30),
            ..Capabilities::default()
        };
        assert_eq!(announced(&limited)["tus-max-size"], "1073741824");
    }

    #[test]
    fn tus_checksum_algorithm_is_included_with_the_checksum_extension_and_names_sha1() {
        let list = announced(&Capabilities::default())["tus-checksum-algorithm"].clone();
        assert!(list.to_str().unwrap().split(',').any(|name| name == "sha1"));
        let off = Capabilities {
            extensions: Extensions::all().without(Extension::Checksum),
            ..Capabilities::default()
        };
        assert!(!announced(&off).contains_key("tus-checksum-algorithm"));
    }
}
