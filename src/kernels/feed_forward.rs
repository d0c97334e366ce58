//! The whole feed-forward branch (Shazeer 2020) as one operator, computed in blocks of rows.

use super::composed;
use super::matmul::{matmul, View, ViewMut};
use super::real::{on_cpu, slice_of, vectorised, with_real, Real};
use super::swiglu::{sigmoid, swiglu_slice};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, WithDType};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

/// y = r + (silu(x W_gᵀ) ∘ (x W_uᵀ)) W_dᵀ for r `[n, h]`, x `[n, i]`, W_g and W_u `[f, i]`, W_d `[h, f]`;
/// y `[n, h]`.
///
/// Backward with a = x W_gᵀ, b = x W_uᵀ, σ = σ(a), p = a σ b, e = g W_d: dr = g, dW_d = gᵀ p, db = e a σ,
/// da = e b σ (1 + a (1 − σ)), dx = da W_g + db W_u, dW_g = daᵀ x, dW_u = dbᵀ x. Only a and b are kept; whatever
/// else is `[n, f]` exists in blocks of 512 rows, in one buffer, and candle adds up no gradient of that size.
///
/// # Errors
/// Shapes that do not fit.
pub fn feed_forward(residual: &Tensor, x: &Tensor, [gate, up, down]: [&Tensor; 3]) -> Result<Tensor> {
    let ((n, h), (xn, i), (f, gi)) = (residual.dims2()?, x.dims2()?, gate.dims2()?);
    if (xn, gi) != (n, i) || up.dims() != [f, i] || down.dims() != [h, f] {
        let (x, gate, up, down) = (x.dims(), gate.dims(), up.dims(), down.dims());
        candle_core::bail!(
            "feed_forward: residual [{n}, {h}], x {x:?}, gate {gate:?}, up {up:?}, down {down:?}"
        );
    }
    if !on_cpu(x) {
        return composed::feed_forward(residual, x, [gate, up, down]);
    }
    let weights = [gate.contiguous()?, up.contiguous()?, down.contiguous()?];
    let found = Found::default();
    let bundle = weights[0].apply_op3(&weights[1], &weights[2], Bundle { found: found.clone() })?;
    let op = FeedForward { weights, inner: OnceLock::new(), found };
    residual.contiguous()?.apply_op3(&x.contiguous()?, &bundle, op)
}

type Inputs3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Gradients of the three weights, on their way from the branch to its [`Bundle`].
type Found = Arc<Mutex<Option<Inputs3>>>;

/// Three weights as one input: candle's operators take at most three. Its value means nothing; backward, which candle
/// calls after the branch's, hands out the gradients that the branch has found.
struct Bundle {
    found: Found,
}

impl CustomOp3 for Bundle {
    fn name(&self) -> &'static str {
        "feed_forward_weights"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(candle_core::backend::BackendStorage::dtype(gate), "feed_forward", T => {
            Ok((T::to_cpu_storage_owned(vec![T::from_f64(0.0)]), 1.into()))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Inputs3> {
        match self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            Some(gradients) => Ok(gradients),
            None => candle_core::bail!("feed_forward: the weights' backward before the branch's"),
        }
    }
}

struct FeedForward {
    /// W_g, W_u, W_d.
    weights: [Tensor; 3],
    /// (x W_gᵀ, x W_uᵀ), for the backward pass.
    inner: OnceLock<[Tensor; 2]>,
    found: Found,
}

/// Rows per block: fixed, so that the order of additions does not depend on the thread count.
const ROWS: usize = 512;

/// Elements per parallel task.
const CHUNK: usize = 1 << 14;

vectorised! {
    /// From a, b and e: e ← da, `db`, and `p` = silu(a) b.
    fn backward_slice<T>(gate: &[T], up: &[T], e: &mut [T], db: &mut [T], p: &mut [T]) {
        let one = T::from_f64(1.0);
        let outputs = e.iter_mut().zip(db).zip(p);
        for (((e, db), p), (&a, &b)) in outputs.zip(gate.iter().zip(up)) {
            let s = sigmoid(a);
            let (silu, slope) = (a * s, b * s * (one + a * (one - s)));
            *p = silu * b;
            *db = *e * silu;
            *e *= slope;
        }
    }
}

/// Calls `f` with the elements of contiguous CPU tensors of type `T`.
fn with_slices<T: Real, R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        match &**storage {
            Storage::Cpu(storage) => *slice = slice_of(storage, layout)?,
            _ => candle_core::bail!("feed_forward: all tensors must be on the CPU"),
        }
    }
    f(slices)
}

