use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const ID: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";
const PROXY: &str = "10.0.0.1";
const STRANGER: &str = "203.0.113.9";

fn locator(mode: Mode) -> Locator {
    Locator {
        mode,
        public_url: None,
        trusted: TrustedProxies::parse(["10.0.0.0/8", "::1"]).unwrap(),
        base: "/files/".to_owned(),
    }
}

struct Request {
    peer: &'static str,
    tls: bool,
    uri: Uri,
    headers: HeaderMap,
}

fn request(peer: &'static str, fields: &[(&'static str, &str)]) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("inner:1080"));
    for (name, value) in fields {
        if *name == "host" {
            headers.remove("host");
        }
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    Request {
        peer,
        tls: false,
        uri: "/files/".parse().unwrap(),
        headers,
    }
}

impl Request {
    fn facts(&self) -> Facts<'_> {
        let peer = Some(self.peer.parse().unwrap());
        Facts {
            peer,
            tls: self.tls,
            uri: &self.uri,
            headers: &self.headers,
        }
    }

    fn located(&self, locator: &Locator) -> String {
        let url = locator.locate(&self.facts(), ID.parse().unwrap()).url;
        url.replace(ID, "ID")
    }
}

fn auto(peer: &'static str, fields: &[(&'static str, &str)]) -> String {
    request(peer, fields).located(&locator(Mode::Auto))
}

#[test]
fn a_direct_request_gets_an_absolute_url_with_its_own_host_and_scheme() {
    assert_eq!(auto(STRANGER, &[]), "http://inner:1080/files/ID");
    let mut encrypted = request(STRANGER, &[]);
    encrypted.tls = true;
    assert_eq!(
        encrypted.located(&locator(Mode::Auto)),
        "https://inner:1080/files/ID"
    );
    let mut named = request(STRANGER, &[]);
    named.uri = "http://outer.example/files/".parse().unwrap();
    assert_eq!(
        named.located(&locator(Mode::Auto)),
        "http://outer.example/files/ID"
    );
}

#[test]
fn every_sign_of_an_untrusted_proxy_makes_it_relative_and_says_so() {
    for sign in [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-anything", ""),
        ("forwarded", "for=1.2.3.4"),
        ("via", "1.1 proxy"),
        ("origin", "https://page.example"),
    ] {
        let request = request(STRANGER, &[sign]);
        let located = locator(Mode::Auto).locate(&request.facts(), ID.parse().unwrap());
        assert_eq!(
            (located.url.as_str(), located.untrusted_proxy),
            (ID, true),
            "{sign:?}"
        );
        assert_eq!(
            locator(Mode::Auto).authorities(&request.facts()),
            Authorities::Any
        );
    }
}

#[test]
fn an_origin_of_the_same_scheme_or_of_no_web_page_is_no_sign() {
    for origin in [
        "http://page.example",
        "null",
        "capacitor://localhost",
        "file://",
        "",
    ] {
        assert_eq!(
            auto(STRANGER, &[("origin", origin)]),
            "http://inner:1080/files/ID",
            "{origin}"
        );
    }
}

