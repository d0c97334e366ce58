//! Behaviour cloning: a warm start on demonstrations.

use crate::env::Demonstration;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::DemonstrationRow;
use crate::run::progress::Progress;
use crate::run::record::Record;
use crate::run::recorder::Recorder;
use crate::settings::{Count, NonNegative, Positive};
use crate::train::config::update::UpdateConfig;
use crate::train::learn::agent::Agent;
use crate::{Error, Result};

/// How demonstrations are cloned before reinforcement learning.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloningConfig {
    /// Passes over the demonstrations.
    pub epochs: Count,
    /// Demonstrations per optimiser step.
    pub batch: Count,
    /// Learning rate, constant.
    pub learning_rate: Positive,
    /// Weight of predicting the environment's texts in addition to the actions: a policy that learns
    /// to read learns to name what it has read.
    pub observation_weight: NonNegative,
}

impl Default for CloningConfig {
    fn default() -> Self {
        Self {
            epochs: Count::literal(14),
            batch: Count::literal(4),
            learning_rate: Positive::literal(1e-3),
            observation_weight: NonNegative::literal(0.3),
        }
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
    let Agent { learner, prompter, .. } = agent;
    let rows: Vec<DemonstrationRow> = (demonstrations.iter().enumerate())
        .map(|(i, demonstration)| prompter.demonstration(demonstration, i))
        .collect::<Result<_>>()?;
    let context = learner.decoder.config().max_position_embeddings;
    let mut lengths = rows.iter().map(|demonstration| demonstration.row.ids.len()).enumerate();
    if let Some((i, length)) = lengths.find(|&(_, length)| length > context) {
        return Err(Error::setting(
            "model.context",
            context,
            format!("demonstration {i} has {length} tokens"),
        ));
    }
    let epochs = config.epochs.get();
    let mut progress = Progress::new("cloning", epochs * rows.len());
    let mut note = String::new();
    for epoch in 0..epochs {
        let order =
            Stream::new(seed, Purpose::Cloning, epoch as u64, 0, 0).permutation(0, rows.len());
        let (mut sum, mut done) = (0.0, 0);
        for batch in order.chunks(config.batch.get()) {
            let batch: Vec<&DemonstrationRow> = batch.iter().map(|&i| &rows[i]).collect();
            let observation_weight = config.observation_weight.get();
            let learning_rate = config.learning_rate.get();
            let loss = learner.clone_step(&batch, observation_weight, update, learning_rate)?;
            sum += loss * batch.len() as f64;
            done += batch.len();
            note = format!("epoch {}  loss {:.3} nats/token", epoch + 1, sum / done as f64);
            progress.set(epoch * rows.len() + done, &note);
        }
        recorder.record(&Record::new("clone", epoch as u64).with("loss", sum / done as f64))?;
    }
    learner.optimizer.reset();
    progress.finish(&format!("{} demonstrations, {note}", rows.len()));
    Ok(())
}
