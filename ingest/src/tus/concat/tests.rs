use proptest::prelude::*;
use shared::size::Offset;

use super::super::capabilities::Extensions;
use super::super::stored::Finish;
use super::*;

const A: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0a";
const B: &str = "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b";

fn ours() -> Authorities {
    Authorities::Only(vec![
        "tus.example.org:1080".to_owned(),
        "public.example".to_owned(),
    ])
}

fn site(authorities: &Authorities) -> Site<'_> {
    Site {
        base: "/files/",
        path: "/files/",
        authorities,
    }
}

fn parse(value: &str) -> Result<Option<Concat>, Refusal> {
    let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
    let headers = HeaderMap::from_iter([(UPLOAD_CONCAT.parse().unwrap(), value)]);
    let capabilities = Capabilities {
        max_parts: 3,
        ..Capabilities::default()
    };
    let parsed = Concat::parse(&headers, &site(&ours()), &capabilities)?;
    Ok(parsed.map(|(concat, verbatim)| {
        assert_eq!(verbatim, headers[UPLOAD_CONCAT], "kept as it came");
        concat
    }))
}

fn id(text: &str) -> UploadId {
    text.parse().unwrap()
}

#[test]
fn if_the_upload_is_a_partial_one_the_header_value_must_be_partial() {
    assert_eq!(parse("partial"), Ok(Some(Concat::Partial)));
    for bad in [
        "",
        "Partial",
        "PARTIAL",
        "partial;",
        "partial x",
        "final",
        "finale;",
        "Final;/files/",
    ] {
        assert_eq!(
            parse(bad),
            Err(Refusal::Malformed(UPLOAD_CONCAT)),
            "{bad:?}"
        );
    }
}

#[test]
fn a_final_value_is_followed_by_a_semicolon_and_a_space_separated_list_of_urls() {
    let both = Ok(Some(Concat::Final(vec![id(A), id(B)])));
    assert_eq!(parse(&format!("final;/files/{A} /files/{B}")), both);
    assert_eq!(parse(&format!("final; /files/{A}  /files/{B} ")), both);
    assert_eq!(parse("final;"), Err(Refusal::Malformed(UPLOAD_CONCAT)));
    assert_eq!(parse("final; "), Err(Refusal::Malformed(UPLOAD_CONCAT)));
    let twice = format!("final;/files/{A} /files/{A}");
    assert_eq!(parse(&twice), Ok(Some(Concat::Final(vec![id(A), id(A)]))));
}

#[test]
fn the_partial_upload_urls_may_be_absolute_or_relative() {
    let authorities = ours();
    let site = site(&authorities);
    for url in [
        format!("/files/{A}"),
        A.to_owned(),
        format!("./{A}"),
        format!("../files/{A}"),
        format!("http://tus.example.org:1080/files/{A}"),
        format!("https://public.example/files/{A}"),
        format!("https://public.example:443/files/{A}"),
        format!("HTTPS://Public.Example/files/{A}"),
        format!("//public.example/files/{A}"),
    ] {
        assert_eq!(site.resolve(&url), Some(id(A)), "{url}");
    }
    let without_slash = Site {
        path: "/files",
        ..site
    };
    assert_eq!(without_slash.resolve(&format!("files/{A}")), Some(id(A)));
    assert_eq!(without_slash.resolve(A), None);
}

#[test]
fn urls_of_other_hosts_and_other_paths_are_no_parts() {
    let authorities = ours();
    let site = site(&authorities);
    for url in [
        String::new(),
        "/".to_owned(),
        "/files/".to_owned(),
        "/files/x".to_owned(),
        format!("/other/{A}"),
        format!("/files/x/{A}"),
        format!("/files//{A}"),
        format!("/files/{A}/"),
        format!("/files/{A}?x"),
        format!("/files/{A}#x"),
        format!("/files/..%2f{A}"),
        format!("/files/%30{}", A.get(1..).unwrap()),
        format!("/files/{}", A.to_uppercase()),
        format!("..\\files\\{A}"),
        format!("http://evil.example/files/{A}"),
        format!("http://tus.example.org/files/{A}"),
        format!("http://user@tus.example.org:1080/files/{A}"),
        format!("//evil.example/files/{A}"),
        format!("http:///files/{A}"),
        format!("ftp://public.example/files/{A}"),
        format!("http:/files/{A}"),
        "http://public.example".to_owned(),
    ] {
        assert_eq!(site.resolve(&url), None, "{url}");
    }
    let refused = parse(&format!("final;/files/{A} http://evil.example/files/{B}"));
    assert_eq!(refused, Err(Refusal::NotAPart { number: 2 }));
}

#[test]
fn behind_an_unknown_proxy_the_id_alone_names_the_part() {
    let any = Authorities::Any;
    for url in [
        format!("https://outer.example/prefix/files/{A}"),
        format!("/prefix/files/{A}"),
        format!("files/{A}"),
        A.to_owned(),
    ] {
        assert_eq!(site(&any).resolve(&url), Some(id(A)), "{url}");
    }
    assert_eq!(site(&any).resolve("https://outer.example/files/x"), None);
}

#[test]
fn the_number_of_parts_is_bounded() {
    let three = format!("final;/files/{A} /files/{A} /files/{A}");
    assert!(parse(&three).is_ok());
    assert_eq!(
        parse(&format!("{three} /files/{B}")),
        Err(Refusal::TooManyParts { most: 3 })
    );
}

