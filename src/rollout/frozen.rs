//! Reference log-probabilities of training rows under a frozen candle-transformers model.

use crate::kernels::score::logprob_entropy::logprob_entropy_with;
use crate::kernels::score::scoring::ScoreOptions;
use crate::policy::transformers::FrozenModel;
use crate::rollout::rows::{MicroBatch, Row};
use crate::Result;

impl FrozenModel {
    /// Log-probabilities of the rows' sampled tokens at temperature τ, each over its candidate set,
    /// in nats, one list per row, as
    /// [`PolicyBatch::reference`](crate::train::learn::PolicyBatch::reference) takes them.
    ///
    /// # Errors
    /// A row without sampled tokens, a token outside the vocabulary, or a failed forward pass.
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
