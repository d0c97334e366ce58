//! Characters as Python classes them.

/// White space for `str.strip` and `\s`: Unicode's, and the four separator controls of ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A character of a word, `\w`.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `text` without the white space around it, as `str.strip` leaves it.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
