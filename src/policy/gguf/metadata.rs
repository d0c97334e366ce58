//! Metadata entries of a GGUF file as Rust values, with errors that name the key.

use crate::policy::gguf::header::Header;
use crate::{Error, Result};
use candle_core::quantized::gguf_file::Value;

impl Header {
    /// An error about a key, with its value.
    pub(crate) fn wrong(&self, key: &str, reason: &str) -> Error {
        match self.metadata.get(key) {
            Some(value) => Error::file(&self.path, key, format!("= {}: {reason}", shown(value))),
            None => Error::file(&self.path, key, format!("is missing: {reason}")),
        }
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "must be a text")),
        }
    }

    /// A number that is not negative.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => match whole(value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(key, "must be a whole number, not negative")),
            },
        }
    }

    /// A size, or the default for a missing one.
    pub(crate) fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let found = self.count(key)?.and_then(|count| usize::try_from(count).ok());
        found.or(default).ok_or_else(|| self.wrong(key, "a size is required"))
    }

    /// A finite number. An f32 becomes the f64 with the same shortest decimal form: 1e-5, not
    /// 9.99999974737875e-6.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::F32(number)) => number.to_string().parse().ok(),
            Some(Value::F64(number)) => Some(*number),
            Some(value) => whole(value).map(|number| number as f64),
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "must be a finite number")),
        }
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "must be true or false")),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        fn text(value: &Value) -> Option<&str> {
            match value {
                Value::String(text) => Some(text),
                _ => None,
            }
        }
        let texts = match value {
            Value::Array(list) => list.iter().map(text).collect(),
            _ => None,
        };
        texts.map(Some).ok_or_else(|| self.wrong(key, "must be a list of texts"))
    }

    /// A list of whole numbers that are not negative.
    pub(crate) fn counts(&self, key: &str) -> Result<Option<Vec<u64>>> {
        let counts = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array(list)) => list.iter().map(whole).collect(),
            Some(_) => None,
        };
        counts.map(Some).ok_or_else(|| self.wrong(key, "must be a list of whole numbers"))
    }
}

/// A value as a whole number that is not negative.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Bool(_) => None,
        Value::I8(number) => u64::try_from(*number).ok(),
        Value::I16(number) => u64::try_from(*number).ok(),
        Value::I32(number) => u64::try_from(*number).ok(),
        Value::I64(number) => u64::try_from(*number).ok(),
        other => other.to_u64().ok(),
    }
}

/// A value as a text of a line.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = match value {
        Value::U8(number) => number.to_string(),
        Value::I8(number) => number.to_string(),
        Value::U16(number) => number.to_string(),
        Value::I16(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(list) => {
            let count = list.len();
            let first: Vec<String> = list.iter().take(4).map(shown).collect();
            let rest = if count > 4 { ", …" } else { "" };
            return format!("[{}{rest}] ({count} entries)", first.join(", "));
        }
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
