//! From the command line and the environment to a running program and its exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, Parser};

use super::exit::one_line;
use super::{Exit, Failure, LogArgs, pages};
use crate::failpoint;

/// The arguments of one of the programs.
pub trait Program: Parser {
    /// Name of the binary; in upper case, the prefix of its environment variables.
    const NAME: &'static str;

    /// What its exit codes say; for `--help`.
    const EXITS: &'static [(Exit, &'static str)] = &[
        (Exit::OK, "done"),
        (Exit::FAILURE, "something failed while running"),
        (
            Exit::USAGE,
            "a flag or the spool is unusable; nothing was touched",
        ),
    ];

    /// How it logs.
    fn log(&self) -> &LogArgs;

    /// Command lines of the same program that begin with a word; for completions and man pages.
    #[must_use]
    fn words() -> Vec<Command> {
        Vec::new()
    }
}

/// The whole `main` of a program: reads flags and environment, starts the log, runs, and turns
/// the result into an exit code, an error being told in one line on standard error.
pub fn run_main<P: Program>(run: impl FnOnce(P) -> Result<Exit, Failure>) -> ExitCode {
    let outcome = match parse_from::<P>(std::env::args_os()) {
        Ok(Ok(args)) => start_log(&args).and_then(|()| run(args)),
        Ok(Err(text)) => print(&text),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Nobody is left to tell that standard error is closed; the exit code still speaks.
            io::stderr()
                .write_all(format!("{}: {failure}\n", P::NAME).as_bytes())
                .ok();
            failure.exit().into()
        }
    }
}

