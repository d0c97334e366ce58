//! Softmax statistics of one row of logits, and the row's gradient: the arithmetic of `logprob_entropy`.
//!
//! With z = logits/τ, m = max z, u = z − m, s = Σ eᵘ, t = Σ u eᵘ: log p = u − ln s and H = ln s − t/s. A row is read
//! once, in blocks whose sums are shifted by the largest logit so far, so that a peaked row keeps its relative
//! accuracy (Milakov & Gimelshein 2018, with t beside s).

use crate::kernels::cpu::real::{vectorised, Real};
use crate::kernels::score::logit::{Inline, Logit};
use candle_core::WithDType;

/// Elements summed in the arithmetic's type before they join a double-precision total.
pub(crate) const BLOCK: usize = 1024;

/// The statistics of one row that its outputs and its gradient need.
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
    /// Of a row that is skipped: H = 0.
    pub(crate) const SKIPPED: Self = Self { max: f64::NEG_INFINITY, log_sum: 0.0, mean: 0.0 };

    /// log p of a logit.
    pub(crate) fn log_prob(&self, logit: f64, inverse_temperature: f64) -> f64 {
        if self.max == f64::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        logit * inverse_temperature - self.max - self.log_sum
    }

    /// H = ln s − Ē in nats.
    pub(crate) fn entropy(&self) -> f64 {
        self.log_sum - self.mean
    }
}

/// A row's sums so far: `rest` = Σ eᵘ over u ≠ 0, `tops` = the number of u = 0, `weighted` = Σ u eᵘ.
///
/// The largest elements are counted rather than summed, so that ln s of a peaked row keeps the small terms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    max: f64,
    rest: f64,
    tops: f64,
    weighted: f64,
}

/// The sums of one block, and its largest u: where that is positive they mean nothing.
pub(crate) struct Sums {
    top: f64,
    rest: f64,
    tops: f64,
    weighted: f64,
}

impl Running {
    /// Of no element.
    pub(crate) const EMPTY: Self =
        Self { max: f64::NEG_INFINITY, rest: 0.0, tops: 0.0, weighted: 0.0 };

    /// Takes in more of the row.
    pub(crate) fn add<T: Logit>(&mut self, part: &[T], inverse_temperature: f64) {
        let scale = T::Real::from_f64(inverse_temperature);
        part.chunks(BLOCK).for_each(|block| self.add_block(block, scale));
    }

    fn add_block<T: Logit>(&mut self, block: &[T], scale: T::Real) {
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
        let mut sums = T::sums(block, scale, T::Real::from_f64(self.max));
        if sums.top > 0.0 {
            // Rare: most blocks of a row do not hold a new maximum, and are read once.
            self.raise(largest());
            sums = T::sums(block, scale, T::Real::from_f64(self.max));
        }
        self.rest += sums.rest;
        self.tops += sums.tops;
        self.weighted += sums.weighted;
    }

    /// Shifts the sums to a larger maximum: eᵘ ← eᵈ eᵘ, u eᵘ ← eᵈ (u eᵘ + d eᵘ) with d = old − new.
    fn raise(&mut self, max: f64) {
        if self.max != f64::NEG_INFINITY {
            let d = self.max - max;
            let (factor, sum) = (d.exp(), self.rest + self.tops);
            *self = Self {
                max,
                rest: factor * sum,
                tops: 0.0,
                weighted: factor * (self.weighted + d * sum),
            };
        }
        self.max = max;
    }

    /// The statistics of all that was added; NaN where a logit was NaN or +∞.
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

vectorised! {
    fn largest_of<L: Inline>(row: &[L]) -> L::Real {
        let (chunks, tail) = row.as_chunks::<16>();
        let mut lanes = [row[0].widen(); 16];
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = lane.larger(x.widen());
            }
        }
        let rest = tail.iter().map(|x| x.widen());
        lanes.into_iter().chain(rest).fold(row[0].widen(), |a, b| a.larger(b))
    }
}

/// The sums of a block: its largest elements, if there are any with u = 0, are told from the others.
pub(crate) fn block_sums<L: Inline>(block: &[L], scale: L::Real, max: L::Real) -> Sums {
    let sums = plain_sums(block, scale, max);
    if sums.top == 0.0 {
        // Rare: blocks of a row that hold its maximum.
        return counting_sums(block, scale, max);
    }
    sums
}

vectorised! {
    fn plain_sums<L: Inline, FMA>(block: &[L], scale: L::Real, max: L::Real) -> Sums {
        sums_of::<L, false, FMA>(block, scale, max)
    }
}

vectorised! {
    fn counting_sums<L: Inline, FMA>(block: &[L], scale: L::Real, max: L::Real) -> Sums {
        sums_of::<L, true, FMA>(block, scale, max)
    }
}

/// Where `COUNT`, elements with u = 0 are counted instead of summed.
#[inline(always)]
fn sums_of<L: Inline, const COUNT: bool, const FMA: bool>(
    block: &[L],
    scale: L::Real,
    max: L::Real,
) -> Sums {
    let zeros = [L::Real::from_f32(0.0); 16];
    let mut lanes =
        Lanes { top: [L::Real::from_f32(-1.0); 16], rest: zeros, tops: [0; 16], weighted: zeros };
    let (chunks, tail) = block.as_chunks::<16>();
    for chunk in chunks {
        for (l, x) in chunk.iter().enumerate() {
            lanes.add::<COUNT, FMA>(l, x.widen() * scale - max);
        }
    }
    for (l, x) in tail.iter().enumerate() {
        lanes.add::<COUNT, FMA>(l, x.widen() * scale - max);
    }
    lanes.sums()
}

