//! Quantities that a training step computes once, over all its rows, before its first optimiser
//! step.
//!
//! Shape suffixes: b = rows, r = sampled tokens of a row.

use candle_core::Tensor;

use crate::entropy::control::EntropyControl;
use crate::entropy::selection::{PolicyInputs, StepTokens};
use crate::objective::importance::{importance_weights, ImportanceCorrection};
use crate::objective::layout::TokenLayout;
use crate::objective::metrics::Metrics;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::{layout, MicroBatch, Row};
use crate::train::config::update::UpdateConfig;
use crate::train::learn::accumulate::widest;
use crate::train::learn::policy_batch::PolicyBatch;
use crate::{Error, Result};

/// Per-token quantities that stay fixed for the whole training step, one list per row.
pub(crate) struct Prepared<'a> {
    /// The rows, with their advantages and reference log-probabilities.
    pub(crate) data: &'a PolicyBatch<'a>,
    /// log π_old from the learner's own forward pass; `None` if those at sampling time are used.
    old_log_probs: Option<Vec<Vec<f32>>>,
    /// Constant weights of the tokens' policy losses.
    weights: Option<Vec<Vec<f32>>>,
    /// 1 for tokens that the regulariser selected, else 0.
    chosen: Option<Vec<Vec<f32>>>,
    /// Metrics of the importance-sampling correction.
    pub(crate) metrics: Metrics,
}

/// The fixed quantities of one micro-batch, each [b, r].
pub(crate) struct Part {
    /// log π_old.
    pub(crate) old_log_probs_br: Tensor,
    /// Advantages.
    pub(crate) advantages_br: Tensor,
    /// log π_ref.
    pub(crate) reference_br: Option<Tensor>,
    /// Weights of the policy loss.
    pub(crate) weights_br: Option<Tensor>,
    /// 1 for tokens that the regulariser selected.
    chosen_br: Option<Tensor>,
}

impl Part {
    /// The regulariser's view of them.
    pub(crate) fn policy_inputs<'a>(&'a self, log_probs_br: &'a Tensor) -> PolicyInputs<'a> {
        PolicyInputs {
            log_probs_bt: log_probs_br,
            old_log_probs_bt: &self.old_log_probs_br,
            advantages_bt: &self.advantages_br,
            chosen_bt: self.chosen_br.as_ref(),
        }
    }
}

impl<'a> Prepared<'a> {
    /// Weights the tokens if an importance-sampling correction is set, with the log π_old that
    /// `recompute` gives, and lets the regulariser select tokens.
    pub(crate) fn new(
        data: &'a PolicyBatch,
        config: &UpdateConfig,
        control: &EntropyControl,
        recompute: &dyn Fn() -> Result<Vec<Vec<f32>>>,
    ) -> Result<Self> {
        let rows: Vec<&Row> = data.rows.iter().collect();
        let mut prepared = Self {
            data,
            old_log_probs: None,
            weights: None,
            chosen: None,
            metrics: Metrics::new(),
        };
        if rows.is_empty() {
            return Ok(prepared);
        }
        let layout = layout(&rows, widest(&rows))?;
        if let Some(correction) = config.correction {
            prepared.correct(&layout, correction, recompute()?)?;
        }
        prepared.select(&layout, control)?;
        Ok(prepared)
    }

    fn sampled(&self, layout: &TokenLayout) -> Result<Vec<f64>> {
        flat(layout, "old_log_probs", self.data.rows.iter().map(|row| row.old_log_probs.as_slice()))
    }

    fn correct(
        &mut self,
        layout: &TokenLayout,
        correction: ImportanceCorrection,
        old: Vec<Vec<f32>>,
    ) -> Result<()> {
        let recomputed = flat(layout, "recomputed log_probs", old.iter().map(Vec::as_slice))?;
        let corrected =
            importance_weights(&recomputed, &self.sampled(layout)?, layout, correction)?;
        self.weights = Some(self.by_row(layout, |i| corrected.weights[i] as f32));
        self.metrics = corrected.metrics;
        self.old_log_probs = Some(old);
        Ok(())
    }

    fn select(&mut self, layout: &TokenLayout, control: &EntropyControl) -> Result<()> {
        let PolicyBatch { rows, advantages, seed, step, .. } = *self.data;
        let log_probs = match &self.old_log_probs {
            Some(old) => flat(layout, "old_log_probs", old.iter().map(Vec::as_slice))?,
            None => self.sampled(layout)?,
        };
        let known = rows.iter().all(|row| row.entropies.len() == row.positions.len());
        let entropies = known
            .then(|| flat(layout, "entropies", rows.iter().map(|row| row.entropies.as_slice())))
            .transpose()?;
        let tokens = StepTokens {
            log_probs: &log_probs,
            entropies: entropies.as_deref(),
            advantages: &flat(layout, "advantages", advantages.iter().map(Vec::as_slice))?,
            layout,
            stream: Stream::new(seed, Purpose::Selection, step, 0, 0),
        };
        let Some(selection) = control.select(&tokens)? else { return Ok(()) };
        self.chosen = Some(self.by_row(layout, |i| f32::from(u8::from(selection.chosen[i]))));
        if let Some(factors) = selection.policy_weights {
            let mut weights = self.by_row(layout, |i| factors[i] as f32);
            let corrected = self.weights.take().unwrap_or_default();
            for (row, corrected) in weights.iter_mut().zip(corrected) {
                for (factor, weight) in row.iter_mut().zip(corrected) {
                    *factor *= weight;
                }
            }
            self.weights = Some(weights);
        }
        Ok(())
    }

    /// The quantities of a micro-batch that holds the given rows of the step.
    pub(crate) fn part(&self, micro: &MicroBatch, rows: &[usize]) -> Result<Part> {
        let of_rows = |values: &[Vec<f32>]| {
            micro.filled(&rows.iter().map(|&row| values[row].as_slice()).collect::<Vec<_>>())
        };
        let optional = |values: Option<&[Vec<f32>]>| values.map(of_rows).transpose();
        let recomputed = optional(self.old_log_probs.as_deref())?;
        Ok(Part {
            old_log_probs_br: recomputed.unwrap_or_else(|| micro.old_log_probs_br.clone()),
            advantages_br: of_rows(self.data.advantages)?,
            reference_br: optional(self.data.reference)?,
            weights_br: optional(self.weights.as_deref())?,
            chosen_br: optional(self.chosen.as_deref())?,
        })
    }

    /// One list per row from a function of the index in [B·T].
    fn by_row(&self, layout: &TokenLayout, value: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
        let of_row = |(row, r): (usize, &Row)| {
            (0..r.positions.len()).map(|j| value(row * layout.tokens() + j)).collect()
        };
        self.data.rows.iter().enumerate().map(of_row).collect()
    }
}

/// Lists per row as row-major [B·T], padded with 0.
pub(crate) fn flat<'a>(
    layout: &TokenLayout,
    name: &'static str,
    rows: impl Iterator<Item = &'a [f32]>,
) -> Result<Vec<f64>> {
    let mut values = vec![0.0; layout.rows() * layout.tokens()];
    for (row, (list, place)) in rows.zip(values.chunks_exact_mut(layout.tokens())).enumerate() {
        if list.len() != layout.row_count(row) {
            let expected = format!("{} values in row {row}", layout.row_count(row));
            return Err(Error::Shape { name, expected, got: vec![list.len()] });
        }
        for (to, &from) in place.iter_mut().zip(list) {
            *to = f64::from(from);
        }
    }
    Ok(values)
}
