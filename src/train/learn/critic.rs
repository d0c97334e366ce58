//! The critic of PPO: a value for the state before every sampled token, with an optimiser of its own.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

use crate::objective::aggregate::TokenBatch;
use crate::objective::metrics::Metrics;
use crate::objective::value::{value_loss, ValueInputs};
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::optim::schedule::LrSchedule;
use crate::policy::parameters::Parameters;
use crate::policy::value::ValueModel;
use crate::rng::{Purpose, Stream};
use crate::rollout::prompt::SPECIAL_TOKENS;
use crate::rollout::rows::{MicroBatch, Row, RowKind};
use crate::rollout::trajectory::Trajectory;
use crate::run::checkpoint::{Checkpoint, CheckpointWriter};
use crate::train::config::update::UpdateConfig;
use crate::train::learn::accumulate::{
    accumulate, check_tokens, of_members, optimizer_steps, row_values, rows_of, whole,
};
use crate::train::learn::agent::PolicyConfig;
use crate::train::learn::learner::Learner;
use crate::{Error, Result};

/// The critic's settings. Epochs, mini-batches, micro-batches and aggregation are the policy's (`update`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriticConfig {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Training steps at the beginning in which the critic learns and the policy does not.
    pub warmup_steps: u64,
    /// ε of the value loss: a value moves by at most this from what it was when the tokens were sampled, or costs at least
    /// as much as if it had (verl `cliprange_value`). Rewards of size 1 want about 0.5.
    pub value_clip: f64,
    /// Global gradient norm above which gradients are scaled down.
    pub max_grad_norm: f64,
    /// What the value head stands on.
    pub body: CriticBody,
    /// The learning rate over the training steps.
    pub schedule: LrSchedule,
    /// Its optimiser's.
    pub optimizer: AdamWConfig,
}

impl Default for CriticConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            warmup_steps: 0,
            value_clip: 0.5,
            max_grad_norm: 1.0,
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
    /// A copy of the policy as it is when the critic is made, all of it trained; with corrections of low rank the policy's
    /// frozen weights, shared, with fresh corrections of the same rank (their dropout is the policy's alone).
    Policy,
    /// A small f32 decoder of its own over the policy's vocabulary, from seeded fresh weights.
    Own {
        /// Width, a multiple of 32.
        hidden_size: usize,
        /// Blocks.
        layers: usize,
    },
}

impl CriticBody {
    fn shape(self) -> Option<PolicyConfig> {
        match self {
            Self::Policy => None,
            Self::Own { hidden_size, layers } => {
                Some(PolicyConfig { hidden_size, layers, ..PolicyConfig::default() })
            }
        }
    }
}

impl CriticConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("critic.learning_rate", self.learning_rate),
            ("critic.value_clip", self.value_clip),
            ("critic.max_grad_norm", self.max_grad_norm),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::setting(name, value, "must be positive and finite"));
            }
        }
        if let Some(shape) = self.body.shape() {
            shape.decoder(SPECIAL_TOKENS.len())?;
        }
        self.schedule.validate().map_err(|e| e.within("critic.schedule"))?;
        self.optimizer.validate().map_err(|e| e.within("critic.optimizer"))
    }

    /// The learning rate of training step `step`.
    pub fn lr(&self, step: u64) -> f64 {
        self.learning_rate * self.schedule.factor(step)
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
    /// Spent on [`Critic::values`], until a record has it.
    pub(crate) values_time: Duration,
}

/// The data of a critic update; lists are one number for each sampled token of each row.
pub struct ValueBatch<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// The values before the update, which clipping refers to.
    pub values: &'a [Vec<f32>],
    /// What the values should have been.
    pub returns: &'a [Vec<f32>],
    /// The run's seed and the step, which decide the order of rows.
    pub seed: u64,
    /// The training step.
    pub step: u64,
}

impl Critic {
    /// A critic for `policy` that values everything at 0.
    ///
    /// # Errors
    /// A setting out of range, a failed copy.
    pub fn new(config: &CriticConfig, policy: &Learner, seed: u64) -> Result<Self> {
        config.validate()?;
        let stream = Stream::new(seed, Purpose::Critic, 0, 0, 0);
        let decoder = policy.decoder.config();
        let (body, parameters) = match (config.body.shape(), policy.parameters.lora()) {
            (Some(shape), _) => {
                let shape = PolicyConfig { context: decoder.max_position_embeddings, ..shape };
                let body = shape.decoder(decoder.vocab_size)?;
                let (dtype, device) = (DType::F32, policy.decoder.device());
                let parameters = Parameters::init_from(&body, &stream, dtype, device)?;
                (body, parameters)
            }
            (None, Some(lora)) => {
                let base = policy.parameters.clone().without_lora();
                (decoder.clone(), base.with_lora_from(decoder, lora, &stream)?)
            }
            (None, None) => (decoder.clone(), policy.parameters.duplicate()?),
        };
        let (body, parameters) = (ValueModel::body(&body), parameters.with_value_head()?);
        let model =
            ValueModel::new(&body, &parameters)?.with_checkpointing(policy.decoder.checkpointing());
        let optimizer = AdamW::new(config.optimizer.clone())?;
        Ok(Self {
            model,
            parameters,
            optimizer,
            config: config.clone(),
            values_time: Duration::ZERO,
        })
    }

