//! Gradients of rows: micro-batches over threads, summed in a fixed order, and one optimiser step.
//!
//! Shape suffixes: b = rows, r = sampled tokens of a row.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use candle_core::{DType, Tensor};

use super::optim::AdamW;
use super::prepare::Prepared;
use super::UpdateConfig;
use crate::entropy::EntropyControl;
use crate::kernels::ScoreOptions;
use crate::objective::{policy_loss, Aggregation, LossInputs, LossOutput, Metrics, TokenBatch};
use crate::policy::{Decoder, DecoderConfig, GradientSum, Gradients, MicroGradients, Parameters};
use crate::rng::{Purpose, Stream};
use crate::rollout::{demonstration_layouts, layout, DemonstrationRow, MicroBatch, Row};
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
    /// The policy that the KL term compares with; `None` where there is no KL term.
    pub reference: Option<(Decoder, Parameters)>,
}

/// The loss of a micro-batch, given the objective's view of it and which of the rows it holds.
type MicroLoss<'a> = dyn Fn(&MicroBatch, &TokenBatch, &[usize]) -> Result<LossOutput> + Sync + 'a;

/// The data of a policy update.
pub struct PolicyBatch<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// One advantage for each sampled token of each row.
    pub advantages: &'a [Vec<f32>],
    /// Log-probabilities under the reference policy, one list a row; needed where the KL term is on.
    pub reference: Option<&'a [Vec<f32>]>,
    /// The run's seed and the step, which decide the order of rows.
    pub seed: u64,
    /// The training step.
    pub step: u64,
}

impl PolicyBatch<'_> {
    /// Refuses numbers that are none, or that no token has, before a first mini-batch has changed the weights.
    fn check(&self) -> Result<()> {
        let tokens: Vec<usize> = self.rows.iter().map(|row| row.positions.len()).collect();
        let got: Vec<usize> = self.advantages.iter().map(Vec::len).collect();
        if got != tokens {
            return Err(Error::Shape { name: "advantages", expected: format!("tokens {tokens:?}"), got });
        }
        for (i, (row, advantages)) in self.rows.iter().zip(self.advantages).enumerate() {
            for (name, values) in [("old_log_probs", &row.old_log_probs), ("advantages", advantages)] {
                if let Some(j) = values.iter().position(|v| !v.is_finite()) {
                    let at = format!("row {i}, token {j}");
                    return Err(Error::NonFinite { name: name.into(), value: values[j].into(), at });
                }
            }
        }
        Ok(())
    }
}

