//! The operators of rewritten templates, as filters.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::compare::{contains, equal, ordered};
use crate::policy::chat::python::numbers::{arithmetic, index, int, too_large, Number};
use crate::policy::chat::python::percent::percent;
use crate::policy::chat::python::sequences::{items, repeated, slice};
use crate::policy::chat::python::text::text;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use crate::policy::chat::python::{dicts, filters, items as lookups, tests};
use minijinja::value::Tuple;
use minijinja::{Error, State, Value};

/// Names of the operators' filters.
pub(crate) const NAMES: [&str; 26] = [
    "__add",
    "__sub",
    "__mul",
    "__div",
    "__floordiv",
    "__mod",
    "__pow",
    "__concat",
    "__eq",
    "__ne",
    "__lt",
    "__le",
    "__gt",
    "__ge",
    "__in",
    "__not_in",
    "__neg",
    "__pos",
    "__dict",
    "__attr",
    "__item",
    "__slice",
    "__is",
    "__is_not",
    "__rows",
    "__unpack",
];

pub(crate) fn call(name: &str, state: &mut State, args: &Args) -> Result<Value, Error> {
    let [a, rest @ ..] = args.positional.as_slice() else {
        return Err(failed("an operator without operands"));
    };
    let b = rest.first().unwrap_or(a);
    Ok(match name {
        "__eq" => Value::from(equal(a, b)),
        "__ne" => Value::from(!equal(a, b)),
        "__lt" => Value::from(ordered("<", a, b)?),
        "__le" => Value::from(ordered("<=", a, b)?),
        "__gt" => Value::from(ordered(">", a, b)?),
        "__ge" => Value::from(ordered(">=", a, b)?),
        "__in" => Value::from(contains(b, a)?),
        "__not_in" => Value::from(!contains(b, a)?),
        "__is" | "__is_not" => {
            let test = b.as_str().unwrap_or_default();
            let given = Args { positional: rest[1..].to_vec(), named: args.named.clone() };
            Value::from(tests::call(test, state, a, &given)? == (name == "__is"))
        }
        "__attr" => lookups::attribute(a, b.as_str().unwrap_or_default())?,
        "__item" => lookups::item(a, b)?,
        "__slice" => match rest {
            [start, stop, step] => slice(a, [start, stop, step])?,
            _ => return Err(failed("a slice without its parts")),
        },
        "__dict" => dicts::from_entries(dicts::pairs(a)?)?,
        "__rows" => lookups::rows(a, rest.first().and_then(Value::as_usize))?,
        "__unpack" => lookups::unpack(a, b.as_usize().unwrap_or(0))?,
        "__concat" => {
            let mut out = text(a)?.into_owned();
            for part in rest {
                out.push_str(&text(part)?);
            }
            Value::from(out)
        }
        "__neg" | "__pos" => signed(name, a)?,
        _ => binary(name, a, b)?,
    })
}

fn signed(name: &str, value: &Value) -> Result<Value, Error> {
    let number = Number::of(value).ok_or_else(|| wrong_type("a sign", value))?;
    Ok(match (name, number) {
        ("__neg", Number::Int(number)) => int(number.checked_neg().ok_or_else(too_large)?),
        ("__neg", Number::Float(number)) => Value::from(-number),
        _ => number.value(),
    })
}

fn binary(name: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    let sign = match name {
        "__add" => "+",
        "__sub" => "-",
        "__mul" => "*",
        "__div" => "/",
        "__floordiv" => "//",
        "__mod" => "%",
        _ => "**",
    };
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return arithmetic(sign, a, b).map(Number::value);
    }
    let kinds = (type_of(a), type_of(b));
    let sequence = |kind| matches!(kind, Type::Str | Type::List | Type::Tuple);
    match (sign, kinds) {
        ("%", (Type::Str, _)) => percent(a, b),
        ("+", (Type::Str, Type::Str)) => Ok(filters::html::joined(a, b)),
        ("+", (Type::List, Type::List)) => {
            let mut all = items(a)?;
            all.extend(items(b)?);
            Ok(Value::from(all))
        }
        ("+", (Type::Tuple, Type::Tuple)) => {
            let mut all = items(a)?;
            all.extend(items(b)?);
            Ok(Value::from(Tuple::from(all)))
        }
        ("*", (kind, _)) if sequence(kind) && index(b).is_some() => {
            repeated(a, index(b).unwrap_or(0))
        }
        ("*", (_, kind)) if sequence(kind) && index(a).is_some() => {
            repeated(b, index(a).unwrap_or(0))
        }
        ("-", (Type::View, _)) => Err(failed("sets are not supported")),
        (_, (Type::Undefined, _)) => Err(wrong_type(sign, a)),
        (_, (_, Type::Undefined)) => Err(wrong_type(sign, b)),
        (sign, (a, b)) => {
            Err(failed(format!("{sign} does not take {} and {}", a.name(), b.name())))
        }
    }
}
