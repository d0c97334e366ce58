//! The policy of a run: a small one of its own, or a model checkpoint.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::policy::config::DecoderConfig;
use crate::policy::files::warn_once;
use crate::policy::lora::LoraConfig;
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::Pretrained;
use crate::policy::source::Source;
use crate::rollout::action::ActionFormat;
use crate::rollout::prompt::Prompter;
use crate::settings::{off, Count, Date};
use crate::{Error, Result};

/// Most weights of a small policy.
const MOST_WEIGHTS: f64 = 1e10;

/// Width of an attention head of a small policy.
const HEAD: usize = 32;

/// The policy of a run, by `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ModelConfig {
    /// A small decoder with seeded fresh weights and a tokenizer of its own.
    Small(SmallConfig),
    /// A model checkpoint in Hugging Face's layout or in a GGUF file.
    Checkpoint(CheckpointConfig),
}

/// A small policy: a decoder of the Qwen2 family with heads of width 32, two query heads per
/// key/value head if their number is even, and tied embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmallConfig {
    /// Most entries of the tokenizer's vocabulary.
    pub vocabulary: Count,
    /// Width, a multiple of 32.
    pub hidden_size: Count,
    /// Decoder blocks.
    pub layers: Count,
    /// Most tokens of an episode.
    pub context: Count,
    /// Element type of the weights.
    pub dtype: WeightType,
    /// Device of the policy.
    pub device: DeviceKind,
}

impl Default for SmallConfig {
    fn default() -> Self {
        Self {
            vocabulary: Count::literal(1024),
            hidden_size: Count::literal(128),
            layers: Count::literal(2),
            context: Count::literal(1024),
            dtype: WeightType::F32,
            device: DeviceKind::Cpu,
        }
    }
}

impl SmallConfig {
    /// The decoder for a vocabulary of `vocab_size` entries.
    ///
    /// # Errors
    /// [`Error::Setting`] for a width that is not a multiple of 32.
    pub fn decoder(&self, vocab_size: usize) -> Result<DecoderConfig> {
        let hidden_size = self.hidden_size.get();
        if !hidden_size.is_multiple_of(HEAD) {
            let reason = "must be a multiple of 32";
            return Err(Error::setting("model.hidden_size", hidden_size, reason));
        }
        let heads = hidden_size / HEAD;
        let config = DecoderConfig {
            hidden_size,
            intermediate_size: 3 * hidden_size,
            num_hidden_layers: self.layers.get(),
            num_attention_heads: heads,
            num_key_value_heads: heads / (2 - heads % 2),
            max_position_embeddings: self.context.get(),
            // 0.02 suits widths of thousands: with it, a narrow policy hardly gets past token
            // frequencies.
            initializer_range: (hidden_size as f64).sqrt().recip(),
            ..DecoderConfig::tiny(vocab_size)
        };
        config.validate()?;
        let weights: f64 = config
            .parameter_shapes()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&size| size as f64).product::<f64>())
            .sum();
        if weights > MOST_WEIGHTS {
            let layers = self.layers;
            let reason = format!(
                "{layers} layers and {vocab_size} tokens make {weights:.1e} weights; \
                 a small policy has at most {MOST_WEIGHTS:.0e}"
            );
            return Err(Error::setting("model.hidden_size", hidden_size, reason));
        }
        Ok(config)
    }
}

/// A model checkpoint as the policy, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// A folder in Hugging Face's layout, the name of a published model (feature `models`), or a
    /// repository `owner/name` (feature `hub`).
    pub source: String,
    /// Names of unknown fields of `config.json` that do not change the model.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Most tokens of an episode; `false` for as many as the model was made for.
    #[serde(with = "off", default)]
    pub context: Option<Count>,
    /// LoRA adapters on frozen weights; `false` trains all weights.
    #[serde(with = "off", default)]
    pub lora: Option<LoraConfig>,
    /// The form in which the policy writes its actions.
    #[serde(default)]
    pub format: ActionFormat,
    /// The date that chat templates print: one for the whole run, never the clock's.
    #[serde(default = "default_date")]
    pub date: Date,
    /// Gradient checkpointing: keep the inputs of the blocks alone, and compute the rest twice.
    #[serde(default)]
    pub checkpointing: bool,
    /// Element type of the weights.
    #[serde(default)]
    pub dtype: WeightType,
    /// Device of the policy.
    #[serde(default)]
    pub device: DeviceKind,
}