impl Learner {
    /// A decoder over `parameters` with its optimiser.
    ///
    /// # Errors
    /// Parameters of another model, or a temperature that is not positive.
    pub fn new(
        config: &DecoderConfig,
        parameters: Parameters,
        optimizer: AdamW,
        temperature: f64,
    ) -> Result<Self> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::setting("rollout.temperature", temperature, "must be positive and finite"));
        }
        let decoder = Decoder::new(config, &parameters)?;
        Ok(Self { decoder, parameters, optimizer, temperature, reference: None })
    }

    /// Keeps only the blocks' inputs for the backward pass ([`Decoder::with_checkpointing`]).
    pub fn set_checkpointing(&mut self, on: bool) {
        self.decoder = self.decoder.clone().with_checkpointing(on);
    }

    /// Makes the present weights the reference of the KL term; with corrections of low rank it is the model without them,
    /// and no second model.
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

    pub(super) fn set_reference(&mut self, parameters: Parameters) -> Result<()> {
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

    /// The decoder with the dropout of its corrections, drawn anew for every optimiser step and micro-batch.
    fn dropping(&self, seed: u64, members: &[usize]) -> Decoder {
        let share = self.parameters.lora().map_or(0.0, |lora| lora.dropout);
        let first = members.first().map_or(0, |&m| m as u32);
        let stream = Stream::new(seed, Purpose::Dropout, self.optimizer.steps(), first, 0);
        self.decoder.clone().with_dropout(share, stream)
    }

    fn terms_of(&self, decoder: &Decoder, batch: &MicroBatch) -> Result<(Tensor, Tensor)> {
        let hidden = decoder.forward_packed(&batch.ids)?.index_select(&batch.predictors, 0)?;
        let options = ScoreOptions { support: batch.support()?, ..ScoreOptions::at(self.temperature) };
        let (log_probs, entropies) = decoder.score(&hidden, &batch.targets, &options)?;
        Ok((batch.lay_out(&log_probs)?, batch.lay_out(&entropies)?))
    }

    /// One optimiser step on demonstrations: the mean negative log-likelihood of the imitated tokens plus
    /// `observation_weight` times that of all others. Returns the first mean, in nats per token.
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
        let (gradients, metrics) = self.accumulate(&rows, config, &imitated, &loss)?;
        self.optimizer.step_clipped(&self.parameters, &gradients, lr, config.max_grad_norm)?;
        Ok(metrics.get("loss").unwrap_or(f64::NAN))
    }

    /// The optimiser steps of one training step; returns the metrics' mean over them, with `grad_norm`
    /// (before clipping) and `decode_forward_gap`, the largest |Δ log-prob| in nats between decoding and
    /// the teacher-forced forward pass, seen before the first optimiser step.
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
        data.check()?;
        let prepared = Prepared::new(self, data, config, entropy)?;
        let mut total = prepared.metrics.clone();
        let steps = (config.epochs * config.mini_batches.min(data.rows.len())) as f64;
        for epoch in 0..config.epochs {
            let stream = Stream::new(data.seed, Purpose::Shuffle, data.step, epoch as u32, 0);
            let order = stream.permutation(0, data.rows.len());
            for (i, chunk) in split(&order, config.mini_batches).into_iter().enumerate() {
                let first = epoch == 0 && i == 0;
                let metrics = self.optimizer_step(&prepared, chunk, config, entropy, lr, first)?;
                total.merge(&metrics.scaled(1.0 / steps));
            }
        }
        Ok(total)
    }

    fn optimizer_step(
        &mut self,
        prepared: &Prepared,
        chunk: &[usize],
        config: &UpdateConfig,
        entropy: &EntropyControl,
        lr: f64,
        first: bool,
    ) -> Result<Metrics> {
        let data = prepared.data;
        let rows: Vec<&Row> = chunk.iter().map(|&i| &data.rows[i]).collect();
        let whole = self.whole(&rows, config)?;
        let (gradients, mut metrics) = self.accumulate(&rows, config, &whole, &|micro, batch, members| {
            let (log_probs_br, entropies_br) = self.terms_of(&self.dropping(data.seed, members), micro)?;
            let part = prepared.part(micro, &members.iter().map(|&m| chunk[m]).collect::<Vec<_>>())?;
            let inputs = LossInputs {
                log_probs_bt: &log_probs_br,
                old_log_probs_bt: &part.old_log_probs_br,
                ref_log_probs_bt: part.reference_br.as_ref(),
                advantages_bt: &part.advantages_br,
                weights_bt: part.weights_br.as_ref(),
                batch,
            };
            let policy = part.policy_inputs(&log_probs_br);
            let mut output = policy_loss(&inputs, &config.policy)?;
            output = output.plus(entropy.term_with(&entropies_br, batch, Some(policy))?)?;
            if first {
                output.metrics.max("decode_forward_gap", gap(&log_probs_br, micro)?);
            }
            output.metrics.add("loss", to_f64(&output.loss)?);
            Ok(output)
        })?;
        let norm = self.optimizer.step_clipped(&self.parameters, &gradients, lr, config.max_grad_norm)?;
        metrics.add("grad_norm", norm);
        Ok(metrics)
    }

    /// Log-probabilities of the rows' sampled tokens under the reference, nats, one list a row; `None`
    /// without a reference.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn reference_log_probs(&self, rows: &[Row], config: &UpdateConfig) -> Result<Option<Vec<Vec<f32>>>> {
        let Some((decoder, _)) = &self.reference else { return Ok(None) };
        self.log_probs_under(decoder, rows, config).map(Some)
    }

    /// Log-probabilities of the rows' sampled tokens under `decoder`, nats, one list a row.
    pub(super) fn log_probs_under(
        &self,
        decoder: &Decoder,
        rows: &[Row],
        config: &UpdateConfig,
    ) -> Result<Vec<Vec<f32>>> {
        let rows: Vec<&Row> = rows.iter().collect();
        let width = widest(&rows);
        let mut out = vec![Vec::new(); rows.len()];
        for members in micro_batches(&rows, config.micro_batch_tokens) {
            let chosen: Vec<&Row> = members.iter().map(|&m| rows[m]).collect();
            let micro = MicroBatch::new(&chosen, width, self.decoder.device())?;
            let log_probs_br =
                self.terms_of(decoder, &micro)?.0.detach().to_dtype(DType::F32)?.to_vec2::<f32>()?;
            for (&m, values) in members.iter().zip(log_probs_br) {
                out[m] = values[..rows[m].positions.len()].to_vec();
            }
        }
        Ok(out)
    }

    fn whole(&self, rows: &[&Row], config: &UpdateConfig) -> Result<TokenBatch> {
        Ok(TokenBatch::new(layout(rows, widest(rows))?, config.aggregation))
    }

    /// Sums the gradients and metrics of all micro-batches, whatever the order they finish in.
    fn accumulate(
        &self,
        rows: &[&Row],
        config: &UpdateConfig,
        whole: &TokenBatch,
        loss: &MicroLoss,
    ) -> Result<(Gradients, Metrics)> {
        let plan = micro_batches(rows, config.micro_batch_tokens);
        let width = widest(rows);
        let one = |members: &Vec<usize>| -> Result<(MicroGradients, Metrics)> {
            let chosen: Vec<&Row> = members.iter().map(|&m| rows[m]).collect();
            let micro = MicroBatch::new(&chosen, width, self.decoder.device())?;
            let output = loss(&micro, &whole.select(members)?, members)?;
            Ok((MicroGradients::of(&output.loss, &self.parameters)?, output.metrics))
        };
        if plan.is_empty() {
            return Err(Error::EmptyMask { name: "rows", at: "an update without rows".into() });
        }
        let (mut sum, mut metrics) = (GradientSum::default(), Metrics::new());
        for together in plan.chunks(self.at_once()) {
            for part in over_threads(together, &one) {
                let (gradients, numbers) = part?;
                sum.add(gradients)?;
                metrics.merge(&numbers);
            }
        }
        Ok((sum.finish(&self.parameters)?, metrics))
    }

    /// Micro-batches whose gradients may exist at the same time: one where a gradient is large, which keeps all threads busy
    /// by itself.
    fn at_once(&self) -> usize {
        const LARGE: usize = 32 << 20;
        let trained: usize = self.parameters.trainable().map(|(_, var)| var.elem_count()).sum();
        if trained > LARGE {
            1
        } else {
            usize::MAX
        }
    }
}

