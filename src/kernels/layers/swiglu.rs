//! The gated input half of the feed-forward block (Shazeer 2020) as one operator.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, vectorised, with_float, with_slice, Float};
use crate::kernels::dispatch::on_device;
use crate::kernels::layers::composed;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
use crate::kernels::layers::linear::linear;
use crate::kernels::layers::linear::{add_input_gradient, product, weight_gradient};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Computes y = silu(x W_gᵀ) ∘ (x W_uᵀ) for x `[n, i]`, W_g and W_u `[f, i]`; silu(a) = a σ(a); y
/// `[n, f]`.
///
/// Backward with a = x W_gᵀ, b = x W_uᵀ: db = g silu(a), da = g ∘ b ∘ σ (1 + a (1 − σ)), dx = da
/// W_g + db W_u, dW_g = daᵀ x, dW_u = dbᵀ x. One operator instead of three saves four passes over
/// `[n, f]` when candle accumulates gradients.
///
/// # Errors
/// Mismatched shapes.
pub fn swiglu(x: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (_, i) = x.dims2()?;
    if gate.dims2()?.1 != i || gate.shape() != up.shape() {
        candle_core::bail!(
            "swiglu: mismatched shapes: x {:?}, gate {:?}, up {:?}",
            x.shape(),
            gate.shape(),
            up.shape()
        );
    }
    on_device!(x => {
        let a = linear(x, gate, None)?;
        let b = linear(x, up, None)?;
        crate::kernels::gpu::swiglu::silu_mul(&a, &b)
    });
    if !on_cpu(x) {
        return composed::swiglu(x, gate, up);
    }
    x.contiguous()?.apply_op3(
        &gate.contiguous()?,
        &up.contiguous()?,
        SwiGlu { inner: OnceLock::new() },
    )
}

/// Computes silu(a) ∘ b for a and b of one shape: the second half of [`swiglu()`], for products
/// with LoRA adapters.
///
/// Backward: db = g silu(a), da = g ∘ b ∘ σ (1 + a (1 − σ)).
///
/// # Errors
/// Shapes that differ.
pub fn silu_mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() {
        candle_core::bail!("silu_mul: mismatched shapes: a {:?}, b {:?}", a.shape(), b.shape());
    }
    on_device!(a => crate::kernels::gpu::swiglu::silu_mul(a, b));
    if !on_cpu(a) {
        return a.silu()? * b;
    }
    a.contiguous()?.apply_op2(&b.contiguous()?, SiluMul)
}

struct SiluMul;

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = with_float!(BackendStorage::dtype(a), "silu_mul", T => {
            Ok(T::to_cpu_storage_owned(activation::<T>(slice_of(a, la)?, slice_of(b, lb)?)))
        })?;
        Ok((y, la.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (da, db) =
            with_float!(grad.dtype(), "silu_mul", T => activation_gradients::<T>(a, b, &grad))?;
        Ok((a.track_op().then_some(da), b.track_op().then_some(db)))
    }
}

/// silu(a) ∘ b.
fn activation<T: Float>(a: &[T], b: &[T]) -> Vec<T> {
    let mut y = zeros(a.len());
    let chunks = y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
    chunks.for_each(|((y, a), b)| swiglu_slice(a, b, y));
    y
}

/// The operator, which keeps (x W_gᵀ, x W_uᵀ) for the backward pass.
struct SwiGlu {
    inner: OnceLock<(Tensor, Tensor)>,
}

/// Elements per parallel task.
const CHUNK: usize = 1 << 14;

#[inline(always)]
pub(crate) fn sigmoid<T: Float>(x: T) -> T {
    let one = T::from_f64(1.0);
    one / (one + (T::from_f64(0.0) - x).exp::<false>())
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
    /// Gradients of both factors of a slice.
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

fn activation_gradients<T: Float>(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let mut dgate = zeros::<T>(gate.elem_count());
    let mut dup = zeros::<T>(gate.elem_count());
    with_slice::<T, _>(gate, |gate| {
        with_slice::<T, _>(up, |up| {
            with_slice::<T, _>(grad, |grad| {
                let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
                let inputs =
                    gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK));
                outputs
                    .zip(inputs)
                    .for_each(|((dg, du), ((g, u), d))| backward_slice(g, u, d, dg, du));
                Ok(())
            })
        })
    })?;
    let tensor = |data| Tensor::from_vec(data, gate.shape(), gate.device());
    Ok((tensor(dgate)?, tensor(dup)?))
}

type Inputs3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl SwiGlu {
    fn forward<T: Float>(
        &self,
        x: &[T],
        gate: &[T],
        up: &[T],
        (n, i): (usize, usize),
    ) -> Result<CpuStorage> {
        let f = gate.len() / i.max(1);
        let a = product(x, gate, None, (n, i, f));
        let b = product(x, up, None, (n, i, f));
        let y = activation(&a, &b);
        let keep = |data| Tensor::from_vec(data, (n, f), &candle_core::Device::Cpu);
        let inner = (keep(a)?, keep(b)?);
        self.inner.get_or_init(|| inner);
        Ok(T::to_cpu_storage_owned(y))
    }

    fn backward<T: Float>(
        &self,
        x: &Tensor,
        gate: &Tensor,
        up: &Tensor,
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let Some((a, b)) = self.inner.get() else {
            candle_core::bail!("swiglu: backward before forward");
        };
        let (da, db) = activation_gradients::<T>(a, b, grad)?;
        let mut dx = None;
        if x.track_op() {
            let mut sum = zeros::<T>(x.elem_count());
            add_input_gradient(&da, gate, &mut sum, false)?;
            add_input_gradient(&db, up, &mut sum, true)?;
            dx = Some(Tensor::from_vec(sum, x.shape(), x.device())?);
        }
        let weight =
            |w: &Tensor, d: &Tensor| w.track_op().then(|| weight_gradient::<T>(d, x)).transpose();
        Ok((dx, weight(gate, &da)?, weight(up, &db)?))
    }
}

impl CustomOp3 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gate: &CpuStorage,
        lg: &Layout,
        up: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = lx.shape().dims2()?;
        let f = lg.shape().dims2()?.0;
        let y = with_float!(BackendStorage::dtype(x), "swiglu", T => {
            self.forward::<T>(slice_of(x, lx)?, slice_of(gate, lg)?, slice_of(up, lu)?, size)
        })?;
        Ok((y, (size.0, f).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "swiglu", T => self.backward::<T>(x, gate, up, &grad))
    }
}
