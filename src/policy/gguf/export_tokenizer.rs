//! A checkpoint's tokenizer and chat template as metadata of a GGUF file.

use crate::policy::gguf::texts::CHAT_TEMPLATE;
use crate::policy::gguf::tokenizer::{Words, CONTROL, NORMAL, UNUSED, USER_DEFINED};
use crate::policy::source::{Source, SourceText};
use crate::policy::tokenizer::Tokenizer;
use crate::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

/// Standard tokens in `tokenizer_config.json`, and their roles in GGUF files.
const NAMES: [(&str, &str); 3] =
    [("bos_token", "bos"), ("unk_token", "unknown"), ("pad_token", "padding")];

/// The metadata of a tokenizer for a model of `vocab_size` tokens whose turns end at `ends`.
///
/// # Errors
/// A tokenizer that is not byte-level BPE with the words of SmolLM, Qwen2 or Llama 3.
pub(crate) fn tokenizer_metadata(
    source: &Source,
    vocab_size: usize,
    ends: &[u32],
) -> Result<Vec<(String, Value)>> {
    // With the tokens that only other files list.
    let text = Tokenizer::open(source)?.json()?;
    let file = SourceText { text, ..source.required_text("tokenizer.json")? };
    let json: Json = file.json()?;
    let words = words_of(&file, &json)?;
    let tokens = Tokens::read(&file, &json, vocab_size)?;
    let merges = merges(&file, &json)?;
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let text = |text: &str| Value::String(text.to_owned());
    let texts = |list: &[String]| Value::Array(list.iter().cloned().map(Value::String).collect());
    let kinds = tokens.kinds.iter().map(|&kind| Value::I32(kind as i32)).collect();
    let mut metadata = vec![
        (key("model"), text("gpt2")),
        (key("pre"), text(words.name())),
        (key("tokens"), texts(&tokens.texts)),
        (key("token_type"), Value::Array(kinds)),
        (key("merges"), texts(&merges)),
    ];
    let config: Json = match source.text("tokenizer_config.json")? {
        Some(file) => file.json()?,
        None => Json::Null,
    };
    let id_of = |name: &str| {
        let token = &config[name];
        let token = token.as_str().or_else(|| token.get("content")?.as_str())?;
        tokens.texts.iter().position(|text| text == token).map(|id| id as u32)
    };
    for (name, role) in NAMES {
        metadata.extend(id_of(name).map(|id| (key(&format!("{role}_token_id")), Value::U32(id))));
    }
    let eos = id_of("eos_token").or(ends.first().copied());
    let others = ends.iter().copied().filter(|&id| Some(id) != eos);
    let roles = ["eos", "eot", "eom"].into_iter();
    for (role, id) in roles.zip(eos.into_iter().chain(others)) {
        metadata.push((key(&format!("{role}_token_id")), Value::U32(id)));
    }
    let begins = json["post_processor"].to_string().contains("\"SpecialToken\"");
    metadata.push((key("add_bos_token"), Value::Bool(begins && id_of("bos_token").is_some())));
    metadata.extend(template(source, &config)?);
    Ok(metadata)
}

/// The chat template.
fn template(source: &Source, config: &Json) -> Result<Option<(String, Value)>> {
    let stored = config["chat_template"].as_str().map(str::to_owned);
    let template = match source.text("chat_template.jinja")? {
        Some(file) => Some(file.text),
        None => stored,
    };
    Ok(template.map(|template| (CHAT_TEMPLATE.to_owned(), Value::String(template))))
}

/// The rule that splits a text into words.
fn words_of(file: &SourceText, json: &Json) -> Result<Words> {
    let same = |words: &Words| {
        json["model"]["type"] == "BPE"
            && steps(&json["normalizer"]) == steps(&words.normalizer())
            && steps(&json["pre_tokenizer"]) == steps(&words.pre_tokenizer())
            && json["model"]["ignore_merges"].as_bool().unwrap_or(false) == words.ignores_merges()
    };
    Words::ALL.into_iter().find(same).ok_or_else(|| {
        let reason =
            "GGUF files are written for byte-level BPE with the words of SmolLM, Qwen2 or \
                      Llama 3 only";
        Error::file(&file.path, "pre_tokenizer", reason)
    })
}

/// A normalizer or pre-tokenizer as a list of steps, without settings that do not change ids.
fn steps(json: &Json) -> Vec<Json> {
    let inner = json.get("pretokenizers").or_else(|| json.get("normalizers"));
    match inner.and_then(Json::as_array) {
        Some(list) => list.iter().flat_map(steps).collect(),
        None if json.is_null() => Vec::new(),
        None => {
            let mut step = json.clone();
            if let Some(fields) = step.as_object_mut() {
                fields.remove("trim_offsets");
            }
            vec![step]
        }
    }
}

/// The tokens in the order of their ids.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<u64>,
}

impl Tokens {
    fn read(file: &SourceText, json: &Json, vocab_size: usize) -> Result<Self> {
        let mut tokens = Self {
            texts: (0..vocab_size).map(|id| format!("[PAD{id}]")).collect(),
            kinds: vec![UNUSED; vocab_size],
        };
        for (text, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
            tokens.set(file, "model.vocab", text, id.as_u64(), NORMAL)?;
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
            let text = token["content"].as_str().unwrap_or_default();
            tokens.set(file, "added_tokens", text, token["id"].as_u64(), kind)?;
        }
        Ok(tokens)
    }

    fn set(
        &mut self,
        file: &SourceText,
        field: &str,
        text: &str,
        id: Option<u64>,
        kind: u64,
    ) -> Result<()> {
        let count = self.texts.len();
        let place = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < count);
        let Some(place) = place else {
            let reason = format!("{text:?} has no id below {count}");
            return Err(Error::file(&file.path, field, reason));
        };
        text.clone_into(&mut self.texts[place]);
        self.kinds[place] = kind;
        Ok(())
    }
}

/// The merges, each as two tokens with a space between them.
fn merges(file: &SourceText, json: &Json) -> Result<Vec<String>> {
    let merge = |merge: &Json| match merge {
        Json::String(text) => Some(text.clone()),
        Json::Array(pair) => {
            let parts: Option<Vec<&str>> = pair.iter().map(Json::as_str).collect();
            parts.map(|parts| parts.join(" "))
        }
        _ => None,
    };
    let list = json["model"]["merges"].as_array();
    let merges = list.and_then(|list| list.iter().map(merge).collect());
    merges.ok_or_else(|| Error::file(&file.path, "model.merges", "must be a list of pairs"))
}
