//! The settings of a policy update.

use crate::objective::aggregate::Aggregation;
use crate::objective::importance::ImportanceCorrection;
use crate::objective::off;
use crate::objective::settings::PolicyLoss;
use crate::{Error, Result};

/// How rows are turned into optimiser steps.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// Passes over the rows of a step.
    pub epochs: usize,
    /// Optimiser steps of a pass.
    pub mini_batches: usize,
    /// Most tokens of a micro-batch: bounds memory, does not change the gradient.
    pub micro_batch_tokens: usize,
    /// Global gradient norm above which gradients are scaled down.
    pub max_grad_norm: f64,
    /// Kind, clipping and KL of the policy loss.
    pub policy: PolicyLoss,
    /// Importance correction of samples that another engine drew; the learner then computes π_old by its own
    /// forward pass. Off where `None` (`false` in a file): the samples' log-probabilities are π_old.
    #[serde(with = "off")]
    pub correction: Option<ImportanceCorrection>,
    /// How token losses become one loss.
    pub aggregation: Aggregation,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            mini_batches: 4,
            micro_batch_tokens: 4096,
            max_grad_norm: 1.0,
            policy: PolicyLoss { kl: None, ..PolicyLoss::default() },
            correction: None,
            aggregation: Aggregation::TurnMean,
        }
    }
}

impl UpdateConfig {
    /// # Errors
    /// A count of 0, a norm that is not positive, or a bad policy-loss setting.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("epochs", self.epochs),
            ("mini_batches", self.mini_batches),
            ("micro_batch_tokens", self.micro_batch_tokens),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(Error::setting(format!("update.{name}"), 0, "must be at least 1"));
        }
        if !(self.max_grad_norm > 0.0 && self.max_grad_norm.is_finite()) {
            return Err(Error::setting(
                "update.max_grad_norm",
                self.max_grad_norm,
                "must be positive and finite",
            ));
        }
        self.correction.map_or(Ok(()), |correction| correction.validate())?;
        self.policy.validate()
    }
}
