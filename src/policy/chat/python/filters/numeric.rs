//! Filters of numbers.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::filters::html::joined;
use crate::policy::chat::python::floats;
use crate::policy::chat::python::items::path;
use crate::policy::chat::python::numbers::{
    arithmetic, expect_index, int, parse_float, parse_int, too_large, Number,
};
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use minijinja::value::Tuple;
use minijinja::{Error, Value};

pub(crate) fn call(name: &str, args: &Args) -> Result<Value, Error> {
    match name {
        "abs" => {
            let [value] = args.bind(["x"], 1)?;
            let value = value.unwrap_or_default();
            match Number::of(&value).ok_or_else(|| wrong_type(name, &value))? {
                Number::Int(number) => Ok(int(number.checked_abs().ok_or_else(too_large)?)),
                Number::Float(number) => Ok(Value::from(number.abs())),
            }
        }
        "float" => {
            let [value, default] = args.bind(["value", "default"], 1)?;
            let default = default.unwrap_or_else(|| Value::from(0.0));
            let found = float(&value.unwrap_or_default())?;
            Ok(found.map_or(default, Value::from))
        }
        "int" => {
            let [value, default, base] = args.bind(["value", "default", "base"], 1)?;
            let default = default.unwrap_or_else(|| Value::from(0));
            let base = base.map_or(Ok(10), |base| expect_index(&base, name))?;
            to_int(&value.unwrap_or_default(), default, base)
        }
        "round" => round(args),
        "sum" => sum(args),
        _ => file_size(args),
    }
}

/// `float(value)`; `None` if it is no number.
fn float(value: &Value) -> Result<Option<f64>, Error> {
    match type_of(value) {
        Type::Undefined => Err(wrong_type("a number", value)),
        Type::Str => Ok(parse_float(value.as_str().unwrap_or_default())),
        _ => Ok(Number::of(value).map(Number::float)),
    }
}

fn to_int(value: &Value, default: Value, base: i128) -> Result<Value, Error> {
    let truncated = |number: f64| {
        if number.abs() >= 1.7e38 {
            return Err(too_large());
        }
        Ok(int(number.trunc() as i128))
    };
    if let Some(text) = value.as_str() {
        let valid = base == 0 || (2..=36).contains(&base);
        let base = u32::try_from(base).unwrap_or(0);
        if let Some(number) = if valid { parse_int(text, base) } else { None } {
            return Ok(int(number));
        }
        return match parse_float(text) {
            Some(number) if number.is_finite() => truncated(number),
            _ => Ok(default),
        };
    }
    match Number::of(value) {
        Some(Number::Int(number)) => Ok(int(number)),
        Some(Number::Float(number)) if number.is_infinite() => Err(failed("int of an infinity")),
        Some(Number::Float(number)) if number.is_nan() => Ok(default),
        Some(Number::Float(number)) => truncated(number),
        None if value.is_undefined() => Err(wrong_type("int", value)),
        None => Ok(default),
    }
}

fn round(args: &Args) -> Result<Value, Error> {
    let [value, precision, method] = args.bind(["value", "precision", "method"], 1)?;
    let value = value.unwrap_or_default();
    let precision = precision.map_or(Ok(0), |precision| expect_index(&precision, "round"))?;
    let precision = i32::try_from(precision.clamp(-400, 400)).unwrap_or(0);
    let method = method.unwrap_or_else(|| Value::from("common"));
    let number = Number::of(&value);
    match method.as_str() {
        Some("common") => {}
        Some("ceil" | "floor") => {
            let number = number.ok_or_else(|| wrong_type("round", &value))?;
            let scale = integer_power(precision)?;
            let whole = match arithmetic("*", number, scale)? {
                Number::Int(number) => number,
                Number::Float(number) if number.abs() >= 1.7e38 || number.is_nan() => {
                    return Err(too_large());
                }
                Number::Float(number) if method.as_str() == Some("ceil") => number.ceil() as i128,
                Number::Float(number) => number.floor() as i128,
            };
            return arithmetic("/", Number::Int(whole), scale).map(Number::value);
        }
        _ => return Err(failed("round: the method must be common, ceil or floor")),
    }
    match number.ok_or_else(|| wrong_type("round", &value))? {
        Number::Int(number) => Ok(int(round_int(number, precision))),
        Number::Float(number) => Ok(Value::from(round_float(number, precision))),
    }
}

