//! Learners in run checkpoints.

use candle_core::{DType, Device};

use crate::files::atomic_write;
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::policy::config::DecoderConfig;
use crate::policy::parameters::Parameters;
use crate::policy::peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::run::checkpoint::{Checkpoint, CheckpointWriter};
use crate::train::learn::learner::Learner;
use crate::Result;

/// File that marks the reference as the model without its LoRA adapters.
const BASE_REFERENCE: &str = "reference.json";

impl Learner {
    /// Adds `config.json`, `model.safetensors`, `optimizer.safetensors` and, if there is a
    /// reference, `reference.safetensors` to a run checkpoint. With LoRA, the weights are the
    /// adapters alone, as PEFT's `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, checkpoint: &mut CheckpointWriter) -> Result<()> {
        checkpoint.add_file("config.json", |path| self.decoder.config().save(path))?;
        checkpoint.add_file("optimizer.safetensors", |path| self.optimizer.save(path))?;
        if self.parameters.lora().is_some() {
            checkpoint
                .add_file(ADAPTER_WEIGHTS, |path| self.parameters.save_adapter_weights(path))?;
            checkpoint.add_file(ADAPTER_CONFIG, |path| {
                self.parameters.save_adapter_config(path, "base")
            })?;
            if self.reference.is_some() {
                checkpoint.add_file(BASE_REFERENCE, |path| atomic_write(path, "\"base\"\n"))?;
            }
            return Ok(());
        }
        checkpoint.add_file("model.safetensors", |path| self.parameters.save(path))?;
        if let Some((_, reference)) = &self.reference {
            checkpoint.add_file("reference.safetensors", |path| reference.save(path))?;
        }
        Ok(())
    }

    /// Loads the learner that [`Learner::save`] wrote, with weights of type `dtype`.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another model; the error names the field or tensor.
    pub fn restore(
        checkpoint: &Checkpoint,
        optimizer: AdamWConfig,
        temperature: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let config = DecoderConfig::from_file(checkpoint.file("config.json")?)?;
        let load = |path| Parameters::load(path, &config, dtype, device);
        let parameters = load(checkpoint.file("model.safetensors")?)?;
        let optimizer =
            AdamW::load(checkpoint.file("optimizer.safetensors")?, optimizer, &parameters)?;
        let mut learner = Self::new(&config, parameters, optimizer, temperature)?;
        if let Ok(path) = checkpoint.file("reference.safetensors") {
            learner.set_reference(load(path)?)?;
        }
        Ok(learner)
    }

    /// Loads the learner with LoRA adapters that [`Learner::save`] wrote, over the weights `base`.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another model; the error names the field or tensor.
    pub fn restore_adapter(
        checkpoint: &Checkpoint,
        base: Parameters,
        optimizer: AdamWConfig,
        temperature: f64,
    ) -> Result<Self> {
        let config = DecoderConfig::from_file(checkpoint.file("config.json")?)?;
        let adapter = checkpoint.file(ADAPTER_CONFIG)?;
        let weights = checkpoint.file(ADAPTER_WEIGHTS)?;
        let parameters = base.with_adapter_files(&config, &adapter, &weights)?;
        let optimizer =
            AdamW::load(checkpoint.file("optimizer.safetensors")?, optimizer, &parameters)?;
        let mut learner = Self::new(&config, parameters, optimizer, temperature)?;
        if checkpoint.file(BASE_REFERENCE).is_ok() {
            learner.freeze_reference()?;
        }
        Ok(learner)
    }
}
