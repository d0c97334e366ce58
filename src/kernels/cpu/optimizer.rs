//! The optimiser's passes over gradients and weights: parallel, vectorised, without temporaries.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::element::{widened, Element};
use crate::kernels::cpu::float::{lane_sum, vectorised, with_slice};
use crate::kernels::dispatch::is_cpu;
use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements per parallel task: fixed, so that the order of additions does not depend on the thread
/// count.
const CHUNK: usize = 1 << 14;

/// What AdamW remembers of one parameter, in f32.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdamWState {
    /// First and second moment.
    pub(crate) moments: [Vec<f32>; 2],
    /// The f32 copy of a bf16 or f16 parameter, in which small updates add up.
    pub(crate) master: Option<Vec<f32>>,
}

/// Coefficients of one AdamW step of one parameter.
#[derive(Clone, Copy)]
pub(crate) struct AdamWStep {
    /// Factor on the gradient, from clipping.
    pub(crate) scale: f64,
    /// β₁.
    pub(crate) beta1: f64,
    /// β₂.
    pub(crate) beta2: f64,
    /// 1 − ηλ.
    pub(crate) keep: f64,
    /// η/(1 − β₁ᵗ).
    pub(crate) rate: f64,
    /// 1/√(1 − β₂ᵗ).
    pub(crate) root_scale: f64,
    /// ε.
    pub(crate) eps: f64,
}

vectorised! {
    fn adamw_slice<T>(
        values: &mut [T],
        grad: &[T],
        first: &mut [T],
        second: &mut [T],
        s: AdamWStep,
    ) {
        let number = T::from_f64;
        let scale = number(s.scale);
        let beta1 = number(s.beta1);
        let beta2 = number(s.beta2);
        let gain1 = number(1.0) - beta1;
        let gain2 = number(1.0) - beta2;
        let keep = number(s.keep);
        let rate = number(s.rate);
        let root_scale = number(s.root_scale);
        let eps = number(s.eps);
        for (((x, &g), m), v) in values.iter_mut().zip(grad).zip(first).zip(second) {
            let g = g * scale;
            *m = beta1 * *m + gain1 * g;
            *v = beta2 * *v + gain2 * (g * g);
            *x = *x * keep - rate * (*m / (v.sqrt() * root_scale + eps));
        }
    }
}

/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², x ← keep · x − rate · m / (root_scale √v + ε) with g =
/// scale · `grad`, all in place.
pub(crate) fn adamw(
    values: &mut [f32],
    grad: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    s: AdamWStep,
) {
    let weights = values.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    weights.zip(moments).for_each(|((x, g), (m, v))| adamw_slice(x, g, m, v, s));
}

/// [`adamw`] on the f32 master copy of bf16 or f16 weights; returns the rounded weights.
pub(crate) fn adamw_narrow<L: Element<Float = f32>>(
    master: &mut [f32],
    grad: &[L],
    first: &mut [f32],
    second: &mut [f32],
    s: AdamWStep,
) -> Vec<L> {
    let mut values = zeros(master.len());
    let weights = values.par_chunks_mut(CHUNK).zip(master.par_chunks_mut(CHUNK));
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    weights.zip(moments).zip(grad.par_chunks(CHUNK)).for_each(|(((x, master), (m, v)), g)| {
        adamw_slice(master, widened(g, &mut Vec::new()), m, v, s);
        L::store(master, x);
    });
    values
}

vectorised! {
    /// Σ x² in f64, in eight lanes.
    fn squares_slice<T>(x: &[T]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (chunks, tail) = x.as_chunks::<8>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                let x = x.to_f64();
                *lane += x * x;
            }
        }
        lane_sum(lanes) + tail.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>()
    }
}

fn squares<L: Element>(x: &[L]) -> f64 {
    let parts: Vec<f64> =
        x.par_chunks(CHUNK).map(|x| squares_slice(widened(x, &mut Vec::new()))).collect();
    parts.iter().sum()
}

/// Returns Σ x² of each float tensor, summed in f64 on the CPU and in f32 on a device.
pub(crate) fn sums_of_squares(all: &[&Tensor]) -> Result<Vec<f64>> {
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    if all.iter().all(|x| crate::kernels::gpu::operator::serves(x)) {
        return crate::kernels::gpu::rows::sums_of_squares(all);
    }
    all.iter().map(|x| sum_of_squares(x)).collect()
}

/// Returns Σ x² of a float tensor, summed in f64.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !is_cpu(x) {
        return Ok(f64::from(x.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    match x.dtype() {
        DType::F32 => with_slice::<f32, _>(x, |x| Ok(squares(x))),
        DType::BF16 => with_slice::<bf16, _>(x, |x| Ok(squares(x))),
        DType::F16 => with_slice::<f16, _>(x, |x| Ok(squares(x))),
        _ => with_slice::<f64, _>(x, |x| Ok(squares(x))),
    }
}
