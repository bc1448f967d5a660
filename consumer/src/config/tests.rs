use clap::Parser;

use super::*;

/// Parses and checks a command line; `$D` in it is a fresh directory with `spool` and `out`.
fn check(line: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["spool", "out"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("text"), "").unwrap();
    let line = line.replace("$D", dir.path().to_str().unwrap());
    let words = shell_words::split(&format!(
        "consumer --spool {}/spool {line}",
        dir.path().display()
    ));
    let args = Args::try_parse_from(words.unwrap()).map_err(|error| error.to_string())?;
    Config::check(args.work).map_err(|error| error.to_string())
}

#[test]
fn a_move_or_a_hook_is_enough_and_defaults_are_those_documented() {
    let config = check("--move-to $D/out").unwrap();
    assert_eq!(config.backoff.attempts_max, 10);
    assert_eq!(config.backoff.base, Duration::from_secs(5));
    assert_eq!(config.backoff.cap, Duration::from_secs(900));
    assert_eq!(config.jobs.get(), 1);
    assert_eq!(config.until, Until::Stopped);
    assert_eq!(config.poll, None);
    assert!(config.spool.spool.is_absolute());
    let config = check("--hook 'true {file}' --hook true --jobs 8 --drain").unwrap();
    assert_eq!(
        (config.hooks.len(), config.jobs.get(), config.until),
        (2, 8, Until::Empty)
    );
    let config = check("--hook true --once --timeout 5 --jobs 8").unwrap();
    assert_eq!(config.jobs.get(), 1);
    assert_eq!(
        config.until,
        Until::One {
            within: Some(Duration::from_secs(5))
        }
    );
}

#[test]
fn what_cannot_work_is_one_line() {
    let cases = [
        ("", "nothing to do"),
        ("--check true", "nothing to do"),
        ("--hook 'true {fiel}'", "unknown placeholder {fiel}"),
        ("--hook ''", "is empty"),
        ("--hook \"true 'x\"", "missing closing quote"),
        ("--hook /nonexistent/program", "there is no such file"),
        ("--hook no-such-program-anywhere", "there is no such file"),
        ("--hook $D/text", "it is not executable"),
        ("--hook $D", "there is no such file"),
        ("--check '{file}' --hook true", "cannot be a placeholder"),
        ("--move-to $D/none", "No such file"),
        ("--move-to $D/text", "not a directory"),
        ("--move-to $D/spool", "lies in the spool"),
        ("--move-to $D/out --name ../x", "must be a relative path"),
        (
            "--move-to $D/out --name '{file}'",
            "unknown placeholder {file}",
        ),
        ("--hook true --hook-env NO_SUCH_VARIABLE", "is not set"),
        ("--hook true --hook-env UPLOAD_ID=x", "are the consumer's"),
    ];
    for (line, expected) in cases {
        let error = check(line).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
        assert_eq!(error.lines().count(), 1, "{line}: {error}");
    }
}

#[test]
fn what_clap_refuses_names_the_flag() {
    let cases = [
        ("--hook true --jobs 0", "--jobs"),
        ("--hook true --jobs 129", "--jobs"),
        ("--hook true --poll soon", "--poll"),
        ("--hook true --max-attempts 0", "--max-attempts"),
        ("--hook true --once --drain", "--drain"),
        ("--hook true --timeout 5s", "--once"),
        ("--hook true --name x", "--move-to"),
        ("--hook true --only kind", "--only"),
        ("--hook true --limit-per owner=0", "--limit-per"),
        ("--move-to $D/out --move-owner no-such-user", "no-such-user"),
        ("--move-to $D/out --move-owner :", "--move-owner"),
    ];
    for (line, expected) in cases {
        let error = check(line).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn commands_get_what_is_named_and_nothing_else() {
    let config = check("--hook true --hook-env A=1 --hook-env B=x=y --hook-env A=2").unwrap();
    let names: Vec<_> = config
        .environment
        .iter()
        .map(|(name, _)| name.to_str().unwrap())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| hook::INHERITED.contains(name) || ["A", "B"].contains(name))
    );
    let value = |wanted: &str| {
        let found = config.environment.iter().find(|(name, _)| name == wanted);
        found.unwrap().1.to_str().unwrap().to_owned()
    };
    assert_eq!((value("A"), value("B")), ("2".to_owned(), "x=y".to_owned()));
}

#[test]
fn owners_are_names_or_numbers() {
    let owner: OwnerArg = "0:0".parse().unwrap();
    assert_eq!(
        (owner.user, owner.group),
        (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))
    );
    assert_eq!("root".parse::<OwnerArg>().unwrap().group, None);
    assert_eq!(":12".parse::<OwnerArg>().unwrap().user, None);
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Args::command().debug_assert();
}
