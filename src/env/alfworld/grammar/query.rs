//! Conjunctive queries over the facts: `p(x:t, y:u) & not_q(x:t)`.

use crate::env::alfworld::grammar::chars::{is_space, is_word};

/// An atom of a query, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawAtom<'a> {
    pub(crate) predicate: &'a str,
    /// `true` for `!p` and `not_p`, which match facts that an action made false.
    pub(crate) denied: bool,
    /// The name and type of each placeholder.
    pub(crate) placeholders: Vec<(&'a str, &'a str)>,
}

/// The largest number of atoms of a query.
const MAX_ATOMS: usize = 16;

/// Parses a query; the error names what was expected.
pub(crate) fn parse(text: &str) -> Result<Vec<RawAtom<'_>>, &'static str> {
    let mut rest = skip(text);
    let mut atoms = Vec::new();
    loop {
        let (atom, after) = atom(rest)?;
        atoms.push(atom);
        rest = skip(after);
        match rest.strip_prefix('&') {
            _ if atoms.len() > MAX_ATOMS => return Err("more than 16 predicates in a query"),
            Some(after) => rest = skip(after),
            None if rest.is_empty() => return Ok(atoms),
            None => return Err("expected `&` or the end of the query"),
        }
    }
}

fn atom(text: &str) -> Result<(RawAtom<'_>, &str), &'static str> {
    let (negated, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let (name, rest) = word(text, "/").ok_or("expected a predicate")?;
    let mut rest = skip(rest).strip_prefix('(').ok_or("expected `(` after the predicate")?;
    let plain = name.strip_prefix("not_");
    // `!not_p` is `p`: a double negation.
    let denied = plain.is_some() != negated;
    let mut atom = RawAtom { predicate: plain.unwrap_or(name), denied, placeholders: Vec::new() };
    if let Some(rest) = skip(rest).strip_prefix(')') {
        return Ok((atom, rest));
    }
    loop {
        let (placeholder, after) = placeholder(skip(rest))?;
        atom.placeholders.push(placeholder);
        let after = skip(after);
        match (after.strip_prefix(','), after.strip_prefix(')')) {
            (Some(after), _) => rest = after,
            (None, Some(after)) => return Ok((atom, after)),
            (None, None) => return Err("expected `,` or `)` after a placeholder"),
        }
    }
}

fn placeholder(text: &str) -> Result<((&str, &str), &str), &'static str> {
    let (name, rest) = word(text, "'").ok_or("expected a placeholder")?;
    match skip(rest).strip_prefix(':') {
        Some(rest) => {
            let (kind, rest) = word(skip(rest), "/-").ok_or("expected a type after `:`")?;
            Ok(((name, kind), rest))
        }
        None => Ok(((name, name.trim_end_matches('\'')), rest)),
    }
}

/// Splits a word off the start of `text`; `more` lists characters it may contain besides `\w`.
fn word<'a>(text: &'a str, more: &str) -> Option<(&'a str, &'a str)> {
    let end = text.find(|c| !(is_word(c) || more.contains(c))).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Skips white space and comments, `#` to the end of the line.
fn skip(text: &str) -> &str {
    let mut rest = text.trim_start_matches(is_space);
    while let Some(comment) = rest.strip_prefix('#') {
        rest = comment.split_once('\n').map_or("", |(_, after)| after).trim_start_matches(is_space);
    }
    rest
}
