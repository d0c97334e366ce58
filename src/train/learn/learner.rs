//! Gradients of rows: micro-batches over threads, summed in a fixed order, and one optimiser step.
//!
//! Shape suffixes: b = rows, r = sampled tokens of a row.

use candle_core::Tensor;

use crate::entropy::control::EntropyControl;
use crate::kernels::layers::rows_at::rows_at;
use crate::kernels::score::scoring::ScoreOptions;
use crate::objective::aggregate::{Aggregation, TokenBatch};
use crate::objective::metrics::Metrics;
use crate::objective::output::LossOutput;
use crate::objective::policy::{policy_loss, LossInputs};
use crate::optim::adamw::AdamW;
use crate::policy::config::DecoderConfig;
use crate::policy::decoder::Decoder;
use crate::policy::parameters::Parameters;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::{demonstration_layouts, DemonstrationRow, MicroBatch, Row};
use crate::train::config::update::UpdateConfig;
use crate::train::learn::accumulate::{
    accumulate, optimizer_steps, row_values, to_f64, whole, widest,
};
use crate::train::learn::policy_batch::PolicyBatch;
use crate::train::learn::prepare::Prepared;
use crate::{Error, Result};

/// A policy with its optimiser.
pub struct Learner {
    /// The model's structure.
    pub decoder: Decoder,
    /// Its weights.
    pub parameters: Parameters,
    /// The optimiser and its state.
    pub optimizer: AdamW,
    /// Sampling temperature of the log-probabilities.
    pub temperature: f64,
    /// The reference policy of a KL in the loss or in the reward; `None` without either.
    pub reference: Option<(Decoder, Parameters)>,
}

/// A policy loss: its inputs are the tensors of one micro-batch.
pub type PolicyLossFn<'a> = dyn Fn(&LossInputs) -> Result<LossOutput> + Sync + 'a;

/// The settings of one optimiser step.
struct StepSettings<'a> {
    config: &'a UpdateConfig,
    entropy: &'a EntropyControl,
    loss: &'a PolicyLossFn<'a>,
    lr: f64,
    /// It is the first of its training step.
    first: bool,
}

