//! The feed-forward branch of a pre-norm block (Shazeer 2020) as one operator, computed in blocks
//! of rows.

use crate::kernels::autograd::bundle::{bundle, token, Found};
use crate::kernels::autograd::chain::{Chain, Residual};
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, vectorised, with_float, with_slices, Float};
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::layers::linear::linear_residual;
use crate::kernels::layers::residual::{
    add_norm_weight_gradient, multiply, norm, norm_gradient, tensor_like,
};
use crate::kernels::layers::rms_norm::rms_norm;
use crate::kernels::layers::swiglu::swiglu;
use crate::kernels::layers::swiglu::{sigmoid, swiglu_slice};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::OnceLock;

/// Computes y = x + (silu(z W_gᵀ) ∘ (z W_uᵀ)) W_dᵀ with z = norm(x) · w, for x `[n, h]` and weights
/// \[w, W_g, W_u, W_d\] of shapes `[h]`, `[f, h]`, `[f, h]`, `[h, f]`; y `[n, h]`.
///
/// Backward with a = z W_gᵀ, b = z W_uᵀ, σ = σ(a), p = a σ b, e = g W_d: dW_d = gᵀ p, db = e a σ,
/// da = e b σ (1 + a (1 − σ)), dW_g = daᵀ z, dW_u = dbᵀ z, dz = da W_g + db W_u, and dx = g + the
/// gradient of the norm ([`crate::kernels::rms_norm()`]). Only a and b are kept. Everything else
/// exists in blocks of 1024 rows, and candle adds up one gradient instead of five.
///
/// # Errors
/// Mismatched shapes.
pub fn feed_forward(x: &Tensor, weights: [&Tensor; 4], eps: f64) -> Result<Tensor> {
    check(x, weights)?;
    if !on_cpu(x) {
        let [norm, gate, up, down] = weights;
        return linear_residual(x, &swiglu(&rms_norm(x, norm, eps)?, gate, up)?, down);
    }
    let (branch, bundle) = FeedForward::new(x, weights, eps)?;
    x.contiguous()?.apply_op2(&bundle, branch)
}

/// Appends [`feed_forward()`] to a chain.
pub(crate) fn chain_feed_forward(chain: &Chain, weights: [&Tensor; 4], eps: f64) -> Result<Chain> {
    check(chain.x(), weights)?;
    let (branch, bundle) = FeedForward::new(chain.x(), weights, eps)?;
    chain.through(branch, &bundle)
}

fn check(x: &Tensor, weights: [&Tensor; 4]) -> Result<()> {
    let (_, h) = x.dims2()?;
    let (f, _) = weights[1].dims2()?;
    let shapes = weights.map(Tensor::dims);
    if shapes != [&[h][..], &[f, h], &[f, h], &[h, f]] {
        candle_core::bail!("feed_forward: mismatched shapes: x {:?}, weights {shapes:?}", x.dims());
    }
    Ok(())
}

struct FeedForward {
    /// w, W_g, W_u, W_d.
    weights: [Tensor; 4],
    eps: f64,
    /// (a, b), kept for the backward pass.
    inner: OnceLock<[Tensor; 2]>,
    found: Found,
}

/// Rows per block: fixed, so that the order of additions does not depend on the thread count.
const ROWS: usize = 1024;

/// Elements per parallel task.
const CHUNK: usize = 1 << 14;

vectorised! {
    /// Given a, b and e: e ← da, `db`, and `p` = silu(a) b.
    fn backward_slice<T>(gate: &[T], up: &[T], e: &mut [T], db: &mut [T], p: &mut [T]) {
        let one = T::from_f64(1.0);
        let outputs = e.iter_mut().zip(db).zip(p);
        for (((e, db), p), (&a, &b)) in outputs.zip(gate.iter().zip(up)) {
            let s = sigmoid(a);
            let silu = a * s;
            let slope = b * s * (one + a * (one - s));
            *p = silu * b;
            *db = *e * silu;
            *e *= slope;
        }
    }
}

