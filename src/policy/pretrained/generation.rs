//! The sampling settings that a model checkpoint recommends.

use crate::policy::files::read_json;
use crate::policy::sampling::SamplingParams;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// The sampling settings of a `generation_config.json`; `None` for fields that it does not set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Token ids that end a turn.
    pub eos_token_ids: Vec<u32>,
    /// Token id at the beginning of a text.
    pub bos_token_id: Option<u32>,
    /// Token id of padding.
    pub pad_token_id: Option<u32>,
    /// Sample (true) or take the most probable token (false).
    pub do_sample: Option<bool>,
    /// Temperature τ of softmax(logits/τ).
    pub temperature: Option<f64>,
    /// Sample from the k most probable tokens.
    pub top_k: Option<usize>,
    /// Sample from the smallest set of most probable tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
    /// Sample from the tokens that are at least this fraction as probable as the most probable one.
    pub min_p: Option<f64>,
    /// Factor that lowers the logits of earlier tokens.
    pub repetition_penalty: Option<f64>,
    /// Most tokens per turn.
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

impl GenerationConfig {
    /// Reads a `generation_config.json`, or the same fields of a `config.json`, where older
    /// checkpoints keep them.
    ///
    /// # Errors
    /// An unreadable file, or a field of the wrong type, by name.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let map: Map<String, Value> = read_json(path)?;
        let eos: Option<Ids> = field(&map, path, "eos_token_id")?;
        Ok(Self {
            eos_token_ids: match eos {
                None => Vec::new(),
                Some(Ids::One(id)) => vec![id],
                Some(Ids::Many(ids)) => ids,
            },
            bos_token_id: field(&map, path, "bos_token_id")?,
            // Some files write −1 for none.
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

    /// Sampling for training: stops at the checkpoint's ids, at τ = 1 over the whole vocabulary.
    ///
    /// The recommended temperature and cut-offs are meant for serving. They are ignored, because
    /// they would change the distribution whose entropy is controlled.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams { stop_ids: self.eos_token_ids.clone(), ..SamplingParams::default() }
    }

    /// Requires the ids that end a turn to be in the model's vocabulary.
    pub(crate) fn check(&self, path: &Path, vocab_size: usize) -> Result<()> {
        match self.eos_token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(id) => {
                let reason = format!("{id}: must be below vocab_size = {vocab_size}");
                Err(Error::file(path, "eos_token_id", reason))
            }
            None => Ok(()),
        }
    }
}