/// The command line of a program, complete: version, and an environment variable for every flag.
///
/// For help texts, completions and man pages; [`parse_from`] also reads the environment with it.
#[must_use]
pub fn command<P: Program>() -> Command {
    let prefix = P::NAME.to_ascii_uppercase();
    let command = P::command()
        .name(P::NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(exits(P::EXITS))
        .mut_args(|arg| with_variable(arg, &prefix))
        .mut_subcommands(|sub| {
            // A flag of a subcommand may be as sharp as `--all`: only what says where the spool
            // is and how to log comes from the environment.
            let sub = sub.mut_args(|arg| match arg.get_help_heading() {
                Some("Spool" | "Logging") => with_variable(arg, &prefix),
                _ => arg,
            });
            sub.after_help(exits(P::EXITS))
        });
    pages::with_flags(command)
}

fn exits(exits: &[(Exit, &str)]) -> String {
    let lines = exits
        .iter()
        .map(|(exit, meaning)| format!("\n  {:<3} {meaning}", exit.0));
    format!("Exit codes:{}", lines.collect::<String>())
}

/// `--max-size` of ingest is also `INGEST_MAX_SIZE`; an empty variable counts as unset.
fn with_variable(arg: Arg, prefix: &str) -> Arg {
    let Some(long) = arg.get_long() else {
        return arg;
    };
    let name = format!("{prefix}_{}", long.to_ascii_uppercase().replace('-', "_"));
    if std::env::var_os(&name).is_some_and(|value| value.is_empty()) {
        return arg;
    }
    let arg = match arg.get_action() {
        // `true`, `yes`, `on` and `1` switch a flag on, their opposites leave it off.
        ArgAction::SetTrue | ArgAction::SetFalse => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    // clap wants the name for ever; there is one per flag, made once.
    arg.env(&*name.leak())
}

/// Reads a command line: the program's arguments, or a text to print (`--help`, `--version`,
/// `--man`, `--completions`).
///
/// # Errors
///
/// What clap refuses, in one line, with [`Exit::USAGE`].
pub fn parse_from<P: Program>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Result<P, String>, Failure> {
    let (command, args) = (command::<P>(), Vec::from_iter(args));
    if let Some(page) = pages::asked(&command, P::words(), &args) {
        return Ok(Err(page));
    }
    let parsed = command.try_get_matches_from(args);
    match parsed.and_then(|matches| P::from_arg_matches(&matches)) {
        Ok(args) => Ok(Ok(args)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(Err(error.render().to_string()))
        }
        Err(error) => Err(Failure::usage(summary(&error.render().to_string()))),
    }
}

/// The first paragraphs of clap's message on one line, without its usage.
fn summary(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let said = text.split("\n\nUsage:").next().unwrap_or(text);
    let said = said
        .split("\n\nFor more information")
        .next()
        .unwrap_or(said);
    let said: Vec<_> = said
        .split("\n\n")
        .map(one_line)
        .filter(|s| !s.is_empty())
        .collect();
    format!("{} (see --help)", said.join("; "))
}

fn start_log<P: Program>(args: &P) -> Result<(), Failure> {
    let rust_log = std::env::var("RUST_LOG").ok();
    args.log()
        .start(rust_log.as_deref())
        .map_err(Failure::usage)?;
    failpoint::check_environment().map_err(Failure::usage)
}

fn print(text: &str) -> Result<Exit, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // `--help | head -1` is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(Exit::OK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::startup::{Period, SpoolArgs};

    /// Tests the command line.
    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        spool: SpoolArgs,
        #[command(flatten)]
        log: LogArgs,
        /// Stay
        #[arg(long, default_value_t = Period::from_secs(90))]
        every: Period,
        /// Look only
        #[arg(long)]
        dry_run: bool,
    }

    impl Program for Args {
        const NAME: &'static str = "tester";
        fn log(&self) -> &LogArgs {
            &self.log
        }
    }

    fn parse(args: &[&str]) -> Result<Result<Args, String>, Failure> {
        let args = std::iter::once("tester").chain(args.iter().copied());
        parse_from(args.map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        command::<Args>().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        for arg in command::<Args>().get_arguments() {
            let long = arg.get_long().unwrap();
            if ["man", "completions"].contains(&long) {
                assert!(arg.get_env().is_none());
                continue;
            }
            let expected = format!("TESTER_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().unwrap().to_str(), Some(expected.as_str()));
        }
    }

    #[test]
    fn flags_are_read_and_have_defaults() {
        let args = parse(&["--spool", "/s", "--file-mode", "0660"])
            .unwrap()
            .unwrap();
        assert_eq!(args.spool.spool.to_str(), Some("/s"));
        assert_eq!(args.spool.file_mode.0, 0o660);
        assert_eq!(
            args.spool.durability,
            crate::durable::Durability::EveryPatch
        );
        assert_eq!(args.every.to_string(), "1m30s");
        assert!(!args.dry_run);
        assert!(
            parse(&["--spool", "/s", "--dry-run"])
                .unwrap()
                .unwrap()
                .dry_run
        );
    }

    #[test]
    fn a_bad_command_line_is_one_line_and_exit_2() {
        let cases = [
            (vec![], "--spool <DIR>"),
            (vec!["--spool"], "--spool <DIR>"),
            (vec!["--spool", "/s", "--every", "soon"], "like 30s, 5m"),
            (vec!["--spool", "/s", "--evry", "3"], "--every"),
            (vec!["--spool", "/s", "--durability", "some"], "every-patch"),
            (vec!["--spool", "/s", "--log-level", "inof"], "log level"),
            (vec!["--spool", "/s", "extra"], "extra"),
        ];
        for (args, expected) in cases {
            let failure = parse(&args).unwrap_err();
            let line = failure.to_string();
            assert_eq!(failure.exit(), Exit::USAGE, "{args:?}");
            assert!(line.contains(expected), "{args:?}: {line}");
            assert!(
                !line.contains('\n') && !line.contains("Usage"),
                "{args:?}: {line}"
            );
        }
    }

    #[test]
    fn pages_need_nothing_else() {
        let man = parse(&["--man"]).unwrap().unwrap_err();
        for expected in [
            ".TH tester 1",
            "\\-\\-dry\\-run",
            "TESTER_EVERY",
            "Exit codes",
        ] {
            assert!(man.contains(expected), "{expected} in {man}");
        }
        let bash = parse(&["--completions", "bash"]).unwrap().unwrap_err();
        assert!(
            bash.contains("--dry-run") && bash.contains("_tester()"),
            "{bash}"
        );
        assert!(
            parse(&["--completions=zsh"])
                .unwrap()
                .unwrap_err()
                .contains("#compdef tester")
        );
        let failure = parse(&["--completions", "dos"]).unwrap_err();
        assert_eq!(failure.exit(), Exit::USAGE);
        assert!(
            failure.to_string().contains("--completions <SHELL>"),
            "{failure}"
        );
    }

    #[test]
    fn help_and_version_are_text_and_not_failures() {
        let help = parse(&["--help"]).unwrap().unwrap_err();
        for expected in [
            "Spool:",
            "Logging:",
            "[env: TESTER_SPOOL=]",
            "[default: 1m30s]",
            "Exit codes:\n  0   done\n",
        ] {
            assert!(help.contains(expected), "{expected} in {help}");
        }
        let version = parse(&["--version"]).unwrap().unwrap_err();
        assert_eq!(
            version.trim(),
            format!("tester {}", env!("CARGO_PKG_VERSION"))
        );
    }
}
