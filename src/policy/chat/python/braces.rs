//! `str.format` and the format specifications of numbers and strings.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::filters::html::escape;
use crate::policy::chat::python::numbers::{too_large, Number};
use crate::policy::chat::python::percent::{field, WIDEST};
use crate::policy::chat::python::text::{ascii, repr, text};
use crate::policy::chat::python::types::{failed, type_of, wrong_type, Type};
use crate::policy::chat::python::{dicts, floats};
use minijinja::{Error, Value};

/// Where the fields of a format find their values.
struct Source<'s> {
    args: &'s Args,
    /// The argument of `format_map`.
    map: Option<&'s Value>,
    /// The number of the next field without a name; `None` once fields are numbered.
    next: Option<usize>,
    numbered: bool,
    safe: bool,
}

pub(crate) fn format(value: &Value, template: &str, args: &Args) -> Result<String, Error> {
    let safe = value.is_safe();
    let mut source = Source { args, map: None, next: Some(0), numbered: false, safe };
    expanded(template, &mut source, 2)
}

pub(crate) fn format_map(value: &Value, template: &str, map: &Value) -> Result<String, Error> {
    let args = Args::default();
    let safe = value.is_safe();
    let mut source = Source { args: &args, map: Some(map), next: Some(0), numbered: false, safe };
    expanded(template, &mut source, 2)
}

fn expanded(template: &str, source: &mut Source<'_>, depth: usize) -> Result<String, Error> {
    if depth == 0 {
        return Err(failed("format: fields are nested too deeply"));
    }
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(failed("format: a single } in the format"));
        }
        let end = field_end(rest).ok_or_else(|| failed("format: a { does not end"))?;
        out.push_str(&replacement(&rest[..end], source, depth)?);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn field_end(rest: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn replacement(field: &str, source: &mut Source<'_>, depth: usize) -> Result<String, Error> {
    let bracket_end = field.rfind(']').map_or(0, |at| at + 1);
    let (head, tail) = match field[bracket_end..].find(['!', ':']) {
        Some(at) => field.split_at(bracket_end + at),
        None => match field.find(['!', ':']) {
            Some(at) if field.find('[').is_none_or(|open| at < open) => field.split_at(at),
            _ => (field, ""),
        },
    };
    let (conversion, spec) = match tail.strip_prefix('!') {
        Some(rest) => {
            let (code, spec) = rest.split_once(':').unwrap_or((rest, ""));
            (Some(code), spec)
        }
        None => (None, tail.strip_prefix(':').unwrap_or("")),
    };
    let value = lookup(head, source)?;
    let spec = expanded(spec, source, depth - 1 + usize::from(!spec.contains('{')))?;
    let value = match conversion {
        None => value,
        Some("s") => Value::from(text(&value)?.into_owned()),
        Some("r") => Value::from(repr(&value)?),
        Some("a") => Value::from(ascii(&value)?),
        Some(code) => return Err(failed(format!("format: the conversion {code:?} is unknown"))),
    };
    if source.safe {
        return escape(&Value::from(formatted(&value, &spec)?));
    }
    formatted(&value, &spec)
}

fn lookup(head: &str, source: &mut Source<'_>) -> Result<Value, Error> {
    let end = head.find(['.', '[']).unwrap_or(head.len());
    let name = &head[..end];
    let mut value = first(name, source)?;
    let mut rest = &head[end..];
    while !rest.is_empty() {
        let (part, is_item) = if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']').ok_or_else(|| failed("format: a [ does not end"))?;
            rest = &after[end + 1..];
            (&after[..end], true)
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            rest = &after[end..];
            (&after[..end], false)
        } else {
            return Err(failed("format: only . or [ may follow a ]"));
        };
        if part.is_empty() {
            return Err(failed("format: an empty name"));
        }
        value = field(&value, part, is_item)?;
    }
    Ok(value)
}

