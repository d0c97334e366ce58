//! PPO's critic: a value model with its own optimiser, one value for the state before each sampled
//! token.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

use crate::kernels::layers::rows_at::rows_at;
use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::value::{value_loss, ValueInputs};
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::optim::schedule::LrSchedule;
use crate::policy::config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::policy::value::ValueModel;
use crate::rng::{Purpose, Stream};
use crate::rollout::rows::{MicroBatch, Row, RowKind};
use crate::rollout::trajectory::Trajectory;
use crate::run::checkpoint::{Checkpoint, CheckpointWriter};
use crate::settings::{Count, Positive};
use crate::train::config::model::SmallConfig;
use crate::train::config::update::UpdateConfig;
use crate::train::learn::accumulate::{
    accumulate, check_tokens, of_members, optimizer_steps, row_values, rows_of, whole,
};
use crate::train::learn::learner::Learner;
use crate::{Error, Result};

/// Settings of the critic. Epochs, mini-batches, micro-batches and aggregation are those of
/// `update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriticConfig {
    /// Peak learning rate.
    pub learning_rate: Positive,
    /// Number of first training steps in which only the critic is trained.
    pub warmup_steps: u64,
    /// ε of the clipped value loss: a value that moves by more than ε from its old value costs at
    /// least as much as one that moved by ε (verl `cliprange_value`). 0.5 suits rewards of size 1.
    pub value_clip: Positive,
    /// Maximum global gradient norm; larger gradients are scaled down to it.
    pub max_grad_norm: Positive,
    /// The decoder below the value head.
    pub body: CriticBody,
    /// Schedule of the learning rate over the training steps.
    pub schedule: LrSchedule,
    /// Settings of its optimiser.
    pub optimizer: AdamWConfig,
}

impl Default for CriticConfig {
    fn default() -> Self {
        Self {
            learning_rate: Positive::literal(1e-3),
            warmup_steps: 0,
            value_clip: Positive::literal(0.5),
            max_grad_norm: Positive::literal(1.0),
            body: CriticBody::Policy,
            schedule: LrSchedule::default(),
            optimizer: AdamWConfig::default(),
        }
    }
}

/// The decoder below a value head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CriticBody {
    /// A copy of the policy at the time the critic is created, fully trained. With LoRA, the
    /// policy's frozen weights are shared and get fresh adapters of the same rank, without dropout.
    Policy,
    /// A separate small f32 decoder over the policy's vocabulary, from seeded fresh weights.
    Own {
        /// Width, a multiple of 32.
        hidden_size: Count,
        /// Number of blocks.
        layers: Count,
    },
}

impl CriticBody {
    /// The decoder's configuration and its initial weights.
    fn parameters(self, policy: &Learner, stream: &Stream) -> Result<(DecoderConfig, Parameters)> {
        let decoder = policy.decoder.config();
        match (self, policy.parameters.lora()) {
            (Self::Own { hidden_size, layers }, _) => {
                let context = Count::try_from(decoder.max_position_embeddings)?;
                let shape = SmallConfig { hidden_size, layers, context, ..SmallConfig::default() };
                let body = shape.decoder(decoder.vocab_size)?;
                let device = policy.decoder.device();
                let parameters = Parameters::init_from(&body, stream, DType::F32, device)?;
                Ok((body, parameters))
            }
            (Self::Policy, Some(lora)) => {
                let base = policy.parameters.clone().without_lora();
                Ok((decoder.clone(), base.with_lora_from(decoder, lora, stream)?))
            }
            (Self::Policy, None) => Ok((decoder.clone(), policy.parameters.duplicate()?)),
        }
    }
}

impl CriticConfig {
    /// Checks the shape of a body of its own and the schedule.
    ///
    /// # Errors
    /// [`Error::Setting`] for a width that is not a multiple of 32, and see [`LrSchedule::check`].
    pub fn check(&self) -> Result<()> {
        if let CriticBody::Own { hidden_size, .. } = self.body {
            if !hidden_size.get().is_multiple_of(32) {
                let key = "algorithm.critic.body.hidden_size";
                return Err(Error::setting(key, hidden_size, "must be a multiple of 32"));
            }
        }
        self.schedule.check("algorithm.critic.schedule")
    }

    /// The learning rate of training step `step`.
    pub fn lr(&self, step: u64) -> f64 {
        self.learning_rate.get() * self.schedule.factor(step)
    }
}

/// A value model with its optimiser.
pub struct Critic {
    /// The model's structure.
    pub model: ValueModel,
    /// Its weights.
    pub parameters: Parameters,
    /// The optimiser and its state.
    pub optimizer: AdamW,
    config: CriticConfig,
    /// Time in [`Critic::values`] that is not yet recorded.
    pub(crate) values_time: Duration,
}

/// Data of a critic update; lists hold one number per sampled token of each row.
pub struct ValueBatch<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// The values before the update, the reference of clipping.
    pub values: &'a [Vec<f32>],
    /// The value targets.
    pub returns: &'a [Vec<f32>],
    /// The run's seed; seed and step determine the order of rows.
    pub seed: u64,
    /// The training step, from 0.
    pub step: u64,
}

impl Critic {
    /// Creates a critic for `policy`; its value head starts at 0.
    ///
    /// # Errors
    /// A setting out of range, or a failed copy.
    pub fn new(config: &CriticConfig, policy: &Learner, seed: u64) -> Result<Self> {
        config.check()?;
        let stream = Stream::new(seed, Purpose::Critic, 0, 0, 0);
        let (decoder, parameters) = config.body.parameters(policy, &stream)?;
        let parameters = parameters.with_value_head()?;
        let model = ValueModel::new(&ValueModel::body(&decoder), &parameters)?
            .with_checkpointing(policy.decoder.checkpointing());
        Ok(Self {
            model,
            parameters,
            optimizer: AdamW::new(config.optimizer.clone()),
            config: config.clone(),
            values_time: Duration::ZERO,
        })
    }

