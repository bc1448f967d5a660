//! Destination names: a relative path whose parts come from the upload.

use std::path::PathBuf;

use shared::id::UploadId;

use super::{Part, TemplateError, key, parse};
use crate::filename::{presentable, visible};

const KNOWN: &str = "filename, stem, extension, id, date, year, month, day, hour, length, \
                     metadata.KEY, server_metadata.KEY";

/// What a destination name may contain of an upload. Nothing that changes between attempts: the
/// name of an upload must be the same when a later attempt finishes what an earlier one began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameField {
    /// The client's file name, made safe; the id where there is none.
    Filename,
    /// The file name up to its last dot.
    Stem,
    /// The file name's last dot and what follows it; empty without one.
    Extension,
    /// The upload's id.
    Id,
    /// Day on which the upload was finished, `2026-08-03` (UTC, as all of these).
    Date,
    /// Its year.
    Year,
    /// Its month, two digits.
    Month,
    /// Its day of the month, two digits.
    Day,
    /// Its hour, two digits.
    Hour,
    /// Length in bytes.
    Length,
    /// A value that the client sent.
    Metadata(String),
    /// A value that the server added.
    ServerMetadata(String),
}

impl NameField {
    fn recognise(name: &str) -> Option<Self> {
        Some(match name {
            "filename" => Self::Filename,
            "stem" => Self::Stem,
            "extension" => Self::Extension,
            "id" => Self::Id,
            "date" => Self::Date,
            "year" => Self::Year,
            "month" => Self::Month,
            "day" => Self::Day,
            "hour" => Self::Hour,
            "length" => Self::Length,
            other => {
                let server = key(other, "server_metadata").map(Self::ServerMetadata);
                return server.or_else(|| key(other, "metadata").map(Self::Metadata));
            }
        })
    }
}

/// A relative path with placeholders. Directories come from the `/` that the operator wrote; no
/// value adds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate {
    components: Vec<Vec<Part<NameField>>>,
}

impl NameTemplate {
    /// The default: the client's name for the file, or the id.
    pub const DEFAULT: &str = "{filename}";

    /// Checks `text`.
    ///
    /// # Errors
    /// An unknown or broken placeholder, or a path that is absolute or has an empty, `.` or `..`
    /// component.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut components = vec![Vec::new()];
        for part in parse(text, KNOWN, NameField::recognise)? {
            match part {
                Part::Literal(text) => split_literal(&text, &mut components),
                Part::Field { fallback, .. } if fallback.contains('/') => {
                    return Err(TemplateError::Path);
                }
                field @ Part::Field { .. } => {
                    if let Some(last) = components.last_mut() {
                        last.push(field);
                    }
                }
            }
        }
        if components.iter().any(|component| is_unusable(component)) {
            return Err(TemplateError::Path);
        }
        Ok(Self { components })
    }

    /// The path for one upload, relative to the destination; `value` is asked for each field.
    ///
    /// Each component is one harmless directory entry: no separator, no control characters, not
    /// `..`, not hidden and no leading `-` unless the operator wrote that character, at most
    /// [`crate::filename::NAME_BYTES_MAX`] bytes. A component that comes out empty is the id if
    /// it is the last, otherwise `_`.
    #[must_use]
    pub fn render(&self, id: UploadId, value: impl Fn(&NameField) -> Option<String>) -> PathBuf {
        let last = self.components.len() - 1;
        let mut path = PathBuf::new();
        for (index, component) in self.components.iter().enumerate() {
            let name = render_component(component, &value);
            path.push(match (name.as_str(), index == last) {
                ("", true) => id.to_string(),
                ("" | "." | "..", _) => "_".to_owned(),
                _ => name,
            });
        }
        path
    }
}

fn split_literal(text: &str, components: &mut Vec<Vec<Part<NameField>>>) {
    for (index, piece) in text.split('/').enumerate() {
        if index != 0 {
            components.push(Vec::new());
        }
        if let Some(last) = components.last_mut()
            && !piece.is_empty()
        {
            last.push(Part::Literal(piece.to_owned()));
        }
    }
}

fn is_unusable(component: &[Part<NameField>]) -> bool {
    match component {
        [] => true,
        [Part::Literal(text)] => text == "." || text == ".." || 255 < text.len(),
        _ => false,
    }
}

