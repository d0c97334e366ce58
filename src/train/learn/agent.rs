//! The agent: policy, optimiser, tokenizer and entropy control, saved and restored together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::entropy::config::{EntropyConfig, EntropyMethod};
use crate::entropy::control::EntropyControl;
use crate::env::Environment;
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::policy::parameters::Parameters;
use crate::policy::pretrained::Pretrained;
use crate::policy::tokenizer::Tokenizer;
use crate::rollout::config::{PlayConfig, RolloutConfig};
use crate::rollout::engine::{play, Episode, Rollouts};
use crate::rollout::prompt::{Prompter, SPECIAL_TOKENS};
use crate::rollout::sampler::PolicySampler;
use crate::run::checkpoint::{checksum, read_json};
use crate::run::checkpoint::{Checkpoint, CheckpointWriter};
use crate::train::config::model::{ModelConfig, SmallConfig, WeightType};
use crate::train::learn::learner::Learner;
use crate::{Error, Result};

/// The settings of an [`Agent`].
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The policy.
    pub model: ModelConfig,
    /// Its optimiser.
    pub optimizer: AdamWConfig,
    /// Its entropy control.
    pub entropy: EntropyConfig,
    /// Temperature and observation length.
    pub rollout: RolloutConfig,
}

impl AgentConfig {
    /// Checks the shape of a small policy and the LoRA settings, before anything is allocated.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first that does not fit.
    pub fn check(&self) -> Result<()> {
        match &self.model {
            ModelConfig::Small(SmallConfig { dtype: WeightType::Quantized, .. }) => {
                let reason = "only the weights of a GGUF file (--model) are quantised";
                Err(Error::setting("model.dtype", "quantized", reason))
            }
            ModelConfig::Small(shape) => {
                shape.decoder(shape.vocabulary.get().max(SPECIAL_TOKENS.len())).map(drop)
            }
            ModelConfig::Checkpoint(checkpoint) => checkpoint.check(),
        }
    }

    /// The program's own entropy control, or the one that the settings describe.
    fn entropy(&self, own: Option<EntropyControl>) -> Result<EntropyControl> {
        match (own, self.entropy.method) {
            (Some(control), EntropyMethod::Custom) => Ok(control),
            (Some(_), _) => {
                let reason = "must be `custom` for a program that brings its own entropy control";
                Err(Error::setting("entropy.method.kind", "another", reason))
            }
            (None, _) => self.entropy.build(),
        }
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
    /// The model checkpoint that the policy started from.
    began_as: Option<Base>,
}

impl Agent {
    /// A new agent: a model checkpoint, or a small policy with seeded fresh weights and a tokenizer
    /// trained on `texts`.
    ///
    /// `entropy` is a control of the program's own, for [`EntropyMethod::Custom`].
    ///
    /// # Errors
    /// Contradicting settings, texts without tokens, or a model checkpoint that cannot be read.
    pub fn new<'t>(
        config: &AgentConfig,
        texts: impl IntoIterator<Item = &'t str>,
        seed: u64,
        entropy: Option<EntropyControl>,
    ) -> Result<Self> {
        config.check()?;
        let entropy = config.entropy(entropy)?;
        let device = &config.model.open_device()?;
        let observation_tokens = config.rollout.max_observation_tokens.get();
        let (shape, parameters, prompter, pretrained) = match &config.model {
            ModelConfig::Checkpoint(model) => {
                let pretrained = model.open()?;
                let prompter = model.prompter(&pretrained, observation_tokens)?;
                let parameters = model.parameters(&pretrained, seed, device)?;
                (pretrained.config().clone(), parameters, prompter, Some(pretrained))
            }
            ModelConfig::Small(model) => {
                let tokenizer = Tokenizer::train(texts, model.vocabulary.get(), &SPECIAL_TOKENS)?;
                let shape = model.decoder(tokenizer.vocab_size())?;
                let parameters = Parameters::init(&shape, seed, model.dtype.dtype(), device)?;
                (shape, parameters, Prompter::new(tokenizer, observation_tokens)?, None)
            }
        };
        let optimizer = AdamW::new(config.optimizer.clone());
        let learner =
            Learner::new(&shape, parameters, optimizer, config.rollout.temperature.get())?;
        Self::assemble(config, learner, prompter, pretrained, entropy)
    }

