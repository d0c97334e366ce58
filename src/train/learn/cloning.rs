//! Behaviour cloning: a warm start on demonstrations.

use crate::env::Demonstration;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::DemonstrationRow;
use crate::run::progress::Progress;
use crate::run::record::Record;
use crate::run::recorder::Recorder;
use crate::train::config::update::UpdateConfig;
use crate::train::learn::agent::Agent;
use crate::{Error, Result};

/// How demonstrations are cloned before reinforcement learning.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloningConfig {
    /// Demonstrations of each task family.
    pub demonstrations: usize,
    /// Passes over them.
    pub epochs: usize,
    /// Demonstrations of an optimiser step.
    pub batch: usize,
    /// Learning rate, constant.
    pub learning_rate: f64,
    /// Weight of predicting the environment's texts, beside the actions: a policy that learns to read learns
    /// to name what it has read.
    pub observation_weight: f64,
}

impl Default for CloningConfig {
    fn default() -> Self {
        Self {
            demonstrations: 150,
            epochs: 14,
            batch: 4,
            learning_rate: 1e-3,
            observation_weight: 0.3,
        }
    }
}

impl CloningConfig {
    /// Refuses what cannot be cloned.
    ///
    /// # Errors
    /// [`Error::Setting`] for a count of 0 or a learning rate that is not positive and finite.
    pub fn validate(&self) -> Result<()> {
        for (name, n) in [("demonstrations", self.demonstrations), ("batch", self.batch)] {
            if n == 0 {
                return Err(Error::setting(format!("cloning.{name}"), 0, "must be at least 1"));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::setting(
                "cloning.learning_rate",
                self.learning_rate,
                "must be positive and finite",
            ));
        }
        if !(self.observation_weight >= 0.0 && self.observation_weight.is_finite()) {
            let value = self.observation_weight;
            return Err(Error::setting(
                "cloning.observation_weight",
                value,
                "must be finite and at least 0",
            ));
        }
        Ok(())
    }
}

/// Minimises the mean negative log-likelihood of the imitated actions' tokens (nats per token), and with
/// [`CloningConfig::observation_weight`] that of all others, in a seeded order, and records one line an epoch
/// in phase `clone`. The optimiser starts afresh afterwards:
/// cloning's small second moments would blow up the first steps of reinforcement learning. Where `update` has a KL term, the cloned
/// policy (with corrections of low rank, the model below them) becomes its reference.
///
/// # Errors
/// A demonstration without actions or longer than the context, a non-finite loss or gradient, or a record that cannot be written.
pub fn clone_demonstrations(
    agent: &mut Agent,
    demonstrations: &[Demonstration],
    config: &CloningConfig,
    update: &UpdateConfig,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<()> {
    config.validate()?;
    update.validate()?;
    let Agent { learner, prompter, .. } = agent;
    let rows: Vec<DemonstrationRow> = (demonstrations.iter().enumerate())
        .map(|(i, demonstration)| prompter.demonstration(demonstration, i))
        .collect::<Result<_>>()?;
    let context = learner.decoder.config().max_position_embeddings;
    let mut lengths = rows.iter().map(|demonstration| demonstration.row.ids.len()).enumerate();
    if let Some((i, length)) = lengths.find(|&(_, length)| length > context && config.epochs > 0) {
        return Err(Error::setting(
            "context",
            context,
            format!("demonstration {i} has {length} tokens"),
        ));
    }
    let mut progress = Progress::new("cloning", config.epochs * rows.len());
    let mut note = String::new();
    for epoch in 0..config.epochs {
        let order =
            Stream::new(seed, Purpose::Cloning, epoch as u64, 0, 0).permutation(0, rows.len());
        let (mut sum, mut done) = (0.0, 0);
        for batch in order.chunks(config.batch) {
            let batch: Vec<&DemonstrationRow> = batch.iter().map(|&i| &rows[i]).collect();
            let CloningConfig { observation_weight, learning_rate, .. } = *config;
            let loss = learner.clone_step(&batch, observation_weight, update, learning_rate)?;
            sum += loss * batch.len() as f64;
            done += batch.len();
            note = format!("epoch {}  loss {:.3} nats/token", epoch + 1, sum / done as f64);
            progress.set(epoch * rows.len() + done, &note);
        }
        recorder.record(&Record::new("clone", epoch as u64).with("loss", sum / done as f64))?;
    }
    learner.optimizer.reset();
    if update.policy.kl.is_some() {
        learner.freeze_reference()?;
    }
    progress.finish(&format!("{} demonstrations, {note}", rows.len()));
    Ok(())
}
