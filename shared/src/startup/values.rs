//! Values of flags: durations, sizes and file modes. What parses prints to something that parses
//! to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time on the command line: `30s`, `1h30m`, `7d`, `500ms`, or plain seconds such as
/// `86400` and `0.5`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

/// A number of bytes on the command line: `10MiB`, `10MB`, `1.5GiB` or plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Permission bits of a file on the command line, in octal: `0660`, `2770`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(pub u32);

/// Why a flag's value was refused: what would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Not a duration.
    #[error("a duration is written like 30s, 5m, 1h30m, 7d, 500ms or as plain seconds")]
    Duration,
    /// Longer than [`Period::MAX`].
    #[error("a duration may be at most 36500d")]
    DurationTooLong,
    /// Not a size.
    #[error("a size is written like 10MiB, 10MB or as plain bytes")]
    Size,
    /// More than `u64::MAX` bytes.
    #[error("a size may be at most 18446744073709551615 bytes")]
    SizeTooLarge,
    /// Not permission bits.
    #[error("a mode is written as up to four octal digits, like 0660")]
    Mode,
}

/// Largest first: the order in which the parts of a duration must stand.
const TIME_UNITS: [(&str, u128); 7] = [
    ("d", 86_400 * NANOS),
    ("h", 3_600 * NANOS),
    ("m", 60 * NANOS),
    ("s", NANOS),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const NANOS: u128 = 1_000_000_000;

const SIZE_UNITS: [(&str, u128); 13] = [
    ("EiB", 1 << 60),
    ("EB", 1_000_000_000_000_000_000),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl Period {
    /// The longest that is accepted, a hundred years: so that adding one to a clock cannot
    /// overflow.
    pub const MAX: Self = Self(Duration::from_secs(36_500 * 86_400));

    /// Whole seconds, for documented defaults.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Period {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let nanos = match Decimal::parse(text) {
            Some(seconds) => seconds.times(NANOS).ok_or(InvalidValue::Duration)?,
            None => sum_of_parts(text)?,
        };
        if Self::MAX.0.as_nanos() < nanos {
            return Err(InvalidValue::DurationTooLong);
        }
        let seconds = u64::try_from(nanos / NANOS).map_err(|_| InvalidValue::DurationTooLong)?;
        let rest = u32::try_from(nanos % NANOS).map_err(|_| InvalidValue::Duration)?;
        Ok(Self(Duration::new(seconds, rest)))
    }
}

/// `1h30m`: numbers with units, each unit at most once, the larger before the smaller.
fn sum_of_parts(text: &str) -> Result<u128, InvalidValue> {
    let mut nanos: u128 = 0;
    let mut units = TIME_UNITS.as_slice();
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = split_at_unit(rest).ok_or(InvalidValue::Duration)?;
        let unit_len = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (name, tail) = tail.split_at(unit_len);
        let at = units
            .iter()
            .position(|(unit, _)| *unit == name)
            .ok_or(InvalidValue::Duration)?;
        let part = Decimal::parse(number).ok_or(InvalidValue::Duration)?;
        let part = part.times(units[at].1).ok_or(InvalidValue::Duration)?;
        nanos = nanos
            .checked_add(part)
            .ok_or(InvalidValue::DurationTooLong)?;
        units = &units[at + 1..];
        rest = tail;
    }
    if text.is_empty() {
        Err(InvalidValue::Duration)
    } else {
        Ok(nanos)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in TIME_UNITS {
            if nanos <= rest {
                write!(f, "{}{unit}", rest / nanos)?;
                rest %= nanos;
            }
        }
        Ok(())
    }
}

