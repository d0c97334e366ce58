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
use crate::{Error, Result};

/// The built-in regularisers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntropyMethod {
    /// `none`: [`NoEntropy`].
    None,
    /// `bonus`: [`EntropyBonus`].
    Bonus,
    /// `epo`: [`EpoHinge`], the paper's v2.
    Epo,
    /// `epo-official`: [`EpoIndicator`], the published code.
    EpoOfficial,
    /// `decayed-bonus`: [`DecayedBonus`], which follows the schedule of β.
    DecayedBonus,
    /// `adaptive`: [`AdaptiveBonus`], with the settings of the table `adaptive`; starts from λ.
    Adaptive,
    /// `clip-cov`: [`ClipCov`], with the settings of the table `clip_cov`.
    ClipCov,
    /// `kl-cov`: [`KlCov`], with the settings of the table `kl_cov`.
    KlCov,
    /// `top-entropy`: [`TopEntropy`], with the settings of the table `top_entropy`.
    TopEntropy,
}

impl EntropyMethod {
    const NAMES: [(&str, Self); 9] = [
        ("none", Self::None),
        ("bonus", Self::Bonus),
        ("epo", Self::Epo),
        ("epo-official", Self::EpoOfficial),
        ("decayed-bonus", Self::DecayedBonus),
        ("adaptive", Self::Adaptive),
        ("clip-cov", Self::ClipCov),
        ("kl-cov", Self::KlCov),
        ("top-entropy", Self::TopEntropy),
    ];
}

