//! All programs in one file, for the image: a static program has a runtime, an HTTP library and a
//! parser of flags in it, and one copy of these is enough. The name by which it is called says which
//! program it is: the image has a link for each.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// As every program says that its flags are wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let called = env::args_os().next().unwrap_or_default();
    match program(&called) {
        Some(main) => main(),
        None => {
            let help = "tuspool: to be called as ingest, consumer, janitor or upload";
            writeln!(io::stderr(), "{help}").ok();
            ExitCode::from(USAGE)
        }
    }
}

/// The program of a name or path.
fn program(called: &OsStr) -> Option<fn() -> ExitCode> {
    match Path::new(called).file_name()?.to_str()? {
        "ingest" => Some(ingest::main),
        "consumer" => Some(consumer::main),
        "janitor" => Some(janitor::main),
        "upload" => Some(upload::main),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_which_program_it_is() {
        for name in ["ingest", "/usr/bin/consumer", "./janitor", "bin/upload"] {
            assert!(program(OsStr::new(name)).is_some(), "{name}");
        }
        for name in ["", "/", "tuspool", "ingest2", "/ingest/x"] {
            assert!(program(OsStr::new(name)).is_none(), "{name}");
        }
    }
}
