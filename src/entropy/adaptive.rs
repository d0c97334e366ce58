//! Entropy bonuses with a variable weight.

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::entropy::regularizer::{bonus, weight};
use crate::entropy::stats::StepEntropy;
use crate::entropy::traits::{read_state, EntropyInputs, EntropyRegularizer, State};
use crate::objective::output::LossOutput;
use crate::settings::Positive;
use crate::{Error, Result};

/// A bonus that follows the schedule of β: −λ·β_k·L_H. A linear or cosine β from 1 to 0 gives the
/// usual decayed bonus.
#[derive(Clone, Copy, Debug)]
pub struct DecayedBonus {
    lambda: f64,
}

impl DecayedBonus {
    /// A bonus of weight λ ≥ 0 at β = 1.
    ///
    /// # Errors
    /// [`Error::Setting`] for a negative or non-finite λ.
    pub fn new(lambda: f64) -> Result<Self> {
        Ok(Self { lambda: weight("lambda", lambda)? })
    }
}

impl State for DecayedBonus {}

impl EntropyRegularizer for DecayedBonus {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        bonus(inputs, self.lambda * inputs.beta)
    }
}

/// The update rule of [`AdaptiveBonus`]'s weight, from the rollouts' mean entropy H.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdaptiveRule {
    /// λ ← λ ± rate, up if H ≤ target, and no bonus at all while H > target (Skywork-OR1, arXiv
    /// 2505.22312; TRL `use_adaptive_entropy`).
    #[default]
    Skywork,
    /// ln λ ← ln λ + rate·(target − H), the bonus always on (Haarnoja et al. 2018, arXiv
    /// 1812.05905, eq. 18, as gradient steps on ln λ).
    Sac,
}

/// The settings of [`AdaptiveBonus`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveTarget {
    /// The target of the mean token entropy, nats, > 0.
    pub target: Positive,
    /// Step size of λ per training step, > 0.
    pub rate: Positive,
    /// The upper bound of λ, > 0.
    pub max: Positive,
    /// The update rule.
    pub rule: AdaptiveRule,
}

impl Default for AdaptiveTarget {
    /// TRL's defaults (`entropy_target`, `entropy_coef_delta`, `entropy_coef_max`), for long
    /// answers of large models.
    fn default() -> Self {
        Self {
            target: Positive::literal(0.2),
            rate: Positive::literal(0.005),
            max: Positive::literal(1.0),
            rule: AdaptiveRule::Skywork,
        }
    }
}

/// A bonus −λ·L_H whose λ rises while the rollouts' entropy is below a target and falls while it is
/// above. λ is part of the checkpoint.
///
/// The loss of a step uses the λ set by the previous steps; its own rollouts set the λ of the next.
/// Adds the metric `entropy/lambda`, the weight in use.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveBonus {
    settings: AdaptiveTarget,
    /// The weight of the current step.
    current: f64,
    /// The weight that the next step starts from.
    next: f64,
}

impl AdaptiveBonus {
    /// Starts from λ₀, which is at least 0 and at most `settings.max`; above 0 with
    /// [`AdaptiveRule::Sac`].
    ///
    /// # Errors
    /// [`Error::Setting`] for a λ out of range.
    pub fn new(lambda: f64, settings: AdaptiveTarget) -> Result<Self> {
        weight("lambda", lambda)?;
        let max = settings.max;
        if lambda > max.get() {
            return Err(Error::setting("lambda", lambda, format!("must not exceed max = {max}")));
        }
        if settings.rule == AdaptiveRule::Sac && lambda == 0.0 {
            let reason = "must be greater than 0 with the rule `sac`, which multiplies";
            return Err(Error::setting("lambda", lambda, reason));
        }
        Ok(Self { settings, current: lambda, next: lambda })
    }

    /// Returns the weight of the current step's bonus.
    pub fn lambda(&self) -> f64 {
        self.current
    }

