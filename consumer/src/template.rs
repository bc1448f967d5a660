//! Placeholders in text that the operator writes: `{id}`, `{metadata.project|misc}`.
//!
//! Two uses with different dangers: command lines ([`CommandTemplate`]) and destination names
//! ([`NameTemplate`]). Both are parsed, and every placeholder recognised, before the program
//! touches anything: a misspelt placeholder is a start-up error, never a surprise at the first
//! upload. `{{` and `}}` stand for the braces themselves; `{field|text}` gives the text to use
//! where the upload has no such field (otherwise an absent field is the empty string).

mod command;
mod name;

pub use command::{CommandField, CommandTemplate, Unfit};
pub use name::{NameField, NameTemplate};

/// A template that cannot be used. The text is the one line shown to the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The shell-like splitting found a quote that never ends.
    #[error("missing closing quote")]
    Quote,
    /// Nothing but white space.
    #[error("is empty")]
    Empty,
    /// `{` without `}`.
    #[error("`{{` without `}}` (write `{{{{` for a brace)")]
    Unclosed,
    /// `}` without `{`.
    #[error("`}}` without `{{` (write `}}}}` for a brace)")]
    Unopened,
    /// A name that means nothing here.
    #[error("unknown placeholder {{{0}}}; known: {1}")]
    Unknown(String, &'static str),
    /// The program to run would depend on the upload.
    #[error("the program itself cannot be a placeholder")]
    Program,
    /// A name template that could leave the destination or names nothing in it.
    #[error("must be a relative path without empty, `.` or `..` parts")]
    Path,
    /// A zero byte cannot be in an argument or a name.
    #[error("contains a zero byte")]
    Nul,
}

/// A piece of a parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<F> {
    Literal(String),
    Field { field: F, fallback: String },
}

/// Splits `text` into literals and fields that `recognise` knows; `known` lists those for people.
fn parse<F>(
    text: &str,
    known: &'static str,
    recognise: impl Fn(&str) -> Option<F>,
) -> Result<Vec<Part<F>>, TemplateError> {
    if text.contains('\0') {
        return Err(TemplateError::Nul);
    }
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '{' | '}' if chars.peek() == Some(&char) => {
                chars.next();
                literal.push(char);
            }
            '{' => {
                let inner = until_brace(&mut chars).ok_or(TemplateError::Unclosed)?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(field(&inner, known, &recognise)?);
            }
            '}' => return Err(TemplateError::Unopened),
            other => literal.push(other),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// What stands before the next `}`, which is consumed; `None` when there is none.
fn until_brace(chars: &mut impl Iterator<Item = char>) -> Option<String> {
    let mut inner = String::new();
    for char in chars {
        match char {
            '}' => return Some(inner),
            '{' => return None,
            other => inner.push(other),
        }
    }
    None
}

fn field<F>(
    inner: &str,
    known: &'static str,
    recognise: impl Fn(&str) -> Option<F>,
) -> Result<Part<F>, TemplateError> {
    let (name, fallback) = inner.split_once('|').unwrap_or((inner, ""));
    let field = recognise(name).ok_or_else(|| TemplateError::Unknown(name.to_owned(), known))?;
    Ok(Part::Field {
        field,
        fallback: fallback.to_owned(),
    })
}

/// `metadata.KEY` or `server_metadata.KEY`: the key, if `name` is one with that prefix.
fn key(name: &str, prefix: &str) -> Option<String> {
    let key = name.strip_prefix(prefix)?.strip_prefix('.')?;
    (!key.is_empty()).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters(text: &str) -> Result<Vec<Part<char>>, TemplateError> {
        parse(text, "a single letter", |name| {
            let mut chars = name.chars();
            chars
                .next()
                .filter(|c| c.is_ascii_lowercase() && chars.next().is_none())
        })
    }

    fn literal(text: &str) -> Part<char> {
        Part::Literal(text.to_owned())
    }

    fn named(field: char, fallback: &str) -> Part<char> {
        Part::Field {
            field,
            fallback: fallback.to_owned(),
        }
    }

    #[test]
    fn fields_literals_escapes_and_fallbacks_are_told_apart() {
        assert_eq!(letters("").unwrap(), []);
        assert_eq!(letters("a").unwrap(), [literal("a")]);
        assert_eq!(
            letters("x{a}y{b}").unwrap(),
            [literal("x"), named('a', ""), literal("y"), named('b', ""),]
        );
        assert_eq!(letters("{{a}}").unwrap(), [literal("{a}")]);
        assert_eq!(
            letters("{{{a}}}").unwrap(),
            [literal("{"), named('a', ""), literal("}")]
        );
        assert_eq!(letters("{a|none yet}").unwrap(), [named('a', "none yet")]);
    }

    #[test]
    fn broken_and_unknown_placeholders_are_errors() {
        assert_eq!(letters("{"), Err(TemplateError::Unclosed));
        assert_eq!(letters("{a"), Err(TemplateError::Unclosed));
        assert_eq!(letters("{a{b}"), Err(TemplateError::Unclosed));
        assert_eq!(letters("a}"), Err(TemplateError::Unopened));
        assert_eq!(letters("a\0"), Err(TemplateError::Nul));
        for name in ["", "aa", "A", " a"] {
            let unknown = TemplateError::Unknown(name.to_owned(), "a single letter");
            assert_eq!(letters(&format!("{{{name}}}")), Err(unknown));
        }
    }

    #[test]
    fn an_error_is_one_line_that_names_the_placeholder() {
        let error = letters("{fiel}").unwrap_err().to_string();
        assert_eq!(error, "unknown placeholder {fiel}; known: a single letter");
        assert_eq!(
            letters("{").unwrap_err().to_string(),
            "`{` without `}` (write `{{` for a brace)"
        );
    }

    proptest! {
        #[test]
        fn escaped_text_comes_out_as_it_was(text in "[^\\x00]{0,40}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let expected: Vec<_> =
                (!text.is_empty()).then(|| literal(&text)).into_iter().collect();
            prop_assert_eq!(letters(&escaped).unwrap(), expected);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[{}|a-c\\PC]{0,12}") {
            let _ignored = letters(&text);
        }
    }
}
