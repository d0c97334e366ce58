//! The `tojson` filter of chat templates: Python's `json.dumps`, as transformers calls it.
//!
//! A model was trained on the exact text that Python prints, so `1e-05`, `1.0` and `", "` matter.
//! serde_json prints floats and separators differently and turns NaN into `null`; only its string
//! escapes are used here.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The layout of JSON text.
struct Layout {
    ensure_ascii: bool,
    /// One level of indentation; `None` keeps everything on one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// Renders `value` as JSON, with the options `ensure_ascii`, `indent`, `separators` and
/// `sort_keys`.
pub(crate) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_usize() {
        Some(width) => " ".repeat(width.min(64)),
        None => indent.to_string(),
    });
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (between_items, after_key) = match separators.as_deref() {
        Some([items, keys]) => (items.clone(), keys.clone()),
        Some(_) => return Err(refused("separators must be two strings")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let layout = Layout { ensure_ascii, indent, between_items, after_key, sort_keys };
    let mut out = String::new();
    layout.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

fn refused(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", reason.into()))
}

impl Layout {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list("[]", items.len(), depth, out, |i, out| {
                    self.write(&items[i], depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let entries = self.entries(value)?;
                self.list("{}", entries.len(), depth, out, |i, out| {
                    self.text(&entries[i].0, out);
                    out.push_str(&self.after_key);
                    self.write(&entries[i].1, depth + 1, out)
                })?;
            }
            kind => return Err(refused(format!("{kind} has no JSON"))),
        }
        Ok(())
    }

    fn entries(&self, map: &Value) -> Result<Vec<(String, Value)>, Error> {
        let mut entries = Vec::new();
        for key in map.try_iter()? {
            let item = map.get_item(&key)?;
            let name = match key.kind() {
                ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                ValueKind::None => "null".to_owned(),
                ValueKind::Number => number(&key)?,
                _ => key.to_string(),
            };
            entries.push((name, item));
        }
        if self.sort_keys {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Ok(entries)
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

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    Ok(match number {
        n if n.is_nan() => "NaN".to_owned(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        n => python_float(n),
    })
}

/// Formats a float as Python's `repr`: the shortest digits that read back as `number`, with its
/// exponents (`1e+16`).
pub(crate) fn python_float(number: f64) -> String {
    if number.is_nan() || number.is_infinite() {
        return number.to_string().to_lowercase();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&power) {
        return format!("{number:?}");
    }
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_look_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (0.0, "0.0"),
            (123456.789, "123456.789"),
        ];
        for (number, text) in cases {
            assert_eq!(python_float(number), text);
        }
    }
}
