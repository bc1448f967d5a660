use clap::Parser as _;
use shared::durable::Durability;

use super::*;

fn config(args: &[&str]) -> Result<Config, InvalidConfig> {
    let args = ["ingest", "--spool", "/nowhere"].iter().chain(args);
    Config::try_from(Args::try_parse_from(args).unwrap())
}

#[test]
fn the_defaults_are_what_the_documentation_says() {
    let config = config(&[]).unwrap();
    assert_eq!(config.listen, "127.0.0.1:1080".parse().unwrap());
    assert_eq!(config.base_path, "/files/");
    assert_eq!(config.spool.durability, Durability::EveryPatch);
    assert_eq!(config.limits.metadata_bytes_max, 4096);
    assert_eq!(config.limits.size_max, None);
    assert_eq!(config.limits.body_bytes_max, None);
    assert_eq!(config.limits.filename, FileNameRule::Utf8);
}

#[test]
fn a_base_path_is_made_to_begin_and_end_with_a_slash() {
    for path in ["/files/", "/files", "files", "files/"] {
        assert_eq!(normalize(path).unwrap(), "/files/", "{path}");
    }
    assert_eq!(normalize("/").unwrap(), "/");
    assert_eq!(normalize("/a/b-c").unwrap(), "/a/b-c/");
    for path in [
        "", "/a//b", "/../x", "/a/./b", "/a?b", "/a b", "/ä", "/%41", "/a#",
    ] {
        assert!(normalize(path).is_err(), "{path}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let cases: [(&[&str], InvalidConfig); 6] = [
        (&["--max-size", "0"], InvalidConfig::Zero("--max-size")),
        (&["--max-size", "15EiB"], InvalidConfig::TooLarge),
        (
            &["--max-chunk-size", "0"],
            InvalidConfig::Zero("--max-chunk-size"),
        ),
        (
            &["--max-connections", "0"],
            InvalidConfig::Zero("--max-connections"),
        ),
        (
            &["--stall-timeout", "0"],
            InvalidConfig::Zero("--stall-timeout"),
        ),
        (
            &["--listen", "nonsense"],
            InvalidConfig::Listen("nonsense".to_owned()),
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(config(args).unwrap_err(), expected, "{args:?}");
    }
}
