//! Filters that apply another filter or a test to every item.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::filters::registry;
use crate::policy::chat::python::items::item as lookup;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::tests;
use crate::policy::chat::python::types::{failed, Generator};
use minijinja::{Error, State, Value};

pub(crate) fn call(name: &str, state: &mut State, args: &Args) -> Result<Value, Error> {
    let value = &args.positional[0];
    let rest = &args.positional[1..];
    if !value.is_true() {
        return Ok(Generator::value(Vec::new()));
    }
    let all = items(value)?;
    let out: Result<Vec<Value>, Error> = match name {
        "map" => all.into_iter().map(|item| mapped(state, item, rest, args)).collect(),
        _ => chosen(name, state, all, rest, args),
    };
    out.map(Generator::value)
}

fn mapped(state: &mut State, item: Value, rest: &[Value], args: &Args) -> Result<Value, Error> {
    if let [name, rest @ ..] = rest {
        let name = name.as_str().ok_or_else(|| failed("map: a filter's name is a string"))?;
        let mut positional = vec![item];
        positional.extend_from_slice(rest);
        return registry::call(name, state, &Args { positional, named: args.named.clone() });
    }
    let known = |(name, _): &&(String, Value)| name != "attribute" && name != "default";
    if let Some((name, _)) = args.named.iter().find(known) {
        return Err(failed(format!("map: unexpected argument {name}")));
    }
    let named =
        |wanted: &str| args.named.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
    let path = named("attribute").ok_or_else(|| failed("map takes a filter or an attribute"))?;
    attribute(&item, path, named("default"))
}

/// An attribute by its path; `default` replaces what is undefined on the way.
pub(crate) fn attribute(
    item: &Value,
    path: &Value,
    default: Option<&Value>,
) -> Result<Value, Error> {
    let default = default.filter(|default| !default.is_none());
    let Some(text) = path.as_str() else { return part(item, path, default) };
    let mut found = item.clone();
    for name in text.split('.') {
        let key = match name.parse::<i64>() {
            Ok(at) if name.bytes().all(|b| b.is_ascii_digit()) => Value::from(at),
            _ => Value::from(name),
        };
        found = part(&found, &key, default)?;
    }
    Ok(found)
}

fn part(item: &Value, key: &Value, default: Option<&Value>) -> Result<Value, Error> {
    let found = lookup(item, key)?;
    match default {
        Some(default) if found.is_undefined() => Ok(default.clone()),
        _ => Ok(found),
    }
}

fn chosen(
    name: &str,
    state: &State,
    all: Vec<Value>,
    rest: &[Value],
    args: &Args,
) -> Result<Vec<Value>, Error> {
    let by_attribute = name.ends_with("attr");
    let keep = name.starts_with("select");
    let (path, rest) = match (by_attribute, rest) {
        (true, [path, rest @ ..]) => (Some(path), rest),
        (true, []) => return Err(failed(format!("{name} takes an attribute"))),
        (false, rest) => (None, rest),
    };
    let mut out = Vec::new();
    for item in all {
        let value = match path {
            Some(path) => attribute(&item, path, None)?,
            None => item.clone(),
        };
        let passed = match rest {
            [] => value.is_true(),
            [test, rest @ ..] => {
                let test = test.as_str().ok_or_else(|| failed("a test's name is a string"))?;
                let given = Args { positional: rest.to_vec(), named: args.named.clone() };
                tests::call(test, state, &value, &given)?
            }
        };
        if passed == keep {
            out.push(item);
        }
    }
    Ok(out)
}
