//! A decoder with a value head: V(state) instead of a distribution over the next token.
//!
//! The critic of PPO has the same architecture as the policy, so it can start from the policy's
//! weights or share frozen ones.
//!
//! Shape suffixes: n = positions, h = hidden width.

use candle_core::{DType, Tensor};

use crate::kernels::layers::linear::linear;
use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::decoder::Decoder;
use crate::policy::parameters::Parameters;
use crate::Result;

const WEIGHT: &str = "value_head.weight";
const BIAS: &str = "value_head.bias";
const LM_HEAD: &str = "lm_head.weight";

/// The body of a decoder with the value head V = w·hidden + b, in f32 (f64 for an f64 body).
///
/// Its parameters are those of a decoder without `lm_head.weight`, plus `value_head.weight`
/// `[1, h]` and `value_head.bias` `[1]` ([`Parameters::with_value_head`]).
#[derive(Debug, Clone)]
pub struct ValueModel {
    decoder: Decoder,
    weight: Tensor,
    bias: Tensor,
}

impl ValueModel {
    /// The configuration of the body: that of `decoder`, without a separate output head.
    pub fn body(decoder: &DecoderConfig) -> DecoderConfig {
        DecoderConfig { tie_word_embeddings: true, ..decoder.clone() }
    }

    /// Builds the model; `body` is the result of [`ValueModel::body`].
    ///
    /// # Errors
    /// Parameters of another body, or ones without a value head.
    pub fn new(body: &DecoderConfig, parameters: &Parameters) -> Result<Self> {
        let [weight, bias] =
            [WEIGHT, BIAS].map(|name| parameters.get(name).map(|v| v.as_tensor().clone()));
        Ok(Self { decoder: Decoder::new(body, parameters)?, weight: weight?, bias: bias? })
    }

    /// The decoder below the value head.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Turns gradient checkpointing on or off ([`Decoder::with_checkpointing`]).
    pub fn with_checkpointing(mut self, on: bool) -> Self {
        self.decoder = self.decoder.with_checkpointing(on);
        self
    }

    /// Computes the values `[n]` of hidden states `[n, h]`; differentiable.
    ///
    /// # Errors
    /// Hidden states of another width.
    pub fn values(&self, hidden: &Tensor) -> Result<Tensor> {
        let values_n1 =
            linear(&hidden.to_dtype(self.weight.dtype())?, &self.weight, Some(&self.bias))?;
        Ok(values_n1.squeeze(1)?)
    }
}

