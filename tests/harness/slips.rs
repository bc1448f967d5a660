//! Mistakes planted from outside, to see that the tests find them.
//!
//! A library that is loaded before the C library takes syncs away from a program, which itself is
//! the one that ships: nothing in it knows of this.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs::{Need, run};
use crate::programs::workspace_dir;

/// What it takes to plant one.
pub const NEEDS: Need = Need::Tool("cc");

/// A mistake about syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slip {
    /// Data files are not synced.
    Data,
    /// Records are not synced.
    Record,
    /// Directories are not synced.
    Directory,
    /// The watermark is made durable before the data that it speaks of.
    Order,
}

impl Slip {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Data, Self::Record, Self::Directory, Self::Order];

    const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Record => "record",
            Self::Directory => "directory",
            Self::Order => "order",
        }
    }

    /// Makes a program that is about to be started make this mistake.
    pub fn plant(self, library: &Path, command: &mut Command) {
        command.env("LD_PRELOAD", library).env("SLIP", self.name());
    }
}

/// Builds the library into `dir`.
///
/// # Panics
/// If the C compiler refuses.
#[must_use]
pub fn build(dir: &Path) -> PathBuf {
    let library = dir.join("slip.so");
    let source = workspace_dir().join("tests/slips/slip.c");
    let flags = [
        "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
    ];
    run(Command::new("cc")
        .args(flags)
        .arg(&library)
        .arg(source)
        .arg("-ldl"));
    library
}
