//! Which uploads a consumer takes, by their metadata: `--only` and `--limit-per`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;

use shared::record::Record;

/// Where a key is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// What the client sent.
    Client,
    /// What the server added.
    Server,
}

/// A metadata key: `KEY` or `metadata.KEY` as the client sent it, `server_metadata.KEY` as the
/// server added it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose metadata.
    pub source: Source,
    /// The key in it.
    pub name: String,
}

/// `--only KEY=VALUE`, as often as given: one of the values of each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Only(BTreeMap<Key, Vec<String>>);

/// `--limit-per KEY=N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitPer {
    /// Uploads are counted by the value of this key.
    pub key: Key,
    /// At most so many of one value at once.
    pub most: NonZeroU32,
}

/// One `--only KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlyPair(Key, String);

/// A flag that is not `KEY=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParsePairError {
    /// No `=`, or nothing before it.
    #[error("is written as {0}")]
    Syntax(&'static str),
    /// The number is none, or zero.
    #[error("N in KEY=N is a number from 1")]
    Number,
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let (source, name) = match text.strip_prefix("server_metadata.") {
            Some(name) => (Source::Server, name),
            None => (
                Source::Client,
                text.strip_prefix("metadata.").unwrap_or(text),
            ),
        };
        (!name.is_empty()).then(|| Self {
            source,
            name: name.to_owned(),
        })
    }

    /// The value in a record, if it has one that is text.
    #[must_use]
    pub fn of<'a>(&self, record: &'a Record) -> Option<&'a str> {
        let metadata = match self.source {
            Source::Client => &record.rest.metadata,
            Source::Server => &record.rest.server_metadata,
        };
        metadata.get(&self.name).map(String::as_str)
    }
}

impl FromStr for OnlyPair {
    type Err = ParsePairError;

    fn from_str(text: &str) -> Result<Self, ParsePairError> {
        let pair = text
            .split_once('=')
            .and_then(|(key, value)| Some(Self(Key::parse(key)?, value.to_owned())));
        pair.ok_or(ParsePairError::Syntax("KEY=VALUE"))
    }
}

impl FromStr for LimitPer {
    type Err = ParsePairError;

    fn from_str(text: &str) -> Result<Self, ParsePairError> {
        let syntax = ParsePairError::Syntax("KEY=N");
        let (key, most) = text.split_once('=').ok_or(syntax)?;
        let key = Key::parse(key).ok_or(syntax)?;
        Ok(Self {
            key,
            most: most.parse().map_err(|_| ParsePairError::Number)?,
        })
    }
}

impl Only {
    /// Of the flags as given.
    #[must_use]
    pub fn new(pairs: Vec<OnlyPair>) -> Self {
        let mut only = Self::default();
        for OnlyPair(key, value) in pairs {
            only.0.entry(key).or_default().push(value);
        }
        only
    }

    /// Whether every upload is taken, so that no record need be read to know.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an upload is taken: it has one of the values of every key.
    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        self.0.iter().all(|(key, values)| {
            key.of(record)
                .is_some_and(|value| values.iter().any(|one| one == value))
        })
    }
}

#[cfg(test)]
mod tests {
    use shared::time::UnixTime;

    use super::*;

    fn only(pairs: &[&str]) -> Only {
        Only::new(pairs.iter().map(|pair| pair.parse().unwrap()).collect())
    }

    #[test]
    fn one_value_of_every_key_is_needed() {
        let mut record = Record::new(None, UnixTime::default());
        record
            .rest
            .metadata
            .insert("kind".to_owned(), "video".to_owned());
        record
            .rest
            .server_metadata
            .insert("tenant".to_owned(), "a=b".to_owned());
        for taken in [
            &[][..],
            &["kind=video"],
            &["metadata.kind=video", "kind=audio"],
            &["kind=video", "server_metadata.tenant=a=b"],
        ] {
            assert!(only(taken).takes(&record), "{taken:?}");
        }
        for left in [
            &["kind=audio"][..],
            &["kind="],
            &["tenant=a=b"],
            &["kind=video", "server_metadata.tenant=c"],
            &["server_metadata.kind=video"],
        ] {
            assert!(!only(left).takes(&record), "{left:?}");
        }
        assert!(only(&[]).takes_all() && !only(&["a=b"]).takes_all());
    }

    #[test]
    fn limits_are_keys_and_numbers() {
        let limit: LimitPer = "owner=3".parse().unwrap();
        assert_eq!((limit.key.name.as_str(), limit.most.get()), ("owner", 3));
        for (text, error) in [
            ("owner", ParsePairError::Syntax("KEY=N")),
            ("=3", ParsePairError::Syntax("KEY=N")),
            ("metadata.=3", ParsePairError::Syntax("KEY=N")),
            ("owner=0", ParsePairError::Number),
            ("owner=x", ParsePairError::Number),
        ] {
            assert_eq!(text.parse::<LimitPer>(), Err(error), "{text}");
        }
        assert_eq!(
            "x".parse::<OnlyPair>(),
            Err(ParsePairError::Syntax("KEY=VALUE"))
        );
    }
}
