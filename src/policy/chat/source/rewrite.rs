//! From a template's source to the source that minijinja compiles.

use crate::policy::chat::source::cursor::Parser;
use crate::policy::chat::source::lexer::Token;
use crate::policy::chat::source::literal::Refused;
use crate::policy::chat::source::scan::{parts, Part, Tag};
use crate::policy::chat::source::statement::{self, Frame};
use std::collections::HashMap;

/// A filter or a test that a template names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name<'n> {
    Filter(&'n str),
    Test(&'n str),
}

/// A macro that uses `varargs` or `kwargs`.
#[derive(Debug)]
pub(crate) struct Variadic {
    pub(crate) parameters: Vec<String>,
}

/// What the tags of one template need to know.
pub(crate) struct Rules<'r> {
    /// Tells if a filter or a test exists.
    pub(crate) knows: &'r dyn Fn(Name<'_>) -> bool,
    /// Macros by name.
    pub(crate) variadic: HashMap<String, Variadic>,
}

/// Rewrites a template; `knows` tells if a filter or a test exists.
///
/// # Errors
/// Source that is not valid Jinja, or a construct that cannot be rendered as in Python, by line.
pub(crate) fn python_source(
    source: &str,
    knows: &dyn Fn(Name<'_>) -> bool,
) -> Result<String, Refused> {
    // As in jinja2, line ends become LF, inside literals too, and the last one is dropped.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let parts = parts(source)?;
    let rules = Rules { knows, variadic: variadic(&parts) };
    let mut out = String::with_capacity(source.len() * 2);
    let mut frames = Vec::new();
    for part in parts {
        match part {
            Part::Plain(text) => out.push_str(text),
            Part::Raw { open, body, close } => write_raw(open, body, close, &mut out),
            Part::Print(tag) => {
                let guarded = frames.last() == Some(&Frame::If);
                write_tag(&tag, &[print(&tag, &rules, guarded)?], &mut out);
            }
            Part::Block(tag) => {
                write_tag(&tag, &statement::rewritten(&tag, &rules, &mut frames)?, &mut out);
            }
        }
    }
    // minijinja drops one line end.
    if out.ends_with('\n') {
        out.push('\n');
    }
    Ok(out)
}

/// Macros whose bodies use `varargs` or `kwargs`.
fn variadic(parts: &[Part<'_>]) -> HashMap<String, Variadic> {
    let mut found = HashMap::new();
    let mut open: Vec<(&str, Vec<String>)> = Vec::new();
    for part in parts {
        let (Part::Print(tag) | Part::Block(tag)) = part else { continue };
        match tag.tokens.as_slice() {
            [(Token::Name(word), _), (Token::Name(name), _), rest @ ..] if word == "macro" => {
                open.push((name, parameters(rest)));
            }
            [(Token::Name(word), _)] if word == "endmacro" => {
                open.pop();
            }
            tokens => {
                let used = tokens.iter().any(|(token, _)| {
                    matches!(token, Token::Name(name) if name == "varargs" || name == "kwargs")
                });
                if let (true, Some((name, parameters))) = (used, open.last()) {
                    let parameters = parameters.clone();
                    found.insert((*name).to_owned(), Variadic { parameters });
                }
            }
        }
    }
    found
}

/// The names of a macro's parameters.
fn parameters(tokens: &[(Token, usize)]) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut starts = false;
    for (token, _) in tokens {
        match token {
            Token::Name(name) if starts => names.push(name.clone()),
            Token::Sign("(" | "[" | "{") => depth += 1,
            Token::Sign(")" | "]" | "}") => depth -= 1,
            _ => {}
        }
        starts = depth == 1 && matches!(token, Token::Sign("(" | ","));
    }
    names
}

fn print(tag: &Tag<'_>, rules: &Rules<'_>, guarded: bool) -> Result<String, Refused> {
    let mut parser = Parser::new(&tag.tokens, tag.line, rules);
    let value = parser.tuple(true, false, &[])?;
    parser.expect_end()?;
    if let (Some(unknown), false) = (parser.unknown(), guarded) {
        return Err(unknown);
    }
    Ok(value.text())
}

/// Writes a tag, or several in its place, with the line breaks it had, so that later lines keep
/// their numbers.
fn write_tag(tag: &Tag<'_>, bodies: &[String], out: &mut String) {
    out.push_str(tag.open);
    out.push(' ');
    // Between two of the tags there is no text to trim.
    out.push_str(&bodies.join(" +%}{%+ "));
    out.push(' ');
    for _ in 0..tag.breaks {
        out.push('\n');
    }
    out.push_str(tag.close);
}

/// Writes a raw block: unlike minijinja, jinja2 keeps a line end at its start.
fn write_raw(open: &str, body: &str, close: &str, out: &mut String) {
    out.push_str(open);
    if body.starts_with('\n') && !open.ends_with("-%}") {
        out.push('\n');
    }
    out.push_str(body);
    out.push_str(close);
}
