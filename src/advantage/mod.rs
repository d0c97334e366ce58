//! Advantages: pure functions on slices.
//!
//! Outcome estimators ([`grpo`], [`rloo`], [`pass_at_k`], [`gigpo`]) take one score per row and
//! give one advantage per row; [`broadcast`] spreads it over the row's generated tokens. A row may
//! be a turn that carries its episode's return (the authors' code) or a whole trajectory: then a
//! score *is* the trajectory's return and `grpo(&returns, &Groups::over_rows(&groups), true)` is
//! all a trainer needs.
//!
//! ```
//! use epo::advantage::{grpo, Groups};
//! let returns = [10.0, 0.0, 0.0, 10.0]; // four trajectories, two for each of two tasks
//! let advantages = grpo(&returns, &Groups::over_rows(&[0, 0, 1, 1]), true)?;
//! assert!(advantages[0] > 0.7 && advantages[1] < -0.7 && advantages[0] == advantages[3]);
//! # Ok::<(), epo::Error>(())
//! ```

pub(crate) mod centre;
pub(crate) mod critic;
pub(crate) mod dapo;
pub(crate) mod gigpo;
pub(crate) mod group;
pub(crate) mod token;
pub(crate) mod whiten;

pub use critic::{
    gae_bi_level, gae_over_trajectories, gae_over_turns, gae_within_turns, Estimate, Gae,
};
pub use dapo::{informative_groups, Overlong};
pub use gigpo::{discounted_returns, gigpo};
pub use group::{grpo, pass_at_k, reinforce_pp_baseline, rloo, Groups, OutcomeEstimator};
pub use token::{broadcast, gae, masked_whiten, reinforce_pp};
pub use whiten::{whiten_counted, whiten_tokens};

use crate::{Error, Result};

fn check_len(name: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        Ok(())
    } else {
        Err(Error::Shape { name, expected: format!("{expected} values"), got: vec![got] })
    }
}

fn check_finite(name: &str, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => {
            Err(Error::NonFinite { name: name.into(), value: values[i], at: format!("index {i}") })
        }
        None => Ok(()),
    }
}