#[test]
fn a_trusted_peers_first_value_decides_scheme_host_and_prefix() {
    let cases: [(&[(&'static str, &str)], &str); 9] = [
        (
            &[("x-forwarded-proto", "https")],
            "https://inner:1080/files/ID",
        ),
        (
            &[("x-forwarded-proto", " HTTPS , http")],
            "https://inner:1080/files/ID",
        ),
        (
            &[("x-forwarded-proto", "gopher")],
            "http://inner:1080/files/ID",
        ),
        (
            &[("x-forwarded-host", "a.example:8443, b.example")],
            "http://a.example:8443/files/ID",
        ),
        (
            &[("x-forwarded-prefix", "/up/")],
            "http://inner:1080/up/files/ID",
        ),
        (
            &[(
                "forwarded",
                "for=1.2.3.4;Proto=https;host=\"a.example\", for=5.6.7.8;proto=http",
            )],
            "https://a.example/files/ID",
        ),
        (
            &[("via", "1.1 proxy"), ("x-forwarded-for", "1.2.3.4")],
            "http://inner:1080/files/ID",
        ),
        (
            &[
                ("x-forwarded-proto", "https"),
                ("origin", "http://page.example"),
            ],
            "https://inner:1080/files/ID",
        ),
        (&[("origin", "https://page.example")], "ID"),
    ];
    for (fields, url) in cases {
        assert_eq!(auto(PROXY, fields), url, "{fields:?}");
    }
}

#[test]
fn what_a_trusted_peer_says_enters_the_url_only_if_it_is_what_it_claims_to_be() {
    for host in [
        "",
        "a b",
        "a/b",
        "u@a.example",
        "a.example/",
        "a\u{fc}",
        "[",
        ":80",
    ] {
        let url = auto(PROXY, &[("x-forwarded-host", host)]);
        assert_eq!(url, "http://inner:1080/files/ID", "{host:?}");
    }
    for prefix in [
        "",
        "up",
        "//evil.example",
        "/a b",
        "/a?b",
        "/<x>\"",
        "/\"",
        "/{",
        "https://evil.example",
    ] {
        let url = auto(PROXY, &[("x-forwarded-prefix", prefix)]);
        assert!(
            !url.contains("evil") && !url.contains([' ', '?', '"', '{']),
            "{url}"
        );
    }
}

#[test]
fn nothing_of_an_untrusted_peer_enters_an_absolute_url() {
    let fields = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "host=evil.example;proto=https"),
    ];
    let url = request(STRANGER, &fields).located(&locator(Mode::Absolute));
    assert_eq!(url, "http://inner:1080/files/ID");
}

#[test]
fn http1_must_name_one_host_or_none_by_an_empty_field_and_before_1_1_need_not() {
    let of = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HOST, value);
        }
        headers
    };
    let (missing, malformed) = (Refusal::Missing(HOST), Refusal::Malformed(HOST));
    for one in ["", "a", "a:80", "a_b.example", "1.2.3.4", "[::1]:1080"] {
        assert_eq!(require_host(&of(&[one]), Version::HTTP_11), Ok(()), "{one}");
    }
    for version in [Version::HTTP_10, Version::HTTP_11] {
        for wrong in ["a b", "u@a", "a/b", "http://a", "\u{e4}", ":80"] {
            let refused = require_host(&of(&[wrong]), version);
            assert_eq!(refused, Err(malformed.clone()), "{wrong}");
        }
        for twice in [["a", "b"], ["a", "a"], ["", ""]] {
            let refused = require_host(&of(&twice), version);
            assert_eq!(refused, Err(malformed.clone()), "{twice:?}");
        }
    }
    assert_eq!(require_host(&of(&[]), Version::HTTP_11), Err(missing));
    assert_eq!(require_host(&of(&[]), Version::HTTP_10), Ok(()));
    assert_eq!(require_host(&of(&[]), Version::HTTP_2), Ok(()));
}

#[test]
fn without_one_valid_host_it_is_relative() {
    for host in ["", "a b", "u@h", "/"] {
        assert_eq!(auto(STRANGER, &[("host", host)]), "ID", "{host:?}");
    }
    let mut none = request(STRANGER, &[]);
    none.headers.remove("host");
    assert_eq!(none.located(&locator(Mode::Absolute)), "ID");
    let mut two = request(STRANGER, &[]);
    two.headers
        .append("host", HeaderValue::from_static("other"));
    assert_eq!(two.located(&locator(Mode::Auto)), "ID");
}

#[test]
fn a_relative_url_resolves_against_the_request_with_and_without_a_slash_at_its_end() {
    let relative = locator(Mode::Relative);
    for (path, url) in [
        ("/files/", "ID"),
        ("/files", "files/ID"),
        ("/a/files", "files/ID"),
    ] {
        let mut request = request(STRANGER, &[]);
        request.uri = path.parse().unwrap();
        assert_eq!(request.located(&relative), url);
    }
    assert!(
        !relative
            .locate(&request(STRANGER, &[]).facts(), ID.parse().unwrap())
            .untrusted_proxy
    );
}

