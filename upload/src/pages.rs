//! What packagers install beside the program.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Args;

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "upload", &mut script);
    io::stdout().write_all(&script)
}

/// Prints the man page.
pub(crate) fn man() -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(Args::command()).render(&mut page)?;
    io::stdout().write_all(&page)
}
