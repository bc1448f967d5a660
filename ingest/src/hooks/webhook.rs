//! The signature of the Standard Webhooks scheme. A receiver that knows the secret can verify that
//! a message comes from us, was not changed, and was sent just now.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

/// How a secret begins.
const PREFIX: &str = "whsec_";
/// Size of a secret in bytes, by the scheme.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What both sides know. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

/// A text that is not `whsec_` and Base64 of the right size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret is whsec_ and 24 to 64 bytes in Base64, as of: echo whsec_$(openssl rand -base64 32)"
)]
pub struct InvalidSecret;

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        match SECRET_BYTES.contains(&bytes.len()) {
            true => Ok(Self(bytes)),
            false => Err(InvalidSecret),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The header fields of one message, sent at `now` (Unix seconds). The id is that of the
    /// event: the same for every attempt to tell it.
    #[must_use]
    pub(crate) fn sign(&self, id: &str, now: u64, body: &[u8]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        let signature = format!("v1,{}", STANDARD.encode(self.mac(id, now, body)));
        for (name, value) in [
            (ID, id.to_owned()),
            (TIMESTAMP, now.to_string()),
            (SIGNATURE, signature),
        ] {
            // Ids are ours, the rest is digits and Base64: all of it may stand in a field.
            if let Ok(value) = HeaderValue::from_str(&value) {
                fields.insert(name, value);
            }
        }
        fields
    }

    fn mac(&self, id: &str, now: u64, body: &[u8]) -> Vec<u8> {
        // HMAC takes keys of every size.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return Vec::new();
        };
        mac.update(format!("{id}.{now}.").as_bytes());
        mac.update(body);
        mac.finalize().into_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the scheme's own libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_schemes_own_example_is_signed_alike() {
        let fields = SECRET.parse::<Secret>().unwrap().sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(fields["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(fields["webhook-timestamp"], "1614265330");
        assert_eq!(
            fields["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn every_part_of_a_message_is_signed() {
        let secret: Secret = SECRET.parse().unwrap();
        let other: Secret = format!("whsec_{}", STANDARD.encode([7; 24]))
            .parse()
            .unwrap();
        let mac = secret.mac("a", 1, b"x");
        for changed in [
            secret.mac("b", 1, b"x"),
            secret.mac("a", 2, b"x"),
            secret.mac("a", 1, b"y"),
            other.mac("a", 1, b"x"),
        ] {
            assert_ne!(mac, changed);
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_and_none_is_printed() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![0; bytes]));
        for bytes in 24..=64 {
            assert!(of(bytes).parse::<Secret>().is_ok(), "{bytes}");
        }
        assert!(format!("{}\n", of(32)).parse::<Secret>().is_ok());
        let bad = [
            of(0),
            of(23),
            of(65),
            "whsec_!".into(),
            STANDARD.encode([0; 32]),
            String::new(),
        ];
        for bad in bad {
            assert_eq!(bad.parse::<Secret>(), Err(InvalidSecret), "{bad}");
        }
        assert_eq!(format!("{:?}", SECRET.parse::<Secret>().unwrap()), "Secret");
    }
}