    /// The settings.
    pub fn config(&self) -> &CriticConfig {
        &self.config
    }

    /// Whether the policy waits in training step `step` (0-based) until the critic has learned something.
    pub fn warms_up(&self, step: u64) -> bool {
        step < self.config.warmup_steps
    }

    fn values_of(&self, batch: &MicroBatch) -> Result<Tensor> {
        let hidden =
            self.model.decoder().forward_packed(&batch.ids)?.index_select(&batch.predictors, 0)?;
        batch.lay_out(&self.model.values(&hidden)?)
    }

    /// The value of the state *before* each sampled token, one list a row: at the position that predicts it (verl
    /// `DataParallelPPOCritic`, whose values are cut one position early as log-probabilities are).
    ///
    /// # Errors
    /// A value that is not finite, or a tensor operation that failed.
    pub fn row_values(&self, rows: &[Row], micro_batch_tokens: usize) -> Result<Vec<Vec<f32>>> {
        let chosen: Vec<&Row> = rows.iter().collect();
        let values = row_values(&self.parameters, &chosen, micro_batch_tokens, &|micro| {
            self.values_of(micro)
        })?;
        check_tokens("values", rows, &values)?;
        Ok(values)
    }

    /// [`Critic::row_values`] with one list a trajectory, over its sampled tokens turn after turn.
    ///
    /// # Errors
    /// As [`Critic::row_values`]; an episode without sampled tokens.
    pub fn values(
        &mut self,
        trajectories: &[Trajectory],
        rows: RowKind,
        update: &UpdateConfig,
    ) -> Result<Vec<Vec<f64>>> {
        let began = Instant::now();
        let rows = rows_of(trajectories, rows)?;
        let mut values = vec![Vec::new(); trajectories.len()];
        for (row, of_row) in rows.iter().zip(self.row_values(&rows, update.micro_batch_tokens)?) {
            values[row.trajectory].extend(of_row.into_iter().map(f64::from));
        }
        self.values_time += began.elapsed();
        Ok(values)
    }

    /// The optimiser steps of one training step, over the mini-batches of the policy's; returns the metrics' mean over them:
    /// `value_loss` and `value_clipfrac` ([`value_loss`]), `critic_grad_norm` (before clipping).
    ///
    /// # Errors
    /// A list that does not fit its row, a non-finite number, loss or gradient, or a tensor operation that failed.
    pub fn value_step(&mut self, data: &ValueBatch, update: &UpdateConfig) -> Result<Metrics> {
        check_tokens("values", data.rows, data.values)?;
        check_tokens("value returns", data.rows, data.returns)?;
        let mut total = Metrics::new();
        let chunks = optimizer_steps(data.seed, data.step, update, data.rows.len());
        for chunk in &chunks {
            total.merge(
                &self.optimizer_step(data, chunk, update)?.scaled(1.0 / chunks.len() as f64),
            );
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
            let (old_br, returns_br) = (given(data.values)?, given(data.returns)?);
            let inputs = ValueInputs {
                values_bt: &values_br,
                old_values_bt: &old_br,
                returns_bt: &returns_br,
                batch,
            };
            value_loss(&inputs, self.config.value_clip)
        };
        let (gradients, mut metrics) = accumulate(&self.parameters, &rows, update, &whole, &loss)?;
        let (lr, most) = (self.config.lr(data.step), self.config.max_grad_norm);
        let norm = self.optimizer.step_clipped(&self.parameters, &gradients, lr, most)?;
        metrics.add("critic_grad_norm", norm);
        Ok(metrics)
    }

    /// Adds `critic.safetensors` (what is trained: everything, or corrections and head) and
    /// `critic_optimizer.safetensors` to a checkpoint.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        checkpoint.add_file(WEIGHTS, |path| self.parameters.save_trainable(path))?;
        checkpoint.add_file(OPTIMIZER, |path| self.optimizer.save(path))?;
        Ok(())
    }

    /// The critic that [`Critic::save`] wrote, for the policy it was made for.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another model, by its tensor.
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
