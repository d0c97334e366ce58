//! `text % values`.

use crate::policy::chat::python::filters::html::{escape, markup};
use crate::policy::chat::python::floats;
use crate::policy::chat::python::numbers::{expect_index, too_large, Number};
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::text::{ascii, repr, text};
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use crate::policy::chat::python::{dicts, items as lookups};
use minijinja::{Error, Value};

/// Most characters of one formatted value, which Rust's formatting can still write.
pub(crate) const WIDEST: usize = 1 << 15;

/// A conversion such as `%-05.2f`.
#[derive(Debug, Default)]
struct Conversion {
    key: Option<String>,
    left: bool,
    sign: Option<char>,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// The values that conversions take.
struct Values<'v> {
    all: Vec<Value>,
    at: usize,
    /// The right operand, for conversions with a key.
    whole: &'v Value,
    is_tuple: bool,
    safe: bool,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = self.all.get(self.at).cloned();
        self.at += 1;
        value.ok_or_else(|| failed("%: there are too few values"))
    }
}

/// `format % values`.
pub(crate) fn percent(format: &Value, values: &Value) -> Result<Value, Error> {
    let is_tuple = type_of(values) == Type::Tuple;
    let all = if is_tuple { items(values)? } else { vec![values.clone()] };
    let safe = format.is_safe();
    let mut given = Values { all, at: 0, whole: values, is_tuple, safe };
    let template = format.as_str().unwrap_or_default();
    let mut out = String::new();
    let mut keyed = false;
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let conversion = read(&mut chars, &mut given)?;
        let code = chars.next().ok_or_else(|| failed("%: the format is cut off"))?;
        let value = match &conversion.key {
            Some(key) => {
                keyed = true;
                keyed_value(values, key)?
            }
            None => given.next()?,
        };
        out.push_str(&converted(&conversion, code, &value, given.safe)?);
    }
    let leftover = given.at < given.all.len() && !keyed;
    let ignored = !given.is_tuple
        && matches!(type_of(given.whole), Type::Undefined | Type::Dict | Type::List | Type::Range);
    if leftover && !ignored {
        return Err(failed("%: there are too many values"));
    }
    markup(format, out)
}

fn keyed_value(values: &Value, key: &str) -> Result<Value, Error> {
    if type_of(values) != Type::Dict {
        return Err(failed("%: a format with names takes a dict"));
    }
    dicts::get(values, &Value::from(key)).ok_or_else(|| failed(format!("%: there is no {key}")))
}

fn read(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    given: &mut Values<'_>,
) -> Result<Conversion, Error> {
    let mut conversion = Conversion::default();
    if chars.next_if_eq(&'(').is_some() {
        conversion.key = Some(key(chars)?);
    }
    while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
        match flag {
            '-' => conversion.left = true,
            '0' => conversion.zero = true,
            '#' => conversion.alternate = true,
            '+' => conversion.sign = Some('+'),
            _ => conversion.sign = conversion.sign.or(Some(' ')),
        }
    }
    if let Some(width) = size(chars, given)? {
        conversion.left |= width < 0;
        conversion.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    }
    if chars.next_if_eq(&'.').is_some() {
        let precision = size(chars, given)?.unwrap_or(0);
        conversion.precision = Some(usize::try_from(precision).unwrap_or(0));
    }
    chars.next_if(|c| "hlL".contains(*c));
    if conversion.width > WIDEST || conversion.precision.is_some_and(|p| p > WIDEST) {
        return Err(failed("%: the width is too large"));
    }
    Ok(conversion)
}

/// The name between parentheses, which may hold parentheses itself.
fn key(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, Error> {
    let mut key = String::new();
    let mut depth = 1;
    loop {
        let c = chars.next().ok_or_else(|| failed("%: a name is cut off"))?;
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(key);
        }
        key.push(c);
    }
}