    fn moved(&self, entropy: f64) -> f64 {
        let target = self.settings.target.get();
        let rate = self.settings.rate.get();
        let max = self.settings.max.get();
        match self.settings.rule {
            AdaptiveRule::Skywork if entropy <= target => (self.next + rate).min(max),
            AdaptiveRule::Skywork => (self.next - rate).max(0.0),
            AdaptiveRule::Sac => (self.next * (rate * (target - entropy)).exp()).min(max),
        }
    }
}

impl EntropyRegularizer for AdaptiveBonus {
    fn begin_step(&mut self, _step: u64, rollout: &StepEntropy) -> Result<()> {
        let Some(entropy) = rollout.mean() else {
            self.current = self.next;
            return Ok(());
        };
        let off =
            self.settings.rule == AdaptiveRule::Skywork && entropy > self.settings.target.get();
        self.current = if off { 0.0 } else { self.next };
        self.next = self.moved(entropy);
        Ok(())
    }

    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        let mut output = bonus(inputs, self.current)?;
        output.metrics.max("entropy/lambda", self.current);
        Ok(output)
    }
}

impl State for AdaptiveBonus {
    fn state(&self) -> Value {
        json!({ "lambda": self.next })
    }

    fn load_state(&mut self, state: &Value) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Saved {
            lambda: f64,
        }
        let Saved { lambda } = read_state(state)?;
        let restored = Self::new(lambda, self.settings)?;
        *self = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(entropy: f64) -> StepEntropy {
        let mut step = StepEntropy::new();
        step.add_turn(0, &[entropy]).unwrap();
        step
    }

    /// Settings with the target 0.5.
    fn settings(rate: f64, max: f64, rule: AdaptiveRule) -> AdaptiveTarget {
        AdaptiveTarget {
            target: Positive::literal(0.5),
            rate: Positive::literal(rate),
            max: Positive::literal(max),
            rule,
        }
    }

    fn weights(bonus: &mut AdaptiveBonus, entropies: &[f64]) -> Vec<f64> {
        let of = |&h: &f64| {
            bonus.begin_step(0, &step(h)).unwrap();
            bonus.lambda()
        };
        entropies.iter().map(of).collect()
    }

    #[test]
    fn skywork_steps_up_below_the_target_and_is_silent_above() {
        let settings = settings(0.25, 0.5, AdaptiveRule::Skywork);
        let mut bonus = AdaptiveBonus::new(0.0, settings).unwrap();
        // λ after each step: .25, .5 (cut), .5 (cut), .25, 0, 0 (cut), .25
        let got = weights(&mut bonus, &[0.4, 0.5, 0.1, 0.9, 0.9, 0.9, 0.2, 0.2]);
        assert_eq!(got, [0.0, 0.25, 0.5, 0.0, 0.0, 0.0, 0.0, 0.25]);
    }

    #[test]
    fn sac_multiplies() {
        let settings = settings(2.0, 0.2, AdaptiveRule::Sac);
        let mut bonus = AdaptiveBonus::new(0.1, settings).unwrap();
        let got = weights(&mut bonus, &[0.25, 1.0, 0.0, 0.5]);
        let want = [0.1, 0.1 * 0.5f64.exp(), 0.1 * (-0.5f64).exp(), 0.1 * 0.5f64.exp()];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-15), "{got:?}");
        assert_eq!(weights(&mut bonus, &[-9.0, 0.5])[1], 0.2);
    }

    #[test]
    fn a_restored_weight_continues() {
        let settings = settings(0.3, 1.0, AdaptiveRule::Sac);
        let mut original = AdaptiveBonus::new(0.1, settings).unwrap();
        weights(&mut original, &[0.25, 1.0]);
        let mut restored = AdaptiveBonus::new(0.1, settings).unwrap();
        let text = original.state().to_string();
        restored.load_state(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(weights(&mut restored, &[0.3, 0.4]), weights(&mut original, &[0.3, 0.4]));
        let lower = AdaptiveTarget { max: Positive::literal(0.01), ..settings };
        let refused = AdaptiveBonus::new(0.01, lower).unwrap().load_state(&original.state());
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("`lambda`") && error.contains("max = 0.01"), "{error}");
        assert!(AdaptiveBonus::new(0.0, settings).is_err());
    }
}
