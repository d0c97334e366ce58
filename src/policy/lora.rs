//! Settings of LoRA adapters (Hu et al. 2021, arXiv 2106.09685).
//!
//! An adapter adds a trainable matrix of low rank to a frozen weight. Only A and B need gradients
//! and optimiser state, and the model without its adapters serves as the reference policy, so no
//! second copy of the weights is needed.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The projections of a block that can have an adapter, by their Hugging Face names.
pub const LORA_MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Settings of LoRA adapters: y = x Wᵀ + b + (α/r) (x Aᵀ) Bᵀ with A `[r, i]` and B `[o, r]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank r, at least 1.
    pub rank: usize,
    /// α, above 0.
    pub alpha: f64,
    /// Dropout probability of the adapters' inputs during training, in [0, 1).
    ///
    /// With dropout, an update's log-probabilities differ from those of the policy that sampled. At
    /// 0 their ratio starts at 1.
    pub dropout: f64,
    /// The projections that get an adapter, named as in [`LORA_MODULES`].
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self::of_rank(16)
    }
}

/// A setting that is out of range: (field of [`LoraConfig`], value, reason).
pub(crate) type OutOfRange = (&'static str, String, String);

impl LoraConfig {
    /// Adapters of rank r on every projection, with α = 2r and no dropout.
    pub fn of_rank(rank: usize) -> Self {
        let target_modules = LORA_MODULES.map(str::to_owned).to_vec();
        Self { rank, alpha: 2.0 * rank as f64, dropout: 0.0, target_modules }
    }

    /// The factor α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A rank of 0, α that is not positive, a dropout outside [0, 1), or modules that are unknown,
    /// repeated or missing.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(field, value, reason)| {
            Error::setting(format!("model.lora.{field}"), value, reason)
        })
    }

    /// [`LoraConfig::validate`] for settings that do not come from a run's file.
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        let rejected = |field, value: &dyn ToString, reason: &str| {
            Err((field, value.to_string(), reason.to_owned()))
        };
        if self.rank == 0 {
            return rejected("rank", &0, "must be at least 1");
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return rejected("alpha", &self.alpha, "must be positive and finite");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return rejected("dropout", &self.dropout, "must be in [0, 1)");
        }
        let modules = &self.target_modules;
        if modules.is_empty() {
            return rejected("target_modules", &"[]", "must name at least one projection");
        }
        for (i, name) in modules.iter().enumerate() {
            if !LORA_MODULES.contains(&name.as_str()) || modules[..i].contains(name) {
                let reason = format!("must be one of {LORA_MODULES:?}, each at most once");
                return rejected("target_modules", name, &reason);
            }
        }
        Ok(())
    }

    /// Returns true if a part of a block such as `self_attn.q` gets an adapter.
    pub(crate) fn targets_module(&self, part: &str) -> bool {
        let name = part.rsplit('.').next().unwrap_or(part);
        self.target_modules.iter().any(|module| module.strip_suffix("_proj") == Some(name))
    }

    /// Every weight with an adapter, in model order: (name without `.weight`, outputs, inputs).
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

/// The parameter names of A and B for the weight of `module`.
pub(crate) fn names(module: &str) -> [String; 2] {
    ["A", "B"].map(|which| format!("{module}.lora_{which}.weight"))
}

/// Returns true if a parameter belongs to an adapter.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}
