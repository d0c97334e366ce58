//! Settings of the updates of one training step.

use crate::rollout::rows::RowKind;
use crate::train::config::update::UpdateConfig;

/// Settings of one step's updates of policy and critic.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The training step, from 0.
    pub step: u64,
    /// Learning rate of the policy.
    pub lr: f64,
    /// Rows of the loss: one per trajectory or one per turn.
    pub rows: RowKind,
    /// Division of the rows into optimiser steps.
    pub update: &'a UpdateConfig,
}
