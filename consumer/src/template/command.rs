//! Command lines: one string, split as a shell would, run without one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Part, TemplateError, key, parse};

const KNOWN: &str = "file, record, result, id, claim, filename, length, attempt, max_attempts, \
                     digest, metadata.KEY, server_metadata.KEY";

/// Longest value that goes into an argument. Linux refuses a single string above 128 KiB with
/// E2BIG, which would look like a command that cannot be run rather than like this upload's value.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// What a command line may contain of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandField {
    /// Absolute path of the data.
    File,
    /// Absolute path of the record.
    Record,
    /// Absolute path that the command may write a short result to.
    Result,
    /// The upload's id.
    Id,
    /// This attempt's claim.
    Claim,
    /// The client's file name, made safe ([`crate::filename::sanitise`]); else the id.
    Filename,
    /// Length in bytes.
    Length,
    /// Number of this attempt, from 1.
    Attempt,
    /// Number of the last attempt there will be.
    MaxAttempts,
    /// Digest of the whole file as `algorithm:hex`, where the record has one.
    Digest,
    /// A value that the client sent.
    Metadata(String),
    /// A value that the server added.
    ServerMetadata(String),
}

impl CommandField {
    fn recognise(name: &str) -> Option<Self> {
        Some(match name {
            "file" => Self::File,
            "record" => Self::Record,
            "result" => Self::Result,
            "id" => Self::Id,
            "claim" => Self::Claim,
            "filename" => Self::Filename,
            "length" => Self::Length,
            "attempt" => Self::Attempt,
            "max_attempts" => Self::MaxAttempts,
            "digest" => Self::Digest,
            other => {
                let server = key(other, "server_metadata").map(Self::ServerMetadata);
                return server.or_else(|| key(other, "metadata").map(Self::Metadata));
            }
        })
    }

    fn name(&self) -> String {
        match self {
            Self::File => "file".to_owned(),
            Self::Record => "record".to_owned(),
            Self::Result => "result".to_owned(),
            Self::Id => "id".to_owned(),
            Self::Claim => "claim".to_owned(),
            Self::Filename => "filename".to_owned(),
            Self::Length => "length".to_owned(),
            Self::Attempt => "attempt".to_owned(),
            Self::MaxAttempts => "max_attempts".to_owned(),
            Self::Digest => "digest".to_owned(),
            Self::Metadata(key) => format!("metadata.{key}"),
            Self::ServerMetadata(key) => format!("server_metadata.{key}"),
        }
    }
}

/// A value of this upload that must not become an argument. Trying again would not help: the
/// value is part of the upload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An argument ends at a zero byte.
    #[error("the value of {{{0}}} contains a zero byte")]
    Nul(String),
    /// The client's value would be read as an option by the command.
    #[error(
        "the value of {{{0}}} begins with `-` and would be read as an option (put `--` or text \
         before the placeholder)"
    )]
    Option(String),
    /// Above what the kernel passes in one argument.
    #[error("the value of {{{0}}} is too long for an argument")]
    TooLong(String),
}

/// A command line with placeholders. Each placeholder stays inside the argument it is written in,
/// whatever its value contains: splitting happens before values are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTemplate {
    words: Vec<Vec<Part<CommandField>>>,
}

impl CommandTemplate {
    /// Splits and checks `text`.
    ///
    /// # Errors
    /// An open quote, no word at all, an unknown or broken placeholder, or a program name that
    /// would depend on the upload.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let words = shell_words::split(text).map_err(|_| TemplateError::Quote)?;
        let words: Vec<_> = words
            .iter()
            .map(|word| parse(word, KNOWN, CommandField::recognise))
            .collect::<Result<_, _>>()?;
        match words.first().map(Vec::as_slice) {
            None | Some([]) => Err(TemplateError::Empty),
            Some([Part::Literal(_)]) => Ok(Self { words }),
            Some(_) => Err(TemplateError::Program),
        }
    }

    /// The program to run: a path, or a name looked up in `PATH`.
    #[must_use]
    pub fn program(&self) -> &str {
        match self.words.first().map(Vec::as_slice) {
            Some([Part::Literal(program)]) => program,
            _ => "", // parse() admits nothing else
        }
    }

    /// Program and arguments for one upload; `value` is asked for each placeholder.
    ///
    /// A client must not be able to pass options to the command. An argument that starts with a
    /// placeholder and turns out to begin with `-` is therefore refused, unless a literal `--`
    /// stands before it: then the command takes no more options. Changing the value (`./-x`)
    /// would be right for paths only, and those are absolute here.
    ///
    /// # Errors
    /// A value of this upload cannot be passed.
    pub fn render(
        &self,
        value: impl Fn(&CommandField) -> Option<Vec<u8>>,
    ) -> Result<Vec<OsString>, Unfit> {
        let mut options_ended = false;
        let mut argv = Vec::with_capacity(self.words.len());
        for word in &self.words {
            let argument = render_word(word, &value)?;
            if let Some(Part::Field { field, .. }) = word.first()
                && argument.starts_with(b"-")
                && !options_ended
            {
                return Err(Unfit::Option(field.name()));
            }
            options_ended |= matches!(word.as_slice(), [Part::Literal(text)] if text == "--");
            argv.push(OsString::from_vec(argument));
        }
        Ok(argv)
    }
}

