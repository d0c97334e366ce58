//! Python's numbers: `bool`, `int` and `float`.

use crate::policy::chat::python::types::{failed, type_of, Type};
use minijinja::{Error, Value};

/// A number of Python; a `bool` counts as an integer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    /// The number of a value; `None` for any other type.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match type_of(value) {
            Type::Bool => Some(Self::Int(i128::from(value.is_true()))),
            Type::Int => i128::try_from(value.clone()).ok().map(Self::Int),
            Type::Float => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    pub(crate) fn float(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    pub(crate) fn value(self) -> Value {
        match self {
            Self::Int(number) => int(number),
            Self::Float(number) => Value::from(number),
        }
    }
}

/// An integer as a value.
pub(crate) fn int(number: i128) -> Value {
    match i64::try_from(number) {
        Ok(number) => Value::from(number),
        Err(_) => Value::from(number),
    }
}

/// An integer of an index, a width or a count; `None` for any other type.
pub(crate) fn index(value: &Value) -> Option<i128> {
    match Number::of(value) {
        Some(Number::Int(number)) => Some(number),
        _ => None,
    }
}

/// The index of a required argument that must be an integer.
pub(crate) fn expect_index(value: &Value, what: &str) -> Result<i128, Error> {
    index(value).ok_or_else(|| super::types::wrong_type(what, value))
}

pub(crate) fn too_large() -> Error {
    failed("an integer of more than 127 bits is not supported")
}

fn zero() -> Error {
    failed("division by zero")
}

/// Computes `a sign b` of two numbers.
pub(crate) fn arithmetic(sign: &str, a: Number, b: Number) -> Result<Number, Error> {
    if let (Number::Int(a), Number::Int(b)) = (a, b) {
        return integers(sign, a, b);
    }
    floats(sign, a.float(), b.float()).map(Number::Float)
}

fn integers(sign: &str, a: i128, b: i128) -> Result<Number, Error> {
    let exact = match sign {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" => {
            if b == 0 {
                return Err(zero());
            }
            let whole = a != 0 && a.checked_rem(b) == Some(0);
            let exact = if whole { a.checked_div(b) } else { None };
            return Ok(Number::Float(exact.map_or(a as f64 / b as f64, |exact| exact as f64)));
        }
        "//" | "%" => {
            if b == 0 {
                return Err(zero());
            }
            let rest = a.checked_rem(b).unwrap_or(0);
            let down = rest != 0 && (rest < 0) != (b < 0);
            if sign == "%" {
                Some(if down { rest + b } else { rest })
            } else {
                a.checked_div(b).map(|quotient| quotient - i128::from(down))
            }
        }
        _ if b < 0 => return power(a as f64, b as f64).map(Number::Float),
        _ if a == 0 || a == 1 => Some(if b == 0 { 1 } else { a }),
        _ if a == -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    exact.map(Number::Int).ok_or_else(too_large)
}

fn floats(sign: &str, a: f64, b: f64) -> Result<f64, Error> {
    match sign {
        "+" => Ok(a + b),
        "-" => Ok(a - b),
        "*" => Ok(a * b),
        "**" => power(a, b),
        _ if b == 0.0 => Err(zero()),
        "/" => Ok(a / b),
        "%" => Ok(divided(a, b).1),
        _ => Ok(divided(a, b).0),
    }
}

/// Quotient and rest as CPython's `float_divmod` computes them.
fn divided(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 {
        if (b < 0.0) != (rest < 0.0) {
            rest += b;
            quotient -= 1.0;
        }
    } else {
        rest = 0.0_f64.copysign(b);
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), rest);
    }
    let mut floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor += 1.0;
    }
    (floor, rest)
}

fn power(a: f64, b: f64) -> Result<f64, Error> {
    if a == 0.0 && b < 0.0 {
        return Err(zero());
    }
    let result = a.powf(b);
    if result.is_nan() && !a.is_nan() && !b.is_nan() {
        return Err(failed("a power that is a complex number is not supported"));
    }
    if result.is_infinite() && a.is_finite() && b.is_finite() {
        return Err(failed("the result of ** is too large"));
    }
    Ok(result)
}

/// Reads text as `int(text, base)` does; `None` if it is no integer.
pub(crate) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::unicode::is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let found = match prefix.as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 0,
    };
    let (base, digits) = match (base, found) {
        (0, 0) => (10, digits),
        (0, found) => (found, &digits[2..]),
        (base, found) if base == found => (base, &digits[2..]),
        (base, _) => (base, digits),
    };
    let digits = if found == base { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let number = i128::from_str_radix(&ungrouped(digits)?, base).ok()?;
    Some(if negative { -number } else { number })
}

/// Digits without the single underscores between them, in ASCII.
fn ungrouped(digits: &str) -> Option<String> {
    let grouped = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    if grouped || digits.is_empty() || digits.contains(['+', '-']) {
        return None;
    }
    Some(digits.chars().filter(|c| *c != '_').collect())
}

/// Reads text as `float(text)` does.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::unicode::is_space);
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" | "nan" => return text.to_ascii_lowercase().parse().ok(),
        _ => {}
    }
    let starts = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !starts {
        return None;
    }
    let bytes = unsigned.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'_' && !(i > 0 && digit(i - 1) && digit(i + 1)) {
            return None;
        }
    }
    text.replace('_', "").parse().ok()
}
