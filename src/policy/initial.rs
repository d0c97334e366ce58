//! Initial values of a decoder's parameters.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::Result;
use candle_core::{DType, Device, Tensor};
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;

/// Draws a standard normal number (Box & Muller 1958).
fn normal(rng: &mut impl RngCore) -> f64 {
    let uniform = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let a = uniform(rng.next_u64());
    let b = uniform(rng.next_u64());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Draws the initial values of one parameter: norms 1, biases 0, weights N(0, `std`²).
fn initial_values(name: &str, count: usize, std: f64, stream: &Stream, index: usize) -> Vec<f64> {
    if name.ends_with("norm.weight") {
        return vec![1.0; count];
    }
    if name.ends_with(".bias") {
        return vec![0.0; count];
    }
    let mut rng = stream.generator(index as u64);
    (0..count).map(|_| std * normal(&mut rng)).collect()
}

impl Parameters {
    /// Draws initial parameters from a seed: weights N(0, initializer_range²), biases 0, norms 1.
    ///
    /// # Errors
    /// An invalid configuration, or a dtype that is not a float.
    pub fn init(config: &DecoderConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        Self::init_from(config, &Stream::new(seed, Purpose::Init, 0, 0, 0), dtype, device)
    }

    /// [`Parameters::init`] with draws from `stream`.
    pub(crate) fn init_from(
        config: &DecoderConfig,
        stream: &Stream,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let mut tensors = BTreeMap::new();
        for (index, (name, shape)) in config.parameter_shapes().into_iter().enumerate() {
            let values = initial_values(
                &name,
                shape.iter().product(),
                config.initializer_range,
                stream,
                index,
            );
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)?;
            tensors.insert(name, tensor);
        }
        Self::from_tensors(config, tensors)
    }
}
