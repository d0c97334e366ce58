//! Adapter files in PEFT's layout.

use crate::files::atomic_write;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::lora::{is_adapter, LoraConfig};
use crate::policy::parameters::Parameters;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT puts before a parameter's name.
const PREFIX: &str = "base_model.model.";

impl Parameters {
    /// Writes the corrections as `adapter_config.json` and `adapter_model.safetensors` into `folder`, each atomically;
    /// `base` is what the configuration names as the model below them.
    ///
    /// # Errors
    /// Parameters without corrections, or a file that cannot be written.
    pub fn save_adapter(&self, folder: impl AsRef<Path>, base: &str) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        self.save_adapter_weights(&folder.join(ADAPTER_WEIGHTS))?;
        self.save_adapter_config(&folder.join(ADAPTER_CONFIG), base)
    }

    pub(crate) fn save_adapter_weights(&self, path: &Path) -> Result<()> {
        let adapters = self.tensors().into_iter().filter(|(name, _)| is_adapter(name));
        save_tensors(
            path,
            &adapters.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect(),
        )
    }

    pub(crate) fn save_adapter_config(&self, path: &Path, base: &str) -> Result<()> {
        let lora = self
            .lora()
            .ok_or_else(|| Error::setting("lora", "parameters", "have no corrections"))?;
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

    /// These parameters, frozen, with the corrections that [`Parameters::save_adapter`] or PEFT wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged, a tensor that is missing, unknown or of another shape, and settings that
    /// change the maths in another way than rank, α, dropout and modules.
    pub fn load_adapter(self, model: &DecoderConfig, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        self.with_adapter_files(model, &folder.join(ADAPTER_CONFIG), &folder.join(ADAPTER_WEIGHTS))
    }

    pub(crate) fn with_adapter_files(
        self,
        model: &DecoderConfig,
        config: &Path,
        weights: &Path,
    ) -> Result<Self> {
        let (lora, path) = (read_adapter_config(config)?, weights);
        let tensors = load_tensors(path, &Device::Cpu)?;
        let strip = |(name, tensor): (String, Tensor)| {
            (name.strip_prefix(PREFIX).map_or_else(|| name.clone(), str::to_owned), tensor)
        };
        let adapters = tensors.into_iter().map(strip).collect();
        self.with_adapters(model, &lora, adapters)
            .map_err(|e| Error::file(path, "tensors", e.to_string()))
    }
}

/// Settings of PEFT's that leave the maths alone only at these values.
fn neutral(field: &str, value: &Value) -> bool {
    match field {
        "bias" => value == "none",
        "peft_type" => value == "LORA",
        "fan_in_fan_out" | "use_rslora" | "use_dora" | "use_qalora" | "lora_bias" => value == false,
        "modules_to_save"
        | "layers_to_transform"
        | "layers_pattern"
        | "trainable_token_indices"
        | "target_parameters"
        | "exclude_modules" => is_empty(value),
        "rank_pattern" | "alpha_pattern" => is_empty(value),
        _ => true,
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn read_adapter_config(path: &Path) -> Result<LoraConfig> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let fields: BTreeMap<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(path, "json", e.to_string()))?;
    if let Some((field, value)) = fields.iter().find(|(field, value)| !neutral(field, value)) {
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
    lora.validate().map_err(|e| Error::file(path, "adapter", e.to_string()))?;
    Ok(lora)
}
