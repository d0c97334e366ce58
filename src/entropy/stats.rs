//! The entropy statistics of one training step.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::objective::aggregate::TokenBatch;
use crate::objective::layout::TokenLayout;
use crate::{Error, Result};

/// Sums and counts of the token entropies of one training step, per turn index.
///
/// Only generated tokens of running episodes belong in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepEntropy {
    sums: Vec<f64>,
    counts: Vec<u64>,
}

impl StepEntropy {
    /// Statistics without tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Collects the statistics of one batch from its entropies [B, T] (nats) of any float dtype;
    /// masked-out entries are ignored.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`] for a NaN or infinite masked-in entropy.
    pub fn from_tensor(entropy_bt: &Tensor, batch: &TokenBatch) -> Result<Self> {
        Self::from_tokens(&batch.host("entropy_bt", entropy_bt)?, batch.layout())
    }

    /// Collects the statistics of one batch from host values, row-major [B·T] in nats; masked-out
    /// entries are ignored.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths disagree, [`Error::NonFinite`] for a NaN or infinite
    /// entropy.
    pub fn from_tokens(entropies: &[f64], layout: &TokenLayout) -> Result<Self> {
        let mut step = Self::new();
        if entropies.len() != layout.mask().len() {
            let expected = format!("{} values", layout.mask().len());
            return Err(Error::Shape { name: "entropies", expected, got: vec![entropies.len()] });
        }
        for (i, &entropy) in entropies.iter().enumerate().filter(|(i, _)| layout.mask()[*i]) {
            step.add_turn(layout.turns()[i], &[entropy])?;
        }
        Ok(step)
    }

    /// Adds the entropies (nats) of the tokens generated in one turn.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a NaN or infinite entropy.
    pub fn add_turn(&mut self, turn: usize, entropies: &[f64]) -> Result<()> {
        if let Some(i) = entropies.iter().position(|h| !h.is_finite()) {
            let at = format!("turn {turn}, token {i}");
            return Err(Error::NonFinite { name: "entropy".into(), value: entropies[i], at });
        }
        if self.sums.len() <= turn {
            self.sums.resize(turn + 1, 0.0);
            self.counts.resize(turn + 1, 0);
        }
        self.sums[turn] += entropies.iter().sum::<f64>();
        self.counts[turn] += entropies.len() as u64;
        Ok(())
    }

    /// Adds other statistics of the same step.
    pub fn merge(&mut self, other: &StepEntropy) {
        let turns = self.turns().max(other.turns());
        self.sums.resize(turns, 0.0);
        self.counts.resize(turns, 0);
        for turn in 0..other.turns() {
            self.sums[turn] += other.sums[turn];
            self.counts[turn] += other.counts[turn];
        }
    }

    /// Returns one more than the highest turn index seen.
    pub fn turns(&self) -> usize {
        self.sums.len()
    }

    /// Counts the tokens of a turn index.
    pub fn count(&self, turn: usize) -> u64 {
        self.counts.get(turn).copied().unwrap_or(0)
    }

    /// Returns the token mean of a turn index over all rows, `None` without tokens.
    pub fn turn_mean(&self, turn: usize) -> Option<f64> {
        (self.count(turn) > 0).then(|| self.sums[turn] / self.counts[turn] as f64)
    }

    /// Returns H̄ of the whole step, the mean over all generated tokens; `None` without tokens
    /// (paper v2, alg. 2).
    pub fn mean(&self) -> Option<f64> {
        let count: u64 = self.counts.iter().sum();
        (count > 0).then(|| self.sums.iter().sum::<f64>() / count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_tokens_not_over_rows() {
        let mask = vec![true, true, true, false, true, true];
        let layout = TokenLayout::per_turn(2, mask, &[0, 0, 2], vec![0, 1, 0]).unwrap();
        let step = StepEntropy::from_tokens(&[1.0, 2.0, 6.0, f64::NAN, 0.5, 1.5], &layout).unwrap();
        assert_eq!(step.turn_mean(0), Some(3.0));
        assert_eq!((step.turn_mean(1), step.count(1)), (None, 0));
        assert_eq!(step.turn_mean(2), Some(1.0));
        assert_eq!(step.mean(), Some(11.0 / 5.0));
        let mut merged = StepEntropy::new();
        merged.add_turn(0, &[1.0, 2.0]).unwrap();
        let mut rest = StepEntropy::new();
        rest.add_turn(0, &[6.0]).unwrap();
        rest.add_turn(2, &[0.5, 1.5]).unwrap();
        merged.merge(&rest);
        assert_eq!(merged, step);
        assert_eq!(StepEntropy::new().mean(), None);
        assert!(matches!(merged.add_turn(1, &[f64::NAN]), Err(Error::NonFinite { .. })));
    }
}
