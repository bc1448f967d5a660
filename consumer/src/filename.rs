//! Names that come from a client, made safe to be a directory entry.
//!
//! What is refused elsewhere is repaired here: a name is a wish, and an upload is not lost because
//! of an odd one.

use std::borrow::Cow;

/// Longest name that is produced, in bytes. File systems allow 255; the rest is room for a number
/// (`_4294967295`) that keeps two uploads of one name apart and for the `.meta` beside it.
pub const NAME_BYTES_MAX: usize = 255 - "_4294967295".len() - ".meta".len();

/// Longest extension that survives when a name is shortened, in bytes with its dot.
const EXTENSION_BYTES_MAX: usize = 20;

/// Makes one safe name of what a client calls its file: `C:\fakepath\a.jpg` and `../../a.jpg`
/// both become `a.jpg`. `None` if nothing is left.
#[must_use]
pub fn sanitise(wish: &str) -> Option<String> {
    let last = wish.rsplit(['/', '\\']).next().unwrap_or(wish);
    let name = presentable(&visible(last));
    (!name.is_empty()).then_some(name)
}

/// `text` without what cannot or should not stand in a name: separators and control characters
/// become `_`, as do characters that reorder or hide text on a screen.
#[must_use]
pub fn visible(text: &str) -> String {
    let bad = |c: char| c == '/' || c.is_control() || is_invisible(c);
    text.chars().map(|c| if bad(c) { '_' } else { c }).collect()
}

/// `text` as the beginning of a name: not hidden (`.x`, and so neither `.` nor `..`), not read as
/// an option (`-x`), without white space around it, not too long.
#[must_use]
pub fn presentable(text: &str) -> String {
    let text = text.trim();
    let mut chars = text.chars();
    let text: Cow<'_, str> = match chars.next() {
        Some('.' | '-' | '~') => Cow::Owned(format!("_{}", chars.as_str())),
        _ => Cow::Borrowed(text),
    };
    shorten(&text, NAME_BYTES_MAX)
}

/// The first `max` bytes of `name` at most, cut between characters, its extension kept.
#[must_use]
pub fn shorten(name: &str, max: usize) -> String {
    if name.len() <= max {
        return name.to_owned();
    }
    let (stem, extension) = split(name);
    let keeps = extension.len() <= EXTENSION_BYTES_MAX.min(max);
    let (stem, extension) = if keeps { (stem, extension) } else { (name, "") };
    let mut kept = String::with_capacity(max);
    for char in stem.chars() {
        if max < kept.len() + char.len_utf8() + extension.len() {
            break;
        }
        kept.push(char);
    }
    kept + extension
}

/// `name` with a number before its extension: `a.jpg` → `a_2.jpg`; 0 is the name itself.
#[must_use]
pub fn numbered(name: &str, number: u32) -> String {
    if number == 0 {
        return name.to_owned();
    }
    let (stem, extension) = split(name);
    format!("{stem}_{number}{extension}")
}

/// Stem and extension (with its dot; `.tar.gz` is one). A leading dot does not begin one.
#[must_use]
pub fn split(name: &str) -> (&str, &str) {
    let dot = |text: &str| text.rfind('.').filter(|&at| at != 0);
    let Some(last) = dot(name) else {
        return (name, "");
    };
    let (stem, extension) = name.split_at(last);
    match dot(stem).map(|at| stem.split_at(at)) {
        Some((stem, ".tar")) => name.split_at(stem.len()),
        _ => (stem, extension),
    }
}

/// Marks that change the direction of the text around them, separators of lines, and marks
/// without width (Unicode "Cf" as far as it deceives; letters joined by U+200C/D need those two).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wishes_become_names() {
        let cases = [
            ("photo.jpg", "photo.jpg"),
            ("C:\\fakepath\\photo.jpg", "photo.jpg"),
            ("../../etc/passwd", "passwd"),
            ("  spaced name .txt ", "spaced name .txt"),
            (".bashrc", "_bashrc"),
            ("-rf", "_rf"),
            ("..", "_."),
            ("a\nb\u{7f}c", "a_b_c"),
            ("gpj.\u{202e}exe", "gpj._exe"),
            ("naïve ☃.pdf", "naïve ☃.pdf"),
            ("a\0b", "a_b"),
        ];
        for (wish, name) in cases {
            assert_eq!(sanitise(wish).as_deref(), Some(name), "{wish:?}");
        }
        for wish in ["", " ", "dir/", "a\\ "] {
            assert_eq!(sanitise(wish), None, "{wish:?}");
        }
    }

    #[test]
    fn long_names_keep_their_extension_and_whole_characters() {
        let long = format!("{}.tar.gz", "é".repeat(200));
        let name = sanitise(&long).unwrap();
        assert!(
            name.len() <= NAME_BYTES_MAX && name.ends_with("é.tar.gz") || name.ends_with(".gz")
        );
        let dots = format!("a.{}", "b".repeat(300));
        assert_eq!(sanitise(&dots).unwrap().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn numbers_stand_before_the_extension() {
        assert_eq!(numbered("a.jpg", 0), "a.jpg");
        assert_eq!(numbered("a.jpg", 1), "a_1.jpg");
        assert_eq!(numbered("a.tar.gz", 2), "a_2.tar.gz");
        assert_eq!(numbered("v1.2.txt", 2), "v1.2_2.txt");
        assert_eq!(numbered(".tar.gz", 2), ".tar_2.gz");
        assert_eq!(numbered("README", 3), "README_3");
        assert_eq!(numbered(".env", 4), ".env_4");
    }

    proptest! {
        #[test]
        fn every_name_is_one_harmless_entry(wish in "\\PC{0,400}", prefix in "[./\\\\-]{0,3}") {
            if let Some(name) = sanitise(&format!("{prefix}{wish}")) {
                prop_assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX);
                prop_assert!(!name.contains(['/', '\0']));
                prop_assert!(!name.starts_with(['.', '-']));
                prop_assert!(!name.chars().any(char::is_control));
                prop_assert_eq!(sanitise(&name).map(|again| again.trim().to_owned()), Some(name.trim().to_owned()));
                let widest = format!("{}.meta", numbered(&name, u32::MAX));
                prop_assert!(widest.len() <= 255);
            }
        }
    }
}
