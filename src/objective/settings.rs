//! The settings of the policy loss.

use serde::{Deserialize, Serialize};

use crate::objective::kl::KlKind;
use crate::settings::off;
use crate::{Error, Result};

/// The policy losses by name, each to be minimised, with r = π/π_old and A the advantage of a
/// token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyLossKind {
    /// `ppo`: max(−A·r, −A·clip(r, 1 − ε_low, 1 + ε_high)), dual clip if it is on (arXiv
    /// 1707.06347).
    #[default]
    Ppo,
    /// `gspo`: the same with one ratio for a whole turn, see
    /// [`sequence_ratio`](crate::objective::sequence_ratio) (arXiv 2507.18071).
    Gspo,
    /// `cispo`: −sg(clip(r, 1 − ε_low, 1 + ε_high))·A·log π, see
    /// [`cispo_weight`](crate::objective::cispo_weight) (arXiv 2506.13585).
    Cispo,
    /// `reinforce`: −A·log π, without a ratio (Williams 1992; verl `gpg`).
    Reinforce,
}

/// Settings of the KL term: c_KL times the aggregated [`kl_penalty`](crate::objective::kl_penalty).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlLoss {
    /// The estimator.
    pub estimator: KlKind,
    /// c_KL ≥ 0.
    pub coef: f64,
}

/// The largest limit of a log ratio: its exponential is finite in f32.
const MOST_LOG_RATIO: f64 = 80.0;

/// Settings of the policy loss. In a file, an omitted setting has the value of [`PolicyLoss::of`]
/// its kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Given")]
pub struct PolicyLoss {
    /// The loss.
    pub kind: PolicyLossKind,
    /// ε_low of clip(r, 1 − ε_low, 1 + ε_high), in [0, 1]; 1 is no lower bound.
    pub clip_low: f64,
    /// ε_high ≥ 0.
    pub clip_high: f64,
    /// Dual clip c > 1: for A < 0 the loss is at most −A·c (arXiv 1912.09729); off if `None`
    /// (`false` in a file). Only `ppo` has it.
    #[serde(with = "off")]
    pub dual_clip: Option<f64>,
    /// M: log r is limited to [−M, M] before the exponential, and a token beyond has no gradient
    /// (verl: 20). Without a limit (`None`, `false` in a file) a ratio that overflows is an error,
    /// because sampling and training disagree.
    #[serde(with = "off")]
    pub max_log_ratio: Option<f64>,
    /// The KL term; off if `None` (`false` in a file).
    #[serde(with = "off")]
    pub kl: Option<KlLoss>,
}

/// The settings that a file gives.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    kind: PolicyLossKind,
    clip_low: Option<f64>,
    clip_high: Option<f64>,
    #[serde(deserialize_with = "off::given")]
    dual_clip: Option<Option<f64>>,
    #[serde(deserialize_with = "off::given")]
    max_log_ratio: Option<Option<f64>>,
    #[serde(deserialize_with = "off::given")]
    kl: Option<Option<KlLoss>>,
}

impl From<Given> for PolicyLoss {
    fn from(given: Given) -> Self {
        let of = Self::of(given.kind);
        Self {
            kind: given.kind,
            clip_low: given.clip_low.unwrap_or(of.clip_low),
            clip_high: given.clip_high.unwrap_or(of.clip_high),
            dual_clip: given.dual_clip.unwrap_or(of.dual_clip),
            max_log_ratio: given.max_log_ratio.unwrap_or(of.max_log_ratio),
            kl: given.kl.unwrap_or(of.kl),
        }
    }
}

impl Default for PolicyLoss {
    /// The authors' run settings: ε 0.2 on both sides, c = 3, k3 KL with coefficient 0.01.
    fn default() -> Self {
        Self::of(PolicyLossKind::Ppo)
    }
}

impl PolicyLoss {
    /// A loss with its published settings: `ppo` as in the authors' runs; `gspo` ε 3·10⁻⁴ and
    /// 4·10⁻⁴ (its paper, sec. 5.1); `cispo` without a lower bound and weights of at most 5; the
    /// last three without KL.
    pub fn of(kind: PolicyLossKind) -> Self {
        let kl = Some(KlLoss { estimator: KlKind::K3, coef: 0.01 });
        let bare = |clip_low, clip_high| Self {
            kind,
            clip_low,
            clip_high,
            dual_clip: None,
            max_log_ratio: None,
            kl: None,
        };
        match kind {
            PolicyLossKind::Ppo => Self { dual_clip: Some(3.0), kl, ..bare(0.2, 0.2) },
            PolicyLossKind::Gspo => bare(3e-4, 4e-4),
            PolicyLossKind::Cispo => bare(1.0, 4.0),
            PolicyLossKind::Reinforce => bare(0.0, 0.0),
        }
    }

    /// Checks every setting, and that the loss uses it.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field (`update.policy.clip_low`, …).
    pub fn validate(&self) -> Result<()> {
        let fail =
            |field: &str, value: f64, reason: &str| Err(Error::setting(field, value, reason));
        if !(0.0..=1.0).contains(&self.clip_low) {
            return fail("update.policy.clip_low", self.clip_low, "must lie in [0, 1]");
        }
        if !(self.clip_high >= 0.0 && self.clip_high.is_finite()) {
            return fail(
                "update.policy.clip_high",
                self.clip_high,
                "must be finite and at least 0",
            );
        }
        if self.kind == PolicyLossKind::Reinforce {
            let clips = [
                ("update.policy.clip_low", self.clip_low),
                ("update.policy.clip_high", self.clip_high),
            ];
            if let Some((field, value)) = clips.into_iter().find(|(_, value)| *value != 0.0) {
                return fail(field, value, "`reinforce` has no ratio to clip: omit it");
            }
        }
        if let Some(limit) = self.max_log_ratio {
            let key = "update.policy.max_log_ratio";
            if self.kind == PolicyLossKind::Reinforce {
                return fail(key, limit, "`reinforce` has no ratio to limit: omit it");
            }
            if !(limit > 0.0 && limit <= MOST_LOG_RATIO) {
                return fail(key, limit, "must be in (0, 80], or `false` for no limit");
            }
        }
        match (self.dual_clip, self.kl) {
            (Some(c), _) if self.kind != PolicyLossKind::Ppo => {
                fail("update.policy.dual_clip", c, "only `ppo` has a dual clip: omit it")
            }
            (Some(c), _) if c.is_nan() || c <= 1.0 => {
                fail("update.policy.dual_clip", c, "must be greater than 1")
            }
            (_, Some(kl)) if !(kl.coef >= 0.0 && kl.coef.is_finite()) => {
                fail("update.policy.kl.coef", kl.coef, "must be finite and at least 0")
            }
            _ => Ok(()),
        }
    }
}