/// Sums in 16 lanes.
struct Lanes<T> {
    top: [T; 16],
    rest: [T; 16],
    tops: [u32; 16],
    weighted: [T; 16],
}

impl<T: Real> Lanes<T> {
    #[inline(always)]
    fn add<const COUNT: bool, const FMA: bool>(&mut self, l: usize, u: T) {
        let zero = T::from_f32(0.0);
        let top = COUNT && u == zero;
        self.top[l] = self.top[l].larger(u);
        let (clamped, e) = u.clamped_exp::<FMA>();
        self.rest[l] += if top { zero } else { e };
        self.tops[l] += u32::from(top);
        self.weighted[l] = clamped.mul_add::<FMA>(e, self.weighted[l]);
    }

    #[inline(always)]
    fn sums(&self) -> Sums {
        let mut sums = Sums { top: -1.0, rest: 0.0, tops: 0.0, weighted: 0.0 };
        for l in 0..16 {
            sums.top = sums.top.max(self.top[l].to_f64());
            sums.rest += self.rest[l].to_f64();
            sums.tops += f64::from(self.tops[l]);
            sums.weighted += self.weighted[l].to_f64();
        }
        sums
    }
}

/// Statistics of softmax(row · `inverse_temperature`).
pub(crate) fn row_statistics<T: Logit>(row: &[T], inverse_temperature: f64) -> RowStatistics {
    let mut running = Running::EMPTY;
    running.add(row, inverse_temperature);
    running.finish()
}

vectorised! {
    /// `row` ← e^(row · scale − shift) for exponents that are not positive.
    fn exponentials<T, FMA>(row: &mut [T], scale: T, shift: T) {
        for x in row.iter_mut() {
            *x = (*x * scale - shift).exp_nonpositive::<FMA>();
        }
    }
}

/// The probabilities of a row with these statistics, written over its logits.
pub(crate) fn probabilities(row: &mut [f32], inverse_temperature: f64, s: &RowStatistics) {
    exponentials(row, inverse_temperature as f32, (s.max + s.log_sum) as f32);
}

/// What the gradient of a row's elements depends on: p (c − h u) is e^z (c̃ + h̃ z) for z = x · scale − shift.
pub(crate) struct Factors<T> {
    scale: T,
    shift: T,
    c: T,
    h: T,
}

impl<T: Real> Factors<T> {
    /// What rounding changes in the shift by m + ln s is put right in the factors.
    fn new(
        inverse_temperature: f64,
        s: &RowStatistics,
        RowGradient { log_prob: g, entropy: h }: RowGradient,
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

    #[inline(always)]
    fn gradient<const FMA: bool>(&self, x: T) -> T {
        let (z, p) =
            x.mul_add::<FMA>(self.scale, T::from_f32(0.0) - self.shift).clamped_exp::<FMA>();
        p * z.mul_add::<FMA>(self.h, self.c)
    }
}

vectorised! {
    /// x ← e^z (c + h z) with z = x · scale − shift, where neither c nor h is NaN.
    fn gradient_values<L: Inline, FMA>(block: &mut [L], factors: &Factors<L::Real>) {
        let (chunks, tail) = block.as_chunks_mut::<16>();
        for chunk in chunks {
            // Two loops: the second one packs what two registers hold.
            let mut values = [L::Real::from_f32(0.0); 16];
            for (value, x) in values.iter_mut().zip(chunk.iter()) {
                *value = factors.gradient::<FMA>(x.widen());
            }
            for (x, value) in chunk.iter_mut().zip(values) {
                *x = L::narrow_result(value);
            }
        }
        for x in tail {
            *x = L::narrow_result(factors.gradient::<FMA>(x.widen()));
        }
    }
}

/// The gradients (g, h) of a row's log-probability and entropy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowGradient {
    /// ∂L/∂log p.
    pub(crate) log_prob: f64,
    /// ∂L/∂H.
    pub(crate) entropy: f64,
}

/// (1/τ) [ g (1_id − p) + h p (Ē − u) ] of consecutive logits of a row, written over them; `id` is counted from
/// the first of them, and need not be among them.
pub(crate) fn gradient_in_place<T: Logit>(
    part: &mut [T],
    id: Option<usize>,
    inverse_temperature: f64,
    s: &RowStatistics,
    grad: RowGradient,
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
    let own_term = <T::Real as WithDType>::from_f64(grad.log_prob * inverse_temperature);
    for (i, block) in part.chunks_mut(BLOCK).enumerate() {
        let id = id.and_then(|id| id.checked_sub(i * BLOCK)).filter(|&id| id < block.len());
        // The token's own element has one term more, and is rounded once.
        let own = id.map(|id| (id, own_gradient(block[id], &factors, own_term)));
        T::gradient(block, &factors);
        if let Some((id, own)) = own {
            block[id] = own;
        }
    }
}

/// The gradient of the row's own token.
fn own_gradient<T: Logit>(logit: T, factors: &Factors<T::Real>, own: T::Real) -> T {
    let mut value = [T::Real::from_f32(0.0)];
    let mut value = [T::load(&[logit], &mut value)[0]];
    <T::Real as Logit>::gradient(&mut value, factors);
    let mut out = [logit];
    T::store(&[value[0] + own], &mut out);
    out[0]
}
