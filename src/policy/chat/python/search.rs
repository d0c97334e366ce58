//! Methods of Python's `str` that look for a part between two positions.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::strings::{bound, part};
use crate::policy::chat::python::types::{failed, type_of, Type};
use minijinja::{Error, Value};

/// The part of `text` between two character positions with the first position; `None` if the
/// first lies behind the second.
fn between<'t>(text: &'t str, given: &[Value]) -> Result<Option<(&'t str, usize)>, Error> {
    let length = text.chars().count();
    let clamp = |at: i128| {
        let at = if at < 0 { at + length as i128 } else { at };
        usize::try_from(at.max(0)).unwrap_or(usize::MAX)
    };
    let start = bound(given.first())?.map_or(0, clamp);
    let stop = bound(given.get(1))?.map_or(length, clamp).min(length);
    if start > stop {
        return Ok(None);
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((&text[byte(start)..byte(stop)], start)))
}

pub(crate) fn affix(text: &str, name: &str, args: &Args) -> Result<Value, Error> {
    let given = args.only(1, 3)?;
    let affixes = match type_of(&given[0]) {
        Type::Tuple => items(&given[0])?,
        _ => vec![given[0].clone()],
    };
    let within = between(text, &given[1..])?;
    let mut found = false;
    for affix in &affixes {
        let affix = part(affix)?;
        found |= within.is_some_and(|(text, _)| {
            if name == "startswith" {
                text.starts_with(affix)
            } else {
                text.ends_with(affix)
            }
        });
    }
    Ok(Value::from(found))
}

pub(crate) fn find(text: &str, name: &str, args: &Args) -> Result<Value, Error> {
    let given = args.only(1, 3)?;
    let wanted = part(&given[0])?;
    let within = between(text, &given[1..])?;
    if name == "count" {
        return Ok(Value::from(within.map_or(0, |(text, _)| text.matches(wanted).count())));
    }
    let found = within.and_then(|(text, start)| {
        let at = if name.starts_with('r') { text.rfind(wanted) } else { text.find(wanted) };
        Some(start + text[..at?].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(failed(format!("{name}: {wanted:?} was not found"))),
    }
}
