//! Points in time as the records hold them: Unix seconds with microseconds, as tussi writes them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch. In JSON a number of seconds with a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// Largest magnitude that the records can hold: seconds of ten digits (the year 2286).
    const MAX_MICROS: i64 = 9_999_999_999 * 1_000_000;

    /// From microseconds since the epoch, clamped to what a record can hold.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(0, Self::MAX_MICROS))
    }

    /// From whole seconds since the epoch.
    #[must_use]
    pub fn from_secs(secs: u64) -> Self {
        Self::from_micros(
            i64::try_from(secs)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000_000),
        )
    }

    /// The wall clock now. Deciding code takes the time as an argument instead.
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000_000)).unwrap_or(0)
    }

    /// How long before `self` the moment `earlier` was; zero if it lies ahead (clocks jump).
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `span` later, clamped to what a record can hold.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(span))
    }

    /// ISO 8601 in UTC with microseconds, always 27 characters: `2026-11-22T23:05:02.123456Z`.
    #[must_use]
    pub fn iso8601(self) -> String {
        jiff::Timestamp::from_microsecond(self.0)
            .map(|t| format!("{t:.6}"))
            .unwrap_or_else(|_| "1970-01-01T00:00:00.000000Z".to_owned())
    }

    /// Parses any RFC 3339 / ISO 8601 timestamp with an offset.
    #[must_use]
    pub fn parse_iso8601(text: &str) -> Option<Self> {
        let t: jiff::Timestamp = text.parse().ok()?;
        Some(Self::from_micros(t.as_microsecond()))
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06}",
            self.0.div_euclid(1_000_000),
            self.0.rem_euclid(1_000_000)
        )
    }
}

impl Serialize for UnixTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Exact to the microsecond below 2^32 s (the year 2106).
        #[expect(clippy::cast_precision_loss, reason = "below 2^53 until the year 2255")]
        let seconds = self.0 as f64 / 1e6;
        serializer.serialize_f64(seconds)
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !seconds.is_finite() {
            return Err(serde::de::Error::custom("not a time"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "saturates, then clamped")]
        let micros = (seconds * 1e6).round() as i64;
        Ok(Self::from_micros(micros))
    }
}

/// An ISO 8601 duration in seconds with microseconds, as pydantic reads it: `PT12.345678S`.
#[must_use]
pub fn iso8601_duration(span: Duration) -> String {
    format!("PT{}.{:06}S", span.as_secs(), span.subsec_micros())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_survives_json_and_iso8601(micros in 0..1_000_000i64 << 32) {
            let t = UnixTime::from_micros(micros);
            let json = serde_json::to_string(&t).unwrap();
            prop_assert_eq!(serde_json::from_str::<UnixTime>(&json).unwrap(), t);
            prop_assert_eq!(serde_json::from_str::<UnixTime>(&t.to_string()).unwrap(), t);
            let iso = t.iso8601();
            prop_assert_eq!(iso.len(), 27);
            prop_assert_eq!(UnixTime::parse_iso8601(&iso), Some(t));
        }
    }

    #[test]
    fn nonsense_is_clamped_or_refused_not_wrapped() {
        assert_eq!(
            serde_json::from_str::<UnixTime>("-5").unwrap(),
            UnixTime::from_micros(0)
        );
        let far = serde_json::from_str::<UnixTime>("1e300").unwrap();
        assert_eq!(far.as_micros(), UnixTime::MAX_MICROS);
        assert!(serde_json::from_str::<UnixTime>("\"x\"").is_err());
        assert_eq!(far.plus(Duration::MAX), far);
        assert_eq!(
            UnixTime::from_secs(5).since(UnixTime::from_secs(9)),
            Duration::ZERO
        );
    }
}
