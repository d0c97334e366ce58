//! Everything of a run that learns: policy, optimiser, tokenizer and entropy control, saved as one.

use std::collections::BTreeMap;
use std::path::Path;

use crate::entropy::config::EntropyConfig;
use crate::entropy::control::EntropyControl;
use crate::env::Environment;
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::policy::config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::Pretrained;
use crate::policy::tokenizer::Tokenizer;
use crate::rollout::config::{PlayConfig, RolloutConfig};
use crate::rollout::engine::{play, Episode, Rollouts};
use crate::rollout::prompt::{Prompter, SPECIAL_TOKENS};
use crate::rollout::sampler::PolicySampler;
use crate::run::checkpoint::{checksum, read_json};
use crate::run::checkpoint::{Checkpoint, CheckpointWriter};
use crate::train::config::model::ModelConfig;
use crate::train::learn::learner::Learner;
use crate::{Error, Result};

/// The shape of a small policy: a decoder of the Qwen2 family with heads 32 wide, two query heads to a
/// key/value head where their number is even, and a tied output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// Most entries of the tokenizer's vocabulary.
    pub vocabulary: usize,
    /// Width, a multiple of 32.
    pub hidden_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Most tokens of an episode.
    pub context: usize,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { vocabulary: 1024, hidden_size: 128, layers: 2, context: 1024 }
    }
}

impl PolicyConfig {
    /// The decoder for a vocabulary of `vocab_size` entries.
    ///
    /// # Errors
    /// [`Error::Setting`] for a width that is no multiple of 32, or a size of 0.
    pub fn decoder(&self, vocab_size: usize) -> Result<DecoderConfig> {
        if self.hidden_size == 0 || !self.hidden_size.is_multiple_of(32) {
            return Err(Error::setting(
                "policy.hidden_size",
                self.hidden_size,
                "must be a multiple of 32",
            ));
        }
        let heads = self.hidden_size / 32;
        let config = DecoderConfig {
            hidden_size: self.hidden_size,
            intermediate_size: 3 * self.hidden_size,
            num_hidden_layers: self.layers,
            num_attention_heads: heads,
            num_key_value_heads: heads / (2 - heads % 2),
            max_position_embeddings: self.context,
            // 0.02 suits widths of thousands: a narrow policy started there barely leaves the unigram plateau.
            initializer_range: (self.hidden_size as f64).sqrt().recip(),
            ..DecoderConfig::tiny(vocab_size)
        };
        config.validate()?;
        Ok(config)
    }
}

/// The settings of an [`Agent`].
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The policy's, for a new agent.
    pub policy: PolicyConfig,
    /// The checkpoint's, where the policy is one.
    pub model: ModelConfig,
    /// The optimiser's.
    pub optimizer: AdamWConfig,
    /// The entropy control's.
    pub entropy: EntropyConfig,
    /// Temperature and observation length.
    pub rollout: RolloutConfig,
}

impl AgentConfig {
    /// The settings together.
    pub fn new(
        policy: PolicyConfig,
        model: &ModelConfig,
        optimizer: &AdamWConfig,
        entropy: EntropyConfig,
        rollout: RolloutConfig,
    ) -> Self {
        Self { policy, model: model.clone(), optimizer: optimizer.clone(), entropy, rollout }
    }

    /// Refuses what no agent can be made with, before anything is made.
    ///
    /// # Errors
    /// The first setting that is out of range, by name.
    pub fn validate(&self) -> Result<()> {
        self.policy.decoder(SPECIAL_TOKENS.len())?;
        self.model.validate(&self.policy)?;
        self.optimizer.validate().map_err(|e| e.within("optimizer"))?;
        self.rollout.validate()?;
        self.entropy.build().map(drop)
    }
}

/// A policy that plays and learns.
pub struct Agent {
    /// Policy and optimiser.
    pub learner: Learner,
    /// Texts to tokens and back.
    pub prompter: Prompter,
    /// Regulariser, history and β.
    pub entropy: EntropyControl,
    /// The checkpoint that the policy began as.
    began_as: Option<Base>,
}