fn first(name: &str, source: &mut Source<'_>) -> Result<Value, Error> {
    let number = if name.is_empty() {
        let next = source.next.filter(|_| !source.numbered);
        let next = next.ok_or_else(|| failed("format: fields with and without numbers"))?;
        source.next = Some(next + 1);
        Some(next)
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        if source.next != Some(0) {
            return Err(failed("format: fields with and without numbers"));
        }
        source.numbered = true;
        Some(name.parse().map_err(|_| failed("format: a number is too large"))?)
    } else {
        None
    };
    let found = match (number, source.map) {
        (Some(_), Some(_)) => return Err(failed("format_map: a field without a name")),
        (Some(number), None) => source.args.positional.get(number).cloned(),
        (None, Some(map)) => dicts::get(map, &Value::from(name)),
        (None, None) => {
            let named = &source.args.named;
            named.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        }
    };
    found.ok_or_else(|| failed(format!("format: there is no value for {{{name}}}")))
}

/// A format specification: `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`.
#[derive(Debug)]
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    code: Option<char>,
}

fn parse(spec: &str) -> Result<Spec, Error> {
    let mut chars: Vec<char> = spec.chars().collect();
    chars.reverse();
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    let mut fill = ' ';
    let mut align = None;
    if chars.len() > 1 && is_align(chars.get(chars.len() - 2)) {
        fill = chars.pop().unwrap_or(' ');
        align = chars.pop();
    } else if is_align(chars.last()) {
        align = chars.pop();
    }
    let sign = take(&mut chars, "+- ").unwrap_or('-');
    let alternate = take(&mut chars, "#").is_some();
    if take(&mut chars, "0").is_some() && align.is_none() {
        fill = '0';
        align = Some('=');
    }
    let width = number(&mut chars).unwrap_or(0);
    let grouping = take(&mut chars, ",_");
    let precision = match take(&mut chars, ".") {
        Some(_) => {
            let digits = number(&mut chars);
            Some(digits.ok_or_else(|| failed("format: a precision is missing"))?)
        }
        None => None,
    };
    let code = chars.pop();
    if !chars.is_empty() || width > WIDEST || precision.is_some_and(|p| p > WIDEST) {
        return Err(failed(format!("format: the specification {spec:?} is invalid")));
    }
    Ok(Spec { fill, align, sign, alternate, width, grouping, precision, code })
}

/// Takes the last character if it is one of `wanted`.
fn take(chars: &mut Vec<char>, wanted: &str) -> Option<char> {
    chars.pop_if(|c| wanted.contains(*c))
}

fn number(chars: &mut Vec<char>) -> Option<usize> {
    let mut number: Option<usize> = None;
    while let Some(digit) = chars.pop_if(|c| c.is_ascii_digit()) {
        let digit = digit as usize - '0' as usize;
        number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
    }
    number
}

/// `format(value, spec)`.
fn formatted(value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return Ok(text(value)?.into_owned());
    }
    let refused = || failed(format!("format: the specification {spec:?} does not fit the value"));
    match type_of(value) {
        Type::Str => {
            let parsed = parse(spec)?;
            let misfit = parsed.code.is_some_and(|code| code != 's')
                || parsed.sign != '-'
                || parsed.alternate
                || parsed.grouping.is_some()
                || (parsed.align == Some('=') && parsed.fill != '0');
            if misfit || spec.contains('=') {
                return Err(refused());
            }
            let all = value.as_str().unwrap_or_default();
            let most = parsed.precision.unwrap_or(usize::MAX);
            let shown: String = all.chars().take(most).collect();
            let align = parsed.align.filter(|align| *align != '=').unwrap_or('<');
            Ok(aligned(&parsed, "", &shown, align))
        }
        Type::Bool | Type::Int | Type::Float => {
            let number = Number::of(value).ok_or_else(too_large)?;
            number_text(number, &parse(spec)?, refused)
        }
        _ => Err(wrong_type("format with a specification", value)),
    }
}

