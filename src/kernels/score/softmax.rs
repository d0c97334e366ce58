//! Softmax statistics of one row of logits, and the row's gradient.
//!
//! With z = logits/τ, m = max z, u = z − m, s = Σ eᵘ, t = Σ u eᵘ: log p = u − ln s and H = ln s −
//! t/s. A row is read once, in blocks whose sums are shifted by the largest logit so far (Milakov &
//! Gimelshein 2018, extended by t). Elements equal to the maximum are counted rather than summed,
//! so that ln s of a peaked row keeps its relative accuracy.

use crate::kernels::cpu::float::{vectorised, Float};
use crate::kernels::score::block::{Factors, BLOCK};
use crate::kernels::score::logit::Logit;
use candle_core::WithDType;

/// Statistics of one row, as needed for its outputs and its gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStatistics {
    /// m = max logits/τ.
    pub(crate) max: f64,
    /// ln Σ eᵘ.
    pub(crate) log_sum: f64,
    /// Ē = Σ u eᵘ / Σ eᵘ.
    pub(crate) mean: f64,
}

impl RowStatistics {
    /// Statistics of a skipped row: H = 0.
    pub(crate) const SKIPPED: Self = Self { max: f64::NEG_INFINITY, log_sum: 0.0, mean: 0.0 };

    /// Returns log p of a logit.
    pub(crate) fn log_prob(&self, logit: f64, inverse_temperature: f64) -> f64 {
        if self.max == f64::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        logit * inverse_temperature - self.max - self.log_sum
    }

    /// Returns H = ln s − Ē in nats.
    pub(crate) fn entropy(&self) -> f64 {
        self.log_sum - self.mean
    }
}

/// Running sums of a row: `rest` = Σ eᵘ over u ≠ 0, `tops` = number of elements with u = 0,
/// `weighted` = Σ u eᵘ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    max: f64,
    rest: f64,
    tops: f64,
    weighted: f64,
}

impl Running {
    /// Sums over no elements.
    pub(crate) const EMPTY: Self =
        Self { max: f64::NEG_INFINITY, rest: 0.0, tops: 0.0, weighted: 0.0 };

    /// Adds a part of the row.
    pub(crate) fn add<T: Logit>(&mut self, part: &[T], inverse_temperature: f64) {
        let scale = T::Float::from_f64(inverse_temperature);
        part.chunks(BLOCK).for_each(|block| self.add_block(block, scale));
    }

    fn add_block<T: Logit>(&mut self, block: &[T], scale: T::Float) {
        let largest = || (T::largest(block) * scale).to_f64();
        if self.max == f64::NEG_INFINITY {
            self.raise(largest());
            if self.max == f64::NEG_INFINITY {
                if block.iter().any(|x| x.to_f64().is_nan()) {
                    self.max = f64::NAN;
                }
                return;
            }
        }
        let mut sums = T::sums(block, scale, T::Float::from_f64(self.max));
        if sums.top > 0.0 {
            // Rare: most blocks contain no new maximum and are read once.
            self.raise(largest());
            sums = T::sums(block, scale, T::Float::from_f64(self.max));
        }
        self.rest += sums.rest;
        self.tops += sums.tops;
        self.weighted += sums.weighted;
    }

    /// Shifts the sums to a larger maximum: eᵘ ← eᵈ eᵘ, u eᵘ ← eᵈ (u eᵘ + d eᵘ) with d = old − new.
    fn raise(&mut self, max: f64) {
        if self.max != f64::NEG_INFINITY {
            let d = self.max - max;
            let factor = d.exp();
            let sum = self.rest + self.tops;
            *self = Self {
                max,
                rest: factor * sum,
                tops: 0.0,
                weighted: factor * (self.weighted + d * sum),
            };
        }
        self.max = max;
    }