fn render_component(
    component: &[Part<NameField>],
    value: &impl Fn(&NameField) -> Option<String>,
) -> String {
    let mut name = String::new();
    for part in component {
        match part {
            Part::Literal(text) => name.push_str(text),
            Part::Field { field, fallback } => {
                let text = value(field).filter(|text| !text.is_empty());
                name.push_str(&visible(text.as_deref().unwrap_or(fallback)));
            }
        }
    }
    match component.first() {
        // The operator's own first character stands, `.` included.
        Some(Part::Literal(text)) if text.starts_with(['.', '-', '~']) => {
            let mut chars = name.chars();
            let first: String = chars.next().into_iter().collect();
            let rest =
                crate::filename::shorten(chars.as_str(), crate::filename::NAME_BYTES_MAX - 1);
            first + &rest
        }
        _ => presentable(&name),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;
    use crate::filename::NAME_BYTES_MAX;

    fn id() -> UploadId {
        "0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b".parse().unwrap()
    }

    /// Renders with every metadata value `value`, and the file name `photo.jpg`.
    fn render(template: &str, value: &str) -> PathBuf {
        NameTemplate::parse(template)
            .unwrap()
            .render(id(), |field| match field {
                NameField::Metadata(key) if key == "absent" => None,
                NameField::Metadata(_) => Some(value.to_owned()),
                NameField::Filename => Some("photo.jpg".to_owned()),
                NameField::Date => Some("2026-08-03".to_owned()),
                NameField::Id => Some(id().to_string()),
                _ => None,
            })
    }

    #[test]
    fn the_operators_slashes_make_directories_and_no_others() {
        assert_eq!(
            render("{date}/{metadata.p}/{filename}", "x"),
            Path::new("2026-08-03/x/photo.jpg")
        );
        assert_eq!(
            render("{metadata.p}/{filename}", "a/b"),
            Path::new("a_b/photo.jpg")
        );
        assert_eq!(
            render("{metadata.p}/{filename}", "../.."),
            Path::new("_._../photo.jpg")
        );
        assert_eq!(render("by-{metadata.p}", ".."), Path::new("by-.."));
    }

    #[test]
    fn no_value_makes_a_hidden_or_special_name() {
        assert_eq!(render("{metadata.p}", ".profile"), Path::new("_profile"));
        assert_eq!(render("{metadata.p}", "-rf"), Path::new("_rf"));
        assert_eq!(render(".{metadata.p}", "."), Path::new("_"));
        assert_eq!(render(".{metadata.p}", ""), Path::new("_"));
        assert_eq!(render(".in/{filename}", ""), Path::new(".in/photo.jpg"));
    }

    #[test]
    fn what_comes_out_empty_gets_a_name() {
        assert_eq!(
            render("{metadata.absent}", ""),
            Path::new(&id().to_string())
        );
        assert_eq!(render("{metadata.absent}/{metadata.absent}", ""), {
            Path::new("_").join(id().to_string())
        });
        assert_eq!(
            render("{metadata.absent|misc}/{filename}", ""),
            Path::new("misc/photo.jpg")
        );
        assert_eq!(
            render("{metadata.p|misc}/{filename}", ""),
            Path::new("misc/photo.jpg")
        );
    }

    #[test]
    fn templates_that_leave_the_destination_are_refused() {
        for text in [
            "",
            "/",
            "/abs",
            "a//b",
            "a/",
            "../{id}",
            "a/../b",
            "./a",
            "{metadata.a|b/c}",
        ] {
            assert_eq!(
                NameTemplate::parse(text),
                Err(TemplateError::Path),
                "{text:?}"
            );
        }
        assert!(matches!(
            NameTemplate::parse("{file}"),
            Err(TemplateError::Unknown(..))
        ));
        for name in KNOWN.split(", ").map(|name| name.replace("KEY", "k")) {
            assert!(
                NameTemplate::parse(&format!("{{{name}}}")).is_ok(),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_path_stays_inside(value in "[./\\-\\PC]{0,300}") {
            for template in ["{metadata.p}", "{metadata.p}/{metadata.p}", ".{metadata.p}/x{metadata.p}"] {
                let path = render(template, &value);
                let depth = template.matches('/').count() + 1;
                prop_assert_eq!(path.components().count(), depth);
                for component in path.components() {
                    let Component::Normal(name) = component else { panic!("{path:?}") };
                    prop_assert!(name.len() <= NAME_BYTES_MAX);
                }
            }
        }
    }
}
