//! Python's `str` and `repr`.

use crate::policy::chat::python::floats::repr as float_repr;
use crate::policy::chat::python::types::{failed, type_of, Global, Group, Range, Type, View};
use crate::policy::chat::python::unicode::is_printable;
use minijinja::{Error, Value};
use std::borrow::Cow;

/// Most characters that a value may print to.
const LONGEST: usize = 1 << 26;

/// `str(value)`.
pub(crate) fn text(value: &Value) -> Result<Cow<'_, str>, Error> {
    if let (Type::Str, Some(text)) = (type_of(value), value.as_str()) {
        return Ok(Cow::Borrowed(text));
    }
    if value.is_undefined() {
        return Ok(Cow::Borrowed(""));
    }
    repr(value).map(Cow::Owned)
}

/// `repr(value)`.
pub(crate) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write(value, &mut out, 0)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if out.len() > LONGEST || depth > 100 {
        return Err(failed("a value is too large to be printed"));
    }
    match type_of(value) {
        Type::Undefined => out.push_str("Undefined"),
        Type::None => out.push_str("None"),
        Type::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        Type::Int => out.push_str(&value.to_string()),
        Type::Float => out.push_str(&float_repr(f64::try_from(value.clone())?)),
        Type::Str if value.is_safe() => {
            out.push_str("Markup(");
            write_quoted(value.as_str().unwrap_or_default(), out);
            out.push(')');
        }
        Type::Str => write_quoted(value.as_str().unwrap_or_default(), out),
        Type::Bytes => write_bytes(value.as_bytes().unwrap_or_default(), out),
        Type::List => items(value, ("[", "]"), out, depth)?,
        Type::Tuple => items(value, ("(", ")"), out, depth)?,
        Type::Dict => entries(value, ("{", "}"), out, depth)?,
        Type::Namespace => entries(value, ("<Namespace {", "}>"), out, depth)?,
        Type::Range | Type::View | Type::Generator | Type::Loop | Type::Macro | Type::Other => {
            object(value, out, depth)?;
        }
    }
    Ok(())
}

fn items(
    value: &Value,
    (open, close): (&str, &str),
    out: &mut String,
    depth: usize,
) -> Result<(), Error> {
    out.push_str(if value.downcast_object_ref::<Group>().is_some() { "(" } else { open });
    let mut count = 0;
    for item in value.try_iter()? {
        if count > 0 {
            out.push_str(", ");
        }
        write(&item, out, depth + 1)?;
        count += 1;
    }
    if count == 1 && open == "(" {
        out.push(',');
    }
    out.push_str(if value.downcast_object_ref::<Group>().is_some() { ")" } else { close });
    Ok(())
}

fn entries(
    value: &Value,
    (open, close): (&str, &str),
    out: &mut String,
    depth: usize,
) -> Result<(), Error> {
    out.push_str(open);
    for (i, key) in value.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(&key, out, depth + 1)?;
        out.push_str(": ");
        write(&value.get_item(&key)?, out, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

fn object(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if let Some(range) = value.downcast_object_ref::<Range>() {
        out.push_str(&format!("range({}, {}", range.start, range.stop));
        if range.step != 1 {
            out.push_str(&format!(", {}", range.step));
        }
        out.push(')');
    } else if let Some(view) = value.downcast_object_ref::<View>() {
        out.push_str(view.name);
        out.push('(');
        write(&Value::from(view.items.clone()), out, depth + 1)?;
        out.push(')');
    } else if let Some(global) = value.downcast_object_ref::<Global>() {
        out.push_str(&match global.0 {
            "range" => "<class 'range'>".to_owned(),
            "cycler" => "<class 'jinja2.utils.Cycler'>".to_owned(),
            "joiner" => "<class 'jinja2.utils.Joiner'>".to_owned(),
            _ => return Err(no_text()),
        });
    } else {
        match type_of(value) {
            Type::Macro => out.push_str(&format!("<Macro '{}'>", value.get_attr("name")?)),
            Type::Loop => out.push_str(&format!(
                "<LoopContext {}/{}>",
                value.get_attr("index")?,
                value.get_attr("length")?
            )),
            _ => return Err(no_text()),
        }
    }
    Ok(())
}

fn no_text() -> Error {
    failed("a function or a generator is printed with its address in memory: apply `list` to it")
}

/// Writes a string literal as Python's `repr` does.
pub(crate) fn write_quoted(text: &str, out: &mut String) {
    write_literal(text.chars(), is_printable, out);
}

fn write_literal(
    chars: impl Iterator<Item = char> + Clone,
    is_printable: impl Fn(char) -> bool,
    out: &mut String,
) {
    let has = |quote: char| chars.clone().any(|c| c == quote);
    let quote = if has('\'') && !has('"') { '"' } else { '\'' };
    out.push(quote);
    for c in chars {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => write_escape(c, out),
        }
    }
    out.push(quote);
}

/// Writes a character as `\x1b`, `\u2028` or `\U000e0001`.
pub(crate) fn write_escape(c: char, out: &mut String) {
    let code = u32::from(c);
    out.push_str(&match code {
        0..=0xff => format!("\\x{code:02x}"),
        0x100..=0xffff => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    });
}

/// `ascii(text)`: `repr` with escapes for everything outside ASCII.
pub(crate) fn ascii(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in repr(value)?.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            write_escape(c, &mut out);
        }
    }
    Ok(out)
}

fn write_bytes(bytes: &[u8], out: &mut String) {
    out.push('b');
    write_literal(bytes.iter().map(|&byte| char::from(byte)), |c| matches!(c, ' '..='~'), out);
}
