//! `str.maketrans` and `str.translate`.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::dicts;
use crate::policy::chat::python::numbers::index;
use crate::policy::chat::python::strings::part;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use minijinja::{Error, Value};

fn code(c: char) -> Value {
    Value::from(u32::from(c))
}

/// A dict from the codes of characters to their replacements.
pub(crate) fn table(args: &Args) -> Result<Value, Error> {
    let given = args.only(1, 3)?;
    let mut entries = Vec::new();
    if let [dict] = given {
        if type_of(dict) != Type::Dict {
            return Err(wrong_type("maketrans", dict));
        }
        for (key, value) in dicts::entries(dict)? {
            let mut chars = key.as_str().unwrap_or_default().chars();
            let key = match (chars.next(), chars.next()) {
                (Some(c), None) => code(c),
                _ if index(&key).is_some() => key,
                _ => return Err(failed("maketrans: a key must be one character or its code")),
            };
            entries.push((key, value));
        }
        return dicts::from_entries(entries);
    }
    let (from, to) = (part(&given[0])?, part(&given[1])?);
    if from.chars().count() != to.chars().count() {
        return Err(failed("maketrans: the two strings differ in length"));
    }
    for (from, to) in from.chars().zip(to.chars()) {
        entries.push((code(from), code(to)));
    }
    if let Some(dropped) = given.get(2) {
        entries.extend(part(dropped)?.chars().map(|c| (code(c), Value::from(()))));
    }
    dicts::from_entries(entries)
}

pub(crate) fn translated(text: &str, args: &Args) -> Result<String, Error> {
    let table = &args.only(1, 1)?[0];
    if type_of(table) != Type::Dict {
        return Err(wrong_type("translate", table));
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let Some(new) = dicts::get(table, &code(c)) else {
            out.push(c);
            continue;
        };
        match (type_of(&new), index(&new)) {
            (Type::None, _) => {}
            (Type::Str, _) => out.push_str(part(&new)?),
            (_, Some(code)) => {
                let c = u32::try_from(code).ok().and_then(char::from_u32);
                out.push(c.ok_or_else(|| failed(format!("translate: {code} is no character")))?);
            }
            _ => return Err(wrong_type("translate", &new)),
        }
    }
    Ok(out)
}
