//! KL against a reference policy as part of the reward instead of the loss.

use serde::{Deserialize, Serialize};

use crate::objective::kl::KlKind;
use crate::objective::layout::TokenLayout;
use crate::{Error, Result};

/// Returns the rewards rₜ − β·klₜ of the masked-in tokens, row-major [B·T], and the batch's token
/// mean of kl in nats (Ziegler et al. 2019, eq. 2; verl `apply_kl_penalty`, which averages rows
/// instead of tokens).
///
/// `log_probs` are those of the policy that sampled, `ref_log_probs` those of the reference policy.
/// Masked-out entries of both may hold anything, and masked-out rewards are unchanged. Pass the
/// mean to [`KlControl::update`].
///
/// # Errors
/// [`Error::Setting`] if β is negative or not finite, [`Error::Shape`], [`Error::NonFinite`].
pub fn kl_in_reward(
    rewards: &[f64],
    log_probs: &[f64],
    ref_log_probs: &[f64],
    layout: &TokenLayout,
    kind: KlKind,
    coef: f64,
) -> Result<(Vec<f64>, f64)> {
    positive("kl_reward.control.coef", coef, 0.0)?;
    let lists = [("rewards", rewards), ("log_probs", log_probs), ("ref_log_probs", ref_log_probs)];
    for (name, values) in lists {
        if values.len() != layout.mask().len() {
            let expected = format!("{} values", layout.mask().len());
            return Err(Error::Shape { name, expected, got: vec![values.len()] });
        }
    }
    let mut penalised = rewards.to_vec();
    let mut total = 0.0;
    for i in (0..rewards.len()).filter(|&i| layout.mask()[i]) {
        if let Some((name, values)) = lists.iter().find(|(_, values)| !values[i].is_finite()) {
            let at = format!("index {i}");
            return Err(Error::NonFinite { name: (*name).into(), value: values[i], at });
        }
        let kl = kind.estimate(log_probs[i], ref_log_probs[i]);
        penalised[i] -= coef * kl;
        total += kl;
    }
    Ok((penalised, total / layout.count() as f64))
}

/// The coefficient β of [`kl_in_reward`]; serialised, it is its own checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KlControl {
    /// The same β at every step (verl `FixedKLController`).
    Fixed {
        /// β ≥ 0.
        coef: f64,
    },
    /// β follows the KL.
    Adaptive(AdaptiveKl),
}

/// A β that moves until the KL meets a target (Ziegler et al. 2019, sec. 2.2; verl
/// `AdaptiveKLController`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveKl {
    /// β > 0 now.
    pub coef: f64,
    /// The KL to be met, nats per token, > 0.
    pub target: f64,
    /// Number of samples that move β by at most 20 %, ≥ 1.
    pub horizon: f64,
}

impl KlControl {
    /// β.
    pub fn coef(&self) -> f64 {
        let (Self::Fixed { coef } | Self::Adaptive(AdaptiveKl { coef, .. })) = *self;
        coef
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field (`kl_reward.control.target`, …).
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Fixed { coef } => positive("kl_reward.control.coef", coef, 0.0),
            Self::Adaptive(AdaptiveKl { coef, target, horizon }) => {
                positive("kl_reward.control.coef", coef, f64::MIN_POSITIVE)?;
                positive("kl_reward.control.target", target, f64::MIN_POSITIVE)?;
                positive("kl_reward.control.horizon", horizon, 1.0)
            }
        }
    }

    /// After a step whose `samples` episodes had the mean KL `kl`: an adaptive β is multiplied by
    /// 1 + clip(kl/target − 1, −0.2, 0.2)·samples/horizon.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if `kl` is not finite, [`Error::Setting`] if β would not stay positive
    /// (more than five horizons of samples in one step).
    pub fn update(&mut self, kl: f64, samples: usize) -> Result<()> {
        if !kl.is_finite() {
            return Err(Error::NonFinite {
                name: "kl".into(),
                value: kl,
                at: "the KL controller".into(),
            });
        }
        let Self::Adaptive(state) = self else { return Ok(()) };
        let error = (kl / state.target - 1.0).clamp(-0.2, 0.2);
        let coef = state.coef * (1.0 + error * samples as f64 / state.horizon);
        if coef.is_nan() || coef <= 0.0 {
            let reason = format!("is too short for a step of {samples} samples");
            return Err(Error::setting("kl_reward.control.horizon", state.horizon, reason));
        }
        state.coef = coef;
        Ok(())
    }
}

