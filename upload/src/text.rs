//! Foreign text made safe to show, and small wordings.

/// Longest foreign text that is shown.
const SHOWN_MAX: usize = 300;

/// One line without control characters, shortened: a file's name or a server's answer must not be able
/// to steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = shown.take(SHOWN_MAX).collect();
    line.trim().to_owned()
}

/// The first line that says something.
pub(crate) fn first_line(text: &str) -> String {
    printable(
        text.lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_steer_the_terminal() {
        assert_eq!(first_line("\n\u{1b}[2Jgone\u{7}\nsecond"), "[2Jgone");
        assert_eq!(printable(&"x".repeat(10_000)).len(), SHOWN_MAX);
    }
}