/// The rows `rows` of `data`, `width` wide.
fn view<'a, T: Real>(data: &'a [T], rows: &Range<usize>, width: usize) -> View<'a, T> {
    View::new(&data[rows.start * width..], rows.len(), width, width)
}

fn view_mut<'a, T: Real>(data: &'a mut [T], rows: &Range<usize>, width: usize) -> ViewMut<'a, T> {
    ViewMut::new(&mut data[rows.start * width..], rows.len(), width, width)
}

fn blocks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(ROWS).map(move |start| start..n.min(start + ROWS))
}

fn zeros<T: Real>(n: usize) -> Vec<T> {
    vec![T::from_f64(0.0); n]
}

/// out = a b, or out += a b.
fn multiply<T: Real>(out: ViewMut<'_, T>, a: View<'_, T>, b: View<'_, T>, accumulate: bool) {
    matmul(out, a, b, T::from_f64(1.0), accumulate, rayon::current_num_threads());
}

/// Rows, and widths of x, of the inner product, and of the output.
#[derive(Clone, Copy)]
struct Size {
    n: usize,
    i: usize,
    f: usize,
    h: usize,
}

impl FeedForward {
    fn size(&self, x: &Shape) -> Result<Size> {
        let ((n, i), (h, f)) = (x.dims2()?, self.weights[2].dims2()?);
        Ok(Size { n, i, f, h })
    }

    fn forward<T: Real>(&self, residual: &[T], x: &[T], size: Size) -> Result<CpuStorage> {
        let Size { n, i, f, h } = size;
        let mut y = residual.to_vec();
        let (mut a, mut b, mut p) = (zeros::<T>(n * f), zeros::<T>(n * f), zeros::<T>(n.min(ROWS) * f));
        with_slices(self.weights.each_ref(), |[gate, up, down]| {
            for rows in blocks(n) {
                let x = view(x, &rows, i);
                multiply(view_mut(&mut a, &rows, f), x, View::new(gate, f, i, i).t(), false);
                multiply(view_mut(&mut b, &rows, f), x, View::new(up, f, i, i).t(), false);
                let inner = rows.start * f..rows.end * f;
                let p = &mut p[..inner.len()];
                let chunks = a[inner.clone()].par_chunks(CHUNK).zip(b[inner].par_chunks(CHUNK));
                chunks.zip(p.par_chunks_mut(CHUNK)).for_each(|((a, b), p)| swiglu_slice(a, b, p));
                let p = View::new(p, rows.len(), f, f);
                multiply(view_mut(&mut y, &rows, h), p, View::new(down, h, f, f).t(), true);
            }
            Ok(())
        })?;
        let keep = |data| Tensor::from_vec(data, (n, f), &Device::Cpu);
        let inner = [keep(a)?, keep(b)?];
        self.inner.get_or_init(|| inner);
        Ok(T::to_cpu_storage_owned(y))
    }

