//! Character classes of Python, on which TextWorld's parser is built.

/// Tests for white space of `str.strip` and `\s`: Unicode's, and ASCII's four separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Tests for a word character, `\w`.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Removes white space around a text, as `str.strip` does.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
