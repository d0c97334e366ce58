//! Everything of a run that learns: policy, optimiser, tokenizer and entropy control, saved as one.

use candle_core::{DType, Device};

use super::optim::{AdamW, AdamWConfig};
use super::{Checkpoint, CheckpointWriter, Learner};
use crate::entropy::{EntropyConfig, EntropyControl};
use crate::policy::{DecoderConfig, Parameters, Tokenizer};
use crate::rollout::{PolicySampler, Prompter, RolloutConfig, SPECIAL_TOKENS};
use crate::{Error, Result};

/// The settings of an [`Agent`].
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The optimiser's.
    pub optimizer: AdamWConfig,
    /// The entropy control's.
    pub entropy: EntropyConfig,
    /// Temperature and observation length.
    pub rollout: RolloutConfig,
}

impl AgentConfig {
    /// Refuses what no agent can be made with, before anything is made.
    ///
    /// # Errors
    /// The first setting that is out of range, by name.
    pub fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
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
}

impl Agent {
    /// A new agent: a tokenizer of `vocabulary` entries trained on `texts`, and seeded fresh weights;
    /// `decoder` gives the policy's shape for a vocabulary size.
    ///
    /// # Errors
    /// A setting out of range, or texts without tokens.
    pub fn new<'t>(
        config: &AgentConfig,
        texts: impl IntoIterator<Item = &'t str, IntoIter: Send>,
        vocabulary: usize,
        decoder: impl FnOnce(usize) -> DecoderConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let tokenizer = Tokenizer::train(texts, vocabulary, &SPECIAL_TOKENS)?;
        let model = decoder(tokenizer.vocab_size());
        let parameters = Parameters::init(&model, seed, DType::F32, device)?;
        let optimizer = AdamW::new(config.optimizer.clone())?;
        let learner = Learner::new(&model, parameters, optimizer, config.rollout.temperature)?;
        Self::assemble(config, learner, tokenizer)
    }

    fn assemble(config: &AgentConfig, learner: Learner, tokenizer: Tokenizer) -> Result<Self> {
        tokenizer.check_fits(learner.decoder.config())?;
        let prompter = Prompter::new(tokenizer, config.rollout.max_observation_tokens)?;
        Ok(Self { learner, prompter, entropy: config.entropy.build()? })
    }

    /// A sampler of its policy for `slots` concurrent episodes.
    pub fn sampler(&self, slots: usize) -> PolicySampler<'_> {
        PolicySampler::new(&self.learner.decoder, slots, self.prompter.end_id())
    }

    /// Adds weights, optimiser state, tokenizer and entropy state to a checkpoint.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        self.learner.save(checkpoint)?;
        checkpoint.add_file("tokenizer.json", |path| self.prompter.tokenizer().save(path))?;
        checkpoint.add_file(ENTROPY, |path| super::atomic_write(path, self.entropy.state().to_string()))?;
        Ok(())
    }

    /// The agent that [`Agent::save`] wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged, a tokenizer that does not fit the model, an entropy state of
    /// another configuration.
    pub fn restore(config: &AgentConfig, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        config.validate()?;
        let tokenizer = Tokenizer::load(checkpoint.file("tokenizer.json")?)?;
        let temperature = config.rollout.temperature;
        let learner = Learner::restore(checkpoint, config.optimizer.clone(), temperature, device)?;
        let mut agent = Self::assemble(config, learner, tokenizer)?;
        let path = checkpoint.file(ENTROPY)?;
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let state = serde_json::from_str(&text).map_err(|e| Error::file(&path, "entropy", e.to_string()))?;
        agent.entropy.load_state(&state)?;
        Ok(agent)
    }
}

/// The entropy state's name in a checkpoint.
const ENTROPY: &str = "entropy.json";
