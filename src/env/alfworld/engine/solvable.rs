//! The key `solvable` of a game file, read without parsing the whole file if possible.
//!
//! ALFWorld's files have up to 140 kB, and `solvable` is near the end of most. The last bytes of a
//! file decide alone if they end the file's object and hold the key; otherwise the file is parsed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::Deserializer;
use serde_json::Value;

use crate::env::alfworld::engine::fields::MAX_FILE;

/// The key with its quotes.
const KEY: &[u8] = b"\"solvable\"";
/// The number of bytes at the end of the file that are read first.
const TAIL: u64 = 4096;

/// The value of the key `solvable` of a game file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Solvable {
    True,
    False,
    /// Neither true nor false.
    Other,
    Missing,
    /// The file is not a JSON object.
    NoJson,
    /// The file exceeds [`MAX_FILE`].
    TooLarge,
}

impl Solvable {
    /// Reads the key of a file.
    ///
    /// # Errors
    /// The system's error if the file cannot be read.
    pub(crate) fn of_file(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        if size > MAX_FILE {
            return Ok(Self::TooLarge);
        }
        let mut text = Vec::new();
        if size > TAIL {
            file.seek(SeekFrom::Start(size - TAIL))?;
            file.by_ref().take(TAIL).read_to_end(&mut text)?;
            if let Some(found) = Self::of_tail(&text) {
                return Ok(found);
            }
            file.seek(SeekFrom::Start(0))?;
            text.clear();
        }
        file.take(MAX_FILE).read_to_end(&mut text)?;
        Ok(Self::of_text(&text))
    }

    /// Reads the key of the text of a file.
    pub(crate) fn of_text(text: &[u8]) -> Self {
        match value_of(text, "solvable") {
            Ok(None) => Self::Missing,
            Ok(Some(Value::Bool(true))) => Self::True,
            Ok(Some(Value::Bool(false))) => Self::False,
            Ok(Some(_)) => Self::Other,
            Err(_) => Self::NoJson,
        }
    }

    /// Reads the key from the last bytes of a file, or returns `None` if they do not decide.
    ///
    /// The rest of the text from the last `"solvable"` on must be the rest of an object. A brace
    /// too many shows that the object is inside another.
    fn of_tail(tail: &[u8]) -> Option<Self> {
        let start = tail.windows(KEY.len()).rposition(|bytes| bytes == KEY)?;
        let uncertain = start == 0 || tail[start - 1] == b'\\';
        let rest = [b"{", &tail[start..]].concat();
        match Self::of_text(&rest) {
            Self::NoJson | Self::Missing => None,
            _ if uncertain => None,
            found => Some(found),
        }
    }
}

/// Reads the value of `key` in a JSON object, the last of equal keys as in Python's `json`.
///
/// # Errors
/// A text that is not a JSON object.
pub(crate) fn value_of(text: &[u8], key: &str) -> serde_json::Result<Option<Value>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let found = deserializer.deserialize_map(Key(key))?;
    deserializer.end()?;
    Ok(found)
}

struct Key<'a>(&'a str);

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Option<Value>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_key_of_the_outer_object_counts() {
        for (text, expected) in [
            (r#"{"solvable": true}"#, Solvable::True),
            (r#"{"a": 1, "solvable" : true , "b": [{"solvable": false}]}"#, Solvable::True),
            (r#"{"solvable": false, "b": {"solvable": true}}"#, Solvable::False),
            (r#"{"solvable": false, "solvable": true}"#, Solvable::True),
            (r#"{"solvable": "true"}"#, Solvable::Other),
            (r#"{"solvable": 1}"#, Solvable::Other),
            (r#"{"solvable": null}"#, Solvable::Other),
            (r#"{"b": {"solvable": true}}"#, Solvable::Missing),
            (r#"{"text": "\"solvable\": true"}"#, Solvable::Missing),
            (r#"{"a\"solvable": true}"#, Solvable::Missing),
            (r#"{}"#, Solvable::Missing),
            (r#"[{"solvable": true}]"#, Solvable::NoJson),
            (r#"{"solvable": true"#, Solvable::NoJson),
            ("", Solvable::NoJson),
        ] {
            assert_eq!(Solvable::of_text(text.as_bytes()), expected, "{text}");
            let file = tempfile::NamedTempFile::new().unwrap();
            for padding in [0, 10_000] {
                let padded = format!("{}{text}{}", " ".repeat(padding), " ".repeat(padding));
                std::fs::write(file.path(), padded).unwrap();
                assert_eq!(Solvable::of_file(file.path()).unwrap(), expected, "{text} {padding}");
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_FILE + 1).unwrap();
        assert_eq!(Solvable::of_file(file.path()).unwrap(), Solvable::TooLarge);
    }

    /// JSON values with the key at any depth, written with and without escapes.
    fn value() -> impl Strategy<Value = String> {
        let leaf = proptest::sample::select(
            &[
                "true",
                "false",
                "1",
                "null",
                "\"solvable\"",
                "\"true\"",
                "\"\\\"solvable\\\": true\"",
                "\"é\\\\\"",
                "\"}\"",
                "-1e9",
            ][..],
        );
        leaf.prop_map(str::to_owned).prop_recursive(3, 24, 4, |inner| {
            let key = proptest::sample::select(
                &["solvable", "a", "solv\\u0061ble", "\\\"solvable", "solvable\\\\", ""][..],
            );
            let gap = proptest::sample::select(&["", " ", "\n\t "][..]);
            let pair = (key, gap, inner.clone());
            let pair = pair.prop_map(|(key, gap, value)| format!("\"{key}\":{gap}{value}"));
            let pairs = proptest::collection::vec(pair, 0..5);
            let values = proptest::collection::vec(inner, 0..4);
            prop_oneof![
                2 => pairs.prop_map(|pairs| format!("{{{}}}", pairs.join(","))),
                1 => values.prop_map(|values| format!("[{}]", values.join(","))),
            ]
        })
    }

    /// The value that a parser of whole JSON texts finds, which also keeps the last of equal keys.
    fn expected(text: &str) -> Solvable {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => match fields.get("solvable") {
                None => Solvable::Missing,
                Some(Value::Bool(true)) => Solvable::True,
                Some(Value::Bool(false)) => Solvable::False,
                Some(_) => Solvable::Other,
            },
            _ => Solvable::NoJson,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_end_of_a_file_decides_as_the_whole_file_does(text in value(), cut in 0.0..1.0) {
            let whole = expected(&text);
            prop_assert_eq!(Solvable::of_text(text.as_bytes()), whole);
            let tail = &text.as_bytes()[(cut * text.len() as f64) as usize..];
            if let Some(found) = Solvable::of_tail(tail) {
                prop_assert_eq!(found, whole, "{}", String::from_utf8_lossy(tail));
            }
        }

        #[test]
        fn no_bytes_panic(
            before in proptest::collection::vec(any::<u8>(), 0..30),
            after in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let text = [&before[..], KEY, &after].concat();
            let _ = Solvable::of_text(&text);
            let _ = Solvable::of_tail(&text);
        }
    }
}