/// The built-in histories by name; `per_turn` keeps one reference per turn index instead of one for all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HistoryConfig {
    /// [`Averaging::Cumulative`].
    Cumulative {
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// [`Averaging::Window`].
    Window {
        /// Length n ≥ 1 in training steps.
        steps: usize,
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// [`Averaging::Ema`].
    Ema {
        /// In [0, 1).
        decay: f64,
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// [`Averaging::Anchored`].
    Anchored {
        /// Warm-up n ≥ 1 in training steps.
        steps: usize,
        /// One reference per turn index.
        #[serde(default)]
        per_turn: bool,
    },
    /// [`OfficialHistory`]: left-padded, per turn index, the current step included.
    Official {
        /// Highest number of turns of an episode.
        max_steps: usize,
    },
}

impl HistoryConfig {
    fn build(self) -> Result<Box<dyn EntropyHistory>> {
        let (averaging, per_turn) = match self {
            Self::Cumulative { per_turn } => (Averaging::Cumulative {}, per_turn),
            Self::Window { steps, per_turn } => (Averaging::Window { steps }, per_turn),
            Self::Ema { decay, per_turn } => (Averaging::Ema { decay }, per_turn),
            Self::Anchored { steps, per_turn } => (Averaging::Anchored { steps }, per_turn),
            Self::Official { max_steps } => return Ok(Box::new(OfficialHistory::new(max_steps)?)),
        };
        Ok(Box::new(AverageHistory::new(averaging, per_turn)?))
    }
}

/// Everything about entropy control in one serialisable place; the default is [`EntropyConfig::paper_v2`].
///
/// A method uses some of the settings, and [`EntropyConfig::unused`] lists the others: a run's file or command line that
/// gives one of those is refused. The history and the band around it belong to all methods: where the entropy stands
/// against them is reported, and alarms watch it, whatever the loss does.
///
/// ```
/// use epo::entropy::EntropyConfig;
/// let config: EntropyConfig = serde_json::from_str(
///     r#"{ "method": "epo", "alpha": 0.05, "kappa_low": 0.8, "kappa_high": 1.2,
///          "history": { "kind": "window", "steps": 20 },
///          "beta": { "kind": "paper-v2", "gamma": 3.0, "total_steps": 60 } }"#,
/// )?;
/// let control = config.build()?;
/// assert_eq!(control.beta(), 2.0);
///
/// let crossed = EntropyConfig { kappa_low: 2.0, ..config };
/// let error = crossed.build().err().expect("κ_l > κ_r").to_string();
/// assert!(error.starts_with("setting `entropy.kappa_low` = 2"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyConfig {
    /// Which regulariser.
    pub method: EntropyMethod,
    /// λ ≥ 0, the weight of the whole term.
    pub lambda: f64,
    /// α ≥ 0, the height of the penalty outside the band.
    pub alpha: f64,
    /// κ_l ≥ 0: the band starts at κ_l·H̄.
    pub kappa_low: f64,
    /// κ_r ≥ κ_l: the band ends at κ_r·H̄.
    pub kappa_high: f64,
    /// What is held inside the band.
    pub granularity: Granularity,
    /// For `epo-official` only: the turn index from which a micro-batch is penalised.
    pub gate: Option<usize>,
    /// The reference H̄.
    pub history: HistoryConfig,
    /// The weight β_k, with γ and K.
    pub beta: BetaSchedule,
    /// For `adaptive` only; the published settings where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveTarget>,
    /// For `clip-cov` only; the published settings where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_cov: Option<ClipCov>,
    /// For `kl-cov` only; the published settings where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_cov: Option<KlCov>,
    /// For `top-entropy` only; the published settings where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_entropy: Option<TopEntropy>,
}

impl Default for EntropyConfig {
    fn default() -> Self {
        Self::paper_v2()
    }
}

impl EntropyConfig {
    /// The paper's v2 with its robust band: hinge per token, λ 0.001, α 0.1, κ 0.5/1.5, cumulative history of
    /// the steps before the current one, β_k = 1 + e^(−3k/⌊K/2⌋) with K = 150.
    pub fn paper_v2() -> Self {
        Self {
            method: EntropyMethod::Epo,
            lambda: 0.001,
            alpha: 0.1,
            kappa_low: 0.5,
            kappa_high: 1.5,
            granularity: Granularity::Token,
            gate: None,
            history: HistoryConfig::Cumulative { per_turn: false },
            beta: BetaSchedule::PaperV2 { gamma: 3.0, total_steps: 150 },
            adaptive: None,
            clip_cov: None,
            kl_cov: None,
            top_entropy: None,
        }
    }

    /// The published code: indicator without gradient, gate at turn 25, left-padded history of up to 50 turns
    /// that includes the current step, two-phase β with K = 150; α 0.1, κ 0.5/1.5 as in its run script.
    pub fn official_code() -> Self {
        Self {
            method: EntropyMethod::EpoOfficial,
            gate: Some(EpoIndicator::OFFICIAL_GATE),
            history: HistoryConfig::Official { max_steps: 50 },
            beta: BetaSchedule::OfficialTwoPhase { total_steps: 150 },
            ..Self::paper_v2()
        }
    }

    /// The paper's ScienceWorld runs: α 0.05, κ 0/2; K = 125 where β is the paper's.
    pub fn scienceworld(self) -> Self {
        self.run_settings(0.05, 125)
    }

    /// The paper's ALFWorld runs: α 0.1, κ 0/2; K = 150 where β is the paper's.
    pub fn alfworld(self) -> Self {
        self.run_settings(0.1, 150)
    }

    /// The same λ with the method called `name`; `epo-official` brings the published code's other settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name that no [`EntropyMethod`] has.
    pub fn with_method(self, name: &str) -> Result<Self> {
        match EntropyMethod::NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, EntropyMethod::EpoOfficial)) => {
                Ok(Self { lambda: self.lambda, ..Self::official_code() })
            }
            Some(&(_, method)) => Ok(Self { method, gate: None, ..self }),
            None => {
                let names = EntropyMethod::NAMES.map(|(name, _)| name).join(", ");
                Err(Error::setting("entropy.method", name, format!("one of {names}")))
            }
        }
    }

    fn run_settings(mut self, alpha: f64, steps: u64) -> Self {
        (self.alpha, self.kappa_low, self.kappa_high) = (alpha, 0.0, 2.0);
        if let BetaSchedule::PaperV2 { total_steps, .. } = &mut self.beta {
            *total_steps = steps;
        }
        self
    }

    /// Checks every setting and builds the parts.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the field, dotted from `entropy`.
    pub fn build(&self) -> Result<EntropyControl> {
        let band = Band { kappa_low: self.kappa_low, kappa_high: self.kappa_high };
        self.beta.validate()?;
        self.refuse_what_is_of_no_use()?;
        let regularizer = self.regularizer(band)?;
        let include_current = matches!(self.history, HistoryConfig::Official { .. });
        EntropyControl::new(regularizer, self.history.build()?, Box::new(self.beta))
            .with_current_step_in_reference(include_current)
            .with_band(band)
    }

    /// The settings that the method has no use for, by name, each with the reason.
    pub fn unused(&self) -> Vec<(&'static str, &'static str)> {
        use EntropyMethod::*;
        let owners: [(&[EntropyMethod], &str, &str); 8] = [
            (
                &[Bonus, DecayedBonus, Adaptive, Epo, EpoOfficial],
                "lambda",
                "only `bonus`, `decayed-bonus`, `adaptive`, `epo` and `epo-official` have a term to be weighted",
            ),
            (&[Epo, EpoOfficial], "alpha", "only `epo` and `epo-official` penalise what leaves the band"),
            (&[Epo, EpoOfficial], "granularity", "only `epo` and `epo-official` hold anything inside the band"),
            (&[Epo, EpoOfficial, DecayedBonus], "beta", "only `epo`, `epo-official` and `decayed-bonus` follow β"),
            (&[EpoOfficial], "gate", "only `epo-official` has a gate"),
            (&[Adaptive], "adaptive", "only `adaptive` has this table"),
            (&[ClipCov], "clip_cov", "only `clip-cov` has this table"),
            (&[KlCov], "kl_cov", "only `kl-cov` has this table"),
        ];
        let top = (&[TopEntropy][..], "top_entropy", "only `top-entropy` has this table");
        let unused =
            owners.into_iter().chain([top]).filter(|(methods, ..)| !methods.contains(&self.method));
        unused.map(|(_, key, reason)| (key, reason)).collect()
    }

    /// The same with the method's table written out where it was left out.
    #[must_use]
    pub fn in_full(mut self) -> Self {
        match self.method {
            EntropyMethod::Adaptive => drop(self.adaptive.get_or_insert_default()),
            EntropyMethod::ClipCov => drop(self.clip_cov.get_or_insert_default()),
            EntropyMethod::KlCov => drop(self.kl_cov.get_or_insert_default()),
            EntropyMethod::TopEntropy => drop(self.top_entropy.get_or_insert_default()),
            _ => (),
        }
        self
    }

    /// Refuses the settings that can only have been given for another method.
    fn refuse_what_is_of_no_use(&self) -> Result<()> {
        let given = [
            ("gate", self.gate.map(|gate| gate.to_string())),
            ("adaptive", self.adaptive.map(|table| format!("{table:?}"))),
            ("clip_cov", self.clip_cov.map(|table| format!("{table:?}"))),
            ("kl_cov", self.kl_cov.map(|table| format!("{table:?}"))),
            ("top_entropy", self.top_entropy.map(|table| format!("{table:?}"))),
        ];
        let unused = self.unused();
        for (key, value) in given.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            if let Some((_, reason)) = unused.iter().find(|(unused, _)| *unused == key) {
                return Err(Error::setting(format!("entropy.{key}"), value, *reason));
            }
        }
        Ok(())
    }

    fn regularizer(&self, band: Band) -> Result<Box<dyn EntropyRegularizer>> {
        let hinge = EpoHinge::new(self.lambda, self.alpha, band, self.granularity)?;
        let indicator = EpoIndicator::new(self.lambda, self.alpha, band, self.granularity)?;
        Ok(match self.method {
            EntropyMethod::None => Box::new(NoEntropy),
            EntropyMethod::Bonus => Box::new(EntropyBonus::new(self.lambda)?),
            EntropyMethod::Epo => Box::new(hinge),
            EntropyMethod::EpoOfficial => Box::new(indicator.with_gate(self.gate)),
            EntropyMethod::DecayedBonus => Box::new(DecayedBonus::new(self.lambda)?),
            EntropyMethod::Adaptive => {
                Box::new(AdaptiveBonus::new(self.lambda, self.adaptive.unwrap_or_default())?)
            }
            EntropyMethod::ClipCov => Box::new(valid(self.clip_cov, ClipCov::validate)?),
            EntropyMethod::KlCov => Box::new(valid(self.kl_cov, KlCov::validate)?),
            EntropyMethod::TopEntropy => Box::new(valid(self.top_entropy, TopEntropy::validate)?),
        })
    }
}

/// The settings given, or the published ones.
fn valid<T: Default>(given: Option<T>, validate: impl Fn(&T) -> Result<()>) -> Result<T> {
    let settings = given.unwrap_or_default();
    validate(&settings)?;
    Ok(settings)
}
