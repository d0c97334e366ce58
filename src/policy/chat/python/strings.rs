//! Methods of Python's `str`.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::cases::{changed, test};
use crate::policy::chat::python::filters::html::markup;
use crate::policy::chat::python::numbers::{expect_index, index};
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::types::{failed, text_like, type_of, wrong_type, Type};
use crate::policy::chat::python::unicode::is_space;
use crate::policy::chat::python::{braces, search, translate};
use minijinja::value::Tuple;
use minijinja::{Error, Value};

const NAMES: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Tells if `str` has the method.
pub(crate) fn method(name: &str) -> Option<bool> {
    NAMES.contains(&name).then_some(true)
}

pub(crate) fn call(value: &Value, name: &str, args: &Args) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    if let Some(found) = test(text, name) {
        args.only(0, 0)?;
        return Ok(Value::from(found));
    }
    if let Some(changed) = changed(text, name) {
        args.only(0, 0)?;
        return Ok(text_like(value, changed));
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let chars = args.only(0, 1)?.first();
            Ok(text_like(value, stripped(text, name, chars)?.to_owned()))
        }
        "split" | "rsplit" => split(value, text, name, args),
        "splitlines" => {
            let [keep] = args.bind(["keepends"], 0)?;
            let lines = lines(text, keep.is_some_and(|keep| keep.is_true()));
            Ok(lines.into_iter().map(|line| text_like(value, line.to_owned())).collect())
        }
        "partition" | "rpartition" => partition(value, text, name, args),
        "replace" => replace(value, text, args),
        "removeprefix" | "removesuffix" => {
            let affix = part(&args.only(1, 1)?[0])?;
            let rest = if name == "removeprefix" {
                text.strip_prefix(affix)
            } else {
                text.strip_suffix(affix)
            };
            Ok(text_like(value, rest.unwrap_or(text).to_owned()))
        }
        _ => other(value, text, name, args),
    }
}

fn other(value: &Value, text: &str, name: &str, args: &Args) -> Result<Value, Error> {
    match name {
        "startswith" | "endswith" => search::affix(text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => search::find(text, name, args),
        "center" | "ljust" | "rjust" | "zfill" => padded(value, text, name, args),
        "expandtabs" => {
            let [size] = args.bind(["tabsize"], 0)?;
            let size = size.map_or(Ok(8), |size| expect_index(&size, "expandtabs"))?;
            Ok(text_like(
                value,
                expanded(text, usize::try_from(size.clamp(0, 1 << 16)).unwrap_or(0)),
            ))
        }
        "join" => join(value, text, args),
        "format" => markup(value, braces::format(value, text, args)?),
        "format_map" => {
            let map = &args.only(1, 1)?[0];
            markup(value, braces::format_map(value, text, map)?)
        }
        "maketrans" => translate::table(args),
        "translate" => Ok(text_like(value, translate::translated(text, args)?)),
        "encode" => encode(text, args),
        _ => Err(failed(format!("the method {name} of a string is not supported"))),
    }
}

/// The text of an argument that must be a string.
pub(crate) fn part(value: &Value) -> Result<&str, Error> {
    value.as_str().ok_or_else(|| wrong_type("a method of a string", value))
}

pub(crate) fn stripped<'t>(
    text: &'t str,
    name: &str,
    chars: Option<&Value>,
) -> Result<&'t str, Error> {
    let chars = chars.filter(|chars| !chars.is_none()).map(part).transpose()?;
    let drop = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(match name {
        "lstrip" => text.trim_start_matches(drop),
        "rstrip" => text.trim_end_matches(drop),
        _ => text.trim_matches(drop),
    })
}

fn split(value: &Value, text: &str, name: &str, args: &Args) -> Result<Value, Error> {
    let [separator, most] = args.bind(["sep", "maxsplit"], 0)?;
    let most = most.map_or(Ok(-1), |most| expect_index(&most, name))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let separator = separator.filter(|separator| !separator.is_none());
    let parts: Vec<&str> = match &separator {
        Some(separator) => {
            let separator = part(separator)?;
            if separator.is_empty() {
                return Err(failed(format!("{name}: the separator is empty")));
            }
            let limit = most.saturating_add(1);
            if name == "split" {
                text.splitn(limit, separator).collect()
            } else {
                let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
                parts.reverse();
                parts
            }
        }
        None if name == "split" => words(text, most),
        None => words_from_end(text, most),
    };
    Ok(parts.into_iter().map(|word| text_like(value, word.to_owned())).collect())
}

/// Words between white space; the last one is the rest after `most` splits.
pub(crate) fn words(text: &str, most: usize) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if out.len() == most {
            out.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        out.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    out
}

