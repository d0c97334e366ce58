//! Reference log-probabilities of training rows under a model of another library.

use crate::kernels::score::logprob_entropy::logprob_entropy_with;
use crate::kernels::score::scoring::ScoreOptions;
use crate::policy::transformers::FrozenModel;
use crate::rollout::rows::{MicroBatch, Row};
use crate::Result;

impl FrozenModel {
    /// Log-probabilities of the rows' sampled tokens at temperature τ, each over what it was chosen from, in nats: what
    /// [`PolicyBatch::reference`](crate::train::learn::PolicyBatch::reference) takes.
    ///
    /// # Errors
    /// A row without sampled tokens, and as [`FrozenModel::logits`].
    pub fn reference_log_probs(&mut self, rows: &[Row], temperature: f64) -> Result<Vec<Vec<f32>>> {
        let of_row = |row: &Row| {
            let batch = MicroBatch::new(&[row], row.positions.len(), &self.device)?;
            let last = row.positions.last().map_or(0, |&p| p as usize);
            let predicts =
                |position: usize| row.positions.binary_search(&(position as u32 + 1)).is_ok();
            let logits = self.logits_at(&row.ids[..last], predicts)?;
            let options =
                ScoreOptions { support: batch.support()?, ..ScoreOptions::at(temperature) };
            Ok(logprob_entropy_with(&logits, &batch.targets, &options)?.0.to_vec1()?)
        };
        rows.iter().map(of_row).collect()
    }
}
