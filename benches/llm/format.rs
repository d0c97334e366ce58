//! Formats of this crate's weights, and their counterparts.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use epo::kernels::QuantizedMatrix;
use epo::policy::{DecoderConfig, Parameters, Pretrained};

/// The format of this crate's weights.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    F32,
    Bf16,
    /// Frozen blocks of GGML.
    Q8_0,
    /// Frozen blocks of GGML, below an embedding in Q8_0.
    Q4_1,
}

impl Format {
    pub(crate) const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8_0, Self::Q4_1];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
        }
    }

    /// The closest format of PyTorch and vLLM.
    pub(crate) fn of_torch(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 | Self::Q8_0 | Self::Q4_1 => "f32",
        }
    }

    /// The closest format of llama.cpp.
    pub(crate) fn of_llama(self) -> &'static str {
        match self {
            Self::Bf16 => "f16",
            Self::F32 | Self::Q8_0 | Self::Q4_1 => self.name(),
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        let format = Self::ALL.into_iter().find(|format| format.name() == name);
        format.with_context(|| format!("no format is called {name:?}"))
    }

    pub(crate) fn parameters(self, model: &Pretrained) -> Result<Parameters> {
        let dense = |dtype| Ok(model.parameters(dtype, &Device::Cpu)?);
        match self {
            Self::F32 => dense(DType::F32),
            Self::Bf16 => dense(DType::BF16),
            Self::Q8_0 => quantized(model.config(), &dense(DType::F32)?, GgmlDType::Q8_0),
            Self::Q4_1 => quantized(model.config(), &dense(DType::F32)?, GgmlDType::Q4_1),
        }
    }
}

/// Quantises the embedding to Q8_0 and all other matrices to `format`.
fn quantized(
    config: &DecoderConfig,
    parameters: &Parameters,
    format: GgmlDType,
) -> Result<Parameters> {
    let mut tensors = BTreeMap::new();
    let mut quantized = BTreeMap::new();
    for (name, tensor) in parameters.tensors() {
        let format = if name.contains("embed") { GgmlDType::Q8_0 } else { format };
        if tensor.rank() == 2 {
            quantized.insert(name, QuantizedMatrix::quantize(&tensor, format)?);
        } else {
            tensors.insert(name, tensor);
        }
    }
    Ok(Parameters::with_quantized(config, tensors, quantized)?)
}
