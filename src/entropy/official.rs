//! EPO as the authors' published code computes it (WujiangXu/EPO at 5b6fa98), for comparison.
//! Suffixes: b rows, t token positions.

use candle_core::{DType, Tensor, D};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::entropy::band::{Band, Granularity};
use crate::entropy::regularizer::{entropy_term, weight};
use crate::entropy::stats::StepEntropy;
use crate::entropy::traits::{
    read_state, EntropyHistory, EntropyInputs, EntropyRegularizer, State,
};
use crate::objective::output::LossOutput;
use crate::objective::readout::Readout;
use crate::settings::Count;
use crate::{Error, Result};

/// The published smoothing term: −λ[L_H − c·β·agg(P)], where P is 0 strictly inside the band and α
/// outside (`generate_entropy_penalty`).
///
/// **The penalty has no gradient.** P is a step function of the entropy, a constant almost
/// everywhere: it changes the reported loss, but not the gradient, which is that of the plain bonus
/// −λ·L_H. It exists to reproduce published numbers; use [`EpoHinge`](crate::entropy::EpoHinge) for
/// a term with an effect.
///
/// As published, a sequence is tested by its mean over *all* T positions, padding included, and the
/// penalty applies only if some row of the micro-batch has a turn index of at least `gate`.
#[derive(Clone, Copy, Debug)]
pub struct EpoIndicator {
    lambda: f64,
    alpha: f64,
    band: Band,
    granularity: Granularity,
    smooth_coef: f64,
    gate: Option<usize>,
}

impl EpoIndicator {
    /// The published gate: ⌊max_steps/2⌋ with the code's max_steps = 50.
    pub const OFFICIAL_GATE: usize = 25;

    /// The indicator with smoothing coefficient c = 1 and no gate.
    ///
    /// # Errors
    /// [`Error::Setting`] for a negative or non-finite λ or α.
    pub fn new(lambda: f64, alpha: f64, band: Band, granularity: Granularity) -> Result<Self> {
        let lambda = weight("lambda", lambda)?;
        let alpha = weight("alpha", alpha)?;
        Ok(Self { lambda, alpha, band, granularity, smooth_coef: 1.0, gate: None })
    }

    /// Sets the smoothing coefficient c ≥ 0 (`entropy_smooth_coeff`).
    ///
    /// # Errors
    /// [`Error::Setting`] for a negative or non-finite c.
    pub fn with_smooth_coef(mut self, smooth_coef: f64) -> Result<Self> {
        self.smooth_coef = weight("smooth_coef", smooth_coef)?;
        Ok(self)
    }

    /// Sets the gate: the lowest turn index that opens it for its micro-batch.
    pub fn with_gate(mut self, gate: Option<usize>) -> Self {
        self.gate = gate;
        self
    }

    /// Returns the penalties P, row-major [B·T] padding included, and the share inside the band (of
    /// all B·T positions, or of the B rows); `None` if the gate is closed.
    ///
    /// # Errors
    /// [`Error::Shape`], and the history's error for a turn index that it cannot hold.
    pub fn penalties(&self, inputs: &EntropyInputs) -> Result<Option<(Vec<f64>, f64)>> {
        let layout = inputs.batch.layout();
        if self.gate.is_some_and(|gate| layout.turns().iter().all(|&turn| turn < gate)) {
            return Ok(None);
        }
        let entropy_bt = inputs.unmasked_bt.detach();
        let (judged_bt, stride) = match self.granularity {
            Granularity::Token => (entropy_bt, 1),
            Granularity::Sequence => (entropy_bt.mean_keepdim(D::Minus1)?, layout.tokens()),
        };
        let single = judged_bt.dtype() == DType::F32;
        let judged = judged_bt.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let mut inside = Vec::with_capacity(judged.len());
        for (&entropy, turns) in judged.iter().zip(layout.turns().chunks(stride)) {
            let reference = inputs.history.reference(turns[0])?;
            inside.push(reference.is_none_or(|h| self.strictly_inside(entropy, h, single)));
        }
        let share = inside.iter().filter(|&&i| i).count() as f64 / inside.len() as f64;
        let penalty = |i: &bool| std::iter::repeat_n(if *i { 0.0 } else { self.alpha }, stride);
        Ok(Some((inside.iter().flat_map(penalty).collect(), share)))
    }

