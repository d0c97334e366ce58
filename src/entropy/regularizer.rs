//! The differentiable regularisers. Suffixes: b rows, t token positions, u units (tokens or turn
//! segments).

use candle_core::Tensor;

use crate::entropy::band::{Band, Granularity, Units};
use crate::entropy::traits::{EntropyInputs, EntropyRegularizer, State};
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::{Error, Result};

/// No regularisation: a zero term without a gradient.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEntropy;

impl State for NoEntropy {}

impl EntropyRegularizer for NoEntropy {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        LossOutput::zero(&inputs.entropy_bt)
    }
}

/// The plain entropy bonus −λ·L_H, with L_H the aggregated entropy (paper v2, eq. 2).
#[derive(Clone, Copy, Debug)]
pub struct EntropyBonus {
    lambda: f64,
}

impl EntropyBonus {
    /// A bonus of weight λ ≥ 0.
    ///
    /// # Errors
    /// [`Error::Setting`] for a negative or non-finite λ.
    pub fn new(lambda: f64) -> Result<Self> {
        Ok(Self { lambda: weight("lambda", lambda)? })
    }
}

impl State for EntropyBonus {}

impl EntropyRegularizer for EntropyBonus {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        bonus(inputs, self.lambda)
    }
}

/// EPO as the paper defines it (v2, eq. 2–6): −λ[L_H − β·L_smooth]. L_smooth aggregates the hinge
/// α·([κ_l·H̄ − H]₊ + [H − κ_r·H̄]₊).
///
/// On an edge of the band the hinge costs nothing and has no gradient. A token or turn without a
/// reference (an empty history, a turn never reached) is not penalised.
#[derive(Clone, Copy, Debug)]
pub struct EpoHinge {
    lambda: f64,
    alpha: f64,
    band: Band,
    granularity: Granularity,
}

impl EpoHinge {
    /// A hinge of height α ≥ 0 outside `band`, in a term of weight λ ≥ 0.
    ///
    /// # Errors
    /// [`Error::Setting`] for a negative or non-finite λ or α or a bad band.
    pub fn new(lambda: f64, alpha: f64, band: Band, granularity: Granularity) -> Result<Self> {
        let lambda = weight("lambda", lambda)?;
        let alpha = weight("alpha", alpha)?;
        Ok(Self { lambda, alpha, band, granularity })
    }

    /// Returns L_smooth, the aggregated hinge, as a differentiable scalar.
    ///
    /// # Errors
    /// [`Error::Setting`] for a turn index that the history cannot hold.
    pub fn smoothing(&self, inputs: &EntropyInputs) -> Result<Tensor> {
        let units = Units::new(inputs, self.granularity)?;
        let edge = |kappa: f64| units.tensor(units.references.iter().map(|h| kappa * h).collect());
        let below_u = positive_part(&(edge(self.band.kappa_low())? - &units.entropy_u)?)?;
        let above_u = positive_part(&(&units.entropy_u - edge(self.band.kappa_high())?)?)?;
        let weights_u = units.tensor(units.weights.clone())?;
        Ok(((below_u + above_u)?.mul(&weights_u)?.sum_all()? * self.alpha)?)
    }
}

impl State for EpoHinge {}

impl EntropyRegularizer for EpoHinge {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        let mut readout = Readout::new(inputs.batch);
        let l_h = entropy_term(inputs, &mut readout)?;
        let smooth = (self.smoothing(inputs)? * inputs.beta)?;
        readout.scalar("entropy/beta_l_smooth", &smooth);
        let loss = ((smooth - l_h)? * self.lambda)?;
        Ok(LossOutput { loss, metrics: readout.finish()? })
    }
}

/// Returns −λ·L_H, with the metric of [`entropy_term`].
pub(crate) fn bonus(inputs: &EntropyInputs, lambda: f64) -> Result<LossOutput> {
    let mut readout = Readout::new(inputs.batch);
    let l_h = entropy_term(inputs, &mut readout)?;
    Ok(LossOutput { loss: (l_h * -lambda)?, metrics: readout.finish()? })
}

/// Returns L_H and reports its value as `entropy/l_h`.
pub(crate) fn entropy_term(inputs: &EntropyInputs, readout: &mut Readout) -> Result<Tensor> {
    let l_h = inputs.batch.aggregate(&inputs.entropy_bt)?;
    readout.scalar("entropy/l_h", &l_h);
    Ok(l_h)
}

/// [x]₊ = max(x, 0) with gradient 0 at x = 0.
fn positive_part(x: &Tensor) -> Result<Tensor> {
    Ok(x.gt(&x.zeros_like()?)?.where_cond(x, &x.zeros_like()?)?)
}

/// Requires a weight to be finite and at least 0.
pub(crate) fn weight(field: &str, value: f64) -> Result<f64> {
    if value >= 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(Error::setting(field, value, "must be finite and at least 0"))
    }
}