impl Agent {
    /// A new agent: a checkpoint, or a tokenizer trained on `texts` and seeded fresh weights.
    ///
    /// # Errors
    /// A setting out of range, texts without tokens, or a checkpoint that cannot be read.
    pub fn new<'t>(
        config: &AgentConfig,
        texts: impl IntoIterator<Item = &'t str>,
        seed: u64,
    ) -> Result<Self> {
        config.validate()?;
        let device = &config.model.device.open()?;
        let optimizer = AdamW::new(config.optimizer.clone())?;
        let (model, pretrained) = (&config.model, config.model.open()?);
        let (shape, parameters, prompter) = match &pretrained {
            Some(source) => {
                let prompter = model.prompter(source, config.rollout.max_observation_tokens)?;
                (source.config().clone(), model.parameters(source, seed, device)?, prompter)
            }
            None => {
                let tokenizer = Tokenizer::train(texts, config.policy.vocabulary, &SPECIAL_TOKENS)?;
                let shape = config.policy.decoder(tokenizer.vocab_size())?;
                let parameters = Parameters::init(&shape, seed, model.dtype.dtype(), device)?;
                (
                    shape,
                    parameters,
                    Prompter::new(tokenizer, config.rollout.max_observation_tokens)?,
                )
            }
        };
        let learner = Learner::new(&shape, parameters, optimizer, config.rollout.temperature)?;
        Self::assemble(config, learner, prompter, pretrained)
    }

    fn assemble(
        config: &AgentConfig,
        mut learner: Learner,
        prompter: Prompter,
        pretrained: Option<Pretrained>,
    ) -> Result<Self> {
        prompter.tokenizer().check_fits(learner.decoder.config())?;
        learner.set_checkpointing(config.model.checkpointing);
        let began_as =
            pretrained.map(|model| Base::new(model, config.model.lora.is_some())).transpose()?;
        Ok(Self { learner, prompter, entropy: config.entropy.build()?, began_as })
    }

    /// Plays `episodes` with its policy, as many at a time as there are environments.
    ///
    /// # Errors
    /// As [`play`].
    pub fn play(
        &self,
        environments: &mut [Box<dyn Environment>],
        episodes: &[Episode],
        limits: &PlayConfig,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Rollouts> {
        let end = self.prompter.end_id();
        let mut sampler = PolicySampler::new(&self.learner.decoder, environments.len(), end)
            .stopping_at(self.prompter.stop_strings()?);
        play(&mut sampler, environments, &self.prompter, episodes, limits, progress)
    }

    /// Adds weights, optimiser state, tokenizer and entropy state to a checkpoint.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        self.learner.save(checkpoint)?;
        checkpoint.add_file("tokenizer.json", |path| self.prompter.tokenizer().save(path))?;
        checkpoint.add_file(ENTROPY, |path| {
            crate::files::atomic_write(path, self.entropy.state().to_string())
        })?;
        self.began_as.as_ref().map_or(Ok(()), |base| base.save(checkpoint))
    }

    /// Writes what Python reads into the folder `model-STEP` of a run: the trained model (`from_pretrained`), or with
    /// corrections of low rank these alone (PEFT, vLLM). Nothing is written for a small policy, whose checkpoints have the same
    /// layout, nor where the run has written its model of this step before.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn export(&self, run: impl AsRef<Path>, step: u64) -> Result<()> {
        let folder = &run.as_ref().join(format!("model-{step}"));
        let parameters = &self.learner.parameters;
        let Some(Base { model, .. }) = &self.began_as else { return Ok(()) };
        match parameters.lora() {
            Some(_) => parameters.save_adapter(folder, &model.source().to_string()),
            None if folder.exists() => Ok(()),
            None => model.save(folder, parameters, Pretrained::SHARD_BYTES),
        }
    }

    /// The agent that [`Agent::save`] wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged, a tokenizer that does not fit the model, an entropy state of
    /// another configuration, and a model in the place of the one that the run began with, by the file that differs.
    pub fn restore(config: &AgentConfig, checkpoint: &Checkpoint) -> Result<Self> {
        config.validate()?;
        let device = &config.model.device.open()?;
        let (model, rollout) = (&config.model, &config.rollout);
        let (dtype, optimizer) = (model.dtype.dtype(), config.optimizer.clone());
        let pretrained = model.open()?;
        let prompter = match &pretrained {
            Some(source) => model.prompter(source, rollout.max_observation_tokens)?,
            None => Prompter::new(
                Tokenizer::load(checkpoint.file("tokenizer.json")?)?,
                rollout.max_observation_tokens,
            )?,
        };
        let learner = match (&pretrained, &model.lora) {
            (Some(source), Some(_)) => {
                let base = source.parameters(dtype, device)?;
                Learner::restore_adapter(checkpoint, base, optimizer, rollout.temperature)?
            }
            _ => Learner::restore(checkpoint, optimizer, rollout.temperature, dtype, device)?,
        };
        let mut agent = Self::assemble(config, learner, prompter, pretrained)?;
        agent.began_as.as_ref().map_or(Ok(()), |base| base.check(checkpoint))?;
        agent.entropy.load_state(&read_json(&checkpoint.file(ENTROPY)?, "entropy")?)?;
        Ok(agent)
    }
}

/// The entropy state's name in a checkpoint.
const ENTROPY: &str = "entropy.json";

/// The name in a checkpoint of what [`Base`] knows of its files.
const BASE: &str = "base.json";

/// The checkpoint that a policy began as, which a run that goes on needs again.
struct Base {
    model: Pretrained,
    /// CRC-32 of the files that the run depends on, by name.
    files: BTreeMap<String, u32>,
}

impl Base {
    /// The weights count where corrections are trained beside them: others are in the run's own checkpoints.
    fn new(model: Pretrained, weights: bool) -> Result<Self> {
        let name =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = model.files(weights)?;
        let files =
            files.iter().map(|path| Ok((name(path), checksum(path)?.1))).collect::<Result<_>>()?;
        Ok(Self { model, files })
    }

    fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        let text = serde_json::json!(self.files).to_string();
        checkpoint.add_file(BASE, |path| crate::files::atomic_write(path, text))?;
        Ok(())
    }

    /// Requires the files to be those that the run has gone on with.
    fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let before: BTreeMap<String, u32> = read_json(&checkpoint.file(BASE)?, "base")?;
        let mut names = before.keys().chain(self.files.keys());
        match names.find(|&name| before.get(name) != self.files.get(name)) {
            Some(name) => {
                let reason = format!("is not the model that this run began with: {name} differs");
                Err(Error::setting("model.source", self.model.source(), reason))
            }
            None => Ok(()),
        }
    }
}
