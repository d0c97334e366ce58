//! From names and numbers to an [`EntropyControl`].

use serde::{Deserialize, Serialize};

use crate::entropy::adaptive::{AdaptiveBonus, AdaptiveTarget, DecayedBonus};
use crate::entropy::band::{Band, Granularity};
use crate::entropy::beta::BetaSchedule;
use crate::entropy::control::EntropyControl;
use crate::entropy::covariance::{ClipCov, KlCov};
use crate::entropy::history::{AverageHistory, Averaging};
use crate::entropy::official::{EpoIndicator, OfficialHistory};
use crate::entropy::regularizer::{EntropyBonus, EpoHinge, NoEntropy};
use crate::entropy::top_entropy::TopEntropy;
use crate::entropy::traits::{EntropyHistory, EntropyRegularizer};
use crate::settings::off;
use crate::settings::{AtLeast, Count, Decay, NonNegative, Positive};
use crate::{Error, Result};

/// λ of every preset.
const LAMBDA: Positive = Positive::literal(0.001);

/// The entropy regulariser of a run, by `kind`, with the settings that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EntropyMethod {
    /// No term ([`NoEntropy`]).
    None,
    /// A constant entropy bonus ([`EntropyBonus`]).
    Bonus(BonusConfig),
    /// A bonus that follows the schedule of β ([`DecayedBonus`]).
    DecayedBonus(DecayedBonusConfig),
    /// A bonus whose weight tracks a target entropy ([`AdaptiveBonus`]).
    Adaptive(AdaptiveConfig),
    /// The paper's v2: a hinge outside the band ([`EpoHinge`]).
    Epo(EpoConfig),
    /// The published code's indicator penalty, which has no gradient ([`EpoIndicator`]).
    EpoOfficial(EpoOfficialConfig),
    /// Clip-Cov ([`ClipCov`]).
    ClipCov(ClipCov),
    /// KL-Cov ([`KlCov`]).
    KlCov(KlCov),
    /// Policy gradient on the tokens of highest entropy alone ([`TopEntropy`]).
    TopEntropy(TopEntropy),
    /// An [`EntropyControl`] that the program brings itself (`Trainer::open_with`).
    Custom,
}

/// Settings of [`EntropyMethod::Bonus`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BonusConfig {
    /// λ, the weight of the term.
    pub lambda: Positive,
}

impl Default for BonusConfig {
    fn default() -> Self {
        Self { lambda: LAMBDA }
    }
}

/// Settings of [`EntropyMethod::DecayedBonus`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecayedBonusConfig {
    /// λ, the weight of the term at β = 1.
    pub lambda: Positive,
    /// The weight β_k.
    pub beta: BetaSchedule,
}

impl Default for DecayedBonusConfig {
    fn default() -> Self {
        Self { lambda: LAMBDA, beta: BetaSchedule::PAPER_V2 }
    }
}

/// Settings of [`EntropyMethod::Adaptive`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveConfig {
    /// λ at the first step.
    pub lambda: Positive,
    /// The target entropy, and how λ follows it.
    pub goal: AdaptiveTarget,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self { lambda: LAMBDA, goal: AdaptiveTarget::default() }
    }
}

/// Settings of [`EntropyMethod::Epo`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpoConfig {
    /// λ, the weight of the whole term.
    pub lambda: Positive,
    /// α, the slope of the penalty outside the band.
    pub alpha: Positive,
    /// The unit that is held inside the band.
    pub granularity: Granularity,
    /// The weight β_k, with γ and K.
    pub beta: BetaSchedule,
}

impl Default for EpoConfig {
    /// λ 0.001, α 0.1, per token, β_k = 1 + e^(−3k/⌊K/2⌋) with K = 150.
    fn default() -> Self {
        Self {
            lambda: LAMBDA,
            alpha: Positive::literal(0.1),
            granularity: Granularity::Token,
            beta: BetaSchedule::PAPER_V2,
        }
    }
}

/// Settings of [`EntropyMethod::EpoOfficial`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpoOfficialConfig {
    /// λ, the weight of the whole term.
    pub lambda: Positive,
    /// α, the height of the penalty outside the band.
    pub alpha: Positive,
    /// The unit that is tested against the band.
    pub granularity: Granularity,
    /// The turn index from which a micro-batch is penalised; `false` in a file for no gate.
    #[serde(with = "off")]
    pub gate: Option<usize>,
    /// The weight β_k.
    pub beta: BetaSchedule,
}

