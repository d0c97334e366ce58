//! Parameters with LoRA adapters.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::lora::{is_adapter, names, LoraConfig};
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

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

    pub(crate) fn with_adapters(
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

    /// The weights below corrections of low rank, sharing them with these: nothing is copied.
    pub fn without_lora(mut self) -> Self {
        let adapters: Vec<String> =
            self.iter().map(|(name, _)| name.to_owned()).filter(|name| is_adapter(name)).collect();
        adapters.iter().for_each(|name| self.remove(name));
        self.lora = None;
        self
    }
}

fn signed_unit(draws: &mut impl rand_chacha::rand_core::RngCore) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}
