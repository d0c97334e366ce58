//! LoRA (Hu et al. 2021, arXiv 2106.09685): trainable corrections of low rank beside frozen weights, kept in PEFT's layout.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The projections of a block that can have a correction, under Hugging Face's names.
pub const LORA_MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which weights get a correction: y = x Wᵀ + b + (α/r) (x Aᵀ) Bᵀ with A `[r, i]` and B `[o, r]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r.
    pub rank: usize,
    /// α.
    pub alpha: f64,
    /// Share of the corrections' inputs that a training forward drops; the others grow by 1/(1 − share).
    ///
    /// The log-probabilities of an update are then not those of the policy that sampled: 0 keeps their ratio at 1.
    pub dropout: f64,
    /// Names of [`LORA_MODULES`].
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self::of_rank(16)
    }
}

impl LoraConfig {
    /// Rank r on every projection, with α = 2r and without dropout.
    pub fn of_rank(rank: usize) -> Self {
        let target_modules = LORA_MODULES.map(str::to_owned).to_vec();
        Self { rank, alpha: 2.0 * rank as f64, dropout: 0.0, target_modules }
    }

    /// α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A rank of 0, α that is not positive, a dropout outside [0, 1), and modules that are unknown, repeated or none.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::setting("lora.rank", 0, "must be at least 1"));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(Error::setting("lora.alpha", self.alpha, "must be positive and finite"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("lora.dropout", self.dropout, "must be in [0, 1)"));
        }
        let modules = &self.target_modules;
        let wrong = |(i, name): &(usize, &String)| {
            !LORA_MODULES.contains(&name.as_str()) || modules[..*i].contains(name)
        };
        if let Some((_, name)) = modules.iter().enumerate().find(wrong) {
            let reason = format!("must be one of {LORA_MODULES:?}, each once");
            return Err(Error::setting("lora.target_modules", name, reason));
        }
        if modules.is_empty() {
            return Err(Error::setting("lora.target_modules", "[]", "names no projection"));
        }
        Ok(())
    }

    /// Whether a part of a block such as `self_attn.q` gets a correction.
    pub(crate) fn targets_module(&self, part: &str) -> bool {
        let name = part.rsplit('.').next().unwrap_or(part);
        self.target_modules.iter().any(|module| module.strip_suffix("_proj") == Some(name))
    }

    /// (name of W without `.weight`, outputs, inputs) of every corrected weight, in model order.
    pub(crate) fn targets(&self, model: &DecoderConfig) -> Vec<(String, usize, usize)> {
        let target = |(name, shape): (String, Vec<usize>)| {
            let module = name.strip_suffix(".weight")?;
            let last = module.rsplit('.').next()?;
            let chosen = self.target_modules.iter().any(|m| m == last);
            chosen.then(|| (module.to_owned(), shape[0], shape[1]))
        };
        model.parameter_shapes().into_iter().filter_map(target).collect()
    }
}

/// The names of A and B beside the weight of `module`.
pub(crate) fn names(module: &str) -> [String; 2] {
    ["A", "B"].map(|which| format!("{module}.lora_{which}.weight"))
}

/// Whether a parameter is a correction's.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}