fn number_text(number: Number, spec: &Spec, refused: impl Fn() -> Error) -> Result<String, Error> {
    let code = spec.code.unwrap_or(match number {
        Number::Int(_) => 'd',
        Number::Float(_) => '\0',
    });
    let negative = match number {
        Number::Int(number) => number < 0,
        Number::Float(number) => number.is_sign_negative() && !number.is_nan(),
    };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, '-') => "",
        (false, '+') => "+",
        (false, _) => " ",
    };
    let (prefix, digits) = match (code, number) {
        ('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c', Number::Int(number)) => {
            if spec.precision.is_some() {
                return Err(refused());
            }
            integer_digits(code, number, spec).ok_or_else(refused)?
        }
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | '\0' | 'n', number) => {
            ("", float_digits(code, number.float(), spec))
        }
        _ => return Err(refused()),
    };
    let digits = grouped(&digits, spec, code, sign.len() + prefix.len());
    Ok(aligned(spec, &format!("{sign}{prefix}"), &digits, spec.align.unwrap_or('>')))
}

fn integer_digits(code: char, number: i128, spec: &Spec) -> Option<(&'static str, String)> {
    let size = number.unsigned_abs();
    let (prefix, digits) = match code {
        'x' => ("0x", format!("{size:x}")),
        'X' => ("0X", format!("{size:X}")),
        'o' => ("0o", format!("{size:o}")),
        'b' => ("0b", format!("{size:b}")),
        'c' => {
            let c = u32::try_from(number).ok().and_then(char::from_u32)?;
            ("", c.to_string())
        }
        _ => ("", size.to_string()),
    };
    Some((if spec.alternate { prefix } else { "" }, digits))
}

fn float_digits(code: char, number: f64, spec: &Spec) -> String {
    let lower = code.to_ascii_lowercase();
    let mut digits = match (lower, spec.precision) {
        ('\0', None) => floats::repr(number.abs()),
        ('\0', Some(precision)) => {
            let text = floats::formatted(number, 'g', precision, false);
            if text.contains(['.', 'e', 'n']) {
                text
            } else if text.len() < precision.max(1) {
                format!("{text}.0")
            } else {
                floats::formatted(number, 'e', precision.max(1) - 1, false)
            }
        }
        ('%', precision) => {
            let precision = precision.unwrap_or(6);
            format!("{}%", floats::formatted(number * 100.0, 'f', precision, spec.alternate))
        }
        ('n', precision) => floats::formatted(number, 'g', precision.unwrap_or(6), false),
        (lower, precision) => {
            floats::formatted(number, lower, precision.unwrap_or(6), spec.alternate)
        }
    };
    if code.is_ascii_uppercase() {
        digits.make_ascii_uppercase();
    }
    digits
}

/// Puts separators between groups of digits; zeros that fill the width are grouped too.
fn grouped(digits: &str, spec: &Spec, code: char, before: usize) -> String {
    let Some(separator) = spec.grouping else { return digits.to_owned() };
    let group = if matches!(code, 'x' | 'X' | 'o' | 'b') { 4 } else { 3 };
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let separated = |whole: &str| {
        let mut out = String::new();
        for (i, c) in whole.chars().enumerate() {
            if i > 0 && (whole.len() - i).is_multiple_of(group) {
                out.push(separator);
            }
            out.push(c);
        }
        out
    };
    let mut whole = whole.to_owned();
    if spec.fill == '0' && spec.align == Some('=') {
        while before + separated(&whole).len() + rest.len() < spec.width {
            whole.insert(0, '0');
        }
    }
    format!("{}{rest}", separated(&whole))
}

fn aligned(spec: &Spec, sign: &str, body: &str, align: char) -> String {
    let length = sign.len() + body.chars().count();
    let missing = spec.width.saturating_sub(length);
    let run = |count: usize| -> String { std::iter::repeat_n(spec.fill, count).collect() };
    match align {
        '<' => format!("{sign}{body}{}", run(missing)),
        '^' => format!("{}{sign}{body}{}", run(missing / 2), run(missing - missing / 2)),
        '=' => format!("{sign}{}{body}", run(missing)),
        _ => format!("{}{sign}{body}", run(missing)),
    }
}
