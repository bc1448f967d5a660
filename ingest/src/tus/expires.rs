//! `Upload-Expires`: when an unfinished upload goes away, counted from its last byte and not from
//! its creation, so that a slow upload of three days lives.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::capabilities::{Capabilities, Extension};
use super::headers::{UPLOAD_EXPIRES, set};

/// Last second that an HTTP date can name (end of the year 9999).
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// When an upload written last at `last_write` expires; `None` if uploads do not.
#[must_use]
pub fn at(last_write: SystemTime, capabilities: &Capabilities) -> Option<SystemTime> {
    if !capabilities.offers(Extension::Expiration) {
        return None;
    }
    let last = SystemTime::UNIX_EPOCH.checked_add(LAST)?;
    Some(
        last_write
            .checked_add(capabilities.expire_after?)?
            .min(last),
    )
}

/// Whether it has expired at `now`. A write in the future (clocks jump) has not.
#[must_use]
pub fn is_over(last_write: SystemTime, now: SystemTime, capabilities: &Capabilities) -> bool {
    at(last_write, capabilities).is_some_and(|end| end < now)
}

/// Adds `Upload-Expires`, an RFC 9110 date; never for an upload that is complete.
pub fn announce(
    fields: &mut HeaderMap,
    last_write: SystemTime,
    complete: bool,
    capabilities: &Capabilities,
) {
    if let Some(end) = at(last_write, capabilities).filter(|_| !complete) {
        let end = end.max(SystemTime::UNIX_EPOCH);
        set(fields, UPLOAD_EXPIRES, &httpdate::fmt_http_date(end));
    }
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::Extensions;
    use super::*;

    fn after(seconds: u64) -> Capabilities {
        let expire_after = Some(Duration::from_secs(seconds));
        Capabilities {
            expire_after,
            ..Capabilities::default()
        }
    }

    fn time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn announced(last: SystemTime, complete: bool, capabilities: &Capabilities) -> Option<String> {
        let mut fields = HeaderMap::new();
        announce(&mut fields, last, complete, capabilities);
        fields
            .get(UPLOAD_EXPIRES)
            .map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_value_of_the_upload_expires_header_must_be_in_rfc_7231_datetime_format() {
        let shown = announced(time(1_403_712_000 - 60), false, &after(60));
        assert_eq!(shown.unwrap(), "Wed, 25 Jun 2014 16:00:00 GMT");
    }

    #[test]
    fn it_is_shown_only_if_the_upload_is_going_to_expire() {
        assert_eq!(announced(time(5), true, &after(60)), None);
        assert_eq!(announced(time(5), false, &Capabilities::default()), None);
        let off = Capabilities {
            extensions: Extensions::all().without(Extension::Expiration),
            ..after(60)
        };
        assert_eq!(announced(time(5), false, &off), None);
        assert!(!is_over(time(5), time(5000), &off));
    }

    #[test]
    fn the_age_counts_from_the_last_write() {
        let week = after(7);
        assert!(!is_over(time(100), time(107), &week));
        assert!(is_over(time(100), time(108), &week));
        assert!(
            !is_over(time(200), time(108), &week),
            "written in the future"
        );
    }

    #[test]
    fn dates_beyond_what_http_can_say_are_capped() {
        let shown = announced(time(5), false, &after(u64::MAX / 4));
        assert!(shown.is_none_or(|date| date.ends_with("9999 23:59:59 GMT")));
        let shown = announced(time(5), false, &after(300_000_000_000));
        assert_eq!(shown.unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(500);
        let shown = announced(before_1970, false, &after(60));
        assert_eq!(shown.unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
