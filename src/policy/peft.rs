//! LoRA adapters as files in PEFT's layout, which PEFT and vLLM load directly.
//!
//! PEFT's configuration has many settings that change the maths (DoRA, rank-stabilised scaling,
//! patterns of ranks, …). Reading accepts them only at the values that leave plain LoRA unchanged.

use crate::files::atomic_write;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{load_tensors, read_json, save_tensors};
use crate::policy::lora::{is_adapter, LoraConfig};
use crate::policy::parameters::Parameters;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// PEFT's prefix of parameter names.
const PREFIX: &str = "base_model.model.";

impl Parameters {
    /// Writes the adapters as `adapter_config.json` and `adapter_model.safetensors` into `folder`,
    /// each atomically.
    ///
    /// `base` is the name or folder of the base model, for the configuration's
    /// `base_model_name_or_path`.
    ///
    /// # Errors
    /// Parameters without adapters, or a file that cannot be written.
    pub fn save_adapter(&self, folder: impl AsRef<Path>, base: &str) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        self.save_adapter_weights(&folder.join(ADAPTER_WEIGHTS))?;
        self.save_adapter_config(&folder.join(ADAPTER_CONFIG), base)
    }

    /// Writes `adapter_model.safetensors`.
    pub(crate) fn save_adapter_weights(&self, path: &Path) -> Result<()> {
        let adapters = self.tensors().into_iter().filter(|(name, _)| is_adapter(name));
        save_tensors(
            path,
            &adapters.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect(),
        )
    }

    /// Writes `adapter_config.json`.
    pub(crate) fn save_adapter_config(&self, path: &Path, base: &str) -> Result<()> {
        let lora =
            self.lora().ok_or_else(|| Error::setting("lora", "parameters", "have no adapters"))?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": lora.target_modules,
            "bias": "none",
            "fan_in_fan_out": false,
            "use_rslora": false,
            "use_dora": false,
            "inference_mode": true,
        });
        atomic_write(path, format!("{config:#}\n").as_bytes())
    }

    /// Freezes these parameters and adds the adapters that [`Parameters::save_adapter`] or PEFT
    /// wrote.
    ///
    /// # Errors
    /// A missing or damaged file, a tensor that is missing, unknown or of the wrong shape, or a
    /// setting that makes it something else than plain LoRA.
    pub fn load_adapter(self, model: &DecoderConfig, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        self.with_adapter_files(model, &folder.join(ADAPTER_CONFIG), &folder.join(ADAPTER_WEIGHTS))
    }

    /// [`Parameters::load_adapter`] from two given files.
    pub(crate) fn with_adapter_files(
        self,
        model: &DecoderConfig,
        config: &Path,
        weights: &Path,
    ) -> Result<Self> {
        let lora = read_adapter_config(config)?;
        let tensors = load_tensors(weights, &Device::Cpu)?;
        let strip = |(name, tensor): (String, Tensor)| {
            (name.strip_prefix(PREFIX).map_or_else(|| name.clone(), str::to_owned), tensor)
        };
        let adapters = tensors.into_iter().map(strip).collect();
        self.with_adapters(model, &lora, adapters)
            .map_err(|e| Error::file(weights, "tensors", e.to_string()))
    }
}

/// Returns true if a PEFT setting leaves plain LoRA unchanged.
fn is_neutral(field: &str, value: &Value) -> bool {
    match field {
        "bias" => value == "none",
        "peft_type" => value == "LORA",
        "fan_in_fan_out" | "use_rslora" | "use_dora" | "use_qalora" | "lora_bias" => value == false,
        "modules_to_save"
        | "layers_to_transform"
        | "layers_pattern"
        | "trainable_token_indices"
        | "target_parameters"
        | "exclude_modules"
        | "rank_pattern"
        | "alpha_pattern" => is_empty(value),
        _ => true,
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// Reads the settings of an `adapter_config.json`.
fn read_adapter_config(path: &Path) -> Result<LoraConfig> {
    let fields: BTreeMap<String, Value> = read_json(path)?;
    if let Some((field, value)) = fields.iter().find(|(field, value)| !is_neutral(field, value)) {
        return Err(Error::file(path, field.clone(), format!("{value}: not supported")));
    }
    let get = |field: &str| {
        fields.get(field).cloned().ok_or_else(|| Error::file(path, field, "the field is required"))
    };
    let read = |field: &str| -> Result<f64> {
        let value = get(field)?;
        value
            .as_f64()
            .ok_or_else(|| Error::file(path, field, format!("{value}: a number is required")))
    };
    let modules = get("target_modules")?;
    let lora = LoraConfig {
        rank: read("r")? as usize,
        alpha: read("lora_alpha")?,
        dropout: fields.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
        target_modules: serde_json::from_value(modules.clone())
            .map_err(|e| Error::file(path, "target_modules", format!("{modules}: {e}")))?,
    };
    lora.check().map_err(|(field, value, reason)| {
        let field = match field {
            "rank" => "r".to_owned(),
            "target_modules" => field.to_owned(),
            _ => format!("lora_{field}"),
        };
        Error::file(path, field, format!("{value}: {reason}"))
    })?;
    Ok(lora)
}