fn blocks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(ROWS).map(move |start| start..n.min(start + ROWS))
}

/// Returns rows `rows` of data `width` wide.
fn part<'a, T>(data: &'a [T], rows: &Range<usize>, width: usize) -> &'a [T] {
    &data[rows.start * width..rows.end * width]
}

fn part_mut<'a, T>(data: &'a mut [T], rows: &Range<usize>, width: usize) -> &'a mut [T] {
    &mut data[rows.start * width..rows.end * width]
}

fn view<T: Float>(data: &[T], width: usize) -> View<'_, T> {
    View::new(data, data.len() / width.max(1), width, width)
}

fn view_mut<T: Float>(data: &mut [T], width: usize) -> ViewMut<'_, T> {
    let rows = data.len() / width.max(1);
    ViewMut::new(data, rows, width, width)
}

impl FeedForward {
    /// Creates the operator and the bundle of its weights.
    fn new(x: &Tensor, weights: [&Tensor; 4], eps: f64) -> Result<(Self, Tensor)> {
        let found = Found::default();
        let [norm, gate, up, down] = weights.map(Tensor::contiguous);
        let weights = [norm?, gate?, up?, down?];
        let bundle = bundle(&weights, x, &found)?;
        Ok((Self { weights, eps, inner: OnceLock::new(), found }, bundle))
    }

    /// (n, h, f)
    fn size(&self, x: &Shape) -> Result<(usize, usize, usize)> {
        let (n, h) = x.dims2()?;
        Ok((n, h, self.weights[1].dim(0)?))
    }

    fn forward<T: Float>(&self, x: &[T], (n, h, f): (usize, usize, usize)) -> Result<CpuStorage> {
        let mut y = x.to_vec();
        let mut a = zeros::<T>(n * f);
        let mut b = zeros::<T>(n * f);
        let mut z = zeros::<T>(n.min(ROWS) * h);
        let mut p = zeros::<T>(n.min(ROWS) * f);
        with_slices(self.weights.each_ref(), |[weight, gate, up, down]| {
            for rows in blocks(n) {
                let z = &mut z[..rows.len() * h];
                let p = &mut p[..rows.len() * f];
                norm(part(x, &rows, h), weight, self.eps, z);
                let a = part_mut(&mut a, &rows, f);
                let b = part_mut(&mut b, &rows, f);
                multiply(view_mut(a, f), view(z, h), view(gate, h).t(), false);
                multiply(view_mut(b, f), view(z, h), view(up, h).t(), false);
                let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
                chunks.zip(p.par_chunks_mut(CHUNK)).for_each(|((a, b), p)| swiglu_slice(a, b, p));
                multiply(
                    view_mut(part_mut(&mut y, &rows, h), h),
                    view(p, f),
                    view(down, f).t(),
                    true,
                );
            }
            Ok(())
        })?;
        let keep = |data| Tensor::from_vec(data, (n, f), &Device::Cpu);
        let inner = [keep(a)?, keep(b)?];
        self.inner.get_or_init(|| inner);
        Ok(T::to_cpu_storage_owned(y))
    }

