//! The texts next to a model's weights, in Hugging Face's layout, from the metadata of a GGUF file.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::gguf::header::Header;
use crate::policy::gguf::names::EMBEDDING;
use crate::policy::gguf::tokenizer::{named_token, tokenizer_json};
use crate::{Error, Result};
use serde_json::{json, Value};

pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Keys with ids that end a turn: of a text, of a message, of a message with a call of a tool.
const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// A list of them, which some converters write.
const END_LIST: &str = "tokenizer.ggml.eos_token_ids";

/// Names of standard tokens in `tokenizer_config.json`, and their roles in GGUF files.
const NAMES: [(&str, &str); 6] = [
    ("bos_token", "bos"),
    ("eos_token", "eos"),
    ("unk_token", "unknown"),
    ("sep_token", "seperator"),
    ("pad_token", "padding"),
    ("mask_token", "mask"),
];

/// The ids that end a turn.
///
/// # Errors
/// An id outside the vocabulary, by key and value.
pub(crate) fn end_ids(header: &Header, vocab_size: usize) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for key in ENDS {
        ids.extend(header.count(key)?.map(|id| (key, id)));
    }
    if header.metadata.contains_key(END_LIST) {
        let listed = header.counts(END_LIST)?.unwrap_or_default();
        ids.extend(listed.into_iter().map(|id| (END_LIST, id)));
    }
    let mut ends = Vec::new();
    for (key, id) in ids {
        if id >= vocab_size as u64 {
            let reason = format!("{id} must be below the number of tokens, {vocab_size}");
            return Err(header.wrong(key, &reason));
        }
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    Ok(ends)
}

/// `config.json`.
pub(crate) fn config_json(header: &Header, config: &DecoderConfig) -> Value {
    let mut json = Value::from(config.clone());
    for (field, role) in [("bos_token_id", "bos"), ("eos_token_id", "eos")] {
        if let Some((id, _)) = named_token(header, role) {
            json[field] = id.into();
        }
    }
    json
}

/// `generation_config.json`.
///
/// # Errors
/// As [`end_ids`].
pub(crate) fn generation_json(header: &Header, vocab_size: usize) -> Result<Value> {
    let mut json = json!({ "eos_token_id": end_ids(header, vocab_size)? });
    for (field, role) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
        if let Some((id, _)) = named_token(header, role) {
            json[field] = id.into();
        }
    }
    Ok(json)
}

/// `tokenizer_config.json`.
fn tokenizer_config(header: &Header) -> Result<Value> {
    let mut json = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
    });
    for (field, role) in NAMES {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let Some(id) = header.count(&key)? else { continue };
        let Some((_, token)) = named_token(header, role) else {
            return Err(header.wrong(&key, &format!("the file has no token {id}")));
        };
        json[field] = token.into();
    }
    Ok(json)
}

/// The text of a file of a model checkpoint, if the metadata has what belongs there.
///
/// # Errors
/// A key that is missing, malformed or not supported, by name and value.
pub(crate) fn text(header: &Header, name: &str) -> Result<Option<String>> {
    Ok(match name {
        "tokenizer.json" => Some(tokenizer_json(header)?),
        "tokenizer_config.json" => Some(format!("{:#}\n", tokenizer_config(header)?)),
        "generation_config.json" => {
            let tokens = header.tensors.get(EMBEDDING).map_or(0, |info| info.shape[0]);
            Some(format!("{:#}\n", generation_json(header, tokens)?))
        }
        "chat_template.jinja" => header.text(CHAT_TEMPLATE)?.map(str::to_owned),
        _ => None,
    })
}

/// Names and texts of the chat templates for special uses, sorted by name.
///
/// # Errors
/// A name without a template, or a value that is not a text.
pub(crate) fn additional_templates(header: &Header) -> Result<Vec<(String, String)>> {
    const LIST: &str = "tokenizer.chat_templates";
    let mut templates = Vec::new();
    for name in header.texts(LIST)?.unwrap_or_default() {
        let key = format!("{CHAT_TEMPLATE}.{name}");
        let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        if !plain || name.is_empty() {
            return Err(header.wrong(LIST, "must list names of letters and digits"));
        }
        let Some(text) = header.text(&key)? else {
            return Err(Error::file(&header.path, key, format!("is missing, but {LIST} names it")));
        };
        templates.push((name.to_owned(), text.to_owned()));
    }
    templates.sort();
    Ok(templates)
}