#[test]
fn a_repeated_header_is_malformed_and_one_without_the_extension_is_refused() {
    let partial = HeaderValue::from_static("partial");
    let mut headers = HeaderMap::from_iter([(UPLOAD_CONCAT.parse().unwrap(), partial.clone())]);
    let authorities = ours();
    let off = Capabilities {
        extensions: Extensions::all().without(Extension::Concatenation),
        ..Capabilities::default()
    };
    let refused = Concat::parse(&headers, &site(&authorities), &off);
    assert_eq!(
        refused,
        Err(Refusal::ExtensionOff(Extension::Concatenation))
    );
    headers.append(UPLOAD_CONCAT, partial);
    let refused = Concat::parse(&headers, &site(&authorities), &Capabilities::default());
    assert_eq!(refused, Err(Refusal::Malformed(UPLOAD_CONCAT)));
    let none = Concat::parse(&HeaderMap::new(), &site(&authorities), &off);
    assert_eq!(none, Ok(None));
}

fn part(offset: u64, length: Option<u64>) -> Option<Stored> {
    let length = length.map(Length);
    let whole = Stored::whole(Offset(offset), length);
    Some(Stored {
        kind: Kind::Partial,
        finish: Finish::Never,
        ..whole
    })
}

#[test]
fn the_length_of_the_final_upload_must_be_the_sum_of_the_length_of_all_partial_uploads() {
    let on = Capabilities::default();
    let plan = decide(&[part(5, Some(5)), part(6, Some(6))], &on);
    assert_eq!(
        plan,
        Ok(Plan {
            length: Some(Length(11)),
            ready: true
        })
    );
    let plan = decide(&[part(5, Some(5)), part(0, Some(6))], &on);
    assert_eq!(
        plan,
        Ok(Plan {
            length: Some(Length(11)),
            ready: false
        })
    );
    for parts in [
        [part(5, Some(5)), part(1, None)],
        [part(1, None), part(5, Some(5))],
    ] {
        assert_eq!(
            decide(&parts, &on),
            Ok(Plan {
                length: None,
                ready: false
            })
        );
    }
    assert_eq!(
        decide(&[part(0, Some(0))], &on),
        Ok(Plan {
            length: Some(Length(0)),
            ready: true
        })
    );
}

#[test]
fn unfinished_parts_are_taken_only_with_concatenation_unfinished() {
    let off = Capabilities {
        extensions: Extensions::all().without(Extension::ConcatenationUnfinished),
        ..Capabilities::default()
    };
    let refused = decide(&[part(5, Some(5)), part(1, Some(6))], &off);
    assert_eq!(refused, Err(Refusal::PartIncomplete { number: 2 }));
    assert!(decide(&[part(5, Some(5)), part(6, Some(6))], &off).is_ok());
}

#[test]
fn the_length_is_known_as_soon_as_each_part_has_told_its_own() {
    assert_eq!(
        length(&[part(5, Some(5)), part(1, Some(6))]),
        Some(Length(11))
    );
    assert_eq!(length(&[part(0, Some(0))]), Some(Length(0)));
    for open in [part(5, None), None, part(0, Some(u64::MAX))] {
        assert_eq!(length(&[part(5, Some(5)), open]), None);
    }
    assert_eq!(length(&[]), None);
}

#[test]
fn only_existing_partial_uploads_are_parts() {
    let on = Capabilities::default();
    assert_eq!(decide(&[None], &on), Err(Refusal::NotAPart { number: 1 }));
    let whole = Some(Stored::whole(Offset(5), Some(Length(5))));
    assert_eq!(
        decide(&[part(5, Some(5)), whole], &on),
        Err(Refusal::NotAPart { number: 2 })
    );
    let finished = whole.map(|stored| Stored {
        kind: Kind::Final { assembled: true },
        ..stored
    });
    assert_eq!(
        decide(&[finished], &on),
        Err(Refusal::NotAPart { number: 1 })
    );
}

#[test]
fn a_sum_beyond_max_size_or_beyond_any_file_is_413() {
    let limited = Capabilities {
        max_size: Some(10),
        ..Capabilities::default()
    };
    assert!(decide(&[part(5, Some(5)), part(5, Some(5))], &limited).is_ok());
    let refused = decide(&[part(5, Some(5)), part(6, Some(6))], &limited);
    assert_eq!(refused, Err(Refusal::MaxSize { most: 10 }));
    let huge = part(0, Some(Length::MAX.0));
    let refused = decide(&[huge, huge, huge], &Capabilities::default());
    assert_eq!(
        refused,
        Err(Refusal::MaxSize {
            most: Length::MAX.0
        })
    );
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(value in "(final;|partial)?[ /.a-f0-9:-]{0,80}") {
        prop_assert!(!matches!(parse(&value), Ok(None)));
    }

    #[test]
    fn any_url_resolves_or_does_not(url in "\\PC{0,60}") {
        let authorities = ours();
        if let Some(id) = site(&authorities).resolve(&url) {
            prop_assert!(url.ends_with(&id.to_string()));
        }
        if let Some(id) = site(&Authorities::Any).resolve(&url) {
            prop_assert!(url.ends_with(&id.to_string()));
        }
    }
}
