//! How a checkpoint's authors sample from it.

use crate::policy::sampling::SamplingParams;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// What a `generation_config.json` recommends, as far as it concerns sampling; `None` where it says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Ids that end a turn.
    pub eos_token_ids: Vec<u32>,
    /// The id that begins a text.
    pub bos_token_id: Option<u32>,
    /// The id of padding.
    pub pad_token_id: Option<u32>,
    /// Whether to sample at all; otherwise the most probable token is taken.
    pub do_sample: Option<bool>,
    /// τ of softmax(logits/τ).
    pub temperature: Option<f64>,
    /// Sample from this many of the most probable tokens.
    pub top_k: Option<usize>,
    /// Sample from the fewest tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
    /// Sample from the tokens at least this fraction as probable as the most probable one.
    pub min_p: Option<f64>,
    /// By what the logits of earlier tokens are divided or multiplied.
    pub repetition_penalty: Option<f64>,
    /// Tokens per turn.
    pub max_new_tokens: Option<usize>,
}

/// One id or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

fn field<T: serde::de::DeserializeOwned>(
    map: &Map<String, Value>,
    path: &Path,
    name: &str,
) -> Result<Option<T>> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|e| Error::file(path, name, format!("{value}: {e}"))),
    }
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, "json", e.to_string()))
}

impl GenerationConfig {
    /// Reads a `generation_config.json`; a `config.json` of before there were such files has the ids too.
    ///
    /// # Errors
    /// An unreadable file, or a field of another type, by name.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let map = object(path)?;
        let eos: Option<Ids> = field(&map, path, "eos_token_id")?;
        Ok(Self {
            eos_token_ids: match eos {
                None => Vec::new(),
                Some(Ids::One(id)) => vec![id],
                Some(Ids::Many(ids)) => ids,
            },
            bos_token_id: field(&map, path, "bos_token_id")?,
            // Some files say −1 for none.
            pad_token_id: field::<i64>(&map, path, "pad_token_id")?
                .and_then(|id| u32::try_from(id).ok()),
            do_sample: field(&map, path, "do_sample")?,
            temperature: field(&map, path, "temperature")?,
            top_k: field(&map, path, "top_k")?,
            top_p: field(&map, path, "top_p")?,
            min_p: field(&map, path, "min_p")?,
            repetition_penalty: field(&map, path, "repetition_penalty")?,
            max_new_tokens: field(&map, path, "max_new_tokens")?,
        })
    }

    /// Sampling that ends at the checkpoint's ids, over the whole vocabulary and at τ = 1: what entropies of a policy
    /// are defined on. The recommended temperature and cut-offs are for serving, and are not taken over.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams { stop_ids: self.eos_token_ids.clone(), ..SamplingParams::default() }
    }

    /// Requires the ids that end a turn to be the model's.
    pub(crate) fn check(&self, path: &Path, vocab_size: usize) -> Result<()> {
        match self.eos_token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(id) => {
                let reason = format!("{id}: the model's ids are below vocab_size = {vocab_size}");
                Err(Error::file(path, "eos_token_id", reason))
            }
            None => Ok(()),
        }
    }
}
