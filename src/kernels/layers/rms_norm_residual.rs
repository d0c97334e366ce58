//! Root-mean-square normalisation of a sum, with the sum itself as a second output.

use crate::kernels::cpu::real::{on_cpu, slice_of, vectorised, with_real, with_slice, Real};
use crate::kernels::layers::rms_norm::{rms_norm_row, RmsNorm};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::{Arc, Mutex};

/// (s / √(mean s² + ε) · w, s) with s = r + x, both `[n, h]`, for r and x `[n, h]`, w `[h]`.
///
/// One pass writes both. Backward through both: with the gradients g of the norm and e of the sum,
/// dr = dx = e + ∂norm/∂s · g, and dw as in [`crate::kernels::rms_norm()`].
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm_residual(
    residual: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (_, h) = x.dims2()?;
    if residual.shape() != x.shape() || weight.dims() != [h] {
        let (r, x, w) = (residual.dims(), x.dims(), weight.dims());
        candle_core::bail!("rms_norm_residual: residual {r:?}, x {x:?}, weight {w:?}");
    }
    if !on_cpu(x) {
        let sum = (residual + x)?;
        return Ok((crate::kernels::layers::rms_norm::rms_norm(&sum, weight, eps)?, sum));
    }
    let weight = weight.contiguous()?;
    let ready = Arc::new(Mutex::new(None));
    let op = SumAndNorm { weight: weight.detach(), eps, ready: ready.clone() };
    let sum = residual.contiguous()?.apply_op2(&x.contiguous()?, op)?;
    let normed = sum.apply_op2(&weight, RmsNorm { eps, ready: Some(ready) })?;
    Ok((normed, sum))
}

/// The sum as an operator that also leaves its norm for the next one.
struct SumAndNorm {
    weight: Tensor,
    eps: f64,
    ready: Arc<Mutex<Option<CpuStorage>>>,
}

vectorised! {
    /// One row: `sum` = r + x, `normed` = its norm.
    fn sum_and_norm_row<T>(r: &[T], x: &[T], weight: &[T], eps: T, sum: &mut [T], normed: &mut [T]) {
        for ((s, &r), &x) in sum.iter_mut().zip(r).zip(x) {
            *s = r + x;
        }
        rms_norm_row(sum, weight, eps, normed);
    }
}

impl SumAndNorm {
    fn forward<T: Real>(&self, r: &[T], x: &[T], h: usize) -> Result<CpuStorage> {
        let (mut sum, mut normed) =
            (vec![T::from_f64(0.0); x.len()], vec![T::from_f64(0.0); x.len()]);
        with_slice::<T, _>(&self.weight, |w| {
            let outputs = sum.par_chunks_mut(h).zip(normed.par_chunks_mut(h));
            let rows = outputs.zip(r.par_chunks(h)).zip(x.par_chunks(h)).with_min_len(32);
            let eps = T::from_f64(self.eps);
            rows.for_each(|(((sum, normed), r), x)| sum_and_norm_row(r, x, w, eps, sum, normed));
            Ok(())
        })?;
        let mut ready = self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *ready = Some(T::to_cpu_storage_owned(normed));
        Ok(T::to_cpu_storage_owned(sum))
    }
}

impl CustomOp2 for SumAndNorm {
    fn name(&self) -> &'static str {
        "sum_and_norm"
    }

    fn cpu_fwd(
        &self,
        r: &CpuStorage,
        lr: &Layout,
        x: &CpuStorage,
        lx: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let h = lx.shape().dims2()?.1;
        let sum = with_real!(candle_core::backend::BackendStorage::dtype(x), "rms_norm_residual", T => {
            self.forward::<T>(slice_of(r, lr)?, slice_of(x, lx)?, h)
        })?;
        Ok((sum, lx.shape().clone()))
    }

    fn bwd(
        &self,
        r: &Tensor,
        x: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((r.track_op().then(|| grad.clone()), x.track_op().then(|| grad.clone())))
    }
}