fn integer_power(precision: i32) -> Result<Number, Error> {
    if precision < 0 {
        return Ok(Number::Float(10_f64.powi(precision)));
    }
    let power = 10_i128.checked_pow(precision.unsigned_abs()).ok_or_else(too_large)?;
    Ok(Number::Int(power))
}

/// Rounds to a multiple of a power of ten, halves to the even one.
fn round_int(number: i128, precision: i32) -> i128 {
    if precision >= 0 {
        return number;
    }
    let Some(unit) = 10_i128.checked_pow(precision.unsigned_abs()) else { return 0 };
    let (quotient, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
    let up = rest * 2 > unit || (rest * 2 == unit && quotient % 2 != 0);
    (quotient + i128::from(up)) * unit
}

fn round_float(number: f64, precision: i32) -> f64 {
    if !number.is_finite() || precision > 323 {
        return number;
    }
    match usize::try_from(precision) {
        Ok(precision) => format!("{number:.precision$}").parse().unwrap_or(number),
        Err(_) if precision < -308 => 0.0_f64.copysign(number),
        Err(_) => {
            let unit = 10_f64.powi(-precision);
            (number / unit).round_ties_even() * unit
        }
    }
}

fn sum(args: &Args) -> Result<Value, Error> {
    let [value, attribute, start] = args.bind(["iterable", "attribute", "start"], 1)?;
    let attribute = attribute.filter(|attribute| !attribute.is_none());
    let mut total = start.unwrap_or_else(|| Value::from(0));
    if type_of(&total) == Type::Str {
        return Err(failed("sum cannot add strings"));
    }
    for item in items(&value.unwrap_or_default())? {
        let item = match &attribute {
            Some(attribute) => path(&item, attribute)?,
            None => item,
        };
        total = add(&total, &item)?;
    }
    Ok(total)
}

fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return arithmetic("+", a, b).map(Number::value);
    }
    match (type_of(a), type_of(b)) {
        (Type::Str, Type::Str) => Ok(joined(a, b)),
        (Type::List, Type::List) | (Type::Tuple, Type::Tuple) => {
            let mut all = items(a)?;
            all.extend(items(b)?);
            if a.is_tuple() {
                return Ok(Value::from(Tuple::from(all)));
            }
            Ok(Value::from(all))
        }
        _ => Err(wrong_type("sum", b)),
    }
}

fn file_size(args: &Args) -> Result<Value, Error> {
    let [value, binary] = args.bind(["value", "binary"], 1)?;
    let value = value.unwrap_or_default();
    let bytes = float(&value)?.ok_or_else(|| wrong_type("filesizeformat", &value))?;
    let binary = binary.is_some_and(|binary| binary.is_true());
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", bytes.trunc() as i128)));
    }
    if bytes.is_nan() {
        return Err(failed("filesizeformat of what is no number"));
    }
    let mut unit = base;
    let mut shown = String::new();
    for prefix in ["k", "M", "G", "T", "P", "E", "Z", "Y"] {
        unit *= base;
        let prefix = match (prefix, binary) {
            ("k", true) => "Ki".to_owned(),
            (prefix, true) => format!("{prefix}i"),
            (prefix, false) => prefix.to_owned(),
        };
        let size = floats::formatted(base * bytes / unit, 'f', 1, false);
        shown = format!("{size} {prefix}B");
        if bytes < unit {
            break;
        }
    }
    Ok(Value::from(shown))
}
