//! What the documents tell people to type, and tables of flags as `--help` has them.

use std::fmt::Write as _;
use std::fs;

use tests::pipeline::bare_command;
use tests::programs::{Program, workspace_dir};

/// Documents with command lines.
pub(crate) const DOCUMENTS: [&str; 3] = ["README.md", "FLAGS.md", "deploy/README.md"];

pub(crate) fn read(document: &str) -> String {
    fs::read_to_string(workspace_dir().join(document)).unwrap()
}

/// The text of each block in a language.
pub(crate) fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = read(document);
    let parts: Vec<&str> = text.split("\n```").collect();
    let opened = parts.iter().skip(1).step_by(2);
    let blocks = opened.filter_map(|block| block.split_once('\n'));
    blocks
        .filter(|(first, _)| *first == language)
        .map(|(_, text)| text.to_owned())
        .collect()
}

/// Every command line of the documents, continued lines joined.
pub(crate) fn commands() -> Vec<String> {
    let blocks = DOCUMENTS.iter().flat_map(|document| {
        assert!(blocks(document, "").is_empty(), "a block without language");
        blocks(document, "sh")
    });
    let joined = blocks.map(|block| block.replace("\\\n", " "));
    let lines: Vec<String> = joined
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}

/// The one command line that contains `needle`.
#[track_caller]
pub(crate) fn command(needle: &str) -> String {
    let mut found = commands();
    found.retain(|line| line.contains(needle));
    assert_eq!(found.len(), 1, "{needle}: {found:?}");
    found.remove(0)
}

/// Flags whose meaning is the same for the programs of the pipeline.
const COMMON: [&str; 4] = ["Spool", "Admin", "Logging", "Other"];

/// All tables of flags, as FLAGS.md has to have them.
pub(crate) fn tables() -> String {
    let mut text = String::new();
    let mut common: Vec<Flag> = Vec::new();
    for program in [
        Program::Ingest,
        Program::Consumer,
        Program::Janitor,
        Program::Upload,
    ] {
        let flags = flags(program);
        let alone = program == Program::Upload;
        let shared = |flag: &Flag| !alone && COMMON.contains(&flag.heading.as_str());
        for flag in flags.iter().filter(|flag| shared(flag)) {
            match common.iter().find(|known| known.name == flag.name) {
                Some(known) => assert_eq!(known.row(), flag.row(), "{program:?}"),
                None => common.push(flag.clone()),
            }
        }
        let own = flags.iter().filter(|flag| !shared(flag));
        write!(text, "## {}\n\n{}\n", program.name(), table(own)).unwrap();
    }
    let title = "## ingest, consumer and janitor alike";
    write!(text, "{title}\n\n{}", table(common.iter())).unwrap();
    text
}

fn table<'a>(flags: impl Iterator<Item = &'a Flag>) -> String {
    let rows: String = flags.map(Flag::row).collect();
    format!("| flag | default | |\n|---|---|---|\n{rows}")
}

#[derive(Clone)]
struct Flag {
    heading: String,
    name: String,
    default: String,
    meaning: String,
}

impl Flag {
    fn row(&self) -> String {
        let meaning = self.meaning.replace('|', "\\|");
        let name = self.name.replace('|', "\\|");
        format!("| `{name}` | {} | {meaning} |\n", self.default)
    }
}

/// The flags of a program by its `--help`: name and value, default, and the first paragraph.
fn flags(program: Program) -> Vec<Flag> {
    let output = bare_command(program).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let mut flags: Vec<Flag> = Vec::new();
    let mut heading = String::new();
    let mut in_meaning = false;
    for line in help.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            in_meaning = false;
        } else if line.ends_with(':') && !line.starts_with(' ') {
            heading = line.trim_end_matches(':').to_owned();
        } else if line.starts_with(' ') && trimmed.starts_with('-') && !trimmed.starts_with("- ") {
            let name = trimmed.to_owned();
            in_meaning = true;
            flags.push(Flag {
                heading: heading.clone(),
                name,
                default: String::new(),
                meaning: String::new(),
            });
        } else if let Some(flag) = flags.last_mut().filter(|_| line.starts_with("   ")) {
            let default = trimmed.strip_prefix("[default: ");
            if let Some(default) = default.and_then(|rest| rest.strip_suffix(']')) {
                flag.default = format!("`{default}`");
            } else if in_meaning {
                flag.meaning = format!("{} {trimmed}", flag.meaning).trim().to_owned();
            }
        }
    }
    for flag in &mut flags {
        let said = flag.meaning.clone();
        let inline = said.split_once(" [default: ");
        if let Some((meaning, default)) = inline {
            flag.meaning = meaning.to_owned();
            flag.default = default.trim_end_matches(']').to_owned();
        }
    }
    flags.retain(|flag| !["-h", "-V"].iter().any(|skip| flag.name.starts_with(skip)));
    flags
}
