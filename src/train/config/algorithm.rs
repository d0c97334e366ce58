//! The two ways to advantages, each with its own settings.

use serde::{Deserialize, Serialize};

use crate::train::credit::gae::GaeConfig;
use crate::train::credit::group::AdvantageConfig;
use crate::train::learn::critic::CriticConfig;
use crate::{Error, Result};

/// An algorithm by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Group-relative policy optimisation (GRPO, arXiv 2402.03300).
    Grpo,
    /// Proximal policy optimisation with a critic (PPO, arXiv 1707.06347).
    Ppo,
}

/// The algorithm of a run, by `kind`, with the settings that it uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AlgorithmConfig {
    /// Episodes and turns of a group are compared with one another.
    Grpo {
        /// The comparison.
        #[serde(default)]
        advantage: AdvantageConfig,
    },
    /// A critic's values and generalised advantage estimation (GAE).
    Ppo {
        /// From rewards and values to advantages.
        #[serde(default)]
        gae: GaeConfig,
        /// The critic.
        #[serde(default)]
        critic: CriticConfig,
    },
}

impl AlgorithmConfig {
    /// The algorithm's name.
    pub fn kind(&self) -> Algorithm {
        match self {
            Self::Grpo { .. } => Algorithm::Grpo,
            Self::Ppo { .. } => Algorithm::Ppo,
        }
    }

    /// The settings of GRPO.
    ///
    /// # Errors
    /// [`Error::Setting`] for another algorithm.
    pub fn grpo(&self) -> Result<AdvantageConfig> {
        match self {
            Self::Grpo { advantage } => Ok(*advantage),
            Self::Ppo { .. } => Err(Error::setting("algorithm.kind", "ppo", "must be `grpo` here")),
        }
    }

    /// The settings of PPO: GAE and the critic.
    ///
    /// # Errors
    /// [`Error::Setting`] for another algorithm.
    pub fn ppo(&self) -> Result<(GaeConfig, &CriticConfig)> {
        match self {
            Self::Ppo { gae, critic } => Ok((*gae, critic)),
            Self::Grpo { .. } => {
                Err(Error::setting("algorithm.kind", "grpo", "must be `ppo` here"))
            }
        }
    }

    /// The critic's settings, if there is one.
    pub fn critic(&self) -> Option<&CriticConfig> {
        match self {
            Self::Ppo { critic, .. } => Some(critic),
            Self::Grpo { .. } => None,
        }
    }
}