fn positive(field: &str, value: f64, least: f64) -> Result<()> {
    if value >= least && value.is_finite() {
        return Ok(());
    }
    let reason = match least {
        f64::MIN_POSITIVE => "must be finite and greater than 0".into(),
        least => format!("must be finite and at least {least}"),
    };
    Err(Error::setting(field, value, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beta_follows_the_kl_and_continues_from_its_own_text() {
        let adaptive = AdaptiveKl { coef: 0.1, target: 0.5, horizon: 1000.0 };
        let mut control = KlControl::Adaptive(adaptive);
        control.update(0.55, 100).unwrap(); // 10 % too high: β up by 10 % · 100/1000
        assert!((control.coef() - 0.101).abs() < 1e-15);
        control.update(50.0, 100).unwrap(); // cut at 20 %
        assert!((control.coef() - 0.101 * 1.02).abs() < 1e-15);
        let text = serde_json::to_string(&control).unwrap();
        let mut restored: KlControl = serde_json::from_str(&text).unwrap();
        restored.update(0.0, 100).unwrap();
        control.update(0.0, 100).unwrap();
        assert_eq!(restored, control);
        assert!((control.coef() - 0.101 * 1.02 * 0.98).abs() < 1e-15);
        let mut fixed = KlControl::Fixed { coef: 0.1 };
        fixed.update(9.0, 100).unwrap();
        assert_eq!(fixed.coef(), 0.1);
    }

    #[test]
    fn bad_numbers_are_named() {
        let good = AdaptiveKl { coef: 0.1, target: 0.5, horizon: 1000.0 };
        for (control, name) in [
            (KlControl::Fixed { coef: -0.1 }, "kl_reward.control.coef"),
            (KlControl::Adaptive(AdaptiveKl { coef: 0.0, ..good }), "kl_reward.control.coef"),
            (KlControl::Adaptive(AdaptiveKl { target: 0.0, ..good }), "kl_reward.control.target"),
            (KlControl::Adaptive(AdaptiveKl { horizon: 0.5, ..good }), "kl_reward.control.horizon"),
        ] {
            let error = control.validate().unwrap_err();
            assert!(matches!(error, Error::Setting { field, .. } if field == name), "{name}");
        }
        let mut control = KlControl::Adaptive(AdaptiveKl { horizon: 1.0, ..good });
        assert!(matches!(control.update(0.0, 5), Err(Error::Setting { .. })));
        assert_eq!(control.coef(), 0.1);
        assert!(matches!(control.update(f64::NAN, 5), Err(Error::NonFinite { .. })));
        let text = r#"{ "kind": "fixed", "coef": 0.1, "target": 1.0 }"#;
        assert!(serde_json::from_str::<KlControl>(text).is_err());
        let layout = TokenLayout::per_turn(2, vec![true, false], &[0], vec![0]).unwrap();
        let call =
            |x: [f64; 2], coef| kl_in_reward(&x, &[0.0; 2], &[0.0; 2], &layout, KlKind::K1, coef);
        assert!(matches!(call([f64::NAN, 0.0], 0.1), Err(Error::NonFinite { .. })));
        assert!(matches!(call([0.0; 2], f64::NAN), Err(Error::Setting { .. })));
        assert!(call([0.0, f64::NAN], 0.1).is_ok());
    }
}
