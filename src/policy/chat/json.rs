//! The `tojson` filter of chat templates: Python's `json.dumps`, as transformers calls it.
//!
//! A model was trained on the exact text that Python prints, so `1e-05`, `1.0` and `", "` matter.
//! serde_json prints floats and separators differently and turns NaN into `null`; only its string
//! escapes are used here.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::compare::sort;
use crate::policy::chat::python::dicts;
use crate::policy::chat::python::floats;
use crate::policy::chat::python::numbers::expect_index;
use crate::policy::chat::python::sequences::items;
use crate::policy::chat::python::types::{failed, type_of, Type};
use minijinja::{Error, Value};

/// Most levels of values inside each other.
const DEPTH: usize = 200;

/// The layout of JSON text.
struct Layout {
    ensure_ascii: bool,
    /// One level of indentation; `None` keeps everything on one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// Renders a value as JSON, with the options `ensure_ascii`, `indent`, `separators` and
/// `sort_keys`.
pub(crate) fn tojson(args: &Args) -> Result<Value, Error> {
    let names = ["x", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ensure_ascii, indent, separators, sort_keys] = args.bind(names, 1)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = expect_index(&indent, "tojson: indent")?.clamp(0, 1 << 12);
                " ".repeat(usize::try_from(width).unwrap_or(0))
            }
        }),
        None => None,
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (between_items, after_key) = match separators.filter(|separators| !separators.is_none()) {
        Some(separators) => separator_pair(&separators)?,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let layout = Layout {
        ensure_ascii: is_true(ensure_ascii),
        indent,
        between_items,
        after_key,
        sort_keys: is_true(sort_keys),
    };
    let mut out = String::new();
    layout.write(&value.unwrap_or_default(), 0, &mut out)?;
    Ok(Value::from(out))
}

fn separator_pair(separators: &Value) -> Result<(String, String), Error> {
    match items(separators)?.as_slice() {
        [between, after] => match (between.as_str(), after.as_str()) {
            (Some(between), Some(after)) => Ok((between.to_owned(), after.to_owned())),
            _ => Err(failed("tojson: separators must be two strings")),
        },
        _ => Err(failed("tojson: separators must be two strings")),
    }
}

impl Layout {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(failed("tojson: values are nested too deeply"));
        }
        match type_of(value) {
            Type::Str => self.text(value.as_str().unwrap_or_default(), out),
            Type::List | Type::Tuple => {
                let items = items(value)?;
                self.list("[]", items.len(), depth, out, |i, out| {
                    self.write(&items[i], depth + 1, out)
                })?;
            }
            Type::Dict => {
                let entries = self.entries(value)?;
                self.list("{}", entries.len(), depth, out, |i, out| {
                    self.text(&entries[i].0, out);
                    out.push_str(&self.after_key);
                    self.write(&entries[i].1, depth + 1, out)
                })?;
            }
            _ => out.push_str(&plain(value)?),
        }
        Ok(())
    }

    fn entries(&self, map: &Value) -> Result<Vec<(String, Value)>, Error> {
        let mut entries = dicts::entries(map)?;
        if self.sort_keys {
            sort(&mut entries, false, |(key, _)| key)?;
        }
        let mut named = Vec::with_capacity(entries.len());
        for (key, item) in entries {
            let name = match key.as_str() {
                Some(name) => name.to_owned(),
                None => plain(&key)?,
            };
            named.push((name, item));
        }
        Ok(named)
    }

    fn list(
        &self,
        brackets: &str,
        count: usize,
        depth: usize,
        out: &mut String,
        mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push_str(&brackets[..1]);
        for i in 0..count {
            if i > 0 {
                out.push_str(&self.between_items);
            }
            self.new_line(depth + 1, out);
            item(i, out)?;
        }
        if count > 0 {
            self.new_line(depth, out);
        }
        out.push_str(&brackets[1..]);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c <= '~' {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

/// The JSON of a value that is neither text nor a container.
fn plain(value: &Value) -> Result<String, Error> {
    Ok(match type_of(value) {
        Type::None => "null".to_owned(),
        Type::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        Type::Int => value.to_string(),
        Type::Float => match f64::try_from(value.clone())? {
            n if n.is_nan() => "NaN".to_owned(),
            n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            n => floats::repr(n),
        },
        kind => return Err(failed(format!("tojson: {} has no JSON", kind.name()))),
    })
}
