//! Items, lengths and slices of Python's sequences, and methods of lists and tuples.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::compare::equal;
use crate::policy::chat::python::numbers::{expect_index, index};
use crate::policy::chat::python::types::{
    failed, text_like, type_of, wrong_type, Generator, Range, Type, View,
};
use minijinja::value::Tuple;
use minijinja::{Error, Value};

/// Most bytes of text or items of a list that `*` may give.
const MOST: usize = 1 << 22;

/// `list(value)`.
pub(crate) fn items(value: &Value) -> Result<Vec<Value>, Error> {
    match type_of(value) {
        Type::Undefined => Ok(Vec::new()),
        Type::Str => {
            let text = value.as_str().unwrap_or_default();
            Ok(text.chars().map(|c| Value::from(c.to_string())).collect())
        }
        Type::List | Type::Tuple | Type::Dict => Ok(value.try_iter()?.collect()),
        Type::Range => Ok(value.downcast_object_ref::<Range>().map_or(Vec::new(), Range::items)),
        Type::View => {
            Ok(value.downcast_object_ref::<View>().map_or(Vec::new(), |v| v.items.clone()))
        }
        Type::Generator => {
            Ok(value.downcast_object_ref::<Generator>().map_or(Vec::new(), Generator::rest))
        }
        _ => Err(wrong_type("iteration", value)),
    }
}

/// `len(value)`.
pub(crate) fn length(value: &Value) -> Result<usize, Error> {
    match type_of(value) {
        Type::Str => Ok(value.as_str().unwrap_or_default().chars().count()),
        Type::Generator => Err(wrong_type("len", value)),
        Type::Bytes => Ok(value.as_bytes().unwrap_or_default().len()),
        Type::Loop => Ok(value.get_attr("length")?.as_usize().unwrap_or(0)),
        _ => Ok(items(value).map_err(|_| wrong_type("len", value))?.len()),
    }
}

/// The position of a Python index in a sequence of `length` items.
pub(crate) fn position(at: i128, length: usize) -> Option<usize> {
    let at = if at < 0 { at + length as i128 } else { at };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// The positions that a slice selects.
fn selected(length: usize, [start, stop, step]: [&Value; 3]) -> Result<Vec<usize>, Error> {
    let part = |value: &Value| {
        if value.is_none() {
            Ok(None)
        } else {
            expect_index(value, "a slice").map(Some)
        }
    };
    let step = part(step)?.unwrap_or(1);
    if step == 0 {
        return Err(failed("a slice's step is zero"));
    }
    let length = length as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |at: i128| (if at < 0 { at.saturating_add(length) } else { at }).clamp(low, high);
    let start = part(start)?.map_or(if step > 0 { low } else { high }, clamp);
    let stop = part(stop)?.map_or(if step > 0 { high } else { low }, clamp);
    let mut out = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        out.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    Ok(out)
}

/// `value[start:stop:step]`.
pub(crate) fn slice(value: &Value, parts: [&Value; 3]) -> Result<Value, Error> {
    let kind = type_of(value);
    if !matches!(kind, Type::Str | Type::List | Type::Tuple | Type::Range) {
        return Err(wrong_type("a slice", value));
    }
    if let Some(range) = value.downcast_object_ref::<Range>() {
        return range_slice(range, parts);
    }
    let all = items(value)?;
    let chosen: Vec<Value> =
        selected(all.len(), parts)?.into_iter().map(|at| all[at].clone()).collect();
    Ok(match kind {
        Type::Str => {
            let chars: String = chosen.iter().filter_map(Value::as_str).collect();
            text_like(value, chars)
        }
        Type::Tuple => Value::from(Tuple::from(chosen)),
        _ => Value::from(chosen),
    })
}

fn range_slice(range: &Range, parts: [&Value; 3]) -> Result<Value, Error> {
    let length = range.len();
    let step = index(parts[2]).unwrap_or(1);
    let chosen = selected(length, parts)?;
    let step = i64::try_from(step).unwrap_or(1);
    let at = |i: i64| range.start + i * range.step;
    let start = chosen.first().map_or(0, |i| *i as i64);
    let clamp = |value: &Value, default: i64| {
        index(value).map_or(default, |at| {
            let at = if at < 0 { at + length as i128 } else { at };
            let (low, high) = if step > 0 { (0, length as i128) } else { (-1, length as i128 - 1) };
            i64::try_from(at.clamp(low, high)).unwrap_or(default)
        })
    };
    let (first, last) = if step > 0 { (0, length as i64) } else { (length as i64 - 1, -1) };
    let start = if chosen.is_empty() { clamp(parts[0], first) } else { start };
    let stop = clamp(parts[1], last);
    Ok(Value::from_object(Range { start: at(start), stop: at(stop), step: range.step * step }))
}

/// `value * count` of a list, a tuple or a string.
pub(crate) fn repeated(value: &Value, count: i128) -> Result<Value, Error> {
    let length = value.as_str().map_or_else(|| length(value), |text| Ok(text.len()))?;
    let count = if length == 0 { 0 } else { count.max(0) };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if length.saturating_mul(count) > MOST {
        return Err(failed("the result of * is too large"));
    }
    if let Some(text) = value.as_str() {
        return Ok(text_like(value, text.repeat(count)));
    }
    let all = items(value)?;
    let mut out = Vec::with_capacity(length * count);
    for _ in 0..count {
        out.extend_from_slice(&all);
    }
    if value.is_tuple() {
        return Ok(Value::from(Tuple::from(out)));
    }
    Ok(Value::from(out))
}

/// Names of the methods that change a list, which the sandbox refuses.
const CHANGING: [&str; 8] =
    ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// Tells if a list or tuple has the method, and if it may be called.
pub(crate) fn method(kind: Type, name: &str) -> Option<bool> {
    match name {
        "count" | "index" => Some(true),
        "copy" if kind == Type::List => Some(true),
        _ if kind == Type::List && CHANGING.contains(&name) => Some(false),
        _ => None,
    }
}

pub(crate) fn call(value: &Value, name: &str, args: &Args) -> Result<Value, Error> {
    let all = items(value)?;
    match name {
        "copy" => {
            args.only(0, 0)?;
            Ok(Value::from(all))
        }
        "count" => {
            let wanted = &args.only(1, 1)?[0];
            Ok(Value::from(all.iter().filter(|item| equal(item, wanted)).count()))
        }
        _ => {
            let given = args.only(1, if type_of(value) == Type::Range { 1 } else { 3 })?;
            let bound = |i: usize, default: usize| match given.get(i) {
                Some(at) => {
                    let at = expect_index(at, "index")?;
                    let at = if at < 0 { at + all.len() as i128 } else { at };
                    Ok(usize::try_from(at.max(0)).unwrap_or(usize::MAX).min(all.len()))
                }
                None => Ok::<usize, Error>(default),
            };
            let (start, stop) = (bound(1, 0)?, bound(2, all.len())?);
            let found = (start..stop).find(|&i| equal(&all[i], &given[0]));
            found.map(Value::from).ok_or_else(|| failed("index: the value is not in the list"))
        }
    }
}
