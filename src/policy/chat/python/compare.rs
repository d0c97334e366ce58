//! Python's `==`, `<` and `in`.

use crate::policy::chat::python::numbers::Number;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use minijinja::{Error, Value};
use std::cmp::Ordering;

/// `a == b`.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return numbers(a, b) == Some(Ordering::Equal);
    }
    match (type_of(a), type_of(b)) {
        (Type::Undefined, Type::Undefined) | (Type::None, Type::None) => true,
        (Type::Str, Type::Str) => a.as_str() == b.as_str(),
        (Type::Bytes, Type::Bytes) => a.as_bytes() == b.as_bytes(),
        (Type::List, Type::List)
        | (Type::Tuple, Type::Tuple)
        | (Type::Range, Type::Range)
        | (Type::View, Type::View) => lists_equal(a, b),
        (Type::Dict, Type::Dict) => dicts_equal(a, b),
        (x, y) if x == y => minijinja::tests::is_sameas(a, b),
        _ => false,
    }
}

fn lists_equal(a: &Value, b: &Value) -> bool {
    let (Ok(a), Ok(b)) = (items(a), items(b)) else { return false };
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| equal(a, b))
}

fn dicts_equal(a: &Value, b: &Value) -> bool {
    let (Ok(keys), Ok(others)) = (items(a), items(b)) else { return false };
    keys.len() == others.len()
        && keys.iter().all(|key| {
            let (left, right) = (super::dicts::get(a, key), super::dicts::get(b, key));
            matches!((left, right), (Some(left), Some(right)) if equal(&left, &right))
        })
}

fn numbers(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
        (Number::Float(a), Number::Float(b)) => a.partial_cmp(&b),
        (Number::Int(a), Number::Float(b)) => int_and_float(a, b),
        (Number::Float(a), Number::Int(b)) => int_and_float(b, a).map(Ordering::reverse),
    }
}

fn int_and_float(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    let whole = b.floor();
    if whole >= i128::MAX as f64 {
        return Some(Ordering::Less);
    }
    if whole < i128::MIN as f64 {
        return Some(Ordering::Greater);
    }
    let order = a.cmp(&(whole as i128));
    Some(if order == Ordering::Equal && b > whole { Ordering::Less } else { order })
}

/// The order of two values; `None` if both are numbers and one is NaN.
pub(crate) fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(numbers(a, b));
    }
    match (type_of(a), type_of(b)) {
        (Type::Str, Type::Str) => Ok(Some(a.as_str().cmp(&b.as_str()))),
        (Type::List, Type::List) | (Type::Tuple, Type::Tuple) => {
            let (a, b) = (items(a)?, items(b)?);
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b) {
                    return order(a, b);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        (Type::Undefined, _) => Err(wrong_type("an order", a)),
        (_, Type::Undefined) => Err(wrong_type("an order", b)),
        (a, b) => Err(failed(format!("{} and {} have no order", a.name(), b.name()))),
    }
}

/// `a < b`, or another comparison by its sign.
pub(crate) fn ordered(sign: &str, a: &Value, b: &Value) -> Result<bool, Error> {
    let Some(order) = order(a, b)? else { return Ok(false) };
    Ok(match sign {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Sorts stably, with the first error of a comparison.
pub(crate) fn sort<T>(
    items: &mut [T],
    reverse: bool,
    key: impl Fn(&T) -> &Value,
) -> Result<(), Error> {
    let mut error = None;
    items.sort_by(|a, b| {
        if error.is_some() {
            return Ordering::Equal;
        }
        let compared = order(key(a), key(b)).unwrap_or_else(|e| {
            error = Some(e);
            None
        });
        let compared = compared.unwrap_or(Ordering::Equal);
        if reverse {
            compared.reverse()
        } else {
            compared
        }
    });
    error.map_or(Ok(()), Err)
}

/// `item in container`.
pub(crate) fn contains(container: &Value, item: &Value) -> Result<bool, Error> {
    match type_of(container) {
        Type::Str => {
            let Some(part) = item.as_str() else {
                return Err(wrong_type("`in` of a string", item));
            };
            Ok(container.as_str().unwrap_or_default().contains(part))
        }
        Type::Dict => {
            super::dicts::hashable(item)?;
            Ok(super::dicts::get(container, item).is_some())
        }
        Type::Undefined => Ok(false),
        Type::Generator => {
            let generator = container.downcast_object_ref::<super::types::Generator>();
            let mut rest = std::iter::from_fn(|| generator?.next());
            Ok(rest.any(|other| equal(&other, item)))
        }
        Type::List | Type::Tuple | Type::Range | Type::View => {
            Ok(items(container)?.iter().any(|other| equal(other, item)))
        }
        _ => Err(wrong_type("`in`", container)),
    }
}
