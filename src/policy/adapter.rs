//! Adding, merging and removing LoRA adapters of [`Parameters`].

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::lora::{is_adapter, names, LoraConfig};
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

impl Parameters {
    /// Freezes all parameters and adds an adapter to each of the chosen weights.
    ///
    /// A is uniform in ±1/√i for i inputs and B is zero, so the model's outputs do not change at
    /// first. Adapters of bf16 and f16 weights are f32.
    ///
    /// # Errors
    /// An invalid configuration, parameters of another model, or parameters that already have
    /// adapters.
    pub fn with_lora(self, model: &DecoderConfig, lora: &LoraConfig, seed: u64) -> Result<Self> {
        self.with_lora_from(model, lora, &Stream::new(seed, Purpose::Lora, 0, 0, 0))
    }

    /// [`Parameters::with_lora`] with draws from `stream`.
    pub(crate) fn with_lora_from(
        self,
        model: &DecoderConfig,
        lora: &LoraConfig,
        stream: &Stream,
    ) -> Result<Self> {
        let mut adapters = BTreeMap::new();
        for ((module, outputs, inputs), index) in lora.targets(model).into_iter().zip(0..) {
            let mut draws = stream.generator(index);
            let bound = (inputs as f64).sqrt().recip();
            let a: Vec<f64> =
                (0..lora.rank * inputs).map(|_| bound * signed_unit(&mut draws)).collect();
            let b = vec![0.0; outputs * lora.rank];
            let [a_name, b_name] = names(&module);
            adapters.insert(a_name, Tensor::from_vec(a, (lora.rank, inputs), &Device::Cpu)?);
            adapters.insert(b_name, Tensor::from_vec(b, (outputs, lora.rank), &Device::Cpu)?);
        }
        self.with_adapters(model, lora, adapters)
    }

    /// Freezes all parameters and adds these adapters, which must be exactly those of `lora`.
    pub(crate) fn with_adapters(
        mut self,
        model: &DecoderConfig,
        lora: &LoraConfig,
        mut adapters: BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        lora.validate()?;
        if self.lora.is_some() {
            return Err(Error::setting("lora", "parameters", "already have adapters"));
        }
        self.freeze();
        for (module, outputs, inputs) in lora.targets(model) {
            let weight = self.weight(&format!("{module}.weight"))?;
            let dtype = if weight.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let device = weight.device().clone();
            let shapes = [[lora.rank, inputs], [outputs, lora.rank]];
            for (name, shape) in names(&module).into_iter().zip(shapes) {
                let missing = || Error::setting(&name, "missing", "the adapter has no such tensor");
                let tensor = adapters.remove(&name).ok_or_else(missing)?;
                if tensor.dims() != shape {
                    let reason =
                        format!("has shape {:?}, the model needs {shape:?}", tensor.dims());
                    return Err(Error::setting(name, "tensor", reason));
                }
                self.insert(name, &tensor.to_dtype(dtype)?.to_device(&device)?)?;
            }
        }
        if let Some(name) = adapters.keys().next() {
            let reason = "the adapter's configuration has no such tensor";
            return Err(Error::setting(name, "tensor", reason));
        }
        self.lora = Some(lora.clone());
        Ok(self)
    }

    /// Settings of the adapters, if there are any.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// Merges the adapters into the weights, W + (α/r) B A, rounded once to the weights' dtype;
    /// quantised weights become f32. Nothing is frozen.
    ///
    /// # Errors
    /// A failed tensor operation.
    pub fn merged(&self, model: &DecoderConfig) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, weight) in self.base_weights() {
            tensors.insert(name, weight.to_tensor()?);
        }
        for (module, ..) in self.lora.iter().flat_map(|lora| lora.targets(model)) {
            let [a, b] = names(&module);
            let a = self.get(&a)?.as_detached_tensor();
            let b = self.get(&b)?.as_detached_tensor();
            let scale = self.lora.as_ref().map_or(0.0, LoraConfig::scale);
            let name = format!("{module}.weight");
            if let Some(weight) = tensors.get_mut(&name) {
                let sum = (weight.to_dtype(a.dtype())? + (b.matmul(&a)? * scale)?)?;
                *weight = sum.to_dtype(weight.dtype())?;
            }
        }
        Self::from_tensors(model, tensors)
    }

    /// Removes the adapters. The weights below them are shared, not copied.
    pub fn without_lora(mut self) -> Self {
        let adapters: Vec<String> =
            self.iter().map(|(name, _)| name.to_owned()).filter(|name| is_adapter(name)).collect();
        for name in &adapters {
            self.remove(name);
        }
        self.lora = None;
        self
    }
}

/// Draws a uniform number in [−1, 1).
fn signed_unit(draws: &mut impl rand_chacha::rand_core::RngCore) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}
