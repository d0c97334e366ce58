//! Tokens that only the files next to `tokenizer.json` name.
//!
//! Python's `AutoTokenizer` adds the tokens of `tokenizer_config.json` to those of
//! `tokenizer.json`, and in older checkpoints those of `special_tokens_map.json` and
//! `added_tokens.json`. A tokenizer without them would split `<|im_end|>` into pieces. This module
//! collects them in the order in which transformers adds them, which decides their ids.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use crate::policy::source::Source;
use crate::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";
const TOKEN_MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Names of the standard special tokens, in transformers' order.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Standard special tokens that no prompt is built of.
const FILLERS: [&str; 5] = ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The fields of a JSON object, in the order of the file.
#[derive(Debug, Default)]
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        let field = self.0.iter().rfind(|(key, _)| key == name);
        field.map(|(_, value)| value).filter(|value| !value.is_null())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// `extra_special_tokens`, whose order decides ids if it is an object.
#[derive(Deserialize)]
struct Extra {
    extra_special_tokens: Option<Nested>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Nested {
    Object(Fields),
    Other(IgnoredAny),
}

/// A token to add, and where it is named.
#[derive(Debug, Clone)]
pub(crate) struct Addition {
    pub(crate) token: AddedToken,
    /// The id that the file gives it.
    pub(crate) id: Option<u32>,
    path: PathBuf,
    /// The field of the file, such as `added_tokens_decoder.300`.
    field: String,
}

impl Addition {
    /// An error about this token.
    pub(crate) fn error(&self, reason: &str) -> Error {
        Error::file(&self.path, &*self.field, format!("`{}`: {reason}", self.token.content))
    }
}

/// What the files next to `tokenizer.json` say about its tokens.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    /// Tokens with their properties, which replace those of `tokenizer.json`.
    pub(crate) listed: Vec<Addition>,
    /// Special tokens by name; they are added if nothing else has added them.
    pub(crate) named: Vec<(String, Addition)>,
    /// Further special tokens, added in the same way.
    pub(crate) extra: Vec<Addition>,
}

impl AddedTokens {
    /// Reads the files of a source; files that it does not have add nothing.
    ///
    /// # Errors
    /// An unreadable or malformed file, by its field.
    pub(crate) fn read(source: &Source) -> Result<Self> {
        let config = File::open(source, CONFIG)?;
        let mut added = Self::default();
        if let Some(file) = &config {
            added.read_names(file)?;
        }
        match config.as_ref().and_then(|file| Some((file, file.fields.get(DECODER)?))) {
            Some((file, decoder)) => added.read_decoder(file, decoder)?,
            None => added.read_legacy(source)?,
        }
        Ok(added)
    }

    /// The text of the token that ends a text.
    pub(crate) fn eos(&self) -> Option<&Addition> {
        self.named.iter().find(|(name, _)| name == "eos_token").map(|(_, addition)| addition)
    }

    /// Returns true if `token` is named as padding or the like and as nothing else.
    pub(crate) fn is_filler(&self, token: &str) -> bool {
        let mut names = self.named.iter().filter(|(_, named)| named.token.content == token);
        let listed = self.extra.iter().any(|extra| extra.token.content == token);
        !listed && names.clone().count() > 0 && names.all(|(n, _)| FILLERS.contains(&n.as_str()))
    }

    /// The special tokens that `tokenizer_config.json` names.
    fn read_names(&mut self, file: &File) -> Result<()> {
        for name in NAMES {
            if let Some(value) = file.fields.get(name) {
                self.named.push((name.to_owned(), file.token(name, value)?));
            }
        }
        let own = |(name, value): &&(String, Value)| is_own_name(name) && has_text(value);
        for (name, value) in file.fields.0.iter().filter(own) {
            self.named.push((name.clone(), file.token(name, value)?));
        }
        let extra = file.fields.get("extra_special_tokens").filter(|value| !is_empty(value));
        match extra {
            Some(value) => self.read_extra(file, "extra_special_tokens", value),
            None => match file.fields.get("additional_special_tokens") {
                Some(value) => self.read_extra(file, "additional_special_tokens", value),
                None => Ok(()),
            },
        }
    }

