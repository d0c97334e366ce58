//! The parts of a template: text, comments, raw blocks and tags.

use crate::policy::chat::source::lexer::{token, Token};
use crate::policy::chat::source::literal::Refused;

/// A part of the source.
#[derive(Debug)]
pub(crate) enum Part<'s> {
    /// Text or a comment, which stays as it is.
    Plain(&'s str),
    /// A raw block with its tags.
    Raw { open: &'s str, body: &'s str, close: &'s str },
    /// `{{ ... }}`
    Print(Tag<'s>),
    /// `{% ... %}`
    Block(Tag<'s>),
}

/// What stands between the delimiters of a tag.
#[derive(Debug)]
pub(crate) struct Tag<'s> {
    /// The opening delimiter with its `-` or `+`.
    pub(crate) open: &'s str,
    /// The closing delimiter with its `-` or `+`.
    pub(crate) close: &'s str,
    /// Tokens with their lines.
    pub(crate) tokens: Vec<(Token, usize)>,
    /// Line of the opening delimiter, from 1.
    pub(crate) line: usize,
    /// Line breaks between the delimiters.
    pub(crate) breaks: usize,
}

/// Splits a template whose line ends are `\n`.
pub(crate) fn parts(source: &str) -> Result<Vec<Part<'_>>, Refused> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let start = next_delimiter(source, at);
        if start > at {
            parts.push(Part::Plain(&source[at..start]));
        }
        if start == source.len() {
            break;
        }
        let line = line_of(source, start);
        let (part, end) = delimited(source, start).map_err(|e| e.at(line))?;
        parts.push(part);
        at = end;
    }
    Ok(parts)
}

pub(crate) fn line_of(source: &str, at: usize) -> usize {
    1 + source[..at].matches('\n').count()
}

fn next_delimiter(source: &str, at: usize) -> usize {
    let found = source[at..]
        .match_indices('{')
        .find(|(i, _)| source[at + i + 1..].starts_with(['{', '%', '#']));
    found.map_or(source.len(), |(i, _)| at + i)
}

fn delimited(source: &str, start: usize) -> Result<(Part<'_>, usize), Refused> {
    if source[start..].starts_with("{#") {
        let end = source[start + 2..]
            .find("#}")
            .ok_or_else(|| Refused::new("a comment does not end: `#}` is missing"))?;
        let end = start + 2 + end + 2;
        return Ok((Part::Plain(&source[start..end]), end));
    }
    if let Some(length) = raw_tag(&source[start..], "raw") {
        return raw(source, start, start + length);
    }
    let print = source[start..].starts_with("{{");
    let (tag, end) = tag(source, start, if print { "}}" } else { "%}" })?;
    Ok((if print { Part::Print(tag) } else { Part::Block(tag) }, end))
}

/// A raw block whose first tag lies between `start` and `body`.
fn raw(source: &str, start: usize, body: usize) -> Result<(Part<'_>, usize), Refused> {
    let mut at = body;
    while let Some(next) = source[at..].find("{%") {
        at += next;
        if let Some(length) = raw_tag(&source[at..], "endraw") {
            let end = at + length;
            let (open, close) = (&source[start..body], &source[at..end]);
            return Ok((Part::Raw { open, body: &source[body..at], close }, end));
        }
        at += 2;
    }
    Err(Refused::new("a raw block does not end: `{% endraw %}` is missing"))
}

/// The length of a tag that consists of one word.
fn raw_tag(source: &str, word: &str) -> Option<usize> {
    let rest = source.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix(word)?.trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(source.len() - rest.len())
}

fn tag<'s>(source: &'s str, start: usize, end: &str) -> Result<(Tag<'s>, usize), Refused> {
    let marked = usize::from(source[start + 2..].starts_with(['-', '+']));
    let mut at = start + 2 + marked;
    let open = &source[start..at];
    let mut tokens: Vec<(Token, usize)> = Vec::new();
    let mut open_brackets: Vec<&'static str> = Vec::new();
    let line = line_of(source, start);
    let mut seen = at;
    let mut current = line;
    loop {
        let rest = source[at..].trim_start();
        at = source.len() - rest.len();
        current += source[seen..at].matches('\n').count();
        seen = at;
        if rest.is_empty() {
            return Err(Refused::new(format!("a tag does not end: `{end}` is missing")).at(line));
        }
        if open_brackets.is_empty() {
            if let Some(length) = closing(rest, end) {
                let close = &source[at..at + length];
                let breaks = current - line;
                return Ok((Tag { open, close, tokens, line, breaks }, at + length));
            }
        }
        let after_dot = matches!(tokens.last(), Some((Token::Sign("."), _)));
        let (token, length) = token(rest, after_dot).map_err(|e| e.at(current))?;
        balance(&token, &mut open_brackets).map_err(|e| e.at(current))?;
        tokens.push((token, current));
        at += length;
    }
}

/// The length of the closing delimiter with its mark, if `rest` starts with one.
fn closing(rest: &str, end: &str) -> Option<usize> {
    let marks: &[char] = if end == "%}" { &['-', '+'] } else { &['-'] };
    let unmarked = rest.strip_prefix(marks).unwrap_or(rest);
    unmarked.starts_with(end).then_some(rest.len() - unmarked.len() + end.len())
}

fn balance(token: &Token, open: &mut Vec<&'static str>) -> Result<(), Refused> {
    let Token::Sign(sign) = token else { return Ok(()) };
    let expected = match *sign {
        "(" => ")",
        "[" => "]",
        "{" => "}",
        ")" | "]" | "}" => {
            return match open.pop() {
                Some(expected) if expected == *sign => Ok(()),
                Some(expected) => {
                    Err(Refused::new(format!("unexpected `{sign}`, expected `{expected}`")))
                }
                None => Err(Refused::new(format!("unexpected `{sign}`"))),
            }
        }
        _ => return Ok(()),
    };
    open.push(expected);
    Ok(())
}