/// A number or a `*`.
fn size(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    given: &mut Values<'_>,
) -> Result<Option<i128>, Error> {
    if chars.next_if_eq(&'*').is_some() {
        return expect_index(&given.next()?, "% with *").map(Some);
    }
    let mut number: Option<i128> = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        let digit = i128::from(digit.to_digit(10).unwrap_or(0));
        number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
    }
    Ok(number)
}

fn converted(
    conversion: &Conversion,
    code: char,
    value: &Value,
    safe: bool,
) -> Result<String, Error> {
    match code {
        's' | 'r' | 'a' | 'c' => {
            let shown = match code {
                's' if safe => escape(value)?,
                's' => text(value)?.into_owned(),
                'r' => repr(value)?,
                'a' => ascii(value)?,
                _ => character(value)?,
            };
            let shown = match conversion.precision {
                Some(most) => shown.chars().take(most).collect(),
                None => shown,
            };
            Ok(fitted(conversion, "", "", &shown, false))
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => integer(conversion, code, value),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = Number::of(value).ok_or_else(|| wrong_type(&format!("%{code}"), value))?;
            let number = number.float();
            let lower = code.to_ascii_lowercase();
            let precision = conversion.precision.unwrap_or(6);
            let mut digits = floats::formatted(number, lower, precision, conversion.alternate);
            if code.is_ascii_uppercase() {
                digits.make_ascii_uppercase();
            }
            let negative = number.is_sign_negative() && !number.is_nan();
            Ok(fitted(conversion, sign(conversion, negative), "", &digits, number.is_finite()))
        }
        _ => Err(failed(format!("%: the format code {code:?} is unknown"))),
    }
}

fn character(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        if text.chars().count() == 1 {
            return Ok(text.to_owned());
        }
    }
    let code = expect_index(value, "%c")?;
    let c = u32::try_from(code).ok().and_then(char::from_u32);
    c.map(String::from).ok_or_else(|| failed(format!("%c: {code} is no character")))
}

fn integer(conversion: &Conversion, code: char, value: &Value) -> Result<String, Error> {
    let number = match Number::of(value) {
        Some(Number::Int(number)) => number,
        Some(Number::Float(number)) if "diu".contains(code) => {
            if !number.is_finite() || number.abs() > 1e38 {
                return Err(too_large());
            }
            number.trunc() as i128
        }
        _ => return Err(wrong_type(&format!("%{code}"), value)),
    };
    let size = number.unsigned_abs();
    let (prefix, mut digits) = match code {
        'x' => ("0x", format!("{size:x}")),
        'X' => ("0X", format!("{size:X}")),
        'o' => ("0o", format!("{size:o}")),
        _ => ("", size.to_string()),
    };
    if let Some(least) = conversion.precision {
        digits = format!("{digits:0>least$}");
    }
    let prefix = if conversion.alternate { prefix } else { "" };
    Ok(fitted(conversion, sign(conversion, number < 0), prefix, &digits, true))
}

fn sign(conversion: &Conversion, negative: bool) -> &'static str {
    match (negative, conversion.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(_)) => " ",
        (false, None) => "",
    }
}

fn fitted(conversion: &Conversion, sign: &str, prefix: &str, body: &str, number: bool) -> String {
    let length = sign.len() + prefix.len() + body.chars().count();
    let missing = conversion.width.saturating_sub(length);
    if conversion.left {
        return format!("{sign}{prefix}{body}{}", " ".repeat(missing));
    }
    if conversion.zero && number {
        return format!("{sign}{prefix}{}{body}", "0".repeat(missing));
    }
    format!("{}{sign}{prefix}{body}", " ".repeat(missing))
}

/// An item by name or number, for `str.format`.
pub(crate) fn field(value: &Value, name: &str, is_item: bool) -> Result<Value, Error> {
    if !is_item {
        return lookups::attribute(value, name);
    }
    match name.parse::<i64>() {
        Ok(at) => lookups::item(value, &Value::from(at)),
        Err(_) => lookups::item(value, &Value::from(name)),
    }
}
