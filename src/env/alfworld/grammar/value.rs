//! Expressions in braces: `o`, `o.name`, `'text'`, joined by `+` and `or`.

use crate::env::alfworld::grammar::chars::{is_space, is_word};

/// An attribute of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// The name that players see.
    Name,
    /// The name in the PDDL problem.
    Id,
    /// The type in the PDDL problem.
    Type,
    /// `the`
    Definite,
    /// `a`
    Indefinite,
}

/// A term of a sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Term {
    /// A text.
    Text(String),
    /// An attribute of the object of a variable.
    Attribute(String, Attribute),
}

/// An expression: the first of these sums that is not empty, or the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) choices: Vec<Vec<Term>>,
}

/// Parses an expression; the error names what was expected.
pub(crate) fn parse(text: &str) -> Result<Value, &'static str> {
    let mut choices = vec![Vec::new()];
    let mut rest = text;
    loop {
        let (term, after) = term(skip(rest))?;
        if let Some(sum) = choices.last_mut() {
            sum.push(term);
        }
        let after = skip(after);
        match (after.strip_prefix('+'), keyword(after, "or")) {
            (Some(after), _) => rest = after,
            (None, Some(after)) => {
                choices.push(Vec::new());
                rest = after;
            }
            (None, None) if after.is_empty() => return Ok(Value { choices }),
            (None, None) => return Err("expected `+`, `or` or the end of the expression"),
        }
    }
}

fn term(text: &str) -> Result<(Term, &str), &'static str> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            let (text, rest) = inner.split_once(quote).ok_or("this text is never closed")?;
            return if text.contains('\\') {
                Err("escapes are not supported in texts")
            } else {
                Ok((Term::Text(text.to_owned()), rest))
            };
        }
    }
    let (variable, rest) = word(text).ok_or("expected a variable or a text")?;
    let Some(rest) = skip(rest).strip_prefix('.') else {
        return Ok((Term::Attribute(variable.to_owned(), Attribute::Name), rest));
    };
    let (name, rest) = word(skip(rest)).ok_or("expected an attribute after `.`")?;
    let attribute = match name {
        "name" => Attribute::Name,
        "id" => Attribute::Id,
        "type" => Attribute::Type,
        "definite" => Attribute::Definite,
        "indefinite" => Attribute::Indefinite,
        _ => return Err("known attributes: name, id, type, definite, indefinite"),
    };
    Ok((Term::Attribute(variable.to_owned(), attribute), rest))
}

fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    text.strip_prefix(keyword).filter(|rest| !rest.starts_with(is_word))
}

fn skip(text: &str) -> &str {
    text.trim_start_matches(is_space)
}
