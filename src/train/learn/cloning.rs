//! Behaviour cloning: imitation of demonstrations as a warm start for reinforcement learning.
//!
//! A fresh policy almost never solves a long task by chance, so reinforcement learning alone would
//! see no reward. Imitation of a few solved episodes first gives it something to improve.

use crate::env::Demonstration;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::DemonstrationRow;
use crate::run::progress::Progress;
use crate::run::record::Record;
use crate::run::recorder::Recorder;
use crate::train::config::update::UpdateConfig;
use crate::train::learn::agent::Agent;
use crate::train::learn::learner::Learner;
use crate::{Error, Result};

/// Settings of the imitation of demonstrations (`cloning` in a run's configuration).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloningConfig {
    /// Demonstrations per task family.
    pub demonstrations: usize,
    /// Passes over all demonstrations; 0 disables imitation.
    pub epochs: usize,
    /// Demonstrations per optimiser step.
    pub batch: usize,
    /// Learning rate, constant.
    pub learning_rate: f64,
    /// Weight of the loss on the environment's texts, relative to that on the actions. A policy
    /// that learns to predict what it reads also learns to name it in its actions.
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
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key of a field out of range.
    pub fn validate(&self) -> Result<()> {
        let counts =
            [("cloning.demonstrations", self.demonstrations), ("cloning.batch", self.batch)];
        for (key, n) in counts {
            if n == 0 {
                return Err(Error::setting(key, 0, "must be at least 1"));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            let reason = "must be positive and finite";
            return Err(Error::setting("cloning.learning_rate", self.learning_rate, reason));
        }
        if !(self.observation_weight >= 0.0 && self.observation_weight.is_finite()) {
            let reason = "must be finite and at least 0";
            let weight = self.observation_weight;
            return Err(Error::setting("cloning.observation_weight", weight, reason));
        }
        Ok(())
    }
}

/// Trains the policy to imitate demonstrations, and records one line per epoch (phase `clone`).
///
/// Minimises the mean negative log-likelihood of the imitated actions' tokens (nats per token) plus
/// [`CloningConfig::observation_weight`] times that of all other tokens, in a seeded order. The
/// optimiser's state is reset afterwards: the small second moments of imitation would blow up the
/// first steps of reinforcement learning. If `update` has a KL term, the trained policy becomes its
/// reference; with LoRA adapters the reference is the model without them.
///
/// # Errors
/// A setting out of range, a demonstration without actions or longer than the context, a non-finite
/// loss or gradient, or a record that cannot be written.
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
    if config.epochs > 0 {
        check_context(&rows, learner.decoder.config().max_position_embeddings)?;
    }
    let mut progress = Progress::new("imitation", config.epochs * rows.len());
    let mut note = String::new();
    for epoch in 0..config.epochs {
        let mut show = |done: usize, loss: f64| {
            note = format!("epoch {}  loss {loss:.3} nats/token", epoch + 1);
            progress.set(epoch * rows.len() + done, &note);
        };
        let stream = Stream::new(seed, Purpose::Cloning, epoch as u64, 0, 0);
        let order = stream.permutation(0, rows.len());
        let loss = imitate(learner, &rows, &order, config, update, &mut show)?;
        recorder.record(&Record::new("clone", epoch as u64).with("loss", loss))?;
    }
    learner.optimizer.reset();
    if update.policy.kl.is_some() {
        learner.freeze_reference()?;
    }
    progress.finish(&format!("{} demonstrations, {note}", rows.len()));
    Ok(())
}

fn check_context(rows: &[DemonstrationRow], context: usize) -> Result<()> {
    for (i, demonstration) in rows.iter().enumerate() {
        let length = demonstration.row.ids.len();
        if length > context {
            let expected = format!(
                "at most {context} tokens in demonstration {i}; raise policy.context, or \
                 model.context with a model checkpoint"
            );
            return Err(Error::Shape { name: "demonstration", expected, got: vec![length] });
        }
    }
    Ok(())
}

/// Trains on all rows once, in the given order; returns the mean loss.
fn imitate(
    learner: &mut Learner,
    rows: &[DemonstrationRow],
    order: &[usize],
    config: &CloningConfig,
    update: &UpdateConfig,
    show: &mut dyn FnMut(usize, f64),
) -> Result<f64> {
    let mut sum = 0.0;
    let mut done = 0;
    for batch in order.chunks(config.batch) {
        let batch: Vec<&DemonstrationRow> = batch.iter().map(|&i| &rows[i]).collect();
        let CloningConfig { observation_weight, learning_rate, .. } = *config;
        let loss = learner.clone_step(&batch, observation_weight, update, learning_rate)?;
        sum += loss * batch.len() as f64;
        done += batch.len();
        show(done, sum / done as f64);
    }
    Ok(sum / done as f64)
}
