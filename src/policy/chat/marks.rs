//! Special tokens inside messages, kept apart from those that the template itself writes.
//!
//! After rendering, both look the same, and an observation that contains `<|im_end|>` could end its
//! own message. So special tokens in messages are put between marks (private-use characters) before
//! rendering. When the rendered text is tokenised, marked tokens are encoded as ordinary text and
//! all others as tokens.

use crate::policy::tokenizer::Tokenizer;
use crate::Result;

/// Private-use characters around a special token inside a message.
const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';

/// The first of `tokens` that `text` starts with.
fn leading<'t>(text: &str, tokens: &'t [String]) -> Option<&'t str> {
    tokens.iter().map(String::as_str).find(|token| text.starts_with(token))
}

/// Puts marks around every occurrence in `text` of one of `tokens`, which are sorted with the
/// longest first.
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
        // Marks in the message itself are dropped: they could forge ours.
        if c != OPEN && c != CLOSE {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Encodes rendered text: marked tokens as ordinary text, all others as tokens.
///
/// If the template has cut off one mark of a pair, the other is dropped but still separates its two
/// sides.
pub(crate) fn encode(text: &str, tokens: &[String], tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut rest = text;
    let mut first = true;
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

/// Encodes one piece of a text.
///
/// Some tokenizers add a space at the start of a text. A later piece is therefore encoded after a
/// line break, whose ids are removed again, unless the line break merges with the piece.
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
