//! The sampling settings that a model checkpoint recommends.

use crate::policy::files::read_json;
use crate::policy::sampling::SamplingParams;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
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

/// The ids of `eos_token_id`: one, or a list of several. Some files write −1 for none.
fn eos_token_ids(map: &Map<String, Value>, path: &Path) -> Result<Vec<u32>> {
    const FIELD: &str = "eos_token_id";
    let values = match map.get(FIELD) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(values)) => &values[..],
        Some(value) => std::slice::from_ref(value),
    };
    let mut ids = Vec::with_capacity(values.len());
    for value in values {
        let id = value.as_i64().filter(|&id| id <= i64::from(u32::MAX));
        let Some(id) = id else {
            let reason = format!("= {value}: must be a token id, or a list of them");
            return Err(Error::file(path, FIELD, reason));
        };
        match u32::try_from(id) {
            Ok(id) if !ids.contains(&id) => ids.push(id),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(ids)
}

/// A field that only serving uses; a value that is not usable is as good as none.
fn advice<T: DeserializeOwned>(map: &Map<String, Value>, name: &str) -> Option<T> {
    let value = match map.get(name)? {
        // Some files write the id at the beginning of a text as a list.
        Value::Array(list) if !list.is_empty() => &list[0],
        value => value,
    };
    serde_json::from_value(value.clone()).ok()
}

impl GenerationConfig {
    /// Reads a `generation_config.json`, or the same fields of a `config.json`, where older
    /// checkpoints keep them.
    ///
    /// Training uses `eos_token_id` alone. Any other field with a value that cannot be used, such
    /// as `"top_k": -1`, counts as not set.
    ///
    /// # Errors
    /// An unreadable file, or an `eos_token_id` that is no token id.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_fields(&read_json(path)?, path)
    }

    /// The same fields of a JSON object; `path` is the file for errors.
    pub(crate) fn from_json(json: &Value, path: &Path) -> Result<Self> {
        Self::from_fields(&json.as_object().cloned().unwrap_or_default(), path)
    }

    fn from_fields(map: &Map<String, Value>, path: &Path) -> Result<Self> {
        Ok(Self {
            eos_token_ids: eos_token_ids(map, path)?,
            bos_token_id: advice(map, "bos_token_id"),
            pad_token_id: advice(map, "pad_token_id"),
            do_sample: advice(map, "do_sample"),
            temperature: advice(map, "temperature"),
            top_k: advice(map, "top_k"),
            top_p: advice(map, "top_p"),
            min_p: advice(map, "min_p"),
            repetition_penalty: advice(map, "repetition_penalty"),
            max_new_tokens: advice(map, "max_new_tokens"),
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