fn words_from_end(text: &str, most: usize) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if out.len() == most {
            out.push(rest);
            break;
        }
        let start = rest
            .char_indices()
            .rev()
            .find(|(_, c)| is_space(*c))
            .map_or(0, |(at, c)| at + c.len_utf8());
        out.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    out.reverse();
    out
}

/// Lines by every line end that Python knows.
pub(crate) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        out.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

fn partition(value: &Value, text: &str, name: &str, args: &Args) -> Result<Value, Error> {
    let separator = part(&args.only(1, 1)?[0])?;
    if separator.is_empty() {
        return Err(failed(format!("{name}: the separator is empty")));
    }
    let found = if name == "partition" { text.find(separator) } else { text.rfind(separator) };
    let parts = match found {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if name == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(|part| text_like(value, part.to_owned())))))
}

fn replace(value: &Value, text: &str, args: &Args) -> Result<Value, Error> {
    let given = args.only(2, 3)?;
    let count = given.get(2).map_or(Ok(-1), |count| expect_index(count, "replace"))?;
    let (old, new) = (part(&given[0])?, part(&given[1])?);
    let new = super::filters::html::escaped_for(value, &given[1], new);
    Ok(text_like(value, replaced(text, old, &new, count)))
}

/// `text.replace(old, new, count)`.
pub(crate) fn replaced(text: &str, old: &str, new: &str, count: i128) -> String {
    match usize::try_from(count) {
        Ok(count) => text.replacen(old, new, count),
        Err(_) => text.replace(old, new),
    }
}

fn padded(value: &Value, text: &str, name: &str, args: &Args) -> Result<Value, Error> {
    let given = args.only(1, if name == "zfill" { 1 } else { 2 })?;
    let width = expect_index(&given[0], name)?;
    let fill = match given.get(1) {
        Some(fill) => {
            let mut chars = part(fill)?.chars();
            match (chars.next(), chars.next()) {
                (Some(fill), None) => fill,
                _ => return Err(failed(format!("{name}: one character fills"))),
            }
        }
        None => ' ',
    };
    let length = text.chars().count();
    if width > 1 << 24 {
        return Err(failed(format!("{name}: the width is too large")));
    }
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    Ok(text_like(
        value,
        match name {
            "ljust" => format!("{text}{}", run(fill, missing)),
            "rjust" => format!("{}{text}", run(fill, missing)),
            "center" => centered(text, missing, usize::try_from(width).unwrap_or(0), fill),
            _ => {
                let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
                format!("{}{}{digits}", &text[..text.len() - digits.len()], run('0', missing))
            }
        },
    ))
}

fn run(c: char, count: usize) -> String {
    std::iter::repeat_n(c, count).collect()
}

/// `text` in the middle; of an odd number of fill characters one more is on the left if the width
/// is odd.
pub(crate) fn centered(text: &str, missing: usize, width: usize, fill: char) -> String {
    let left = missing / 2 + (missing & width & 1);
    format!("{}{text}{}", run(fill, left), run(fill, missing - left))
}

fn expanded(text: &str, size: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                out.push_str(&run(' ', spaces));
                column += spaces;
            }
            c => {
                out.push(c);
                column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
            }
        }
    }
    out
}

fn join(value: &Value, separator: &str, args: &Args) -> Result<Value, Error> {
    let parts = items(&args.only(1, 1)?[0])?;
    let mut out = String::new();
    for (i, item) in parts.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        if value.is_safe() {
            out.push_str(&super::filters::html::escape(item)?);
        } else {
            out.push_str(item.as_str().ok_or_else(|| wrong_type("join", item))?);
        }
    }
    Ok(text_like(value, out))
}

fn encode(text: &str, args: &Args) -> Result<Value, Error> {
    let [encoding, _] = args.bind(["encoding", "errors"], 0)?;
    let encoding = encoding.as_ref().map_or(Ok("utf-8"), part)?.to_lowercase();
    match encoding.replace('_', "-").as_str() {
        "utf-8" | "utf8" => Ok(Value::from_bytes(text.as_bytes().to_vec())),
        "ascii" if text.is_ascii() => Ok(Value::from_bytes(text.as_bytes().to_vec())),
        _ => Err(failed(format!("encode: the encoding {encoding} is not supported"))),
    }
}

/// An integer index of a string method; None is no index.
pub(crate) fn bound(value: Option<&Value>) -> Result<Option<i128>, Error> {
    match value {
        Some(value) if type_of(value) == Type::None => Ok(None),
        Some(value) => index(value).map(Some).ok_or_else(|| wrong_type("an index", value)),
        None => Ok(None),
    }
}