    /// The settings in force.
    pub fn config(&self) -> &CriticConfig {
        &self.config
    }

    /// True if only the critic is trained in training step `step` (0-based).
    pub fn warms_up(&self, step: u64) -> bool {
        step < self.config.warmup_steps
    }

    fn values_of(&self, batch: &MicroBatch) -> Result<Tensor> {
        let hidden = self.model.decoder().forward_packed(&batch.ids)?;
        let hidden = rows_at(&hidden, &batch.predictors)?;
        batch.lay_out(&self.model.values(&hidden)?)
    }

    /// The value of the state *before* each sampled token, at the position that predicts it, one
    /// list per row. verl's `DataParallelPPOCritic` shifts values by one position in the same way.
    ///
    /// # Errors
    /// A value that is not finite, or a failed tensor operation.
    pub fn row_values(&self, rows: &[Row], micro_batch_tokens: usize) -> Result<Vec<Vec<f32>>> {
        let chosen: Vec<&Row> = rows.iter().collect();
        let values = row_values(&self.parameters, &chosen, micro_batch_tokens, &|micro| {
            self.values_of(micro)
        })?;
        check_tokens("values", rows, &values)?;
        Ok(values)
    }

    /// [`Critic::row_values`] as one list per trajectory, over its sampled tokens turn after turn.
    ///
    /// # Errors
    /// An episode without sampled tokens, a value that is not finite, or a failed tensor operation.
    pub fn values(
        &mut self,
        trajectories: &[Trajectory],
        rows: RowKind,
        update: &UpdateConfig,
    ) -> Result<Vec<Vec<f64>>> {
        let began = Instant::now();
        let rows = rows_of(trajectories, rows)?;
        let mut values = vec![Vec::new(); trajectories.len()];
        for (row, of_row) in
            rows.iter().zip(self.row_values(&rows, update.micro_batch_tokens.get())?)
        {
            values[row.trajectory].extend(of_row.into_iter().map(f64::from));
        }
        self.values_time += began.elapsed();
        Ok(values)
    }

    /// Runs the optimiser steps of one training step, over the same mini-batches as the policy.
    ///
    /// Returns the metrics' means over them: `value_loss` and `value_clipfrac` ([`value_loss`]),
    /// and `critic_grad_norm` (before clipping).
    ///
    /// # Errors
    /// A list that does not fit its row, a non-finite number, loss or gradient, or a failed tensor
    /// operation.
    pub fn value_step(&mut self, data: &ValueBatch, update: &UpdateConfig) -> Result<Metrics> {
        check_tokens("values", data.rows, data.values)?;
        check_tokens("value returns", data.rows, data.returns)?;
        let mut total = Metrics::new();
        let chunks = optimizer_steps(data.seed, data.step, update, data.rows.len());
        for chunk in &chunks {
            let metrics = self.optimizer_step(data, chunk, update)?;
            total.merge(&metrics.scaled(1.0 / chunks.len() as f64));
        }
        Ok(total)
    }

    fn optimizer_step(
        &mut self,
        data: &ValueBatch,
        chunk: &[usize],
        update: &UpdateConfig,
    ) -> Result<Metrics> {
        let rows: Vec<&Row> = chunk.iter().map(|&i| &data.rows[i]).collect();
        let whole = whole(&rows, update)?;
        let loss = |micro: &MicroBatch, batch: &TokenBatch, members: &[usize]| {
            let values_br = self.values_of(micro)?;
            let given = |lists| -> Result<Tensor> {
                Ok(of_members(micro, lists, chunk, members)?.to_dtype(values_br.dtype())?)
            };
            let old_br = given(data.values)?;
            let returns_br = given(data.returns)?;
            let inputs = ValueInputs {
                values_bt: &values_br,
                old_values_bt: &old_br,
                returns_bt: &returns_br,
                batch,
            };
            value_loss(&inputs, self.config.value_clip.get())
        };
        let (gradients, mut metrics) = accumulate(&self.parameters, &rows, update, &whole, &loss)?;
        let lr = self.config.lr(data.step);
        let max_norm = self.config.max_grad_norm.get();
        let norm = self.optimizer.step_clipped(&self.parameters, &gradients, lr, max_norm)?;
        metrics.add("critic_grad_norm", norm);
        Ok(metrics)
    }

    /// Adds `critic.safetensors` (the trained weights: all, or LoRA adapters and value head) and
    /// `critic_optimizer.safetensors` to a run checkpoint.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        checkpoint.add_file(WEIGHTS, |path| self.parameters.save_trainable(path))?;
        checkpoint.add_file(OPTIMIZER, |path| self.optimizer.save(path))?;
        Ok(())
    }

    /// Loads the critic that [`Critic::save`] wrote, for the same policy.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another model; the error names the tensor.
    pub fn restore(
        config: &CriticConfig,
        policy: &Learner,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let mut critic = Self::new(config, policy, 0)?;
        critic.parameters.load_trainable(checkpoint.file(WEIGHTS)?)?;
        let path = checkpoint.file(OPTIMIZER)?;
        critic.optimizer = AdamW::load(path, config.optimizer.clone(), &critic.parameters)?;
        Ok(critic)
    }
}

const WEIGHTS: &str = "critic.safetensors";
const OPTIMIZER: &str = "critic_optimizer.safetensors";