impl CheckpointConfig {
    /// All weights of the checkpoint `source` in f32 on the CPU, actions written plainly.
    pub fn new(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            ignore: Vec::new(),
            context: None,
            lora: None,
            format: ActionFormat::default(),
            date: default_date(),
            checkpointing: false,
            dtype: WeightType::default(),
            device: DeviceKind::default(),
        }
    }

    /// Opens the checkpoint. A sliding window limits the context to its length; a warning says so
    /// if the settings state no context.
    ///
    /// # Errors
    /// See [`Pretrained::open_ignoring`] and [`Pretrained::with_context`].
    pub fn open(&self) -> Result<Pretrained> {
        let model = Pretrained::open_ignoring(Source::open(&self.source)?, &self.ignore)?;
        if let Some(tokens) = self.context {
            return model.with_context(tokens.get());
        }
        if let Some(window) = model.window() {
            warn_once(&format!(
                "{}: the model's sliding_window limits episodes to {window} tokens \
                 (model.context)",
                model.source()
            ));
        }
        Ok(model)
    }

    /// Its weights, without adapters.
    pub(crate) fn base(&self, model: &Pretrained, device: &Device) -> Result<Parameters> {
        match self.dtype {
            WeightType::Quantized => model.quantized_parameters(),
            WeightType::F32 | WeightType::Bf16 => model.parameters(self.dtype.dtype(), device),
        }
    }

    /// Checks that quantised weights can be used, and the LoRA settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first setting that does not fit.
    pub(crate) fn check(&self) -> Result<()> {
        if self.dtype == WeightType::Quantized {
            let refused = |reason| Err(Error::setting("model.dtype", "quantized", reason));
            if self.lora.is_none() {
                return refused("quantised weights are frozen: set model.lora, such as --lora 16");
            }
            if self.device != DeviceKind::Cpu {
                return refused("quantised weights are computed on the CPU only (model.device)");
            }
        }
        self.lora.as_ref().map_or(Ok(()), LoraConfig::validate)
    }

    /// Its weights, with fresh LoRA adapters if those are trained.
    pub(crate) fn parameters(
        &self,
        model: &Pretrained,
        seed: u64,
        device: &Device,
    ) -> Result<Parameters> {
        let parameters = self.base(model, device)?;
        match &self.lora {
            Some(lora) => parameters.with_lora(model.config(), lora, seed),
            None => Ok(parameters),
        }
    }

    /// Its chat template as prompts.
    pub(crate) fn prompter(
        &self,
        model: &Pretrained,
        observation_tokens: usize,
    ) -> Result<Prompter> {
        let mut template = model.chat_template()?;
        template.set_time(self.date.seconds());
        Prompter::chat(model.tokenizer()?, &template, self.format, observation_tokens)
    }
}

/// The default of [`CheckpointConfig::date`]. Two runs with the same settings must be equal on any
/// day, so it is fixed: the date that Llama 3's templates print if they know of no clock.
const fn default_date() -> Date {
    Date::literal(2024, 7, 26)
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Small(SmallConfig::default())
    }
}

impl ModelConfig {
    /// The model checkpoint's settings, if the policy is one.
    pub fn checkpoint(&self) -> Option<&CheckpointConfig> {
        match self {
            Self::Small(_) => None,
            Self::Checkpoint(config) => Some(config),
        }
    }