    fn backward<T: Real>(&self, x: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Inputs3)> {
        let Some([a, b]) = self.inner.get() else {
            candle_core::bail!("feed_forward: backward before forward");
        };
        let mut sums = Sums::<T>::new(x, &self.weights);
        let size = self.size(x.shape())?;
        let [gate, up, down] = &self.weights;
        with_slices([x, grad, gate, up, down, a, b], |[x, g, gate, up, down, a, b]| {
            let mut buffers = [(); 3].map(|()| zeros::<T>(size.n.min(ROWS) * size.f));
            for rows in blocks(size.n) {
                let g = view(g, &rows, size.h);
                let [e, db, p] = buffers.each_mut().map(|buffer| &mut buffer[..rows.len() * size.f]);
                multiply(
                    view_mut(e, &(0..rows.len()), size.f),
                    g,
                    View::new(down, size.h, size.f, size.f),
                    false,
                );
                let inner = rows.start * size.f..rows.end * size.f;
                let inputs = a[inner.clone()].par_chunks(CHUNK).zip(b[inner].par_chunks(CHUNK));
                let outputs =
                    e.par_chunks_mut(CHUNK).zip(db.par_chunks_mut(CHUNK)).zip(p.par_chunks_mut(CHUNK));
                inputs.zip(outputs).for_each(|((a, b), ((e, db), p))| backward_slice(a, b, e, db, p));
                sums.add(&rows, size, g, view(x, &rows, size.i), [gate, up], [e, db, p]);
            }
            Ok(())
        })?;
        let tensor = |data: Option<Vec<T>>, like: &Tensor| {
            data.map(|data| Tensor::from_vec(data, like.shape(), like.device())).transpose()
        };
        let weights = (tensor(sums.gate, gate)?, tensor(sums.up, up)?, tensor(sums.down, down)?);
        Ok((tensor(sums.x, x)?, weights))
    }
}

/// The gradients that are needed.
struct Sums<T> {
    x: Option<Vec<T>>,
    gate: Option<Vec<T>>,
    up: Option<Vec<T>>,
    down: Option<Vec<T>>,
}

impl<T: Real> Sums<T> {
    fn new(x: &Tensor, [gate, up, down]: &[Tensor; 3]) -> Self {
        let sum = |t: &Tensor| t.track_op().then(|| zeros(t.elem_count()));
        Self { x: sum(x), gate: sum(gate), up: sum(up), down: sum(down) }
    }

    /// Adds one block's share, given its g, x, and [da, db, p].
    fn add(
        &mut self,
        rows: &Range<usize>,
        Size { i, f, h, .. }: Size,
        g: View<'_, T>,
        x: View<'_, T>,
        [gate, up]: [&[T]; 2],
        inner: [&mut [T]; 3],
    ) {
        let [da, db, p] = inner.map(|data| View::new(data, rows.len(), f, f));
        if let Some(sum) = &mut self.x {
            multiply(view_mut(sum, rows, i), da, View::new(gate, f, i, i), false);
            multiply(view_mut(sum, rows, i), db, View::new(up, f, i, i), true);
        }
        if let Some(sum) = &mut self.gate {
            multiply(ViewMut::new(sum, f, i, i), da.t(), x, true);
        }
        if let Some(sum) = &mut self.up {
            multiply(ViewMut::new(sum, f, i, i), db.t(), x, true);
        }
        if let Some(sum) = &mut self.down {
            multiply(ViewMut::new(sum, h, f, f), g.t(), p, true);
        }
    }
}

impl CustomOp3 for FeedForward {
    fn name(&self) -> &'static str {
        "feed_forward"
    }

    fn cpu_fwd(
        &self,
        residual: &CpuStorage,
        lr: &Layout,
        x: &CpuStorage,
        lx: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = self.size(lx.shape())?;
        let y = with_real!(candle_core::backend::BackendStorage::dtype(x), "feed_forward", T => {
            self.forward::<T>(slice_of(residual, lr)?, slice_of(x, lx)?, size)
        })?;
        Ok((y, lr.shape().clone()))
    }

    fn bwd(
        &self,
        residual: &Tensor,
        x: &Tensor,
        bundle: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Inputs3> {
        let grad = grad.contiguous()?;
        let (dx, weights) = with_real!(grad.dtype(), "feed_forward", T => self.backward::<T>(x, &grad))?;
        *self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(weights);
        let bundle = bundle.track_op().then(|| bundle.zeros_like()).transpose()?;
        Ok((residual.track_op().then_some(grad), dx, bundle))
    }
}
