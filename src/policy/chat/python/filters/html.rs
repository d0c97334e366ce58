//! Filters of HTML and URLs, and what `Markup` does to other text.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::dicts;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::strings::words;
use crate::policy::chat::python::text::text;
use crate::policy::chat::python::types::{failed, text_like, type_of, wrong_type, Type};
use crate::policy::chat::python::unicode::is_space;
use minijinja::{Error, Value};

pub(crate) fn call(name: &str, args: &Args) -> Result<Value, Error> {
    if name == "xmlattr" {
        return xmlattr(args);
    }
    let [value] = args.bind([if name == "e" || name == "escape" { "s" } else { "value" }], 1)?;
    let value = value.unwrap_or_default();
    Ok(match name {
        "e" | "escape" => Value::from_safe_string(escape(&value)?),
        "forceescape" => Value::from_safe_string(escaped(&text(&value)?)),
        "safe" => Value::from_safe_string(text(&value)?.into_owned()),
        "striptags" => Value::from(without_tags(&text(&value)?)),
        _ => Value::from(urlencode(&value)?),
    })
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The text of a value for a place in HTML: safe text stays.
pub(crate) fn escape(value: &Value) -> Result<String, Error> {
    let shown = text(value)?;
    Ok(if value.is_safe() { shown.into_owned() } else { escaped(&shown) })
}

/// `text`, escaped if it goes into safe text and is not safe itself.
pub(crate) fn escaped_for(into: &Value, value: &Value, text: &str) -> String {
    if into.is_safe() && !value.is_safe() {
        escaped(text)
    } else {
        text.to_owned()
    }
}

/// `a + b` of strings: if one is safe, the other is escaped.
pub(crate) fn joined(a: &Value, b: &Value) -> Value {
    let (left, right) = (a.as_str().unwrap_or_default(), b.as_str().unwrap_or_default());
    if a.is_safe() || b.is_safe() {
        let left = escaped_for(b, a, left);
        let right = escaped_for(a, b, right);
        return Value::from_safe_string(left + &right);
    }
    Value::from([left, right].concat())
}

/// Text that was formatted from a template: as safe as the template.
pub(crate) fn markup(template: &Value, text: String) -> Result<Value, Error> {
    Ok(text_like(template, text))
}

fn without_tags(text: &str) -> String {
    let mut text = text.to_owned();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        while let Some(start) = text.find(open) {
            let Some(end) = text[start..].find(close) else { break };
            text.replace_range(start..start + end + close.len(), "");
        }
    }
    unescaped(&words(&text, usize::MAX).join(" "))
}

/// Characters of the references that HTML's escapes produce.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match reference(rest) {
            Some((c, length)) => {
                out.push(c);
                rest = &rest[length..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn reference(rest: &str) -> Option<(char, usize)> {
    let end = rest.find(';')?;
    let name = &rest[1..end];
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        _ => {
            let digits = name.strip_prefix('#')?;
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => digits.parse().ok()?,
            };
            char::from_u32(code)?
        }
    };
    Some((c, end + 1))
}

fn quoted(value: &Value, in_query: bool) -> Result<String, Error> {
    let mut out = String::new();
    for byte in text(value)?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if !in_query => out.push('/'),
            b' ' if in_query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

fn urlencode(value: &Value) -> Result<String, Error> {
    let pairs = match type_of(value) {
        Type::Dict => dicts::entries(value)?,
        Type::Undefined | Type::List | Type::Tuple | Type::Range | Type::View | Type::Generator => {
            dicts::pairs(&Value::from(items(value)?))?
        }
        _ => return quoted(value, false),
    };
    let mut out = Vec::new();
    for (key, value) in pairs {
        out.push(format!("{}={}", quoted(&key, true)?, quoted(&value, true)?));
    }
    Ok(out.join("&"))
}

fn xmlattr(args: &Args) -> Result<Value, Error> {
    let [dict, autospace] = args.bind(["d", "autospace"], 1)?;
    let dict = dict.unwrap_or_default();
    if type_of(&dict) != Type::Dict {
        return Err(wrong_type("xmlattr", &dict));
    }
    let mut out = Vec::new();
    for (key, value) in dicts::entries(&dict)? {
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let name = key.as_str().ok_or_else(|| wrong_type("a name of xmlattr", &key))?;
        if name.contains(|c: char| is_space(c) || "/>=".contains(c)) {
            return Err(failed(format!("xmlattr: {name:?} is no attribute's name")));
        }
        out.push(format!("{}=\"{}\"", escape(&key)?, escape(&value)?));
    }
    let space = autospace.is_none_or(|autospace| autospace.is_true()) && !out.is_empty();
    Ok(Value::from(format!("{}{}", if space { " " } else { "" }, out.join(" "))))
}