    /// Returns the statistics of all parts added; NaN if any logit was NaN or +∞.
    pub(crate) fn finish(&self) -> RowStatistics {
        if self.max == f64::NEG_INFINITY {
            return RowStatistics::SKIPPED;
        }
        RowStatistics {
            max: self.max,
            log_sum: (self.rest + (self.tops - 1.0)).ln_1p(),
            mean: self.weighted / (self.tops + self.rest),
        }
    }
}

/// Computes the statistics of softmax(row · `inverse_temperature`).
pub(crate) fn row_statistics<T: Logit>(row: &[T], inverse_temperature: f64) -> RowStatistics {
    let mut running = Running::EMPTY;
    running.add(row, inverse_temperature);
    running.finish()
}

vectorised! {
    /// `row` ← e^(row · scale − shift), for exponents that are at most 0.
    fn exponentials<T, FMA>(row: &mut [T], scale: T, shift: T) {
        for x in row.iter_mut() {
            *x = (*x * scale - shift).exp_nonpositive::<FMA>();
        }
    }
}

/// Replaces a row of logits by its probabilities.
pub(crate) fn probabilities(row: &mut [f32], inverse_temperature: f64, s: &RowStatistics) {
    exponentials(row, inverse_temperature as f32, (s.max + s.log_sum) as f32);
}

impl<T: Float> Factors<T> {
    /// Computes the coefficients. The rounding error of the shift m + ln s is corrected in c and h.
    fn new(
        inverse_temperature: f64,
        s: &RowStatistics,
        ScoreGradient { log_prob: g, entropy: h }: ScoreGradient,
    ) -> Self {
        let shift = T::from_f64(s.max + s.log_sum);
        let off = shift.to_f64() - (s.max + s.log_sum);
        let scaled = inverse_temperature * off.exp();
        let u = s.log_sum + off; // where z = 0
        Self {
            scale: T::from_f64(inverse_temperature),
            shift,
            c: T::from_f64(scaled * (h * (s.mean - u) - g)),
            h: T::from_f64(-scaled * h),
        }
    }
}

/// Gradients (g, h) of the loss with respect to a row's log-probability and entropy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScoreGradient {
    /// ∂L/∂log p.
    pub(crate) log_prob: f64,
    /// ∂L/∂H.
    pub(crate) entropy: f64,
}

/// Replaces consecutive logits of a row by their gradient (1/τ) [ g (1_id − p) + h p (Ē − u) ].
/// `id` is relative to the first of them and may lie outside.
pub(crate) fn gradient_in_place<T: Logit>(
    part: &mut [T],
    id: Option<usize>,
    inverse_temperature: f64,
    s: &RowStatistics,
    grad: ScoreGradient,
) {
    if s.max == f64::NEG_INFINITY || (grad.log_prob == 0.0 && grad.entropy == 0.0) {
        part.fill(T::from_f64(0.0));
        return;
    }
    if grad.log_prob.is_nan() || grad.entropy.is_nan() {
        part.fill(T::from_f64(f64::NAN));
        return;
    }
    let factors = Factors::new(inverse_temperature, s, grad);
    let own_term = <T::Float as WithDType>::from_f64(grad.log_prob * inverse_temperature);
    for (i, block) in part.chunks_mut(BLOCK).enumerate() {
        let id = id.and_then(|id| id.checked_sub(i * BLOCK)).filter(|&id| id < block.len());
        // The token's own element has one more term and is rounded once.
        let own = id.map(|id| (id, own_gradient(block[id], &factors, own_term)));
        T::gradient(block, &factors);
        if let Some((id, own)) = own {
            block[id] = own;
        }
    }
}

/// Computes the gradient of the row's own token.
fn own_gradient<T: Logit>(logit: T, factors: &Factors<T::Float>, own: T::Float) -> T {
    let mut value = [T::Float::from_f32(0.0)];
    let mut value = [T::load(&[logit], &mut value)[0]];
    <T::Float as Logit>::gradient(&mut value, factors);
    let mut out = [logit];
    T::store(&[value[0] + own], &mut out);
    out[0]
}
