//! jinja2's tests.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::cases::is_case;
use crate::policy::chat::python::compare::{contains, equal, ordered};
use crate::policy::chat::python::dicts::hashable;
use crate::policy::chat::python::filters;
use crate::policy::chat::python::numbers::{arithmetic, Number};
use crate::policy::chat::python::percent::percent;
use crate::policy::chat::python::text::text;
use crate::policy::chat::python::types::{
    failed, type_of, wrong_type, Global, Joiner, Method, Type,
};
use minijinja::{Error, ErrorKind, State, Value};

/// Names of all tests.
const NAMES: [&str; 39] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
];

pub(crate) fn knows(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `value is name(args)`.
pub(crate) fn call(name: &str, _: &State, value: &Value, args: &Args) -> Result<bool, Error> {
    let kind = type_of(value);
    let plain = match name {
        "boolean" => kind == Type::Bool,
        "callable" => is_callable(value, kind),
        "defined" => kind != Type::Undefined,
        "undefined" => kind == Type::Undefined,
        "escaped" => value.is_safe(),
        "even" => equal(&rest(value, &Value::from(2))?, &Value::from(0)),
        "odd" => equal(&rest(value, &Value::from(2))?, &Value::from(1)),
        "false" => kind == Type::Bool && !value.is_true(),
        "true" => kind == Type::Bool && value.is_true(),
        "float" => kind == Type::Float,
        "integer" => kind == Type::Int,
        "number" => matches!(kind, Type::Bool | Type::Int | Type::Float),
        "none" => kind == Type::None,
        "string" => kind == Type::Str,
        "mapping" => kind == Type::Dict,
        "sequence" => is_sequence(kind),
        "iterable" => is_iterable(kind),
        "lower" => is_case(&text(value)?, false),
        "upper" => is_case(&text(value)?, true),
        "filter" => filters::knows(named(value)?),
        "test" => knows(named(value)?),
        _ => return binary(name, value, args),
    };
    args.only(0, 0)?;
    Ok(plain)
}

/// A type with a length and items by key.
fn is_sequence(kind: Type) -> bool {
    use Type::{Bytes, Dict, List, Range, Str, Tuple, Undefined};
    matches!(kind, Undefined | Str | Bytes | List | Tuple | Dict | Range)
}

fn is_iterable(kind: Type) -> bool {
    use Type::{Bool, Float, Int, Macro, Namespace, None, Other};
    !matches!(kind, None | Bool | Int | Float | Namespace | Macro | Other)
}

fn named(value: &Value) -> Result<&str, Error> {
    hashable(value)?;
    Ok(value.as_str().unwrap_or_default())
}

fn is_callable(value: &Value, kind: Type) -> bool {
    matches!(kind, Type::Undefined | Type::Loop | Type::Macro)
        || value.downcast_object_ref::<Method>().is_some()
        || value.downcast_object_ref::<Global>().is_some()
        || value.downcast_object_ref::<Joiner>().is_some()
}

/// `value % number`.
fn rest(value: &Value, number: &Value) -> Result<Value, Error> {
    match (Number::of(value), Number::of(number)) {
        (Some(a), Some(b)) => arithmetic("%", a, b).map(Number::value),
        _ if type_of(value) == Type::Str => percent(value, number),
        _ => Err(wrong_type("%", value)),
    }
}

fn binary(name: &str, value: &Value, args: &Args) -> Result<bool, Error> {
    if !knows(name) {
        return Err(Error::new(ErrorKind::UnknownTest, format!("the test {name} is unknown")));
    }
    let [other] = args.only(1, 1)? else {
        return Err(failed(format!("the test {name} takes one value")));
    };
    match name {
        "eq" | "equalto" | "==" => Ok(equal(value, other)),
        "ne" | "!=" => Ok(!equal(value, other)),
        "lt" | "lessthan" | "<" => ordered("<", value, other),
        "le" | "<=" => ordered("<=", value, other),
        "gt" | "greaterthan" | ">" => ordered(">", value, other),
        "ge" | ">=" => ordered(">=", value, other),
        "in" => contains(other, value),
        "divisibleby" => Ok(equal(&rest(value, other)?, &Value::from(0))),
        _ => Ok(is_same(value, other)),
    }
}

/// `value is other` of Python, for values that are written in a template.
fn is_same(value: &Value, other: &Value) -> bool {
    let kind = type_of(value);
    if kind != type_of(other) || value.is_safe() != other.is_safe() {
        return false;
    }
    match kind {
        Type::None | Type::Bool => equal(value, other),
        // CPython keeps one object of small integers and of literals that look like names.
        Type::Int => {
            let small = matches!(Number::of(value), Some(Number::Int(-5..=256)));
            small && equal(value, other)
        }
        Type::Str => {
            let text = value.as_str().unwrap_or_default();
            let name = text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
            !value.is_safe() && name && equal(value, other)
        }
        Type::Tuple => value.len() == Some(0) && other.len() == Some(0),
        Type::Undefined | Type::Float => false,
        Type::Other => {
            minijinja::tests::is_sameas(value, other)
                || matches!(
                    (value.downcast_object_ref::<Global>(), other.downcast_object_ref::<Global>()),
                    (Some(a), Some(b)) if a.0 == b.0
                )
        }
        _ => minijinja::tests::is_sameas(value, other),
    }
}
