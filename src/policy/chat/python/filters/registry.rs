//! Filters by name.

use crate::policy::chat::json;
use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::filters::{choice, html, lists, numeric, texts, wrap};
use crate::policy::chat::python::items as lookups;
use crate::policy::chat::python::percent::percent;
use crate::policy::chat::python::sequences::{items, length};
use crate::policy::chat::python::text::text;
use crate::policy::chat::python::types::{failed, text_like, type_of, wrong_type, Generator, Type};
use crate::policy::chat::python::{dicts, strings};
use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, State, Value};

/// Names of all filters.
pub(crate) const NAMES: [&str; 52] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
];

pub(crate) fn knows(name: &str) -> bool {
    NAMES.contains(&name) || name == "xmlattr"
}

/// `value | name(args)`; the value is the first of `args`.
pub(crate) fn call(name: &str, state: &mut State, args: &Args) -> Result<Value, Error> {
    let [value, ..] = args.positional.as_slice() else {
        return Err(failed(format!("{name}: there is no value")));
    };
    match name {
        "abs" | "float" | "int" | "round" | "sum" | "filesizeformat" => numeric::call(name, args),
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => {
            choice::call(name, state, args)
        }
        "batch" | "slice" | "dictsort" | "groupby" | "sort" | "unique" | "max" | "min" => {
            lists::call(name, args)
        }
        "e" | "escape" | "forceescape" | "safe" | "striptags" | "urlencode" | "xmlattr" => {
            html::call(name, args)
        }
        "wordwrap" | "truncate" | "indent" => wrap::call(name, args),
        "capitalize" | "center" | "lower" | "upper" | "title" | "trim" | "replace"
        | "wordcount" | "pprint" => texts::call(name, args),
        _ => basic(name, value, args),
    }
}

/// Filters of any value.
fn basic(name: &str, value: &Value, args: &Args) -> Result<Value, Error> {
    match name {
        "attr" => attr(args),
        "count" | "length" => {
            args.bind(["value"], 1)?;
            Ok(Value::from(length(value)?))
        }
        "d" | "default" => {
            let [value, default, boolean] = args.bind(["value", "default_value", "boolean"], 1)?;
            let value = value.unwrap_or_default();
            let falsy = boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true();
            if value.is_undefined() || falsy {
                Ok(default.unwrap_or_else(|| Value::from("")))
            } else {
                Ok(value)
            }
        }
        "format" => format(value, args),
        "list" => {
            args.bind(["value"], 1)?;
            items(value).map(Value::from)
        }
        "string" => {
            args.bind(["value"], 1)?;
            Ok(text_like(value, text(value)?.into_owned()))
        }
        "first" | "last" | "random" | "reverse" | "items" => {
            args.bind(["value"], 1)?;
            ends(name, value)
        }
        "join" => join(args),
        "tojson" => json::tojson(args),
        _ => Err(Error::new(ErrorKind::UnknownFilter, format!("the filter {name} is unknown"))),
    }
}

fn attr(args: &Args) -> Result<Value, Error> {
    let [value, name] = args.bind(["obj", "name"], 2)?;
    let (value, name) = (value.unwrap_or_default(), name.unwrap_or_default());
    let name = text(&name)?;
    if type_of(&value) != Type::Dict {
        return lookups::attribute(&value, &name);
    }
    // Only attributes count here, not items.
    match dicts::method(&name) {
        Some(_) => lookups::attribute(&value, &name),
        None => Ok(Value::UNDEFINED),
    }
}

fn format(value: &Value, args: &Args) -> Result<Value, Error> {
    let shown = text_like(value, text(value)?.into_owned());
    let positional = args.positional[1..].to_vec();
    match (positional.is_empty(), args.named.is_empty()) {
        (false, false) => Err(failed("format: arguments with and without names")),
        (_, true) => percent(&shown, &Value::from(Tuple::from(positional))),
        (true, false) => {
            let named = args.named.iter().map(|(name, value)| (name.clone(), value.clone()));
            percent(&shown, &Value::from_pairs(named))
        }
    }
}

fn ends(name: &str, value: &Value) -> Result<Value, Error> {
    let kind = type_of(value);
    if name == "items" {
        return match kind {
            Type::Undefined => Ok(Generator::value(Vec::new())),
            Type::Dict => {
                let pairs = dicts::entries(value)?.into_iter().map(dicts::pair).collect();
                Ok(Generator::value(pairs))
            }
            _ => Err(wrong_type("items", value)),
        };
    }
    if let (Some(generator), "first") = (value.downcast_object_ref::<Generator>(), name) {
        return Ok(generator.next().unwrap_or(Value::UNDEFINED));
    }
    let mut all = items(value)?;
    match name {
        "first" => Ok(all.into_iter().next().unwrap_or(Value::UNDEFINED)),
        "last" if kind == Type::Generator => Err(wrong_type("last", value)),
        "last" => Ok(all.pop().unwrap_or(Value::UNDEFINED)),
        // Any item is as good as another, and the first makes equal runs equal.
        "random" if matches!(kind, Type::Generator | Type::View) => Err(wrong_type(name, value)),
        "random" if kind == Type::Dict && !all.is_empty() => Err(wrong_type(name, value)),
        "random" => Ok(all.into_iter().next().unwrap_or(Value::UNDEFINED)),
        _ => {
            all.reverse();
            if kind == Type::Str {
                let text: String = all.iter().filter_map(Value::as_str).collect();
                return Ok(text_like(value, text));
            }
            if kind == Type::Generator {
                return Ok(Value::from(all));
            }
            Ok(Generator::value(all))
        }
    }
}

fn join(args: &Args) -> Result<Value, Error> {
    let [value, separator, attribute] = args.bind(["value", "d", "attribute"], 1)?;
    let value = value.unwrap_or_default();
    let separator = separator.map_or(Ok(String::new()), |d| text(&d).map(|d| d.into_owned()))?;
    let attribute = attribute.filter(|attribute| !attribute.is_none());
    let mut out = String::new();
    for (i, item) in items(&value)?.into_iter().enumerate() {
        if i > 0 {
            out.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => lookups::path(&item, attribute)?,
            None => item,
        };
        out.push_str(&text(&item)?);
    }
    Ok(Value::from(out))
}

/// Lower case of strings, the key of comparisons that ignore case.
pub(crate) fn ignore_case(value: Value) -> Value {
    match value.as_str() {
        Some(text) => Value::from(text.to_lowercase()),
        None => value,
    }
}

/// `text.capitalize()` and its like, of anything that can be printed.
pub(crate) fn method(value: &Value, name: &str, args: &Args) -> Result<Value, Error> {
    let shown = text_like(value, text(value)?.into_owned());
    strings::call(&shown, name, args)
}
