//! Which policy a run trains: a small one of its own, or a checkpoint.

use crate::policy::lora::LoraConfig;
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::Pretrained;
use crate::policy::source::Source;
use crate::rollout::action::ActionFormat;
use crate::rollout::prompt::Prompter;
use crate::train::learn::agent::PolicyConfig;
use crate::{Error, Result};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A pretrained checkpoint as the policy, and how it is trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder in Hugging Face's layout, or with the feature `hub` a repository `owner/name`; none: a small policy of the run's
    /// own ([`PolicyConfig`]).
    pub source: Option<String>,
    /// Most tokens of an episode; none: as many as the checkpoint was made for.
    pub context: Option<usize>,
    /// Train corrections of low rank beside frozen weights; none: all weights.
    pub lora: Option<LoraConfig>,
    /// What the weights are stored in.
    pub dtype: WeightType,
    /// How the policy writes its actions.
    pub format: ActionFormat,
    /// Keep only the blocks' inputs for the backward pass, and compute the rest twice.
    pub checkpointing: bool,
    /// Where the policy is computed.
    pub device: DeviceKind,
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
}

impl WeightType {
    /// candle's name for it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl FromStr for WeightType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::setting("dtype", name, "must be `f32` or `bf16`")),
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
    /// The device.
    ///
    /// # Errors
    /// A device that this machine or this build does not have.
    pub fn open(self) -> Result<Device> {
        let device = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Device::new_cuda(0),
            Self::Metal => Device::new_metal(0),
        };
        device.map_err(|e| {
            Error::setting("device", format!("{self:?}").to_lowercase(), e.to_string())
        })
    }
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "metal" => Ok(Self::Metal),
            _ => Err(Error::setting("device", name, "must be `cpu`, `cuda` or `metal`")),
        }
    }
}

impl ModelConfig {
    /// Refuses settings that nothing would follow.
    ///
    /// # Errors
    /// The first such setting, by name; corrections that are out of range.
    pub fn validate(&self, policy: &PolicyConfig) -> Result<()> {
        if let Some(lora) = &self.lora {
            lora.validate()?;
        }
        let unused = PolicyConfig { context: policy.context, ..PolicyConfig::default() };
        match (&self.source, &self.lora) {
            (None, Some(_)) => {
                Err(Error::setting("model.lora", "set", "needs a checkpoint: set model.source"))
            }
            (None, None) if self.format != ActionFormat::Plain => {
                let reason = "a small policy writes its actions plainly; set model.source";
                Err(Error::setting("model.format", format!("{:?}", self.format), reason))
            }
            (Some(_), _) if *policy != unused => {
                let reason =
                    "is the shape of a small policy; the checkpoint of model.source has its own";
                Err(Error::setting("policy", format!("{policy:?}"), reason))
            }
            _ => Ok(()),
        }
    }

    /// Takes over what is given, as from a command line. A folder becomes absolute, so that a run can be resumed elsewhere;
    /// with a checkpoint the shape of a small policy goes back to its default, which nothing uses.
    pub fn choose(
        &mut self,
        policy: &mut PolicyConfig,
        source: Option<&str>,
        lora_rank: Option<usize>,
        dtype: Option<WeightType>,
        device: Option<DeviceKind>,
    ) {
        if source.is_some() {
            *policy = PolicyConfig { context: policy.context, ..PolicyConfig::default() };
        }
        self.source = source.map(absolute).or(self.source.take());
        self.lora = lora_rank.map(LoraConfig::of_rank).or(self.lora.take());
        (self.dtype, self.device) = (dtype.unwrap_or(self.dtype), device.unwrap_or(self.device));
    }

    /// Says where the checkpoint is now, for a run that goes on.
    pub(crate) fn moved(&mut self, place: &str) -> Result<()> {
        let Some(source) = &mut self.source else {
            let reason = "this run's policy did not begin as a checkpoint";
            return Err(Error::setting("model.source", place, reason));
        };
        *source = absolute(place);
        Ok(())
    }

    /// Opens device and checkpoint, to say what is missing before a run has a folder.
    ///
    /// # Errors
    /// As [`DeviceKind::open`] and [`ModelConfig::open`].
    pub fn available(&self) -> Result<()> {
        self.device.open()?;
        self.open().map(drop)
    }

    /// The checkpoint, where there is one.
    ///
    /// # Errors
    /// As [`Pretrained::open`] and [`Pretrained::with_context`].
    pub fn open(&self) -> Result<Option<Pretrained>> {
        let Some(name) = &self.source else { return Ok(None) };
        let model = Pretrained::open(Source::open(name)?)?;
        match self.context {
            Some(tokens) => model.with_context(tokens).map(Some),
            None => Ok(Some(model)),
        }
    }

    /// Its weights, with fresh corrections where those are trained.
    pub(crate) fn parameters(
        &self,
        model: &Pretrained,
        seed: u64,
        device: &Device,
    ) -> Result<Parameters> {
        let parameters = model.parameters(self.dtype.dtype(), device)?;
        match &self.lora {
            Some(lora) => parameters.with_lora(model.config(), lora, seed),
            None => Ok(parameters),
        }
    }

    /// Its chat template as prompts.
    pub(crate) fn prompter(
        &self,
        model: &Pretrained,
        max_observation_tokens: usize,
    ) -> Result<Prompter> {
        Prompter::chat(
            model.tokenizer()?,
            &model.chat_template()?,
            self.format,
            max_observation_tokens,
        )
    }
}

/// The whole path of a folder, and anything else as it is.
fn absolute(name: &str) -> String {
    match std::fs::canonicalize(name) {
        Ok(folder) => folder.display().to_string(),
        Err(_) => name.to_owned(),
    }
}