#[test]
fn the_public_url_is_what_clients_see_unless_relative_is_asked_for() {
    for (public, url) in [
        ("https://up.example", "https://up.example/files/ID"),
        ("https://up.example/", "https://up.example/files/ID"),
        (
            "HTTP://up.example:8080/a/",
            "http://up.example:8080/a/files/ID",
        ),
        ("https://up.example/files/", "https://up.example/files/ID"),
        (
            "https://up.example/a/files",
            "https://up.example/a/files/ID",
        ),
    ] {
        let mut locator = locator(Mode::Auto);
        locator.public_url = Some(public.parse().unwrap());
        let proxied = request(STRANGER, &[("via", "1.1 x"), ("x-forwarded-host", "evil")]);
        assert_eq!(proxied.located(&locator), url);
        let names = locator.authorities(&proxied.facts());
        assert!(
            matches!(names, Authorities::Only(names) if names.iter().any(|n| n == "inner:1080"))
        );
        locator.mode = Mode::Relative;
        assert_eq!(proxied.located(&locator), "ID");
    }
    for bad in [
        "",
        "up.example",
        "/files",
        "ftp://up.example",
        "https://",
        "https://u@up.example",
        "https://up.example/?x",
        "https://up.example/#x",
        "https://a b",
        "https://a/{b}",
    ] {
        assert_eq!(
            bad.parse::<PublicUrl>(),
            Err(InvalidFlag::PublicUrl),
            "{bad:?}"
        );
    }
}

#[test]
fn trusted_proxies_are_addresses_networks_and_unix_sockets() {
    let trusted = TrustedProxies::parse(["10.0.0.5/8", " 192.0.2.1", "2001:db8::/32", "unix"]);
    let trusted = trusted.unwrap();
    for (peer, expected) in [
        ("10.200.0.1", true),
        ("::ffff:10.200.0.1", true),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
        ("2001:db8::5", true),
        ("2001:db9::5", false),
    ] {
        assert_eq!(
            trusted.trust(Some(peer.parse().unwrap())),
            expected,
            "{peer}"
        );
    }
    assert!(trusted.trust(None));
    assert!(!TrustedProxies::default().trust(None));
    for bad in [
        "",
        "localhost",
        "10.0.0.0/33",
        "10.0.0",
        "10.0.0.1/",
        "*",
        "10.0.0.1:80",
    ] {
        let refused = TrustedProxies::parse(["10.0.0.1", bad]);
        assert_eq!(refused, Err(InvalidFlag::Proxy(bad.to_owned())));
    }
}

#[test]
fn modes_are_read_by_name() {
    assert_eq!("auto".parse(), Ok(Mode::Auto));
    assert_eq!("absolute".parse(), Ok(Mode::Absolute));
    assert_eq!("relative".parse(), Ok(Mode::Relative));
    assert_eq!("Auto".parse::<Mode>(), Err(InvalidFlag::Mode));
}

proptest! {
    #[test]
    fn whatever_comes_the_location_is_one_line_that_ends_with_the_id(
        host in "[ -~]{0,12}", proto in "[ -~]{0,8}", prefix in "[ -~]{0,12}", forwarded in "[ -~]{0,20}",
    ) {
        let fields = [
            ("host", host.as_str()),
            ("x-forwarded-proto", proto.as_str()),
            ("x-forwarded-host", host.as_str()),
            ("x-forwarded-prefix", prefix.as_str()),
            ("forwarded", forwarded.as_str()),
        ];
        for peer in [PROXY, STRANGER] {
            for mode in [Mode::Auto, Mode::Absolute, Mode::Relative] {
                let url = request(peer, &fields).located(&locator(mode));
                prop_assert!(url.ends_with("ID") && !url.contains([' ', '<', '"', '\\']), "{}", url);
                prop_assert!(url.parse::<Uri>().is_ok(), "{}", url);
            }
        }
    }
}
