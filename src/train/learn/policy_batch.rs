//! The data of a policy update.

use crate::rollout::rows::Row;
use crate::train::learn::accumulate::check_tokens;
use crate::{Error, Result};

/// The data of a policy update.
pub struct PolicyBatch<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// One advantage for each sampled token of each row.
    pub advantages: &'a [Vec<f32>],
    /// Log-probabilities under the reference policy, one list per row; needed for the KL term.
    pub reference: Option<&'a [Vec<f32>]>,
    /// The run's seed and the step, which decide the order of rows.
    pub seed: u64,
    /// The training step.
    pub step: u64,
}

impl PolicyBatch<'_> {
    /// Checks lengths and finiteness before the first mini-batch changes the weights.
    pub(crate) fn check(&self) -> Result<()> {
        check_tokens("advantages", self.rows, self.advantages)?;
        for (i, row) in self.rows.iter().enumerate() {
            if let Some(j) = row.old_log_probs.iter().position(|v| !v.is_finite()) {
                let (value, at) = (row.old_log_probs[j].into(), format!("row {i}, token {j}"));
                return Err(Error::NonFinite { name: "old_log_probs".into(), value, at });
            }
        }
        Ok(())
    }
}
