//! An HTTP endpoint that is sent a POST for each call.

use std::net::ToSocketAddrs as _;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use reqwest::{Client, Url, redirect};

use super::{Answer, Call, CallError, InvalidHook};

/// An address that does not answer at all is given up before the call's time is over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A URL, and the connections to it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    url: Url,
    client: Client,
}

impl FromStr for Endpoint {
    type Err = InvalidHook;

    fn from_str(text: &str) -> Result<Self, InvalidHook> {
        let bad = || InvalidHook::Url(text.to_owned());
        let url: Url = text.parse().map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad());
        }
        let host = url.host_str().ok_or_else(bad)?;
        let port = url.port_or_known_default().ok_or_else(bad)?;
        // `[::1]` is how a URL writes it, and not what a resolver knows.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let resolved = (name, port).to_socket_addrs();
        if !resolved.is_ok_and(|mut found| found.next().is_some()) {
            return Err(InvalidHook::Host(name.to_owned()));
        }
        // A redirect would take the question, or a signed message, to somebody else.
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("tuspool-ingest/", env!("CARGO_PKG_VERSION")));
        // An image without certificates is no reason not to speak plain HTTP within it.
        let client = match url.scheme() {
            "http" => client.tls_certs_only([]),
            _ => client,
        };
        let client = client
            .build()
            .map_err(|error| InvalidHook::Client(causes(&error)))?;
        Ok(Self { url, client })
    }
}

impl Endpoint {
    /// Sends one POST and reads the response, but not more of it than an answer may have.
    pub(super) async fn post(&self, call: &Call) -> Result<Answer, CallError> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(call.fields.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(call.body.clone());
        let failed = |error: reqwest::Error| CallError::Http(causes(&error.without_url()));
        let mut response = request.send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if call.answer_bytes_max < body.len() + piece.len() {
                return Err(CallError::TooLong(call.answer_bytes_max));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: response.status(),
            body,
        })
    }
}

/// An error with its causes, on one line: "connection refused" is the last of them.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use http::HeaderMap;

    use super::super::Hook;
    use super::*;

    /// Calls an endpoint that answers with these bytes, again and again if `endless`.
    fn call(answer: &'static [u8], endless: bool, patience: Duration) -> Result<Answer, CallError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(answer).ok();
            while endless && stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
            if answer.is_empty() {
                // Until the caller has had enough.
                stream.read_to_end(&mut Vec::new()).ok();
            }
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let hook: Hook = url.parse().unwrap();
        let call = Call {
            body: b"{\"a\":1}".to_vec(),
            environment: Vec::new(),
            fields: HeaderMap::from_iter([(
                "webhook-id".parse().unwrap(),
                HeaderValue::from_static("7"),
            )]),
            answer_bytes_max: 1000,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let answered = runtime.block_on(hook.call(&call, patience));
        drop(runtime);
        drop(hook);
        let request = server.join().unwrap();
        for part in [
            "POST /hook HTTP/1.1",
            "webhook-id: 7",
            "application/json",
            "{\"a\":1}",
        ] {
            assert!(request.contains(part), "{part} in {request}");
        }
        answered
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn its_status_and_body_are_heard_and_redirects_not_followed() {
        let answer = call(
            b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
            false,
            LONG,
        )
        .unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (403, &b"no"[..])
        );
        let moved = b"HTTP/1.1 307 Over There\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(call(moved, false, LONG).unwrap().status.as_u16(), 307);
    }

    #[test]
    fn an_endless_body_is_cut_off() {
        let cut = call(b"HTTP/1.1 200 OK\r\n\r\n", true, LONG);
        assert!(matches!(cut, Err(CallError::TooLong(1000))), "{cut:?}");
    }

    #[test]
    fn garbage_silence_and_a_hang_up_are_errors() {
        let garbage = call(b"\0\xff garbage\r\n\r\n", false, LONG);
        assert!(matches!(garbage, Err(CallError::Http(_))), "{garbage:?}");
        let silence = call(b"", false, Duration::from_millis(300));
        assert!(
            matches!(silence, Err(CallError::TimedOut(_))),
            "{silence:?}"
        );
        let half = call(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno",
            false,
            LONG,
        );
        assert!(matches!(half, Err(CallError::Http(_))), "{half:?}");
    }

    #[test]
    fn nobody_there_is_an_error_that_says_so() {
        let hook: Hook = "http://127.0.0.1:1/".parse().unwrap();
        let call = Call {
            body: Vec::new(),
            environment: Vec::new(),
            fields: HeaderMap::new(),
            answer_bytes_max: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime.block_on(hook.call(&call, LONG)).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
