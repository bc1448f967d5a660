//! Numbers in header fields. Missing, malformed and refused are three answers; none becomes another.

use http::HeaderMap;

use super::headers::single;
use super::refusal::Refusal;

/// Largest number that a header field may carry: sizes and positions of files are signed on Linux.
pub const MAX: u64 = i64::MAX as u64;

/// The number in field `name`, or `None` without the field.
///
/// A number is one or more ASCII digits and at most [`MAX`]. Leading zeros are allowed; a sign, a
/// space, a fraction, an empty value, a list and a repeated field are not.
///
/// # Errors
/// [`Refusal::Malformed`] for a field that is there and no number.
pub fn optional(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(value) = single(headers, name)? else {
        return Ok(None);
    };
    parse(value.as_bytes())
        .map(Some)
        .ok_or(Refusal::Malformed(name))
}

/// The number in field `name`.
///
/// # Errors
/// [`Refusal::Missing`] without the field, [`Refusal::Malformed`] for one that is no number.
pub fn required(headers: &HeaderMap, name: &'static str) -> Result<u64, Refusal> {
    optional(headers, name)?.ok_or(Refusal::Missing(name))
}

/// `str::parse` is not used because it takes `+5`.
fn parse(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number
            .checked_mul(10)?
            .checked_add(digit)
            .filter(|n| *n <= MAX)
    })
}

/// Values that no numeric header field may have; each field's own test walks them.
#[cfg(test)]
pub(crate) const BAD: &[&str] = &[
    "",
    "+5",
    "-1",
    "-0",
    " 5",
    "5 ",
    "5\t",
    "5 5",
    "1e3",
    "0x10",
    "5.0",
    "5,",
    "5,5",
    "5, 6",
    "five",
    "9223372036854775808",
    "18446744073709551616",
    "1000000000000000000000000000000",
    "\u{0665}",
];

/// A header value from text that a real request could carry, without the checks of `from_str`.
#[cfg(test)]
pub(crate) fn raw(text: &str) -> http::HeaderValue {
    http::HeaderValue::from_bytes(text.as_bytes()).unwrap()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(value: &str) -> HeaderMap {
        HeaderMap::from_iter([("upload-offset".parse().unwrap(), raw(value))])
    }

    #[test]
    fn missing_malformed_and_present_are_three_answers() {
        assert_eq!(optional(&HeaderMap::new(), "upload-offset"), Ok(None));
        let missing = required(&HeaderMap::new(), "upload-offset");
        assert_eq!(missing, Err(Refusal::Missing("upload-offset")));
        for bad in BAD {
            let malformed = Err(Refusal::Malformed("upload-offset"));
            assert_eq!(optional(&one(bad), "upload-offset"), malformed, "{bad:?}");
        }
        for (text, number) in [("0", 0), ("5", 5), ("007", 7), ("9223372036854775807", MAX)] {
            assert_eq!(optional(&one(text), "upload-offset"), Ok(Some(number)));
        }
    }

    #[test]
    fn a_repeated_field_is_malformed_even_if_its_values_agree() {
        let mut headers = one("5");
        headers.append("upload-offset", raw("5"));
        assert_eq!(
            optional(&headers, "upload-offset"),
            Err(Refusal::Malformed("upload-offset"))
        );
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(number in 0..=MAX) {
            prop_assert_eq!(parse(number.to_string().as_bytes()), Some(number));
        }

        #[test]
        fn any_bytes_are_digits_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Some(number) = parse(&bytes) {
                prop_assert!(bytes.iter().all(u8::is_ascii_digit));
                prop_assert!(number <= MAX);
            }
        }
    }
}
