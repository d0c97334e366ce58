//! The tokenizer of a GGUF file as the text of a `tokenizer.json`.
//!
//! The metadata lists tokens and merges of byte-level BPE, and names the rule that splits a text
//! into words first. The rules are those of the models' own tokenizers.

use crate::policy::gguf::header::Header;
use crate::{Error, Result};
use serde_json::{json, Map, Value};
use std::collections::BTreeMap;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// Changes of a text before it is split into words.
const CHANGES_OF_TEXTS: [&str; 2] =
    ["tokenizer.ggml.add_space_prefix", "tokenizer.ggml.remove_extra_whitespaces"];

/// Values of [`TYPES`].
pub(crate) const NORMAL: u64 = 1;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;

/// The pattern of the words of Llama 3 and Qwen2, which differ in their `digits`.
fn pattern(digits: &str) -> String {
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        digits,
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
    .join("|")
}

/// A rule that splits a text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// SmolLM and SmolLM2: GPT-2's words, and every digit alone.
    Smollm,
    /// Qwen2, Qwen2.5 and Qwen3.
    Qwen2,
    /// Llama 3.
    Llama,
}

impl Words {
    pub(crate) const ALL: [Self; 3] = [Self::Smollm, Self::Qwen2, Self::Llama];

    /// The value of [`PRE`].
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smollm => "smollm",
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama-bpe",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let older = matches!(name, "llama3" | "llama-v3").then_some(Self::Llama);
        Self::ALL.into_iter().find(|words| words.name() == name).or(older)
    }

    /// `normalizer` of a `tokenizer.json`.
    pub(crate) fn normalizer(self) -> Value {
        match self {
            Self::Qwen2 => json!({ "type": "NFC" }),
            Self::Smollm | Self::Llama => Value::Null,
        }
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub(crate) fn pre_tokenizer(self) -> Value {
        let first = match self {
            Self::Smollm => json!({ "type": "Digits", "individual_digits": true }),
            Self::Qwen2 => split(&pattern(r"\p{N}")),
            Self::Llama => split(&pattern(r"\p{N}{1,3}")),
        };
        json!({ "type": "Sequence", "pretokenizers": [first, bytes(self == Self::Smollm)] })
    }

    /// A word that is a token stays whole, whatever the merges.
    pub(crate) fn ignores_merges(self) -> bool {
        self == Self::Llama
    }
}

fn split(pattern: &str) -> Value {
    json!({
        "type": "Split",
        "pattern": { "Regex": pattern },
        "behavior": "Isolated",
        "invert": false,
    })
}

/// Bytes as letters, after GPT-2's split into words if `words`.
fn bytes(words: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": false,
        "use_regex": words,
    })
}

/// The parts of the tokenizer, checked.
struct Parts<'h> {
    words: Words,
    tokens: Vec<&'h str>,
    types: Vec<u64>,
    merges: Vec<[&'h str; 2]>,
}