impl Default for EpoOfficialConfig {
    /// λ 0.001, α 0.1, gate at turn 25, two-phase β with K = 150.
    fn default() -> Self {
        Self {
            lambda: LAMBDA,
            alpha: Positive::literal(0.1),
            granularity: Granularity::Token,
            gate: Some(EpoIndicator::OFFICIAL_GATE),
            beta: BetaSchedule::OfficialTwoPhase { total_steps: Count::literal(150) },
        }
    }
}

impl EntropyMethod {
    /// The method called `kind` with its default settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn of_kind(kind: &str) -> Result<Self> {
        let tagged = serde_json::json!({ "kind": kind });
        serde_json::from_value(tagged)
            .map_err(|e| Error::setting("entropy.method.kind", kind, e.to_string()))
    }

    /// β's schedule; constant 1 for methods that do not follow one.
    fn beta(&self) -> BetaSchedule {
        match self {
            Self::DecayedBonus(config) => config.beta,
            Self::Epo(config) => config.beta,
            Self::EpoOfficial(config) => config.beta,
            _ => BetaSchedule::Constant { value: NonNegative::literal(1.0) },
        }
    }

    fn build(&self, band: Band) -> Result<Box<dyn EntropyRegularizer>> {
        Ok(match *self {
            Self::None => Box::new(NoEntropy),
            Self::Bonus(BonusConfig { lambda }) => Box::new(EntropyBonus::new(lambda.get())?),
            Self::DecayedBonus(config) => Box::new(DecayedBonus::new(config.lambda.get())?),
            Self::Adaptive(AdaptiveConfig { lambda, goal }) => {
                Box::new(AdaptiveBonus::new(lambda.get(), goal)?)
            }
            Self::Epo(EpoConfig { lambda, alpha, granularity, .. }) => {
                Box::new(EpoHinge::new(lambda.get(), alpha.get(), band, granularity)?)
            }
            Self::EpoOfficial(EpoOfficialConfig { lambda, alpha, granularity, gate, .. }) => {
                let indicator = EpoIndicator::new(lambda.get(), alpha.get(), band, granularity)?;
                Box::new(indicator.with_gate(gate))
            }
            Self::ClipCov(clip_cov) => Box::new(clip_cov),
            Self::KlCov(kl_cov) => Box::new(kl_cov),
            Self::TopEntropy(top_entropy) => Box::new(top_entropy),
            Self::Custom => {
                let reason = "is built by the program, which hands it to `Trainer::open_with`";
                return Err(Error::setting("entropy.method.kind", "custom", reason));
            }
        })
    }
}