    /// A list of tokens, or an object of named ones.
    fn read_extra(&mut self, file: &File, field: &str, value: &Value) -> Result<()> {
        match value {
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    self.extra.push(file.token(&format!("{field}[{i}]"), value)?);
                }
                Ok(())
            }
            Value::Object(_) => {
                for (name, value) in file.extra.iter().flat_map(|fields| &fields.0) {
                    let token = file.token(&format!("{field}.{name}"), value)?;
                    self.named.push((name.clone(), token));
                }
                Ok(())
            }
            _ => Err(file.error(field, value, "must be a list of tokens or an object of them")),
        }
    }

    /// `added_tokens_decoder`: an object from ids to tokens.
    fn read_decoder(&mut self, file: &File, decoder: &Value) -> Result<()> {
        let Some(entries) = decoder.as_object() else {
            return Err(file.error(DECODER, decoder, "must be an object from ids to tokens"));
        };
        let mut tokens = BTreeMap::new();
        for (key, value) in entries {
            let field = format!("{DECODER}.{key}");
            let Ok(id) = key.parse::<u32>() else {
                return Err(file.error(&field, value, "its key must be a token id"));
            };
            if !value.is_object() {
                return Err(file.error(&field, value, "must be an object with `content`"));
            }
            let token = file.token(&field, value)?;
            tokens.insert(id, Addition { id: Some(id), ..token });
        }
        self.listed = tokens.into_values().collect();
        Ok(())
    }

    /// The files of older checkpoints, which transformers reads if there is no
    /// `added_tokens_decoder`.
    fn read_legacy(&mut self, source: &Source) -> Result<()> {
        if let Some(file) = File::open(source, TOKEN_MAP)? {
            for (name, value) in &file.fields.0 {
                match name.as_str() {
                    "additional_special_tokens" | "extra_special_tokens" if !value.is_null() => {
                        self.read_extra(&file, name, value)?;
                    }
                    _ if has_text(value) => self.rename(name, file.token(name, value)?),
                    _ => {}
                }
            }
        }
        if let Some(file) = File::open(source, ADDED)? {
            let mut tokens = BTreeMap::new();
            for (text, id) in &file.fields.0 {
                let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                    return Err(file.error(text, id, "must be a token id"));
                };
                let token = AddedToken::from(text.clone(), self.names(text));
                let path = file.path.clone();
                let addition = Addition { token, id: Some(id), path, field: text.clone() };
                tokens.insert(id, addition);
            }
            self.listed = tokens.into_values().collect();
        }
        Ok(())
    }

    fn names(&self, token: &str) -> bool {
        let mut all = self.named.iter().map(|(_, named)| named).chain(&self.extra);
        all.any(|named| named.token.content == token)
    }

    /// Gives a name to a token, instead of the one that it had.
    fn rename(&mut self, name: &str, token: Addition) {
        let standard = |name: &str| NAMES.iter().position(|other| *other == name);
        if let Some((_, old)) = self.named.iter_mut().find(|(other, _)| other == name) {
            *old = token;
            return;
        }
        let place = standard(name).map_or(self.named.len(), |place| {
            let later =
                |(other, _): &(String, Addition)| standard(other).is_none_or(|other| other > place);
            self.named.iter().position(later).unwrap_or(self.named.len())
        });
        self.named.insert(place, (name.to_owned(), token));
    }
}

const DECODER: &str = "added_tokens_decoder";

/// A special token of a model's own, such as `image_token`.
fn is_own_name(name: &str) -> bool {
    name.ends_with("_token") && !NAMES.contains(&name)
}

/// Returns true for a token: a string, or an object with its text.
fn has_text(value: &Value) -> bool {
    value.is_string() || value.get("content").is_some_and(Value::is_string)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A JSON file and its fields.
struct File {
    path: PathBuf,
    fields: Fields,
    /// The fields of `extra_special_tokens`, if it is an object.
    extra: Option<Fields>,
}

impl File {
    fn open(source: &Source, name: &str) -> Result<Option<Self>> {
        let Some(text) = source.text(name)? else { return Ok(None) };
        let fields = text.json()?;
        let extra: Extra = text.json()?;
        let path = text.path;
        let extra = match extra.extra_special_tokens {
            Some(Nested::Object(fields)) => Some(fields),
            Some(Nested::Other(_)) | None => None,
        };
        Ok(Some(Self { path, fields, extra }))
    }

    fn error(&self, field: &str, value: &Value, reason: &str) -> Error {
        wrong(&self.path, field, value, reason)
    }

    /// A token: its text, or an object with its text and properties.
    fn token(&self, field: &str, value: &Value) -> Result<Addition> {
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        let Some(text) = text else {
            return Err(self.error(field, value, "must be a string or an object with `content`"));
        };
        let flag = |name: &str, default: bool| match value.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(self.error(&format!("{field}.{name}"), other, "must be true or false"))
            }
        };
        let special = flag("special", true)?;
        let token = AddedToken {
            content: text.to_owned(),
            single_word: flag("single_word", false)?,
            lstrip: flag("lstrip", false)?,
            rstrip: flag("rstrip", false)?,
            normalized: flag("normalized", !special)?,
            special,
        };
        Ok(Addition { token, id: None, path: self.path.clone(), field: field.to_owned() })
    }
}

fn wrong(path: &Path, field: &str, value: &Value, reason: &str) -> Error {
    Error::file(path, field, format!("= {value}: {reason}"))
}