fn render_word(
    word: &[Part<CommandField>],
    value: &impl Fn(&CommandField) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, Unfit> {
    let mut argument = Vec::new();
    for part in word {
        let (field, fallback) = match part {
            Part::Literal(text) => {
                argument.extend_from_slice(text.as_bytes());
                continue;
            }
            Part::Field { field, fallback } => (field, fallback),
        };
        let bytes = value(field).unwrap_or_else(|| fallback.clone().into_bytes());
        if bytes.contains(&0) {
            return Err(Unfit::Nul(field.name()));
        }
        if VALUE_BYTES_MAX < argument.len() + bytes.len() {
            return Err(Unfit::TooLong(field.name()));
        }
        argument.extend_from_slice(&bytes);
    }
    Ok(argument)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Renders `template` where every metadata value is `value` and the rest is absent.
    fn render(template: &str, value: &[u8]) -> Result<Vec<OsString>, Unfit> {
        CommandTemplate::parse(template)
            .unwrap()
            .render(|field| match field {
                CommandField::Metadata(key) if key == "absent" => None,
                CommandField::Metadata(_) => Some(value.to_owned()),
                CommandField::File => Some(b"/spool/claimed/x".to_vec()),
                _ => None,
            })
    }

    #[test]
    fn words_split_as_in_a_shell_and_values_stay_in_their_word() {
        let argv = render(
            r#"sh -c 'echo "$1"' 'a b' x{metadata.k}y {file}"#,
            b"1 2; rm -rf /",
        );
        let expected = [
            "sh",
            "-c",
            "echo \"$1\"",
            "a b",
            "x1 2; rm -rf /y",
            "/spool/claimed/x",
        ];
        assert_eq!(argv.unwrap(), expected);
    }

    #[test]
    fn every_known_field_is_recognised_by_its_own_name() {
        let mut names: Vec<_> = KNOWN.split(", ").map(|n| n.replace("KEY", "a.b")).collect();
        names.push("metadata.server_metadata.x".to_owned());
        for name in names {
            let field = CommandField::recognise(&name).expect(&name);
            assert_eq!(field.name(), name);
        }
        for name in [
            "metadata",
            "metadata.",
            "server_metadata.",
            "File",
            "path",
            "",
        ] {
            assert_eq!(CommandField::recognise(name), None, "{name}");
        }
    }

    #[test]
    fn a_template_that_cannot_work_is_refused_at_once() {
        let error = |text| CommandTemplate::parse(text).unwrap_err();
        assert_eq!(error(""), TemplateError::Empty);
        assert_eq!(error("  "), TemplateError::Empty);
        assert_eq!(error("''"), TemplateError::Empty);
        assert_eq!(error("cat 'x"), TemplateError::Quote);
        assert_eq!(error("{file}"), TemplateError::Program);
        assert_eq!(error("run-{metadata.kind}"), TemplateError::Program);
        assert!(matches!(error("cat {flie}"), TemplateError::Unknown(..)));
    }

    #[test]
    fn a_client_value_cannot_become_an_option() {
        let dash = b"--output=/etc/passwd";
        let refused = Err(Unfit::Option("metadata.k".to_owned()));
        assert_eq!(render("tool {metadata.k}", dash), refused);
        assert_eq!(render("tool {metadata.absent}{metadata.k}", dash), {
            Err(Unfit::Option("metadata.absent".to_owned()))
        });
        assert_eq!(render("tool '--' x {metadata.k}", b"-x").unwrap()[3], "-x");
        assert_eq!(
            render("tool --name={metadata.k}", b"-x").unwrap()[1],
            "--name=-x"
        );
        assert_eq!(
            render("tool {metadata.k} --", b"-x"),
            refused,
            "`--` must come first"
        );
    }

    #[test]
    fn absent_values_are_empty_or_the_fallback() {
        assert_eq!(
            render("t {metadata.absent} {metadata.absent|none}", b"").unwrap(),
            ["t", "", "none"]
        );
    }

    #[test]
    fn zero_bytes_and_giants_are_refused() {
        assert_eq!(
            render("t {metadata.k}", b"a\0b"),
            Err(Unfit::Nul("metadata.k".to_owned()))
        );
        let giant = vec![b'x'; VALUE_BYTES_MAX + 1];
        assert_eq!(render("t {metadata.k}", &giant), {
            Err(Unfit::TooLong("metadata.k".to_owned()))
        });
    }

    proptest! {
        #[test]
        fn no_value_adds_an_argument_or_an_option(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            match render("tool a{metadata.k} {metadata.k}", &value) {
                Ok(argv) => {
                    prop_assert_eq!(argv.len(), 3);
                    prop_assert!(!value.starts_with(b"-") && !value.contains(&0));
                }
                Err(_) => prop_assert!(value.starts_with(b"-") || value.contains(&0)),
            }
        }
    }
}
