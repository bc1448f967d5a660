//! A request's head in memory of its own.
//!
//! hyper gives out the target and the field values of a request as parts of the buffer that it read
//! them into. Who keeps them keeps all of that buffer from being read into again: a body that comes
//! slowly would need another one beside it, for as long as it comes.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderValue, Uri};

/// Copies target and field values out of the buffer that they were read into.
pub(super) fn detach(head: &mut Parts) {
    let target = head.uri.to_string();
    let values = head.headers.values().map(HeaderValue::len).sum::<usize>();
    let mut copied = BytesMut::with_capacity(target.len() + values);
    copied.extend_from_slice(target.as_bytes());
    for value in head.headers.values() {
        copied.extend_from_slice(value.as_bytes());
    }
    let mut copied = copied.freeze();
    // What was a target or a value is one again: the old one never stays.
    if let Ok(target) = Uri::from_maybe_shared(copied.split_to(target.len())) {
        head.uri = target;
    }
    for value in head.headers.values_mut() {
        let bytes: Bytes = copied.split_to(value.len());
        if let Ok(mut own) = HeaderValue::from_maybe_shared(bytes) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_detached_head_says_the_same_and_leaves_its_buffer_to_others() {
        let buffer = Bytes::from(b"/files/x?y=zone two\xffthree".to_vec());
        let value = |range| HeaderValue::from_maybe_shared(buffer.slice(range)).unwrap();
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_maybe_shared(buffer.slice(..12)).unwrap();
        request.headers_mut().insert("a", value(12..15));
        request.headers_mut().append("a", value(16..20));
        let mut secret = value(20..25);
        secret.set_sensitive(true);
        request.headers_mut().insert("b", secret);
        let (mut head, ()) = request.into_parts();
        let (uri, headers) = (head.uri.clone(), head.headers.clone());
        detach(&mut head);
        assert_eq!((&head.uri, &head.headers), (&uri, &headers));
        assert!(head.headers["b"].is_sensitive());
        drop((uri, headers));
        assert!(buffer.is_unique());
    }
}
