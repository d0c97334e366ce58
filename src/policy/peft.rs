//! LoRA adapters as files in PEFT's layout, which PEFT and vLLM load directly.
//!
//! PEFT's configuration has many settings that change the maths; [`read_adapter_config`] honours or
//! refuses each of them. The tensors must be exactly those that the configuration describes.

use crate::files::atomic_write;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::lora::is_adapter;
use crate::policy::parameters::Parameters;
use crate::policy::peft_config::read_adapter_config;
use crate::policy::pretrained::names::standard_name;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde_json::json;
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
    /// A missing or damaged file; a tensor that is missing, unknown, of the wrong shape or not
    /// finite; a setting (by name and value) that makes it something else than LoRA with one rank
    /// and one α on the same projections of every layer.
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
        let lora = read_adapter_config(config, model)?;
        if !weights.exists() && weights.with_extension("bin").exists() {
            let reason = "is missing; adapter_model.bin is not safetensors: load it with PEFT and \
                save it again";
            return Err(Error::file(weights, "tensors", reason));
        }
        let mut adapters: BTreeMap<String, Tensor> = BTreeMap::new();
        for (stored, tensor) in load_tensors(weights, &Device::Cpu)? {
            let name = standard_name(&stored);
            if adapters.insert(name.clone(), tensor).is_some() {
                return Err(Error::file(weights, stored, format!("is another name of {name}")));
            }
        }
        self.with_adapters(model, &lora, adapters)
            .map_err(|e| Error::file(weights, "tensors", e.to_string()))
    }
}