impl<'h> Parts<'h> {
    fn read(header: &'h Header) -> Result<Self> {
        match header.text(MODEL)? {
            Some("gpt2") => {}
            Some(_) => return Err(header.wrong(MODEL, "only byte-level BPE (gpt2) is supported")),
            None => return Err(header.wrong(MODEL, "the file has no tokenizer")),
        }
        for key in CHANGES_OF_TEXTS {
            if header.flag(key)? == Some(true) {
                return Err(header.wrong(key, "must be false for byte-level BPE"));
            }
        }
        let words = header.text(PRE)?.and_then(Words::named);
        let words = words.ok_or_else(|| {
            let names = Words::ALL.map(Words::name).join(", ");
            header.wrong(PRE, &format!("these kinds of words are supported: {names}"))
        })?;
        let missing = |key: &str| header.wrong(key, "the tokenizer needs it");
        let tokens = header.texts(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
        let types = header.counts(TYPES)?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        if types.len() != tokens.len() {
            let reason = format!("{TOKENS} has {} entries", tokens.len());
            return Err(header.wrong(TYPES, &reason));
        }
        let merges = header.texts(MERGES)?.ok_or_else(|| missing(MERGES))?;
        let ids = ids(header, &tokens)?;
        let merges = merges.into_iter().enumerate().map(|(i, merge)| {
            pair(merge, &ids).map_err(|reason| {
                Error::file(
                    &header.path,
                    format!("{MERGES}[{i}]"),
                    format!("= {merge:?}: {reason}"),
                )
            })
        });
        Ok(Self { words, merges: merges.collect::<Result<_>>()?, tokens, types })
    }

    /// Tokens that a text is searched for, before it is split into words.
    fn added(&self) -> Vec<Value> {
        let entries = self.tokens.iter().zip(&self.types).enumerate();
        let added = entries.filter(|(_, (_, &kind))| kind == CONTROL || kind == USER_DEFINED);
        let token = |(id, (token, &kind)): (usize, (&&str, &u64))| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            })
        };
        added.map(token).collect()
    }

    fn vocabulary(&self) -> Map<String, Value> {
        let entries = self.tokens.iter().zip(&self.types).enumerate();
        let used = entries.filter(|(_, (_, &kind))| kind != UNUSED);
        used.map(|(id, (token, _))| ((*token).to_owned(), id.into())).collect()
    }
}

/// The id of every token; none may be listed twice.
fn ids<'h>(header: &Header, tokens: &[&'h str]) -> Result<BTreeMap<&'h str, usize>> {
    let mut ids = BTreeMap::new();
    for (id, &token) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert(token, id) {
            let reason = format!("= {token:?}: is token {first} too");
            return Err(Error::file(&header.path, format!("{TOKENS}[{id}]"), reason));
        }
    }
    Ok(ids)
}

/// The two tokens of a merge, which have to be listed, as has the result.
fn pair<'h>(merge: &'h str, ids: &BTreeMap<&str, usize>) -> Result<[&'h str; 2], String> {
    let space = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ');
    let Some((at, _)) = space else {
        return Err("must be two tokens with a space between them".to_owned());
    };
    let parts = [&merge[..at], &merge[at + 1..]];
    for part in [parts[0], parts[1], &parts.concat()] {
        if !ids.contains_key(part) {
            return Err(format!("{part:?} is not in {TOKENS}"));
        }
    }
    Ok(parts)
}

/// The text of `tokenizer.json`.
///
/// # Errors
/// A key that is missing, malformed or not supported, by name and value.
pub(crate) fn tokenizer_json(header: &Header) -> Result<String> {
    let parts = Parts::read(header)?;
    let words = parts.words;
    let merges: Vec<String> = parts.merges.iter().map(|merge| merge.join(" ")).collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": parts.added(),
        "normalizer": words.normalizer(),
        "pre_tokenizer": words.pre_tokenizer(),
        "post_processor": post_processor(header, words)?,
        "decoder": bytes(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": words.ignores_merges(),
            "vocab": parts.vocabulary(),
            "merges": merges,
        },
    });
    Ok(json.to_string())
}

/// `post_processor` of a `tokenizer.json`: the token that begins every text, if there is one.
fn post_processor(header: &Header, words: Words) -> Result<Value> {
    let begins = header.flag(ADD_BOS)?.unwrap_or(words == Words::Llama);
    let Some((id, token)) = named_token(header, "bos").filter(|_| begins) else {
        return Ok(bytes(false));
    };
    let first = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |name: &str, kind: u64| json!({ "Sequence": { "id": name, "type_id": kind } });
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [first, text("A", 0)],
        "pair": [first, text("A", 0), text("B", 1)],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    }))
}

/// Id and text of the token with a role (`bos`, `eos`, `padding`, `unknown` and others), if the
/// file names one that exists.
pub(crate) fn named_token<'h>(header: &'h Header, role: &str) -> Option<(u64, &'h str)> {
    let id = header.count(&format!("tokenizer.ggml.{role}_token_id")).ok()??;
    let tokens = header.texts(TOKENS).ok()??;
    Some((id, tokens.get(usize::try_from(id).ok()?)?))
}
