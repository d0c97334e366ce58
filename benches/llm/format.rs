//! Formats of this crate's weights, and their counterparts.

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use epo::policy::{Parameters, Pretrained};

/// The element type of this crate's weights.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    F32,
    Bf16,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        let format = Self::ALL.into_iter().find(|format| format.name() == name);
        format.with_context(|| format!("no format is called {name:?}"))
    }

    pub(crate) fn parameters(self, model: &Pretrained) -> Result<Parameters> {
        let dtype = match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        };
        Ok(model.parameters(dtype, &Device::Cpu)?)
    }
}
