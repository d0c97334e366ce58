//! The settings of a policy update.

use serde::{Deserialize, Serialize};

use crate::objective::aggregate::Aggregation;
use crate::objective::importance::ImportanceCorrection;
use crate::objective::settings::PolicyLoss;
use crate::settings::{off, Count, Limit, Positive};

/// How rows are turned into optimiser steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateConfig {
    /// Passes over the rows of a training step.
    pub epochs: Count,
    /// Optimiser steps per pass.
    pub mini_batches: Count,
    /// Most tokens of a micro-batch: bounds memory, does not change the gradient.
    pub micro_batch_tokens: Limit,
    /// Global gradient norm above which gradients are scaled down.
    pub max_grad_norm: Positive,
    /// Kind, clipping and KL of the policy loss.
    pub policy: PolicyLoss,
    /// Importance-sampling correction of samples that another engine drew; the learner then
    /// computes π_old by its own forward pass. `false` takes the samples' log-probabilities as
    /// π_old.
    #[serde(with = "off")]
    pub correction: Option<ImportanceCorrection>,
    /// How token losses become one loss.
    pub aggregation: Aggregation,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            epochs: Count::literal(1),
            mini_batches: Count::literal(4),
            micro_batch_tokens: Limit::literal(4096),
            max_grad_norm: Positive::literal(1.0),
            policy: PolicyLoss { kl: None, ..PolicyLoss::default() },
            correction: None,
            aggregation: Aggregation::TurnMean,
        }
    }
}