    /// κ_l·H̄ < H < κ_r·H̄, with the edges rounded as the tensors' dtype rounds them.
    fn strictly_inside(&self, entropy: f64, reference: f64, single: bool) -> bool {
        let edge = |kappa: f64| {
            if single {
                f64::from(reference as f32 * kappa as f32)
            } else {
                reference * kappa
            }
        };
        edge(self.band.kappa_low()) < entropy && entropy < edge(self.band.kappa_high())
    }
}

impl State for EpoIndicator {}

impl EntropyRegularizer for EpoIndicator {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        let mut readout = Readout::new(inputs.batch);
        let l_h = entropy_term(inputs, &mut readout)?;
        let mut metrics = readout.finish()?;
        let penalties = self.penalties(inputs)?.map_or_else(Vec::new, |(penalties, _)| penalties);
        let total: f64 = penalties.iter().zip(inputs.batch.weights()).map(|(p, w)| p * w).sum();
        metrics.add("entropy/beta_l_smooth", inputs.beta * total);
        let penalty = Tensor::new(self.smooth_coef * inputs.beta * total, l_h.device())?;
        let loss = ((penalty.to_dtype(l_h.dtype())? - l_h)? * self.lambda)?;
        Ok(LossOutput { loss, metrics })
    }
}

/// Returns one step's per-turn means as the published code stores them: a list shorter than
/// `max_steps` gets zeros *in front*, a longer one keeps its last `max_steps`.
pub fn left_pad(turn_means: &[f64], max_steps: usize) -> Vec<f64> {
    let kept = &turn_means[turn_means.len().saturating_sub(max_steps)..];
    let mut padded = vec![0.0; max_steps - kept.len()];
    padded.extend_from_slice(kept);
    padded
}

/// The published history: per turn index, the unweighted mean over all steps of [`left_pad`]ded
/// lists.
///
/// The padding moves a short episode's turns to other indices and pulls the means towards zero. The
/// published trainer also records the current step *before* it uses the reference;
/// [`EntropyConfig::official_code`](crate::entropy::EntropyConfig::official_code) does both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficialHistory {
    sums: Vec<f64>,
    steps: u64,
}

impl OfficialHistory {
    /// An empty history for episodes of up to `max_steps` turns.
    pub fn new(max_steps: Count) -> Self {
        Self { sums: vec![0.0; max_steps.get()], steps: 0 }
    }
}

impl EntropyHistory for OfficialHistory {
    fn reference(&self, turn: usize) -> Result<Option<f64>> {
        match self.sums.get(turn) {
            Some(sum) => Ok((self.steps > 0).then(|| sum / self.steps as f64)),
            None => {
                let reason = format!("turn index {turn} needs a longer history");
                Err(Error::setting("entropy.history.max_steps", self.sums.len(), reason))
            }
        }
    }

    fn record(&mut self, step: &StepEntropy) -> Result<()> {
        let mean = |turn| {
            let at = format!("turn {turn}");
            step.turn_mean(turn).ok_or(Error::EmptyMask { name: "step entropy", at })
        };
        let means = (0..step.turns()).map(mean).collect::<Result<Vec<f64>>>()?;
        let padded = left_pad(&means, self.sums.len());
        for (sum, mean) in self.sums.iter_mut().zip(padded) {
            *sum += mean;
        }
        self.steps += 1;
        Ok(())
    }
}

impl State for OfficialHistory {
    fn state(&self) -> Value {
        json!(self)
    }

    fn load_state(&mut self, state: &Value) -> Result<()> {
        let read: Self = read_state(state)?;
        if read.sums.len() != self.sums.len() {
            let reason = format!("the checkpoint's history has max_steps = {}", read.sums.len());
            return Err(Error::setting("entropy.history.max_steps", self.sums.len(), reason));
        }
        *self = read;
        Ok(())
    }
}