    fn gradients<T: Float>(
        &self,
        x: &Tensor,
        wanted_x: bool,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Some([a, b]) = self.inner.get() else {
            candle_core::bail!("feed_forward: backward before forward");
        };
        let (n, h, f) = self.size(x.shape())?;
        let room = |t: &Tensor, wanted: bool| wanted.then(|| zeros::<T>(t.elem_count()));
        let weights = self.weights.each_ref().map(|weight| room(weight, weight.track_op()));
        let mut sums = Sums { x: room(x, wanted_x), weights };
        let [w, gate, up, down] = &self.weights;
        with_slices([x, grad, a, b, w, gate, up, down], |[x, g, a, b, w, gate, up, down]| {
            let wide = || zeros::<T>(n.min(ROWS) * f);
            let mut inner = [wide(), wide(), wide()];
            let mut z = zeros::<T>(n.min(ROWS) * h);
            for rows in blocks(n) {
                let [e, db, p] = inner.each_mut().map(|buffer| &mut buffer[..rows.len() * f]);
                multiply(view_mut(e, f), view(part(g, &rows, h), h), view(down, f), false);
                let inputs =
                    part(a, &rows, f).par_chunks(CHUNK).zip(part(b, &rows, f).par_chunks(CHUNK));
                let outputs = e.par_chunks_mut(CHUNK).zip(db.par_chunks_mut(CHUNK));
                let work = inputs.zip(outputs.zip(p.par_chunks_mut(CHUNK)));
                work.for_each(|((a, b), ((e, db), p))| backward_slice(a, b, e, db, p));
                let block = Block { rows, h, f, eps: self.eps, x, g, w, gate, up };
                sums.add(&block, [e, db, p], &mut z[..block.rows.len() * h]);
            }
            Ok(())
        })?;
        let mut found = Vec::with_capacity(4);
        for (data, like) in sums.weights.into_iter().zip(&self.weights) {
            found.push(data.map(|data| tensor_like(data, like)).transpose()?);
        }
        self.found.set(found);
        sums.x.map(|data| tensor_like(data, x)).transpose()
    }
}

/// One block of rows, and the inputs that all blocks share.
struct Block<'a, T> {
    rows: Range<usize>,
    h: usize,
    f: usize,
    eps: f64,
    x: &'a [T],
    g: &'a [T],
    w: &'a [T],
    gate: &'a [T],
    up: &'a [T],
}

/// Gradients during accumulation, if needed: of x, and of w, W_g, W_u, W_d.
struct Sums<T> {
    x: Option<Vec<T>>,
    weights: [Option<Vec<T>>; 4],
}

impl<T: Float> Sums<T> {
    /// Adds a block's contribution, given its da, db, p and a buffer of the size of its rows.
    fn add(&mut self, block: &Block<'_, T>, [da, db, p]: [&mut [T]; 3], z: &mut [T]) {
        let h = block.h;
        let f = block.f;
        let x = part(block.x, &block.rows, h);
        let g = part(block.g, &block.rows, h);
        let [w, gate, up, down] = &mut self.weights;
        if let Some(sum) = down {
            multiply(view_mut(sum, f), view(g, h).t(), view(p, f), true);
        }
        if gate.is_some() || up.is_some() {
            norm(x, block.w, block.eps, z);
        }
        for (sum, d) in [(gate, &da), (up, &db)] {
            if let Some(sum) = sum {
                multiply(view_mut(sum, h), view(d, f).t(), view(z, h), true);
            }
        }
        if self.x.is_none() && w.is_none() {
            return;
        }
        multiply(view_mut(z, h), view(da, f), view(block.gate, h), false);
        multiply(view_mut(z, h), view(db, f), view(block.up, h), true);
        if let Some(dx) = &mut self.x {
            norm_gradient(x, block.w, block.eps, g, z, part_mut(dx, &block.rows, h));
        }
        if let Some(dw) = w {
            add_norm_weight_gradient(x, z, block.eps, dw);
        }
    }
}

impl Residual for FeedForward {
    fn backward(&self, x: &Tensor, wanted: bool, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "feed_forward", T => self.gradients::<T>(x, wanted, &grad))
    }
}

impl CustomOp2 for FeedForward {
    fn name(&self) -> &'static str {
        "feed_forward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = self.size(lx.shape())?;
        let y = with_float!(BackendStorage::dtype(x), "feed_forward", T => {
            self.forward::<T>(slice_of(x, lx)?, size)
        })?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bundle: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = self.backward(x, x.track_op(), grad)?;
        Ok((dx, token(bundle)?))
    }
}
