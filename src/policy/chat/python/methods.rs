//! Methods of Python's types.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::numbers::Number;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use crate::policy::chat::python::{dicts, items, sequences, strings};
use minijinja::{Error, ErrorKind, State, Value};

/// Tells if a value's type has the method: `Some(false)` if the sandbox refuses it.
pub(crate) fn find(value: &Value, name: &str) -> Option<bool> {
    match type_of(value) {
        Type::Str => strings::method(name),
        Type::List | Type::Tuple => sequences::method(type_of(value), name),
        Type::Range => ["count", "index"].contains(&name).then_some(true),
        Type::Dict => dicts::method(name),
        Type::Bool | Type::Int => {
            ["bit_length", "bit_count", "conjugate"].contains(&name).then_some(true)
        }
        Type::Float => ["is_integer", "conjugate"].contains(&name).then_some(true),
        Type::Bytes => (name == "decode").then_some(true),
        _ => None,
    }
}

pub(crate) fn call(value: &Value, name: &str, args: &Args) -> Result<Value, Error> {
    match type_of(value) {
        Type::Str => strings::call(value, name, args),
        Type::List | Type::Tuple | Type::Range => sequences::call(value, name, args),
        Type::Dict => dicts::call(value, name, args),
        Type::Bytes => decoded(value, args),
        _ => number(value, name, args),
    }
}

fn decoded(value: &Value, args: &Args) -> Result<Value, Error> {
    args.bind(["encoding", "errors"], 0)?;
    let bytes = value.as_bytes().unwrap_or_default();
    let text = std::str::from_utf8(bytes).map_err(|e| failed(format!("decode: {e}")))?;
    Ok(Value::from(text))
}

fn number(value: &Value, name: &str, args: &Args) -> Result<Value, Error> {
    args.only(0, 0)?;
    match (Number::of(value), name) {
        (Some(number), "conjugate") => Ok(number.value()),
        (Some(Number::Int(number)), "bit_length") => {
            Ok(Value::from(128 - number.unsigned_abs().leading_zeros()))
        }
        (Some(Number::Int(number)), "bit_count") => {
            Ok(Value::from(number.unsigned_abs().count_ones()))
        }
        (Some(Number::Float(number)), "is_integer") => Ok(Value::from(number.fract() == 0.0)),
        _ => Err(wrong_type(name, value)),
    }
}

/// Calls a method that minijinja does not know: one of Python's types, or what is stored under the
/// name.
pub(crate) fn unknown_method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match find(value, name) {
        Some(true) => return call(value, name, &Args::of(args)?),
        Some(false) => {
            return Err(failed(format!("the method {name} would change a value of the input")));
        }
        None => {}
    }
    let found = items::attribute(value, name)?;
    if found.is_undefined() {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    found.call(state, args)
}