    /// Element type of the weights.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Small(config) => config.dtype.dtype(),
            Self::Checkpoint(config) => config.dtype.dtype(),
        }
    }

    /// Opens the device of the policy.
    ///
    /// # Errors
    /// [`Error::Setting`] for a device that this machine or this build does not have.
    pub fn open_device(&self) -> Result<Device> {
        let kind = match self {
            Self::Small(config) => config.device,
            Self::Checkpoint(config) => config.device,
        };
        kind.open()
    }

    /// Opens the device and reads the whole model checkpoint once, so that what is missing or
    /// damaged is reported before a run folder exists.
    ///
    /// # Errors
    /// See [`ModelConfig::open_device`], [`CheckpointConfig::open`] and [`Pretrained::verify`]; a
    /// tokenizer or chat template that is missing or cannot be used.
    pub fn available(&self) -> Result<()> {
        self.open_device()?;
        let Some(checkpoint) = self.checkpoint() else { return Ok(()) };
        let model = checkpoint.open()?;
        checkpoint.prompter(&model, 1)?;
        if checkpoint.dtype == WeightType::Quantized {
            model.check_quantized()?;
        }
        model.verify()
    }

    /// Names the checkpoint's folder by its whole path, so that the run can be resumed from
    /// another folder. The name of a published model stays, so that the run can be resumed on
    /// another machine.
    pub fn make_absolute(&mut self) {
        if let Self::Checkpoint(config) = self {
            config.source = absolute(&config.source);
        }
    }

    /// Changes where the model checkpoint of a resumed run is.
    pub(crate) fn relocate(&mut self, source: &str) -> Result<()> {
        match self {
            Self::Checkpoint(config) => {
                config.source = absolute(source);
                Ok(())
            }
            Self::Small(_) => {
                let reason = "this run did not start from a model checkpoint";
                Err(Error::setting("model.source", source, reason))
            }
        }
    }
}

/// The whole path of a folder, and any other text as it is.
fn absolute(name: &str) -> String {
    match std::fs::canonicalize(name) {
        Ok(folder) => folder.display().to_string(),
        Err(_) => name.to_owned(),
    }
}

/// The element type of a policy's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightType {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16; trained weights have an f32 master copy.
    Bf16,
    /// The quantised blocks of a GGUF file: frozen, with LoRA adapters in f32 (QLoRA). CPU only.
    Quantized,
}

impl WeightType {
    /// candle's name of the type; that of the arithmetic for quantised weights.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Quantized => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU; needs the feature `cuda`.
    Cuda,
    /// Apple's GPU; needs the feature `metal`.
    Metal,
}

impl DeviceKind {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Setting`] for a device that this machine or this build does not have.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => open_cuda(),
            Self::Metal => open_metal(),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda() -> Result<Device> {
    use crate::kernels::gpu::cuda::{check, open};
    let device = open(0).map_err(|error| {
        let reason = format!("{error} (`nvidia-smi` lists the driver and its devices)");
        Error::setting("model.device", "cuda", reason)
    })?;
    check(&device).map_err(|error| {
        let reason = format!(
            "the device does not run this build's kernels: {error}. Build for its compute \
             capability (CUDA_COMPUTE_CAP=80 or 90, for example), or update the driver"
        );
        Error::setting("model.device", "cuda", reason)
    })?;
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> Result<Device> {
    Err(without("cuda"))
}

#[cfg(feature = "metal")]
fn open_metal() -> Result<Device> {
    Device::new_metal(0).map_err(|error| Error::setting("model.device", "metal", error.to_string()))
}

#[cfg(not(feature = "metal"))]
fn open_metal() -> Result<Device> {
    Err(without("metal"))
}

/// The error of a build without the feature of a device.
#[cfg(not(all(feature = "cuda", feature = "metal")))]
fn without(feature: &str) -> Error {
    let reason = format!("this program was built without it: build with `--features {feature}`");
    Error::setting("model.device", feature, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn a_device_without_its_feature_is_refused_with_the_way_out() {
        for (kind, feature) in [(DeviceKind::Cuda, "cuda"), (DeviceKind::Metal, "metal")] {
            let error = kind.open().unwrap_err().to_string();
            assert!(error.contains(&format!("--features {feature}")), "{error}");
        }
        assert!(DeviceKind::Cpu.open().is_ok());
    }

    #[test]
    fn a_folder_becomes_its_whole_path_and_any_other_name_stays() {
        let source = |name: &str| {
            let mut model = ModelConfig::Checkpoint(CheckpointConfig::new("before"));
            model.relocate(name).unwrap();
            let relocated = model.checkpoint().unwrap().source.clone();
            model = ModelConfig::Checkpoint(CheckpointConfig::new(name));
            model.make_absolute();
            assert_eq!(model.checkpoint().unwrap().source, relocated);
            relocated
        };
        for name in ["smollm2-135m-instruct", "owner/name"] {
            assert_eq!(source(name), name);
        }
        let src = std::fs::canonicalize("src").unwrap();
        assert_eq!(source("src"), src.to_str().unwrap());
    }
}