impl Parameters {
    /// Replaces `lm_head.weight` by a trainable value head, which is zero at first.
    ///
    /// Like LoRA adapters, the head is f32 above narrower weights: its updates would be lost in the
    /// rounding of bf16.
    ///
    /// # Errors
    /// Parameters that do not belong to a decoder.
    pub fn with_value_head(mut self) -> Result<Self> {
        let norm = self.get("model.norm.weight")?;
        let width = norm.dims1()?;
        let device = norm.device().clone();
        let dtype = if norm.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        self.remove(LM_HEAD);
        self.insert(WEIGHT.to_owned(), &Tensor::zeros((1, width), dtype, &device)?)?;
        self.insert(BIAS.to_owned(), &Tensor::zeros(1, dtype, &device)?)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::gradients::Gradients;
    use crate::policy::lora::LoraConfig;
    use candle_core::Device;

    const ROW: &[u32] = &[1, 5, 2, 7];

    fn values(config: &DecoderConfig, parameters: &Parameters) -> Vec<f64> {
        let model = ValueModel::new(config, parameters).unwrap();
        let values = model.values(&model.decoder().forward_packed(&[ROW]).unwrap()).unwrap();
        values.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    fn set(parameters: &Parameters, name: &str, f: impl Fn(usize) -> f64) {
        let var = parameters.get(name).unwrap();
        let data: Vec<f64> = (0..var.elem_count()).map(f).collect();
        var.set(
            &Tensor::from_vec(data, var.dims(), &Device::Cpu)
                .unwrap()
                .to_dtype(var.dtype())
                .unwrap(),
        )
        .unwrap();
    }

    /// Σ sin(i+1)·hidden_i + 0.25, summed by hand.
    #[test]
    fn values_are_zero_at_first_and_then_follow_the_head() {
        let config = ValueModel::body(&DecoderConfig::tiny(20));
        let p = Parameters::init(&config, 3, DType::F64, &Device::Cpu)
            .unwrap()
            .with_value_head()
            .unwrap();
        assert_eq!(values(&config, &p), [0.0; 4]);
        set(&p, WEIGHT, |i| (i as f64 + 1.0).sin());
        set(&p, BIAS, |_| 0.25);
        let decoder = Decoder::new(&config, &p).unwrap();
        let hidden: Vec<Vec<f64>> = decoder.forward_packed(&[ROW]).unwrap().to_vec2().unwrap();
        for (value, h) in values(&config, &p).into_iter().zip(hidden) {
            let by_hand: f64 = h.iter().enumerate().map(|(i, x)| x * (i as f64 + 1.0).sin()).sum();
            assert!((value - by_hand - 0.25).abs() < 1e-12);
        }
    }

    #[test]
    fn every_gradient_of_a_value_agrees_with_differences() {
        let config = ValueModel::body(&DecoderConfig::tiny(20));
        let p = Parameters::init(&config, 3, DType::F64, &Device::Cpu)
            .unwrap()
            .with_value_head()
            .unwrap();
        set(&p, WEIGHT, |i| 0.1 * (i as f64 + 1.0).sin());
        let loss = || {
            let model = ValueModel::new(&config, &p).unwrap();
            let values = model.values(&model.decoder().forward_packed(&[ROW]).unwrap()).unwrap();
            (values - 0.7).unwrap().sqr().unwrap().sum_all().unwrap()
        };
        let gradients = Gradients::of(&loss(), &p).unwrap();
        gradients.check(&p).unwrap();
        for (name, var) in p.iter() {
            let before: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
            let exact: Vec<f64> =
                gradients.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            for i in [0, before.len() / 2, before.len() - 1] {
                let at = |step: f64| {
                    set(&p, name, |j| before[j] + if i == j { step } else { 0.0 });
                    loss().to_scalar::<f64>().unwrap()
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (difference - exact[i]).abs() < 1e-6,
                    "{name}[{i}]: {difference}, {}",
                    exact[i]
                );
                at(0.0);
            }
        }
    }

    #[test]
    fn an_untied_head_is_dropped_and_narrow_weights_get_an_f32_head() {
        let untied = DecoderConfig { tie_word_embeddings: false, ..DecoderConfig::tiny(20) };
        let p = Parameters::init(&untied, 3, DType::BF16, &Device::Cpu)
            .unwrap()
            .with_value_head()
            .unwrap();
        assert!(p.get(LM_HEAD).is_err());
        assert_eq!(p.get(WEIGHT).unwrap().dtype(), DType::F32);
        assert_eq!(values(&ValueModel::body(&untied), &p), [0.0; 4]);
    }

    #[test]
    fn a_critic_with_adapters_shares_the_frozen_weights_and_trains_its_own_adapters() {
        let config = DecoderConfig::tiny(20);
        let policy = Parameters::init(&config, 3, DType::F32, &Device::Cpu).unwrap();
        let policy = policy.with_lora(&config, &LoraConfig::of_rank(2), 1).unwrap();
        let critic =
            policy.clone().without_lora().with_lora(&config, &LoraConfig::of_rank(2), 2).unwrap();
        let critic = critic.with_value_head().unwrap();
        let name = "model.layers.0.self_attn.q_proj";
        let id = |p: &Parameters, end: &str| p.get(&format!("{name}.{end}")).unwrap().id();
        assert_eq!(id(&policy, "weight"), id(&critic, "weight"));
        assert_ne!(id(&policy, "lora_A.weight"), id(&critic, "lora_A.weight"));
        assert!(!critic.is_trainable(&format!("{name}.weight")).unwrap());
        assert!(critic.is_trainable(WEIGHT).unwrap() && critic.is_trainable(BIAS).unwrap());
    }
}
