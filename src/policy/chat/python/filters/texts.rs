//! Filters of text.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::compare::sort;
use crate::policy::chat::python::dicts;
use crate::policy::chat::python::filters::registry::method;
use crate::policy::chat::python::numbers::expect_index;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::strings::{replaced, stripped};
use crate::policy::chat::python::text::{repr, text};
use crate::policy::chat::python::types::{failed, text_like, type_of, Type};
use crate::policy::chat::python::unicode::{is_alpha, is_numeric, is_space};
use minijinja::value::Tuple;
use minijinja::{Error, Value};

pub(crate) fn call(name: &str, args: &Args) -> Result<Value, Error> {
    match name {
        "capitalize" | "lower" | "upper" => {
            let [value] = args.bind(["s"], 1)?;
            method(&value.unwrap_or_default(), name, &Args::default())
        }
        "center" => {
            let [value, width] = args.bind(["value", "width"], 1)?;
            let width = width.unwrap_or_else(|| Value::from(80));
            method(&value.unwrap_or_default(), name, &Args::one(width))
        }
        "trim" => {
            let [value, chars] = args.bind(["value", "chars"], 1)?;
            let value = value.unwrap_or_default();
            let shown = text(&value)?;
            let rest = stripped(&shown, "strip", chars.as_ref())?.to_owned();
            Ok(text_like(&value, rest))
        }
        "title" => {
            let [value] = args.bind(["s"], 1)?;
            Ok(Value::from(title(&text(&value.unwrap_or_default())?)))
        }
        "wordcount" => {
            let [value] = args.bind(["s"], 1)?;
            Ok(Value::from(word_count(&text(&value.unwrap_or_default())?)))
        }
        "replace" => {
            let [value, old, new, count] = args.bind(["s", "old", "new", "count"], 3)?;
            let (value, old, new) =
                (value.unwrap_or_default(), old.unwrap_or_default(), new.unwrap_or_default());
            let count = count.filter(|count| !count.is_none());
            let count = count.map_or(Ok(-1), |count| expect_index(&count, name))?;
            Ok(Value::from(replaced(&text(&value)?, &text(&old)?, &text(&new)?, count)))
        }
        _ => {
            let [value] = args.bind(["value"], 1)?;
            pretty(&value.unwrap_or_default())
        }
    }
}

/// Words start behind white space, `-` and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let mut chars = word.chars();
        if let Some(first) = chars.next() {
            out.extend(first.to_uppercase());
            out.push_str(&chars.as_str().to_lowercase());
        }
        word.clear();
    };
    for c in text.chars() {
        let separates = is_space(c) || "-({[<".contains(c);
        if separates {
            if inside {
                flush(&mut word, &mut out);
            }
            out.push(c);
        } else {
            word.push(c);
        }
        inside = !separates;
    }
    flush(&mut word, &mut out);
    out
}

fn word_count(text: &str) -> usize {
    let mut count = 0;
    let mut inside = false;
    for c in text.chars() {
        let of_word = c == '_' || is_alpha(c) || is_numeric(c);
        count += usize::from(of_word && !inside);
        inside = of_word;
    }
    count
}

/// `pprint.pformat` of what fits a line.
fn pretty(value: &Value) -> Result<Value, Error> {
    let shown = repr(&with_sorted_keys(value)?)?;
    if shown.chars().count() > 80 {
        return Err(failed("pprint of a value of more than 80 columns is not supported"));
    }
    Ok(Value::from(shown))
}

fn with_sorted_keys(value: &Value) -> Result<Value, Error> {
    Ok(match type_of(value) {
        Type::Dict => {
            let mut entries = Vec::new();
            for (key, value) in dicts::entries(value)? {
                entries.push((key, with_sorted_keys(&value)?));
            }
            // Keys without an order stay as they are.
            let mut sorted = entries.clone();
            let ordered = sort(&mut sorted, false, |(key, _)| key).is_ok();
            Value::from_pairs(if ordered { sorted } else { entries })
        }
        Type::List | Type::Tuple => {
            let all: Result<Vec<Value>, Error> =
                items(value)?.iter().map(with_sorted_keys).collect();
            if value.is_tuple() {
                Value::from(Tuple::from(all?))
            } else {
                Value::from(all?)
            }
        }
        _ => value.clone(),
    })
}