impl Learner {
    /// A decoder over `parameters` with its optimiser.
    ///
    /// # Errors
    /// Parameters of another model, quantised ones with nothing to train, or a temperature that is
    /// not positive.
    pub fn new(
        config: &DecoderConfig,
        parameters: Parameters,
        optimizer: AdamW,
        temperature: f64,
    ) -> Result<Self> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::setting(
                "rollout.temperature",
                temperature,
                "must be positive and finite",
            ));
        }
        if let (Some((name, matrix)), None) =
            (parameters.quantized().next(), parameters.trainable().next())
        {
            let reason = format!("{name} is quantised ({matrix:?}), so LoRA adapters are needed");
            return Err(Error::setting("model.lora", false, reason));
        }
        let decoder = Decoder::new(config, &parameters)?;
        Ok(Self { decoder, parameters, optimizer, temperature, reference: None })
    }

    /// Keeps only the blocks' inputs for the backward pass ([`Decoder::with_checkpointing`]).
    pub fn set_checkpointing(&mut self, on: bool) {
        self.decoder = self.decoder.clone().with_checkpointing(on);
    }

    /// Freezes the current weights as the reference policy. With LoRA adapters it is the model
    /// without them, and no second model.
    ///
    /// # Errors
    /// A failed copy.
    pub fn freeze_reference(&mut self) -> Result<()> {
        if self.parameters.lora().is_some() {
            self.reference = Some((self.decoder.clone().without_lora(), self.parameters.clone()));
            return Ok(());
        }
        self.set_reference(self.parameters.duplicate()?)
    }

    pub(crate) fn set_reference(&mut self, parameters: Parameters) -> Result<()> {
        self.reference = Some((Decoder::new(self.decoder.config(), &parameters)?, parameters));
        Ok(())
    }

    /// Log-probabilities and entropies of the sampled tokens, both [b, r]; differentiable.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn token_terms(&self, batch: &MicroBatch) -> Result<(Tensor, Tensor)> {
        self.terms_of(&self.decoder, batch)
    }

    /// The decoder with LoRA dropout, drawn anew for every optimiser step and micro-batch.
    fn dropping(&self, seed: u64, members: &[usize]) -> Decoder {
        let share = self.parameters.lora().map_or(0.0, |lora| lora.dropout);
        let first = members.first().map_or(0, |&m| m as u32);
        let stream = Stream::new(seed, Purpose::Dropout, self.optimizer.steps(), first, 0);
        self.decoder.clone().with_dropout(share, stream)
    }

    fn terms_of(&self, decoder: &Decoder, batch: &MicroBatch) -> Result<(Tensor, Tensor)> {
        let hidden = rows_at(&decoder.forward_packed(&batch.ids)?, &batch.predictors)?;
        let options =
            ScoreOptions { support: batch.support()?, ..ScoreOptions::at(self.temperature) };
        let (log_probs, entropies) = decoder.score(&hidden, &batch.targets, &options)?;
        Ok((batch.lay_out(&log_probs)?, batch.lay_out(&entropies)?))
    }

    /// One optimiser step on demonstrations: the mean negative log-likelihood of the imitated
    /// tokens plus `observation_weight` times that of all others. Returns the first mean, in nats
    /// per token.
    ///
    /// # Errors
    /// A non-finite loss or gradient, or a tensor operation that failed.
    pub fn clone_step(
        &mut self,
        demonstrations: &[&DemonstrationRow],
        observation_weight: f64,
        config: &UpdateConfig,
        lr: f64,
    ) -> Result<f64> {
        let rows: Vec<&Row> = demonstrations.iter().map(|d| &d.row).collect();
        let [imitated, observed] = demonstration_layouts(demonstrations, widest(&rows))?
            .map(|layout| TokenBatch::new(layout, Aggregation::TokenMean));
        let loss = |micro: &MicroBatch, imitated: &TokenBatch, members: &[usize]| {
            let nll_br = self.terms_of(&self.dropping(0, members), micro)?.0.neg()?;
            let loss = imitated.aggregate(&nll_br)?;
            let mut metrics = Metrics::new();
            metrics.add("loss", to_f64(&loss)?);
            let others = observed.select(members)?.aggregate(&nll_br)?;
            Ok(LossOutput { loss: (loss + (others * observation_weight)?)?, metrics })
        };
        let (gradients, metrics) = accumulate(&self.parameters, &rows, config, &imitated, &loss)?;
        self.optimizer.step_clipped(
            &self.parameters,
            &gradients,
            lr,
            config.max_grad_norm.get(),
        )?;
        Ok(metrics.get("loss").unwrap_or(f64::NAN))
    }

    /// The optimiser steps of one training step; returns the metrics' mean over them, with
    /// `grad_norm` (before clipping) and `decode_forward_gap`, the largest |Δ log-prob| in nats
    /// between decoding and the teacher-forced forward pass, seen before the first optimiser step.
    ///
    /// # Errors
    /// A non-finite loss or gradient, or a tensor operation that failed.
    pub fn policy_step(
        &mut self,
        data: &PolicyBatch,
        config: &UpdateConfig,
        entropy: &EntropyControl,
        lr: f64,
    ) -> Result<Metrics> {
        let loss = |inputs: &LossInputs| policy_loss(inputs, &config.policy);
        self.policy_step_with(data, config, entropy, lr, &loss)
    }

    /// [`policy_step`](Self::policy_step) with a policy loss of your own in place of
    /// `config.policy`.
    ///
    /// `loss` is called once per micro-batch, possibly on several threads. It aggregates with
    /// [`TokenBatch::aggregate`], so that neither gradients nor metrics depend on the
    /// micro-batches.
    ///
    /// # Errors
    /// A non-finite loss or gradient, a tensor operation that failed, or an error of `loss`.
    pub fn policy_step_with(
        &mut self,
        data: &PolicyBatch,
        config: &UpdateConfig,
        entropy: &EntropyControl,
        lr: f64,
        loss: &PolicyLossFn,
    ) -> Result<Metrics> {
        data.check()?;
        let prepared = Prepared::new(data, config, entropy, &|| self.log_probs(data.rows, config))?;
        let mut total = prepared.metrics.clone();
        let chunks = optimizer_steps(data.seed, data.step, config, data.rows.len());
        for (i, chunk) in chunks.iter().enumerate() {
            let settings = StepSettings { config, entropy, loss, lr, first: i == 0 };
            let metrics = self.optimizer_step(&prepared, chunk, &settings)?;
            total.merge(&metrics.scaled(1.0 / chunks.len() as f64));
        }
        Ok(total)
    }

    fn optimizer_step(
        &mut self,
        prepared: &Prepared,
        chunk: &[usize],
        settings: &StepSettings,
    ) -> Result<Metrics> {
        let &StepSettings { config, entropy, loss: policy_loss_of, lr, first } = settings;
        let data = prepared.data;
        let rows: Vec<&Row> = chunk.iter().map(|&i| &data.rows[i]).collect();
        let (whole, parameters) = (whole(&rows, config)?, &self.parameters);
        let loss = |micro: &MicroBatch, batch: &TokenBatch, members: &[usize]| {
            let (log_probs_br, entropies_br) =
                self.terms_of(&self.dropping(data.seed, members), micro)?;
            let part =
                prepared.part(micro, &members.iter().map(|&m| chunk[m]).collect::<Vec<_>>())?;
            let old = &part.old_log_probs_br;
            let inputs = LossInputs::new(&log_probs_br, old, &part.advantages_br, batch)
                .with_reference(part.reference_br.as_ref())
                .with_weights(part.weights_br.as_ref());
            let policy = part.policy_inputs(&log_probs_br);
            let term = entropy.term_with(&entropies_br, batch, Some(policy))?;
            let mut output = policy_loss_of(&inputs)?.plus(term)?;
            if first {
                output.metrics.max("decode_forward_gap", gap(&log_probs_br, micro)?);
            }
            output.metrics.add("loss", to_f64(&output.loss)?);
            Ok(output)
        };
        let (gradients, mut metrics) = accumulate(parameters, &rows, config, &whole, &loss)?;
        let norm = self.optimizer.step_clipped(
            &self.parameters,
            &gradients,
            lr,
            config.max_grad_norm.get(),
        )?;
        metrics.add("grad_norm", norm);
        Ok(metrics)
    }

    /// Returns the log-probabilities of the rows' sampled tokens under the current weights, nats,
    /// one list per row.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn log_probs(&self, rows: &[Row], config: &UpdateConfig) -> Result<Vec<Vec<f32>>> {
        self.log_probs_under(&self.decoder, rows, config)
    }

    /// Log-probabilities of the rows' sampled tokens under the reference policy, nats, one list
    /// per row; `None` without a reference.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn reference_log_probs(
        &self,
        rows: &[Row],
        config: &UpdateConfig,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let Some((decoder, _)) = &self.reference else { return Ok(None) };
        self.log_probs_under(decoder, rows, config).map(Some)
    }

    /// Log-probabilities of the rows' sampled tokens under `decoder`, nats, one list per row.
    pub(crate) fn log_probs_under(
        &self,
        decoder: &Decoder,
        rows: &[Row],
        config: &UpdateConfig,
    ) -> Result<Vec<Vec<f32>>> {
        let rows: Vec<&Row> = rows.iter().collect();
        let log_probs = |micro: &MicroBatch| Ok(self.terms_of(decoder, micro)?.0);
        row_values(&self.parameters, &rows, config.micro_batch_tokens.get(), &log_probs)
    }
}