impl FromStr for Bytes {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (number, unit) = split_at_unit(text).unwrap_or((text, "B"));
        let unit = SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()));
        let &(_, unit) = unit.ok_or(InvalidValue::Size)?;
        let number = Decimal::parse(number.trim_end()).ok_or(InvalidValue::Size)?;
        let bytes = number.times(unit).ok_or(InvalidValue::Size)?;
        u64::try_from(bytes)
            .map(Self)
            .map_err(|_| InvalidValue::SizeTooLarge)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = u128::from(self.0);
        let whole = |&&(_, unit): &&(&str, u128)| unit <= bytes && bytes % unit == 0;
        match SIZE_UNITS.iter().filter(|(_, unit)| *unit != 1).find(whole) {
            Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
            None => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Mode {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        if !octal || !(1..=5).contains(&digits.len()) {
            return Err(InvalidValue::Mode);
        }
        let mode = u32::from_str_radix(digits, 8).map_err(|_| InvalidValue::Mode)?;
        if mode <= 0o7777 {
            Ok(Self(mode))
        } else {
            Err(InvalidValue::Mode)
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Splits `90s…` before its first letter; `None` without a letter.
fn split_at_unit(text: &str) -> Option<(&str, &str)> {
    text.split_at_checked(text.find(|c: char| c.is_ascii_alphabetic())?)
}

/// A decimal number held exactly, as `digits / 10^decimals`: a float would make 0.1 s something
/// else.
struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// More digits than any accepted value needs, few enough for `u128`.
    const DIGITS_MAX: usize = 20;

    /// Digits, with or without `.digits`; no sign, no exponent.
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (text, ""),
        };
        let fits = (1..=Self::DIGITS_MAX).contains(&whole.len()) && fraction.len() <= 9;
        let joined = [whole, fraction].concat();
        if !fits || !joined.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let decimals = u32::try_from(fraction.len()).ok()?;
        Some(Self {
            digits: joined.parse().ok()?,
            decimals,
        })
    }

    /// The number times `unit`; `None` unless that is whole.
    fn times(&self, unit: u128) -> Option<u128> {
        let scaled = self.digits.checked_mul(unit)?;
        let scale = 10_u128.pow(self.decimals);
        (scaled % scale == 0).then_some(scaled / scale)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> Result<u128, InvalidValue> {
        text.parse::<Period>().map(|p| p.0.as_millis())
    }

    #[test]
    fn durations_are_units_or_plain_seconds() {
        let accepted = [
            ("0", 0),
            ("30", 30_000),
            ("0.5", 500),
            ("86400", 86_400_000),
            ("30s", 30_000),
            ("5m", 300_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("36500d", 3_153_600_000_000),
        ];
        for (text, expected) in accepted {
            assert_eq!(millis(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let refused = [
            "",
            " ",
            "s",
            "-1",
            "+1",
            "1 s",
            "1s1s",
            "1m1h",
            "1e3",
            "inf",
            "NaN",
            ".5",
            "1.",
            "1.s",
            "5M",
            "1y",
            "0.0000000001",
            "1h30",
            "30s ",
            "٣s",
            "1,5",
            "0x10",
            "0.3ns",
        ];
        for text in refused {
            assert_eq!(millis(text), Err(InvalidValue::Duration), "{text:?}");
        }
        for text in ["36501d", "99999999999999999999d", "18446744073709551615"] {
            assert_eq!(millis(text), Err(InvalidValue::DurationTooLong), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_units_or_plain_bytes() {
        let accepted = [
            ("0", 0),
            ("4096", 4096),
            ("10MiB", 10 << 20),
            ("10MB", 10_000_000),
            ("10 mib", 10 << 20),
            ("1.5GiB", 3 << 29),
            ("1kB", 1000),
            ("7B", 7),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, expected) in accepted {
            assert_eq!(text.parse(), Ok(Bytes(expected)), "{text:?}");
        }
        // `10M` is refused: half of all programs take it for 10 MB and half for 10 MiB.
        for text in [
            "", "MiB", "-1", "10M", "0.3KiB", "1e3", "1.5", "10MiB5", "1 000",
        ] {
            assert_eq!(text.parse::<Bytes>(), Err(InvalidValue::Size), "{text:?}");
        }
        for text in ["16EiB", "18446744073709551616"] {
            assert_eq!(
                text.parse::<Bytes>(),
                Err(InvalidValue::SizeTooLarge),
                "{text:?}"
            );
        }
    }

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [
            ("660", 0o660),
            ("0660", 0o660),
            ("2770", 0o2770),
            ("0o755", 0o755),
        ] {
            assert_eq!(text.parse(), Ok(Mode(mode)), "{text:?}");
        }
        for text in ["", "8", "u+rwx", "-1", "+7", "77777", "0x1ff", "000000"] {
            assert_eq!(text.parse::<Mode>(), Err(InvalidValue::Mode), "{text:?}");
        }
        assert_eq!(Mode(0o660).to_string(), "0660");
    }

    #[test]
    fn values_print_as_a_person_writes_them() {
        assert_eq!(Period::from_secs(604_800).to_string(), "7d");
        assert_eq!(Period::from_secs(5_400).to_string(), "1h30m");
        assert_eq!(Period(Duration::from_millis(500)).to_string(), "500ms");
        assert_eq!(Period::default().to_string(), "0s");
        assert_eq!(Bytes(10 << 20).to_string(), "10MiB");
        assert_eq!(Bytes(10_000_000).to_string(), "10MB");
        assert_eq!(Bytes(4097).to_string(), "4097");
    }

    proptest! {
        #[test]
        fn every_duration_prints_what_parses_to_it(
            seconds in 0..=36_500_u64 * 86_400 - 1,
            nanos in 0..1_000_000_000_u32,
        ) {
            let period = Period(Duration::new(seconds, nanos));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            let plain = format!("{seconds}.{nanos:09}");
            prop_assert_eq!(plain.parse(), Ok(period));
        }

        #[test]
        fn every_size_prints_what_parses_to_it(bytes: u64, shift in 0..64_u32) {
            for bytes in [bytes, bytes >> shift, bytes << shift] {
                prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
            }
        }

        #[test]
        fn every_mode_prints_what_parses_to_it(mode in 0..=0o7777_u32) {
            prop_assert_eq!(Mode(mode).to_string().parse(), Ok(Mode(mode)));
        }

        #[test]
        fn no_text_breaks_a_parser(text in "[0-9a-zA-Z. +-]{0,12}|\\PC{0,12}") {
            let accepted = [
                text.parse::<Period>().is_ok(),
                text.parse::<Bytes>().is_ok(),
                text.parse::<Mode>().is_ok(),
            ];
            prop_assert!(!accepted.contains(&true) || text.bytes().any(|b| b.is_ascii_digit()));
        }
    }
}
