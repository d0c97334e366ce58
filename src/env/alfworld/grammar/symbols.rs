//! Parsing the right-hand sides of grammar rules.
//!
//! As in TextWorld, everything after the first part that cannot be parsed is dropped without an
//! error.

use crate::env::alfworld::grammar::chars::{is_space, is_word};

/// A symbol of a right-hand side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawSymbol<'a> {
    /// Plain text.
    Literal(&'a str),
    /// `#name#`
    NonTerminal(&'a str),
    /// `{body}`, `{body | query}`
    Each(RawEach<'a>),
    /// `[{body | query}]`
    List(RawEach<'a>),
}

/// `{body | query}`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawEach<'a> {
    pub(crate) body: RawBody<'a>,
    pub(crate) query: Option<&'a str>,
}

/// The content of braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawBody<'a> {
    /// `#name#`
    NonTerminal(&'a str),
    /// An expression, see [`value`](crate::env::alfworld::grammar::value).
    Value(&'a str),
}

/// Splits a right-hand side into its symbols.
pub(crate) fn parse(text: &str) -> Vec<RawSymbol<'_>> {
    let mut rest = skip_start(text);
    let mut symbols = Vec::new();
    while let Some((symbol, after)) = symbol(skip_tabs(rest)) {
        symbols.push(symbol);
        rest = after;
    }
    symbols
}

/// The parsed item and the remaining text; `None` if the text does not start with one.
type Read<'a, T> = Option<(T, &'a str)>;

fn symbol(text: &str) -> Read<'_, RawSymbol<'_>> {
    list(text)
        .map(|(each, rest)| (RawSymbol::List(each), rest))
        .or_else(|| each(text).map(|(each, rest)| (RawSymbol::Each(each), rest)))
        .or_else(|| non_terminal(text).map(|(name, rest)| (RawSymbol::NonTerminal(name), rest)))
        .or_else(|| literal(text).map(|(literal, rest)| (RawSymbol::Literal(literal), rest)))
}

fn list(text: &str) -> Read<'_, RawEach<'_>> {
    let (each, rest) = each(skip_tabs(text.strip_prefix('[')?))?;
    Some((each, skip_tabs(rest).strip_prefix(']')?))
}

fn each(text: &str) -> Read<'_, RawEach<'_>> {
    let inner = skip_tabs(text.strip_prefix('{')?);
    let (body, rest) = match non_terminal(inner) {
        Some((name, rest)) => (RawBody::NonTerminal(name), rest),
        None => {
            let (value, rest) = span(inner, |c| !"|[]{}\n<>".contains(c))?;
            (RawBody::Value(value), rest)
        }
    };
    let (query, rest) = match query(rest) {
        Some((query, rest)) => (Some(query), rest),
        None => (None, rest),
    };
    Some((RawEach { body, query }, skip_tabs(rest).strip_prefix('}')?))
}

fn query(text: &str) -> Read<'_, &str> {
    let after = text.trim_start_matches(is_space).strip_prefix('|')?;
    span(after.trim_start_matches(is_space), |c| !";|{}\n[]#".contains(c))
}

fn non_terminal(text: &str) -> Read<'_, &str> {
    let inner = skip_tabs(text.strip_prefix('#')?);
    let (name, rest) = span(inner, |c| is_word(c) || is_space(c) || "()/!<>-,.".contains(c))?;
    Some((name, rest.strip_prefix('#')?))
}

fn literal(text: &str) -> Read<'_, &str> {
    let plain = |c| !SPECIAL.contains(c);
    let quoted = text.strip_prefix('"').map(|inner| span(inner, plain).unwrap_or(("", inner)));
    match quoted.and_then(|(literal, rest)| Some((literal, rest.strip_prefix('"')?))) {
        Some(read) => Some(read),
        None => span(text, plain),
    }
}

/// The characters that end plain text.
const SPECIAL: &str = ";|\"<>[]#{}";

/// Tests if `text` is a right-hand side that consists of one literal, character by character.
pub(crate) fn is_plain(text: &str) -> bool {
    let special = |c: char| SPECIAL.contains(c) || c == '\\' || c.is_control();
    !text.is_empty() && !text.contains(special) && skip_start(text).len() == text.len()
}

/// Splits the longest prefix of `part` characters off `text`; `None` if it is empty.
fn span(text: &str, part: impl Fn(char) -> bool) -> Read<'_, &str> {
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn skip_tabs(text: &str) -> &str {
    text.trim_start_matches('\t')
}

/// Skips the text that TextWorld's parser skips before the first symbol.
///
/// That is tabs, and at the start of a line also white space and comments (`//` to the end of the
/// line).
fn skip_start(text: &str) -> &str {
    let mut rest = text;
    loop {
        let line = skip_tabs(rest);
        let at_line_start =
            text[..text.len() - line.len()].chars().next_back().is_none_or(|c| c == '\n');
        let after = match line.strip_prefix("//") {
            Some(comment) if at_line_start => {
                comment.split_once('\n').map_or("", |(_, after)| after)
            }
            _ if at_line_start => line.trim_start_matches(is_space),
            _ => line,
        };
        if after.len() == rest.len() {
            return rest;
        }
        rest = after;
    }
}
