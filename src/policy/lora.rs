//! LoRA (Hu et al. 2021, arXiv 2106.09685): trainable corrections of low rank beside frozen weights, kept in PEFT's layout.

use crate::files::atomic_write;
use crate::policy::config::DecoderConfig;
use crate::policy::files::{load_tensors, save_tensors};
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The projections of a block that can have a correction, under Hugging Face's names.
pub const LORA_MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which weights get a correction: y = x Wᵀ + b + (α/r) (x Aᵀ) Bᵀ with A `[r, i]` and B `[o, r]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r.
    pub rank: usize,
    /// α.
    pub alpha: f64,
    /// Share of the corrections' inputs that a training forward drops; the others grow by 1/(1 − share).
    ///
    /// The log-probabilities of an update are then not those of the policy that sampled: 0 keeps their ratio at 1.
    pub dropout: f64,
    /// Names of [`LORA_MODULES`].
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self::of_rank(16)
    }
}

impl LoraConfig {
    /// Rank r on every projection, with α = 2r and without dropout.
    pub fn of_rank(rank: usize) -> Self {
        let target_modules = LORA_MODULES.map(str::to_owned).to_vec();
        Self { rank, alpha: 2.0 * rank as f64, dropout: 0.0, target_modules }
    }

    /// α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A rank of 0, α that is not positive, a dropout outside [0, 1), and modules that are unknown, repeated or none.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::setting("model.lora.rank", 0, "must be at least 1"));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(Error::setting(
                "model.lora.alpha",
                self.alpha,
                "must be positive and finite",
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("model.lora.dropout", self.dropout, "must be in [0, 1)"));
        }
        let modules = &self.target_modules;
        let wrong = |(i, name): &(usize, &String)| {
            !LORA_MODULES.contains(&name.as_str()) || modules[..*i].contains(name)
        };
        if let Some((_, name)) = modules.iter().enumerate().find(wrong) {
            let reason = format!("must be one of {LORA_MODULES:?}, each once");
            return Err(Error::setting("model.lora.target_modules", name, reason));
        }
        if modules.is_empty() {
            return Err(Error::setting("model.lora.target_modules", "[]", "names no projection"));
        }
        Ok(())
    }

    /// Whether a part of a block such as `self_attn.q` gets a correction.
    pub(crate) fn targets_module(&self, part: &str) -> bool {
        let name = part.rsplit('.').next().unwrap_or(part);
        self.target_modules.iter().any(|module| module.strip_suffix("_proj") == Some(name))
    }

    /// (name of W without `.weight`, outputs, inputs) of every corrected weight, in model order.
    pub(crate) fn targets(&self, model: &DecoderConfig) -> Vec<(String, usize, usize)> {
        let target = |(name, shape): (String, Vec<usize>)| {
            let module = name.strip_suffix(".weight")?;
            let last = module.rsplit('.').next()?;
            let chosen = self.target_modules.iter().any(|m| m == last);
            chosen.then(|| (module.to_owned(), shape[0], shape[1]))
        };
        model.parameter_shapes().into_iter().filter_map(target).collect()
    }
}

/// The names of A and B beside the weight of `module`.
pub(crate) fn names(module: &str) -> [String; 2] {
    ["A", "B"].map(|which| format!("{module}.lora_{which}.weight"))
}

/// Whether a parameter is a correction's.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT puts before a parameter's name.
const PREFIX: &str = "base_model.model.";

impl Parameters {
    /// Freezes all parameters and adds a correction to each of the chosen weights: A uniform in ±1/√i, B zero, so that the
    /// model is the same at first. Corrections of bf16 and f16 weights are f32.
    ///
    /// # Errors
    /// An invalid configuration, parameters of another model, or parameters that have corrections already.
    pub fn with_lora(self, model: &DecoderConfig, lora: &LoraConfig, seed: u64) -> Result<Self> {
        self.with_lora_from(model, lora, &Stream::new(seed, Purpose::Lora, 0, 0, 0))
    }

    /// [`Parameters::with_lora`] with draws of `stream`.
    pub(crate) fn with_lora_from(
        self,
        model: &DecoderConfig,
        lora: &LoraConfig,
        stream: &Stream,
    ) -> Result<Self> {
        let adapters =
            lora.targets(model).into_iter().zip(0..).flat_map(|((module, o, i), index)| {
                let mut draws = stream.generator(index);
                let bound = (i as f64).sqrt().recip();
                let a: Vec<f64> =
                    (0..lora.rank * i).map(|_| bound * signed_unit(&mut draws)).collect();
                let [a_name, b_name] = names(&module);
                [(a_name, a, (lora.rank, i)), (b_name, vec![0.0; o * lora.rank], (o, lora.rank))]
            });
        let tensor =
            |(name, values, shape)| Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?));
        let adapters = adapters.map(tensor).collect::<Result<_>>()?;
        self.with_adapters(model, lora, adapters)
    }

    fn with_adapters(
        mut self,
        model: &DecoderConfig,
        lora: &LoraConfig,
        mut adapters: BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        lora.validate()?;
        if self.lora.is_some() {
            return Err(Error::setting("lora", "parameters", "have corrections already"));
        }
        let frozen: Vec<String> = self.iter().map(|(name, _)| name.to_owned()).collect();
        frozen.iter().try_for_each(|name| self.set_trainable(name, false))?;
        for (module, o, i) in lora.targets(model) {
            let weight = self.get(&format!("{module}.weight"))?;
            let dtype = if weight.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let device = weight.device().clone();
            for (name, shape) in names(&module).into_iter().zip([[lora.rank, i], [o, lora.rank]]) {
                let missing = || Error::setting(&name, "missing", "the adapter has no such tensor");
                let tensor = adapters.remove(&name).ok_or_else(missing)?;
                if tensor.dims() != shape {
                    let reason =
                        format!("shape {:?} where the model needs {shape:?}", tensor.dims());
                    return Err(Error::setting(name, "tensor", reason));
                }
                self.insert(name, &tensor.to_dtype(dtype)?.to_device(&device)?)?;
            }
        }
        if let Some(name) = adapters.keys().next() {
            return Err(Error::setting(
                name,
                "tensor",
                "the adapter's configuration has no such tensor",
            ));
        }
        self.lora = Some(lora.clone());
        Ok(self)
    }

    /// The corrections' configuration, where there are any.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Weights with their corrections added, W + (α/r) B A, rounded once to the weights' type; nothing is frozen.
    ///
    /// # Errors
    /// A failed product.
    pub fn merged(&self, model: &DecoderConfig) -> Result<Self> {
        let mut tensors = self.base_tensors();
        for (module, ..) in self.lora.iter().flat_map(|lora| lora.targets(model)) {
            let [a, b] = names(&module);
            let (a, b) = (self.get(&a)?.as_detached_tensor(), self.get(&b)?.as_detached_tensor());
            let scale = self.lora.as_ref().map_or(0.0, LoraConfig::scale);
            let name = format!("{module}.weight");
            if let Some(weight) = tensors.get_mut(&name) {
                let sum = (weight.to_dtype(a.dtype())? + (b.matmul(&a)? * scale)?)?;
                *weight = sum.to_dtype(weight.dtype())?;
            }
        }
        Self::from_tensors(model, tensors)
    }

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

fn signed_unit(draws: &mut impl rand_chacha::rand_core::RngCore) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
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
