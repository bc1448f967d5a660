//! What packagers install beside a program: completion scripts and man pages.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;

const COMPLETIONS: &str = "completions";
const MAN: &str = "man";

/// Adds the flags that ask for a page. They have no variables: a page is never a configuration.
pub(super) fn with_flags(command: Command) -> Command {
    let completions = Arg::new(COMPLETIONS)
        .long(COMPLETIONS)
        .value_name("SHELL")
        .value_parser(value_parser!(Shell))
        .help("Print a completion script for this shell");
    let man = Arg::new(MAN)
        .long(MAN)
        .action(ArgAction::SetTrue)
        .help("Print the man page");
    command
        .arg(completions.help_heading("Other"))
        .arg(man.help_heading("Other"))
}

/// The page that `args` ask for, if they do. What is required otherwise may be missing then.
///
/// `words` are command lines of the same program that begin with a word. `--man` after such a word
/// asks for its own page; everything else speaks of all of them.
pub(super) fn asked(command: &Command, words: Vec<Command>, args: &[OsString]) -> Option<String> {
    let asks = |arg: &OsString| {
        let arg = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
        arg.is_some_and(|arg| arg == MAN || arg.starts_with(COMPLETIONS))
    };
    if !args.iter().any(asks) {
        return None;
    }
    if let Some(word) = args.get(1).and_then(|word| command.find_subcommand(word)) {
        return page_of_word(command, word, args.get(2..)?);
    }
    let command = &words.into_iter().fold(command.clone(), Command::subcommand);
    let lenient = command.clone().mut_args(|arg| arg.required(false));
    let lenient = lenient.subcommand_required(false);
    let matches = lenient.try_get_matches_from(args).ok()?;
    let mut page = Vec::new();
    if matches.get_flag(MAN) {
        Man::new(command.clone()).render(&mut page).ok()?;
    } else {
        let shell = *matches.get_one::<Shell>(COMPLETIONS)?;
        let name = command.get_name().to_owned();
        clap_complete::generate(shell, &mut command.clone(), name, &mut page);
    }
    String::from_utf8(page).ok()
}

/// `consumer ls --man` is the page consumer-ls(1).
fn page_of_word(command: &Command, word: &Command, rest: &[OsString]) -> Option<String> {
    let [asked] = rest else { return None };
    if asked.to_str()?.strip_prefix("--")? != MAN {
        return None;
    }
    let name = format!("{}-{}", command.get_name(), word.get_name());
    // clap wants the name for ever; there is one, and the program ends after it.
    let word = word.clone().name(&*name.leak());
    let mut page = Vec::new();
    Man::new(word.version(env!("CARGO_PKG_VERSION")))
        .render(&mut page)
        .ok()?;
    String::from_utf8(page).ok()
}
