//! The inner loops over one block of logits: sums for the statistics, and the gradient.

use crate::kernels::cpu::element::Inline;
use crate::kernels::cpu::float::{vectorised, Float};

/// Elements per block: summed in the type of the arithmetic, then added to double-precision totals.
pub(crate) const BLOCK: usize = 1024;

/// Sums of one block, and its largest u. If `top` is positive, the row's maximum was too small and
/// the other sums are meaningless.
pub(crate) struct Sums {
    pub(super) top: f64,
    pub(super) rest: f64,
    pub(super) tops: f64,
    pub(super) weighted: f64,
}

vectorised! {
    fn largest_of<L: Inline>(row: &[L]) -> L::Float {
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

/// Computes the sums of a block. If it contains the row's maximum (u = 0), it is read a second
/// time, counting these elements instead of summing them.
pub(crate) fn block_sums<L: Inline>(block: &[L], scale: L::Float, max: L::Float) -> Sums {
    let sums = plain_sums(block, scale, max);
    if sums.top == 0.0 {
        // Rare: only blocks that contain the row's maximum.
        return counting_sums(block, scale, max);
    }
    sums
}

vectorised! {
    fn plain_sums<L: Inline, FMA>(block: &[L], scale: L::Float, max: L::Float) -> Sums {
        sums_of::<L, false, FMA>(block, scale, max)
    }
}

vectorised! {
    fn counting_sums<L: Inline, FMA>(block: &[L], scale: L::Float, max: L::Float) -> Sums {
        sums_of::<L, true, FMA>(block, scale, max)
    }
}

/// Computes the sums of a block; if `COUNT`, elements with u = 0 are counted instead of summed.
#[inline(always)]
fn sums_of<L: Inline, const COUNT: bool, const FMA: bool>(
    block: &[L],
    scale: L::Float,
    max: L::Float,
) -> Sums {
    let zeros = [L::Float::from_f32(0.0); 16];
    let mut lanes =
        Lanes { top: [L::Float::from_f32(-1.0); 16], rest: zeros, tops: [0; 16], weighted: zeros };
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

/// Accumulators of 16 lanes.
struct Lanes<T> {
    top: [T; 16],
    rest: [T; 16],
    tops: [u32; 16],
    weighted: [T; 16],
}

impl<T: Float> Lanes<T> {
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

/// Coefficients of a row's gradient: p (c − h u) written as e^z (c̃ + h̃ z) with z = x · scale −
/// shift.
pub(crate) struct Factors<T> {
    pub(super) scale: T,
    pub(super) shift: T,
    pub(super) c: T,
    pub(super) h: T,
}

impl<T: Float> Factors<T> {
    #[inline(always)]
    fn gradient<const FMA: bool>(&self, x: T) -> T {
        let (z, p) =
            x.mul_add::<FMA>(self.scale, T::from_f32(0.0) - self.shift).clamped_exp::<FMA>();
        p * z.mul_add::<FMA>(self.h, self.c)
    }
}

vectorised! {
    /// x ← e^z (c + h z) with z = x · scale − shift, for c and h that are not NaN.
    fn gradient_values<L: Inline, FMA>(block: &mut [L], factors: &Factors<L::Float>) {
        let (chunks, tail) = block.as_chunks_mut::<16>();
        for chunk in chunks {
            // Two loops, so that the second one vectorises: it packs the values of two registers.
            let mut values = [L::Float::from_f32(0.0); 16];
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
