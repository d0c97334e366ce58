//! Special tokens in messages, kept apart from those that a template writes.

use crate::policy::tokenizer::Tokenizer;
use crate::Result;

/// Private-use characters around a special token that stands in a message.
const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';

/// The first of `tokens`, longest first, that `text` begins with.
fn leading<'t>(text: &str, tokens: &'t [String]) -> Option<&'t str> {
    tokens.iter().map(String::as_str).find(|token| text.starts_with(token))
}

/// `text` with every one of `tokens` (longest first) between marks.
pub(crate) fn mark(text: &str, tokens: &[String]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(token) = leading(rest, tokens) {
            out.extend([OPEN]);
            out.push_str(token);
            out.extend([CLOSE]);
            rest = &rest[token.len()..];
            continue;
        }
        // A mark of the text's own could forge one of ours.
        if c != OPEN && c != CLOSE {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Ids of a rendered text: marked tokens as ordinary text, all others as tokens. A mark whose partner a template has cut
/// off is dropped, but still separates.
pub(crate) fn encode(text: &str, tokens: &[String], tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let (mut rest, mut first) = (text, true);
    loop {
        let end = rest.find([OPEN, CLOSE]).unwrap_or(rest.len());
        ids.extend(piece(&rest[..end], first, |text| tokenizer.encode_with_special(text))?);
        rest = &rest[end..];
        let Some(mark) = rest.chars().next() else { return Ok(ids) };
        first = false;
        rest = &rest[mark.len_utf8()..];
        let whole = leading(rest, tokens)
            .filter(|token| mark == OPEN && rest[token.len()..].starts_with(CLOSE));
        if let Some(token) = whole {
            ids.extend(piece(token, false, |text| tokenizer.encode(text))?);
            rest = &rest[token.len() + CLOSE.len_utf8()..];
        }
    }
}

/// Ids of a piece; one that does not begin the text is encoded after a line break, where that separates, so that no
/// tokenizer takes it for a beginning.
fn piece(text: &str, first: bool, encode: impl Fn(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if first {
        return encode(text);
    }
    let line_break = encode("\n")?;
    let mut ids = encode(&format!("\n{text}"))?;
    if ids.starts_with(&line_break) {
        return Ok(ids.split_off(line_break.len()));
    }
    encode(text)
}