    fn assemble(
        config: &AgentConfig,
        mut learner: Learner,
        prompter: Prompter,
        pretrained: Option<Pretrained>,
        entropy: EntropyControl,
    ) -> Result<Self> {
        prompter.tokenizer().check_fits(learner.decoder.config())?;
        let checkpoint = config.model.checkpoint();
        learner.set_checkpointing(checkpoint.is_some_and(|model| model.checkpointing));
        let lora = checkpoint.is_some_and(|model| model.lora.is_some());
        let began_as = pretrained.map(|model| Base::new(model, lora)).transpose()?;
        Ok(Self { learner, prompter, entropy, began_as })
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
        let ends = self.prompter.end_ids();
        let mut sampler = PolicySampler::new(&self.learner.decoder, environments.len(), ends)
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

    /// Exports the trained model to the folder `model-STEP` of a run, for transformers'
    /// `from_pretrained`, or the LoRA adapters alone for PEFT and vLLM. A small policy is not
    /// exported, because its run checkpoints have the same layout; an existing export of this step
    /// is kept.
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

    /// The agent that [`Agent::save`] wrote; `entropy` is a control of the program's own, built as
    /// for [`Agent::new`], which gets its state back.
    ///
    /// # Errors
    /// A file that is missing or damaged, a tokenizer that does not fit the model, an entropy
    /// state of other settings, and a model checkpoint whose files are not those that the run
    /// started from.
    pub fn restore(
        config: &AgentConfig,
        checkpoint: &Checkpoint,
        entropy: Option<EntropyControl>,
    ) -> Result<Self> {
        config.check()?;
        let entropy = config.entropy(entropy)?;
        let device = &config.model.open_device()?;
        let observation_tokens = config.rollout.max_observation_tokens.get();
        let temperature = config.rollout.temperature.get();
        let dtype = config.model.dtype();
        let optimizer = config.optimizer.clone();
        let (learner, prompter, pretrained) = match &config.model {
            ModelConfig::Checkpoint(model) => {
                let pretrained = model.open()?;
                let prompter = model.prompter(&pretrained, observation_tokens)?;
                let learner = if model.lora.is_some() {
                    let base = model.base(&pretrained, device)?;
                    Learner::restore_adapter(checkpoint, base, optimizer, temperature)?
                } else {
                    Learner::restore(checkpoint, optimizer, temperature, dtype, device)?
                };
                (learner, prompter, Some(pretrained))
            }
            ModelConfig::Small(_) => {
                let tokenizer = Tokenizer::load(checkpoint.file("tokenizer.json")?)?;
                let prompter = Prompter::new(tokenizer, observation_tokens)?;
                let learner = Learner::restore(checkpoint, optimizer, temperature, dtype, device)?;
                (learner, prompter, None)
            }
        };
        let mut agent = Self::assemble(config, learner, prompter, pretrained, entropy)?;
        if let Some(base) = &agent.began_as {
            base.check(checkpoint)?;
        }
        agent.entropy.load_state(&read_json(&checkpoint.file(ENTROPY)?, "entropy")?)?;
        Ok(agent)
    }
}

/// The file of a run checkpoint with the state of entropy control.
const ENTROPY: &str = "entropy.json";

/// The file of a run checkpoint with the checksums of [`Base`].
const BASE: &str = "base.json";

/// The model checkpoint that a policy started from; a resumed run needs the same files.
struct Base {
    model: Pretrained,
    /// CRC-32 of the files that the run depends on, by name.
    files: BTreeMap<String, u32>,
}

impl Base {
    /// With LoRA adapters the weights count too: without, they are in the run's own checkpoints.
    fn new(model: Pretrained, weights: bool) -> Result<Self> {
        let files = model.files(weights)?;
        let sum = |(name, path): (_, PathBuf)| Ok((name, checksum(&path)?.1));
        let files = files.into_iter().map(sum).collect::<Result<_>>()?;
        Ok(Self { model, files })
    }

    fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        let text = serde_json::json!(self.files).to_string();
        checkpoint.add_file(BASE, |path| crate::files::atomic_write(path, text))?;
        Ok(())
    }

    /// Checks that the files are those that the run started from.
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
