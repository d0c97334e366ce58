//! Behaviour cloning: imitation of demonstrations as a warm start for reinforcement learning.
//!
//! A fresh policy almost never solves a long task by chance, so reinforcement learning alone would
//! see no reward. Imitation of a few solved episodes first gives it something to improve.

use crate::console::note;
use crate::env::Demonstration;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::DemonstrationRow;
use crate::run::progress::Progress;
use crate::run::record::Record;
use crate::run::recorder::Recorder;
use crate::settings::{Count, NonNegative, Positive};
use crate::train::config::update::UpdateConfig;
use crate::train::learn::agent::Agent;
use crate::train::learn::learner::Learner;
use crate::{Error, Result};

/// Settings of the imitation of demonstrations (`cloning` in a run's configuration).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloningConfig {
    /// Passes over all demonstrations.
    pub epochs: Count,
    /// Demonstrations per optimiser step.
    pub batch: Count,
    /// Learning rate, constant.
    pub learning_rate: Positive,
    /// Weight of the loss on the environment's texts, relative to that on the actions. A policy
    /// that learns to predict what it reads also learns to name it in its actions.
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

/// Trains the policy to imitate demonstrations, and records one line per epoch (phase `clone`).
///
/// Only demonstrations that solve their task are imitated; the others are counted and omitted.
///
/// Minimises the mean negative log-likelihood of the imitated actions' tokens (nats per token) plus
/// [`CloningConfig::observation_weight`] times that of all other tokens, in a seeded order. The
/// optimiser's state is reset afterwards: the small second moments of imitation would blow up the
/// first steps of reinforcement learning. [`Learner::freeze_reference`] makes the result the
/// reference policy of KL terms.
///
/// # Errors
/// A setting out of range, no demonstration that solves its task, one without actions or longer
/// than the context, a non-finite loss or gradient, or a record that cannot be written.
pub fn clone_demonstrations(
    agent: &mut Agent,
    demonstrations: &[Demonstration],
    config: &CloningConfig,
    update: &UpdateConfig,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<()> {
    let Agent { learner, prompter, .. } = agent;
    let solved = solving(demonstrations)?;
    let rows: Vec<DemonstrationRow> = (solved.into_iter().enumerate())
        .map(|(i, demonstration)| prompter.demonstration(demonstration, i))
        .collect::<Result<_>>()?;
    check_context(&rows, learner.decoder.config().max_position_embeddings)?;
    let epochs = config.epochs.get();
    let mut progress = Progress::new("imitation", epochs * rows.len());
    let mut note = String::new();
    for epoch in 0..epochs {
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
    progress.finish(&format!("{} demonstrations, {note}", rows.len()));
    Ok(())
}

/// The demonstrations that solve their task; reports how many do not.
fn solving(demonstrations: &[Demonstration]) -> Result<Vec<&Demonstration>> {
    let count = demonstrations.len();
    let solved: Vec<_> = demonstrations.iter().filter(|shown| shown.solves()).collect();
    if solved.is_empty() {
        let reason = format!(
            "none of the {count} demonstrations solves its task, so there is nothing to imitate: \
             raise the limits on turns and moves, or set `cloning = false`"
        );
        return Err(Error::setting("cloning", "on", reason));
    }
    if solved.len() < count {
        note(format_args!(
            "{} of {count} demonstrations do not solve their task",
            count - solved.len()
        ));
    }
    Ok(solved)
}

fn check_context(rows: &[DemonstrationRow], context: usize) -> Result<()> {
    for (i, demonstration) in rows.iter().enumerate() {
        let length = demonstration.row.ids.len();
        if length > context {
            let reason = format!("must be at least {length}, the tokens of demonstration {i}");
            return Err(Error::setting("model.context", context, reason));
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
    for batch in order.chunks(config.batch.get()) {
        let batch: Vec<&DemonstrationRow> = batch.iter().map(|&i| &rows[i]).collect();
        let observation_weight = config.observation_weight.get();
        let learning_rate = config.learning_rate.get();
        let loss = learner.clone_step(&batch, observation_weight, update, learning_rate)?;
        sum += loss * batch.len() as f64;
        done += batch.len();
        show(done, sum / done as f64);
    }
    Ok(sum / done as f64)
}
