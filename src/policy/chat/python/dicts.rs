//! Python's dicts: keys, entries and methods.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::compare::equal;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type, View};
use minijinja::value::Tuple;
use minijinja::{Error, Value};

/// Refuses a key that Python cannot hash.
pub(crate) fn hashable(key: &Value) -> Result<(), Error> {
    match type_of(key) {
        Type::List | Type::Dict => Err(wrong_type("a key of a dict", key)),
        Type::View if !matches!(key.downcast_object_ref::<View>(), Some(v) if v.is_values()) => {
            Err(wrong_type("a key of a dict", key))
        }
        Type::Tuple => items(key)?.iter().try_for_each(hashable),
        _ => Ok(()),
    }
}

/// The value of a key.
pub(crate) fn get(dict: &Value, key: &Value) -> Option<Value> {
    let object = dict.as_object()?;
    if type_of(key) == Type::Str {
        return object.get_value_by_str(key.as_str()?);
    }
    // Rare: numbers of other types are the same key.
    let known = dict.try_iter().ok()?.find(|known| equal(known, key))?;
    object.get_value(&known)
}

/// Keys with their values.
pub(crate) fn entries(dict: &Value) -> Result<Vec<(Value, Value)>, Error> {
    let mut out = Vec::new();
    for key in dict.try_iter()? {
        let value = dict.get_item(&key)?;
        out.push((key, value));
    }
    Ok(out)
}

/// A dict of entries, of which later ones replace earlier ones.
pub(crate) fn from_entries(entries: Vec<(Value, Value)>) -> Result<Value, Error> {
    let mut out: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
    let mut positions: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for (key, value) in entries {
        hashable(&key)?;
        let known = match key.as_str() {
            Some(text) => positions.get(text).copied(),
            None => out.iter().position(|(known, _)| equal(known, &key)),
        };
        match known {
            Some(at) => out[at].1 = value,
            None => {
                if let Some(text) = key.as_str() {
                    positions.insert(text.to_owned(), out.len());
                }
                out.push((key, value));
            }
        }
    }
    Ok(Value::from_pairs(out))
}

/// Entries of a dict or of a list of pairs, as `dict(...)` takes them.
pub(crate) fn pairs(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if type_of(value) == Type::Dict {
        return entries(value);
    }
    let mut out = Vec::new();
    for item in items(value)? {
        match <[Value; 2]>::try_from(items(&item)?) {
            Ok([key, value]) => out.push((key, value)),
            Err(_) => return Err(failed("dict: an item is not a pair")),
        }
    }
    Ok(out)
}

const CHANGING: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Tells if a dict has the method, and if it may be called.
pub(crate) fn method(name: &str) -> Option<bool> {
    match name {
        "copy" | "fromkeys" | "get" | "items" | "keys" | "values" => Some(true),
        _ if CHANGING.contains(&name) => Some(false),
        _ => None,
    }
}

pub(crate) fn pair((key, value): (Value, Value)) -> Value {
    Value::from(Tuple::from([key, value]))
}

pub(crate) fn call(dict: &Value, name: &str, args: &Args) -> Result<Value, Error> {
    let view = |name, items| Value::from_object(View { name, items });
    if name == "get" {
        let given = args.only(1, 2)?;
        hashable(&given[0])?;
        let default = given.get(1).cloned().unwrap_or_else(|| Value::from(()));
        return Ok(get(dict, &given[0]).unwrap_or(default));
    }
    if name == "fromkeys" {
        let given = args.only(1, 2)?;
        let value = given.get(1).cloned().unwrap_or_else(|| Value::from(()));
        let keys = items(&given[0])?;
        return from_entries(keys.into_iter().map(|key| (key, value.clone())).collect());
    }
    args.only(0, 0)?;
    let entries = entries(dict)?;
    Ok(match name {
        "items" => view("dict_items", entries.into_iter().map(pair).collect()),
        "keys" => view("dict_keys", entries.into_iter().map(|(key, _)| key).collect()),
        "values" => view("dict_values", entries.into_iter().map(|(_, value)| value).collect()),
        _ => Value::from_pairs(entries),
    })
}