/// Runs `f` over `items` on the machine's threads; results in the order of the items.
fn over_threads<I: Sync, T: Send>(items: &[I], f: &(dyn Fn(&I) -> Result<T> + Sync)) -> Vec<Result<T>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<T>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(i) else { break };
                let result = f(item);
                if let Ok(mut place) = results[i].lock() {
                    *place = Some(result);
                }
            });
        }
    });
    let lost = || Err(Error::setting("update", "worker thread", "panicked"));
    results.into_iter().map(|r| r.into_inner().ok().flatten().unwrap_or_else(lost)).collect()
}

/// Consecutive rows of at most `tokens` tokens together (a longer row stands alone).
fn micro_batches(rows: &[&Row], tokens: usize) -> Vec<Vec<usize>> {
    let mut plan: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (i, row) in rows.iter().enumerate() {
        match plan.last_mut() {
            Some(last) if row.ids.len() <= room => last.push(i),
            _ => {
                plan.push(vec![i]);
                room = tokens.max(row.ids.len());
            }
        }
        room -= row.ids.len();
    }
    plan
}

pub(super) fn widest(rows: &[&Row]) -> usize {
    rows.iter().map(|r| r.positions.len()).max().unwrap_or(0)
}

/// `items` in `n` consecutive parts whose sizes differ by at most one; empty parts are left out.
fn split(items: &[usize], n: usize) -> Vec<&[usize]> {
    let m = items.len();
    (0..n).map(|i| &items[i * m / n..(i + 1) * m / n]).filter(|part| !part.is_empty()).collect()
}

/// max |log π − log π_old| over the sampled tokens, nats.
fn gap(log_probs_br: &Tensor, micro: &MicroBatch) -> Result<f64> {
    let difference = (log_probs_br.detach() - &micro.old_log_probs_br)?.abs()?;
    to_f64(&(difference * &micro.mask_br)?.max_all()?)
}

fn to_f64(x: &Tensor) -> Result<f64> {
    Ok(x.detach().to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_hold_every_row_once_within_the_budget() {
        let row = |n| Row { ids: vec![0; n], positions: vec![1], turns: vec![0], ..Row::default() };
        let rows: Vec<Row> = [5, 9, 3, 8, 20].into_iter().map(row).collect();
        let rows: Vec<&Row> = rows.iter().collect();
        assert_eq!(micro_batches(&rows, 14), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn split_keeps_everything() {
        assert_eq!(split(&[1, 2, 3, 4, 5], 2), [&[1, 2][..], &[3, 4, 5]]);
        assert_eq!(split(&[1], 3).len(), 1);
    }
}