/// The reference H̄ of a run, by `kind`; `per_turn` keeps one reference per turn index.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HistoryConfig {
    /// Mean of all steps so far ([`Averaging::Cumulative`]).
    Cumulative {
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// Mean of the last n steps ([`Averaging::Window`]).
    Window {
        /// n, training steps.
        steps: Count,
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// Exponential moving average ([`Averaging::Ema`]).
    Ema {
        /// Weight of the past.
        decay: Decay,
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// Mean of the first n steps ([`Averaging::Anchored`]).
    Anchored {
        /// n, training steps.
        steps: Count,
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// The published code's ([`OfficialHistory`]): left-padded, per turn index, the current step
    /// included.
    Official {
        /// Highest number of turns of an episode.
        max_steps: Count,
    },
}

impl HistoryConfig {
    fn build(self) -> Box<dyn EntropyHistory> {
        let (averaging, per_turn) = match self {
            Self::Cumulative { per_turn } => (Averaging::Cumulative {}, per_turn),
            Self::Window { steps, per_turn } => (Averaging::Window { steps }, per_turn),
            Self::Ema { decay, per_turn } => (Averaging::Ema { decay }, per_turn),
            Self::Anchored { steps, per_turn } => (Averaging::Anchored { steps }, per_turn),
            Self::Official { max_steps } => return Box::new(OfficialHistory::new(max_steps)),
        };
        Box::new(AverageHistory::new(averaging, per_turn))
    }
}

/// Settings of entropy control; the default is [`EntropyConfig::paper_v2`].
///
/// The history and the band around it belong to every method: the entropy is compared with them in
/// the metrics, and alarms watch it, whatever the loss does.
///
/// ```
/// use epo::entropy::EntropyConfig;
/// let config: EntropyConfig = serde_json::from_str(
///     r#"{ "method": { "kind": "epo", "alpha": 0.05,
///                      "beta": { "kind": "paper-v2", "gamma": 3.0, "total_steps": 60 } },
///          "band": { "kappa_low": 0.8, "kappa_high": 1.2 },
///          "history": { "kind": "window", "steps": 20 } }"#,
/// )?;
/// assert_eq!(config.build()?.beta(), 2.0);
///
/// let crossed = r#"{ "band": { "kappa_low": 2.0, "kappa_high": 1.5 } }"#;
/// let error = serde_json::from_str::<EntropyConfig>(crossed).unwrap_err();
/// assert!(error.to_string().starts_with("kappa_low must not exceed kappa_high = 1.5, got 2"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyConfig {
    /// The regulariser.
    pub method: EntropyMethod,
    /// The band around the reference.
    pub band: Band,
    /// The reference H̄.
    pub history: HistoryConfig,
}

impl Default for EntropyConfig {
    fn default() -> Self {
        Self::paper_v2()
    }
}

impl EntropyConfig {
    /// The paper's v2 with its robust band: a hinge per token, λ 0.001, α 0.1, κ 0.5 and 1.5, the
    /// cumulative history of the steps before the current one, β_k = 1 + e^(−3k/⌊K/2⌋), K = 150.
    pub fn paper_v2() -> Self {
        Self {
            method: EntropyMethod::Epo(EpoConfig::default()),
            band: Band::literal(0.5, 1.5),
            history: HistoryConfig::Cumulative { per_turn: false },
        }
    }

    /// The published code: an indicator without gradient, gate at turn 25, the left-padded history
    /// of up to 50 turns that includes the current step, two-phase β with K = 150; α 0.1 and κ 0.5
    /// and 1.5 as in its run script.
    pub fn official_code() -> Self {
        Self {
            method: EntropyMethod::EpoOfficial(EpoOfficialConfig::default()),
            history: HistoryConfig::Official { max_steps: Count::literal(50) },
            ..Self::paper_v2()
        }
    }

    /// No entropy term; the history and the band are still reported.
    pub fn none() -> Self {
        Self { method: EntropyMethod::None, ..Self::paper_v2() }
    }

    /// The paper's ScienceWorld runs: α 0.05, κ 0 and 2; K = 125 if β is the paper's.
    #[must_use]
    pub fn scienceworld(self) -> Self {
        self.run_settings(Positive::literal(0.05), AtLeast::literal(125))
    }

    /// The paper's ALFWorld runs: α 0.1, κ 0 and 2; K = 150 if β is the paper's.
    #[must_use]
    pub fn alfworld(self) -> Self {
        self.run_settings(Positive::literal(0.1), AtLeast::literal(150))
    }

    fn run_settings(mut self, paper_alpha: Positive, steps: AtLeast<2>) -> Self {
        self.band = Band::literal(0.0, 2.0);
        if let EntropyMethod::Epo(EpoConfig { alpha, .. })
        | EntropyMethod::EpoOfficial(EpoOfficialConfig { alpha, .. }) = &mut self.method
        {
            *alpha = paper_alpha;
        }
        self.over(steps)
    }

    /// K = `steps` if β is the paper's.
    #[must_use]
    pub fn over(mut self, steps: AtLeast<2>) -> Self {
        if let EntropyMethod::Epo(EpoConfig { beta, .. })
        | EntropyMethod::EpoOfficial(EpoOfficialConfig { beta, .. }) = &mut self.method
        {
            if let BetaSchedule::PaperV2 { total_steps, .. } = beta {
                *total_steps = steps;
            }
        }
        self
    }

    /// Checks what one setting asks of another.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty range of covariances, or a λ above its own maximum.
    pub fn check(&self) -> Result<()> {
        match self.method {
            EntropyMethod::ClipCov(ClipCov { low, high, .. }) if low >= high => {
                let reason = format!("must be below entropy.method.high = {high}");
                Err(Error::setting("entropy.method.low", low, reason))
            }
            EntropyMethod::Adaptive(AdaptiveConfig { lambda, goal }) if lambda > goal.max => {
                let reason = format!("must not exceed entropy.method.goal.max = {}", goal.max);
                Err(Error::setting("entropy.method.lambda", lambda, reason))
            }
            _ => Ok(()),
        }
    }

    /// Builds the regulariser, the history and β.
    ///
    /// # Errors
    /// See [`EntropyConfig::check`]; [`EntropyMethod::Custom`], which only the program can build.
    pub fn build(&self) -> Result<EntropyControl> {
        self.check()?;
        let regularizer = self.method.build(self.band)?;
        let include_current = matches!(self.history, HistoryConfig::Official { .. });
        let control =
            EntropyControl::new(regularizer, self.history.build(), Box::new(self.method.beta()));
        Ok(control.with_current_step_in_reference(include_current).with_band(self.band))
    }
}
