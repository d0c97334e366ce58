//! `value.name`, `value[key]` and the unpacking of assignments.

use crate::policy::chat::python::dicts;
use crate::policy::chat::python::methods;
use crate::policy::chat::python::numbers::{index, Number};
use crate::policy::chat::python::sequences::{items, position};
use crate::policy::chat::python::types::{
    failed, type_of, wrong_type, Cycler, Group, Joiner, Method, Type,
};
use minijinja::{Error, Value};

/// `value.name`: attributes and methods first, then items.
pub(crate) fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    let kind = type_of(value);
    if kind == Type::Undefined {
        return Err(wrong_type(&format!("the attribute `{name}`"), value));
    }
    if let Some(own) = own_attribute(value, kind, name) {
        return Ok(own);
    }
    match kind {
        Type::Dict => Ok(dicts::get(value, &Value::from(name)).unwrap_or(Value::UNDEFINED)),
        _ => Ok(Value::UNDEFINED),
    }
}

/// An attribute that Python's type has; undefined for those that the sandbox hides.
fn own_attribute(value: &Value, kind: Type, name: &str) -> Option<Value> {
    if let Some(allowed) = methods::find(value, name) {
        let method = || Value::from_object(Method { of: value.clone(), name: name.to_owned() });
        return Some(if allowed { method() } else { Value::UNDEFINED });
    }
    match (kind, name) {
        (Type::Bool | Type::Int | Type::Float, "real" | "imag" | "numerator" | "denominator") => {
            number_attribute(Number::of(value)?, name)
        }
        (Type::Range, "start" | "stop" | "step") => {
            let range = value.downcast_object_ref::<super::types::Range>()?;
            Some(Value::from(match name {
                "start" => range.start,
                "stop" => range.stop,
                _ => range.step,
            }))
        }
        (Type::Namespace | Type::Loop | Type::Macro, _) => {
            if name.starts_with('_') {
                return Some(Value::UNDEFINED);
            }
            let found = value.get_attr(name).ok()?;
            match (kind, name) {
                (Type::Macro, "arguments") => {
                    Some(Value::from(minijinja::value::Tuple::from(items(&found).ok()?)))
                }
                (Type::Macro, "catch_kwargs" | "catch_varargs") => Some(Value::from(false)),
                _ => Some(found),
            }
        }
        _ => {
            let own = value.downcast_object_ref::<Group>().is_some()
                || value.downcast_object_ref::<Cycler>().is_some()
                || value.downcast_object_ref::<Joiner>().is_some();
            if own {
                value.get_attr(name).ok()
            } else {
                None
            }
        }
    }
}

fn number_attribute(number: Number, name: &str) -> Option<Value> {
    match (name, number) {
        ("imag", Number::Float(_)) => Some(Value::from(0.0)),
        ("imag", Number::Int(_)) => Some(Value::from(0)),
        ("denominator", Number::Int(_)) => Some(Value::from(1)),
        ("real", _) | ("numerator", Number::Int(_)) => Some(number.value()),
        _ => None,
    }
}

/// `value[key]`: items first, then attributes; undefined if there is neither.
pub(crate) fn item(value: &Value, key: &Value) -> Result<Value, Error> {
    let kind = type_of(value);
    let found = match kind {
        Type::Undefined => return Err(wrong_type("an item", value)),
        Type::Dict => {
            if dicts::hashable(key).is_err() {
                return Ok(Value::UNDEFINED);
            }
            dicts::get(value, key)
        }
        Type::List | Type::Tuple => index(key).and_then(|at| {
            let length = value.len()?;
            value.get_item_by_index(position(at, length)?).ok()
        }),
        Type::Str | Type::Range => index(key).and_then(|at| {
            let all = items(value).ok()?;
            Some(all.get(position(at, all.len())?)?.clone())
        }),
        Type::Bytes => index(key).and_then(|at| {
            let bytes = value.as_bytes()?;
            Some(Value::from(bytes[position(at, bytes.len())?]))
        }),
        _ => None,
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => Ok(own_attribute(value, kind, name).unwrap_or(Value::UNDEFINED)),
        (None, None) => Ok(Value::UNDEFINED),
    }
}

/// An item by jinja2's `make_attrgetter`: a number, or names and numbers with dots between them.
pub(crate) fn path(value: &Value, path: &Value) -> Result<Value, Error> {
    let Some(text) = path.as_str() else { return item(value, path) };
    let mut found = value.clone();
    for part in text.split('.') {
        let numeric = !part.is_empty() && part.chars().all(super::unicode::is_digit);
        found = match part.parse::<i64>() {
            Ok(at) if numeric => item(&found, &Value::from(at))?,
            _ => item(&found, &Value::from(part))?,
        };
    }
    Ok(found)
}

/// The items of a `for`; each is a list of `count` items if there are several targets.
pub(crate) fn rows(value: &Value, count: Option<usize>) -> Result<Value, Error> {
    let mut all = items(value)?;
    if let Some(count) = count {
        for row in &mut all {
            *row = unpack(row, count)?;
        }
    }
    Ok(Value::from(all))
}

/// The `count` items of a value that is assigned to several targets.
pub(crate) fn unpack(value: &Value, count: usize) -> Result<Value, Error> {
    let all = items(value)?;
    if all.len() != count {
        let given = all.len();
        return Err(failed(format!("{given} values cannot be assigned to {count} names")));
    }
    if matches!(type_of(value), Type::List | Type::Tuple) {
        return Ok(value.clone());
    }
    Ok(Value::from(all))
}