/// max |log π − log π_old| over the sampled tokens, nats.
fn gap(log_probs_br: &Tensor, micro: &MicroBatch) -> Result<f64> {
    let difference = (log_probs_br.detach() - &micro.old_log_probs_br)?.abs()?;
    to_f64(&(difference * &micro.mask_br)?.max_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quantized::matrix::QuantizedMatrix;
    use crate::optim::adamw::AdamWConfig;
    use crate::policy::lora::LoraConfig;
    use candle_core::quantized::GgmlDType;
    use candle_core::{DType, Device};
    use std::collections::BTreeMap;

    #[test]
    fn quantised_weights_are_trained_with_adapters_only() {
        let config = DecoderConfig::tiny(20);
        let name = "model.layers.0.mlp.up_proj.weight";
        let dense = Parameters::init(&config, 3, DType::F32, &Device::Cpu).unwrap();
        let mut tensors = dense.tensors();
        let matrix =
            QuantizedMatrix::quantize(&tensors.remove(name).unwrap(), GgmlDType::Q8_0).unwrap();
        let quantized = BTreeMap::from([(name.to_owned(), matrix)]);
        let parameters = Parameters::with_quantized(&config, tensors, quantized).unwrap();
        let learner =
            |parameters| Learner::new(&config, parameters, AdamW::new(AdamWConfig::default()), 1.0);
        let error = learner(parameters.clone()).err().unwrap().to_string();
        assert!(error.contains("model.lora") && error.contains(name), "{error}");
        let adapted = parameters.with_lora(&config, &LoraConfig::of_rank(2), 1).unwrap();
        let mut learner = learner(adapted).unwrap();
        learner.freeze_reference().unwrap();
        let (_, reference) = learner.reference.unwrap();
        assert_eq!(reference.quantized().count(), 1);
    }
}
