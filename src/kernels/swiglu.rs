//! The gated activation of the feed-forward block (Shazeer 2020).

use super::composed;
use super::real::{on_cpu, slice_of, vectorised, with_real, with_slice, Real};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// y = silu(gate) · up elementwise, silu(x) = x σ(x); gate and up of one shape.
///
/// Backward: dup = g silu(gate), dgate = g · up · σ (1 + gate (1 − σ)).
///
/// # Errors
/// Shapes that differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        candle_core::bail!("swiglu: gate {:?}, up {:?}", gate.shape(), up.shape());
    }
    if !on_cpu(gate) {
        return composed::swiglu(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

/// Elements per parallel task.
const CHUNK: usize = 1 << 14;

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    let one = T::from_f64(1.0);
    one / (one + (T::from_f64(0.0) - x).exp())
}

vectorised! {
    /// `out` = silu(gate) · up.
    fn swiglu_slice<T>(gate: &[T], up: &[T], out: &mut [T]) {
        for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *o = g * sigmoid(g) * u;
        }
    }
}

vectorised! {
    /// gate ← silu(gate) · up.
    fn swiglu_in_place<T>(gate: &mut [T], up: &[T]) {
        for (g, &u) in gate.iter_mut().zip(up) {
            *g = *g * sigmoid(*g) * u;
        }
    }
}

vectorised! {
    /// Both gradients of a slice.
    fn backward_slice<T>(gate: &[T], up: &[T], grad: &[T], dgate: &mut [T], dup: &mut [T]) {
        let one = T::from_f64(1.0);
        let inputs = gate.iter().zip(up).zip(grad);
        for ((dg, du), ((&g, &u), &d)) in dgate.iter_mut().zip(dup).zip(inputs) {
            let s = sigmoid(g);
            *du = d * g * s;
            *dg = d * u * s * (one + g * (one - s));
        }
    }
}

fn forward<T: Real>(gate: &[T], up: &[T]) -> CpuStorage {
    let mut y = vec![T::from_f64(0.0); gate.len()];
    let chunks = y.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
    chunks.for_each(|((y, g), u)| swiglu_slice(g, u, y));
    T::to_cpu_storage_owned(y)
}

fn backward<T: Real>(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let zeros = || vec![T::from_f64(0.0); gate.elem_count()];
    let (mut dgate, mut dup) = (zeros(), zeros());
    with_slice::<T, _>(gate, |gate| {
        with_slice::<T, _>(up, |up| {
            with_slice::<T, _>(grad, |grad| {
                let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
                let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK));
                outputs.zip(inputs).for_each(|((dg, du), ((g, u), d))| backward_slice(g, u, d, dg, du));
                Ok(())
            })
        })
    })?;
    let tensor = |data| Tensor::from_vec(data, gate.shape(), gate.device());
    Ok((tensor(dgate)?, tensor(dup)?))
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        lg: &Layout,
        up: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = with_real!(candle_core::backend::BackendStorage::dtype(gate), "swiglu", T => {
            Ok(forward::<T>(slice_of(gate, lg)?, slice_of(up, lu)?))
        })?;
        Ok((y, lg.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dg, du) = with_real!(grad.dtype(), "swiglu", T => backward::<T>(gate, up, &grad))?;
        Ok((Some(dg), Some(du)))
    }
}
