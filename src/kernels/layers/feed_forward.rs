//! The feed-forward branch of a pre-norm block (Shazeer 2020) as one operator, computed in blocks
//! of rows.

use crate::kernels::autograd::bundle::{bundle, token, Found};
use crate::kernels::autograd::chain::{Chain, Residual};
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{
    on_cpu, slice_of, vectorised, with_float, with_slice, with_slices, Float,
};
use crate::kernels::layers::affine::{Affine, Sums};
use crate::kernels::layers::linear::linear_residual;
use crate::kernels::layers::residual::{
    add_norm_weight_gradient, norm, norm_gradient, tensor_like,
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
    let (norm, maps) = plain(weights);
    if !on_cpu(x) {
        check(x, norm, &maps)?;
        let [norm, gate, up, down] = weights;
        return linear_residual(x, &swiglu(&rms_norm(x, norm, eps)?, gate, up)?, down);
    }
    feed_forward_over(x, norm, maps, eps)
}

/// [`feed_forward`] with adapters and weights that may be quantised, on the CPU; gate, up and down
/// have no bias.
pub(crate) fn feed_forward_over(
    x: &Tensor,
    norm: &Tensor,
    maps: [Affine; 3],
    eps: f64,
) -> Result<Tensor> {
    let (branch, bundle) = FeedForward::new(x, norm, maps, eps)?;
    x.contiguous()?.apply_op2(&bundle, branch)
}

/// Appends [`feed_forward_over()`] to a chain.
pub(crate) fn chain_feed_forward(
    chain: &Chain,
    norm: &Tensor,
    maps: [Affine; 3],
    eps: f64,
) -> Result<Chain> {
    let (branch, bundle) = FeedForward::new(chain.x(), norm, maps, eps)?;
    chain.through(branch, &bundle)
}

/// The weight of the norm, and maps without adapters.
pub(crate) fn plain([norm, gate, up, down]: [&Tensor; 4]) -> (&Tensor, [Affine; 3]) {
    (norm, [gate, up, down].map(|weight| Affine::new(weight, None)))
}

fn check(x: &Tensor, norm: &Tensor, maps: &[Affine; 3]) -> Result<()> {
    let (_, h) = x.dims2()?;
    let [gate, up, down] = maps;
    let f = gate.weight.rows();
    let fits = norm.dims() == [h] && gate.fits(f, h) && up.fits(f, h) && down.fits(h, f);
    if !fits || maps.iter().any(|map| map.bias.is_some()) {
        let shapes = maps.each_ref().map(Affine::shapes);
        candle_core::bail!(
            "feed_forward: mismatched shapes: x {:?}, norm {:?}, gate, up, down {shapes:?}",
            x.dims(),
            norm.dims()
        );
    }
    Ok(())
}

struct FeedForward {
    norm: Tensor,
    /// Gate, up and down.
    maps: [Affine; 3],
    eps: f64,
    /// a and b, and u of the maps' adapters, kept for the backward pass.
    inner: OnceLock<[Tensor; 5]>,
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

impl FeedForward {
    /// Creates the operator and the bundle of its weights.
    fn new(x: &Tensor, norm: &Tensor, maps: [Affine; 3], eps: f64) -> Result<(Self, Tensor)> {
        check(x, norm, &maps)?;
        let found = Found::default();
        let norm = norm.contiguous()?;
        let [gate, up, down] = maps.map(Affine::contiguous);
        let maps = [gate?, up?, down?];
        let weights = std::iter::once(&norm).chain(maps.iter().flat_map(Affine::tensors));
        let bundle = bundle(weights, x, &found)?;
        Ok((Self { norm, maps, eps, inner: OnceLock::new(), found }, bundle))
    }

    /// (n, h, f)
    fn size(&self, x: &Shape) -> Result<(usize, usize, usize)> {
        let (n, h) = x.dims2()?;
        Ok((n, h, self.maps[0].weight.rows()))
    }

    fn forward<T: Float>(&self, x: &[T], (n, h, f): (usize, usize, usize)) -> Result<CpuStorage> {
        let mut y = x.to_vec();
        let mut a = zeros::<T>(n * f);
        let mut b = zeros::<T>(n * f);
        let mut z = zeros::<T>(n.min(ROWS) * h);
        let mut p = zeros::<T>(n.min(ROWS) * f);
        let mut kept: [Vec<T>; 3] = Default::default();
        let [gate, up, down] = &self.maps;
        with_slice(&self.norm, |weight: &[T]| {
            for rows in blocks(n) {
                let m = rows.len();
                let z = &mut z[..m * h];
                let p = &mut p[..m * f];
                norm(part(x, &rows, h), weight, self.eps, z);
                let a = part_mut(&mut a, &rows, f);
                let b = part_mut(&mut b, &rows, f);
                let of_gate = gate.forward(z, a, m, false)?;
                let of_up = up.forward(z, b, m, false)?;
                let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
                chunks.zip(p.par_chunks_mut(CHUNK)).for_each(|((a, b), p)| swiglu_slice(a, b, p));
                let of_down = down.forward(p, part_mut(&mut y, &rows, h), m, true)?;
                for (kept, u) in kept.iter_mut().zip([of_gate, of_up, of_down]) {
                    kept.extend(u);
                }
            }
            Ok(())
        })?;
        let keep = |data: Vec<T>| {
            let len = data.len();
            Tensor::from_vec(data, len, &Device::Cpu)
        };
        let [of_gate, of_up, of_down] = kept;
        let inner = [keep(a)?, keep(b)?, keep(of_gate)?, keep(of_up)?, keep(of_down)?];
        self.inner.get_or_init(|| inner);
        Ok(T::to_cpu_storage_owned(y))
    }

    fn gradients<T: Float>(
        &self,
        x: &Tensor,
        wanted_x: bool,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Some([a, b, us @ ..]) = self.inner.get() else {
            candle_core::bail!("feed_forward: backward before forward");
        };
        let size = self.size(x.shape())?;
        let mut sums = Gradients {
            x: wanted_x.then(|| zeros(x.elem_count())),
            norm: self.norm.track_op().then(|| zeros(size.1)),
            maps: self.maps.each_ref().map(Sums::new),
        };
        with_slices::<T, _, 5>([x, grad, a, b, &self.norm], |[x, g, a, b, norm]| {
            let [gate, up, down] = us;
            with_slices([gate, up, down], |us| {
                let kept = Kept { x, g, a, b, us, norm };
                self.add_gradients(&kept, size, &mut sums)
            })
        })?;
        let like = |sum: Option<Vec<T>>, tensor: &Tensor| {
            sum.map(|sum| tensor_like(sum, tensor)).transpose()
        };
        let mut found = vec![like(sums.norm, &self.norm)?];
        for (sums, map) in sums.maps.into_iter().zip(&self.maps) {
            found.extend(sums.into_tensors(map)?);
        }
        self.found.set(found);
        like(sums.x, x)
    }

    fn add_gradients<T: Float>(
        &self,
        kept: &Kept<'_, T>,
        (n, h, f): (usize, usize, usize),
        sums: &mut Gradients<T>,
    ) -> Result<()> {
        let [gate, up, down] = &self.maps;
        let [of_gate, of_up, of_down] = &mut sums.maps;
        let room = |width: usize| zeros::<T>(n.min(ROWS) * width);
        let mut wide = [room(f), room(f), room(f)];
        let mut narrow = [room(h), room(h)];
        let needs_input = gate.learns_from_input() || up.learns_from_input();
        for rows in blocks(n) {
            let m = rows.len();
            let [da, db, p] = wide.each_mut().map(|buffer| &mut buffer[..m * f]);
            let [z, dz] = narrow.each_mut().map(|buffer| &mut buffer[..m * h]);
            let x = part(kept.x, &rows, h);
            let g = part(kept.g, &rows, h);
            let us = kept.us.map(|u| part(u, &rows, u.len() / n));
            let e = down.input_gradient(g, Some(&mut *da), m, false)?;
            let inputs = part(kept.a, &rows, f)
                .par_chunks(CHUNK)
                .zip(part(kept.b, &rows, f).par_chunks(CHUNK));
            let outputs = da.par_chunks_mut(CHUNK).zip(db.par_chunks_mut(CHUNK));
            let work = inputs.zip(outputs.zip(p.par_chunks_mut(CHUNK)));
            work.for_each(|((a, b), ((e, db), p))| backward_slice(a, b, e, db, p));
            of_down.add(p, g, (us[2], &e), m);
            if needs_input {
                norm(x, kept.norm, self.eps, z);
            }
            let wanted = sums.x.is_some() || sums.norm.is_some();
            let e = gate.input_gradient(da, wanted.then_some(&mut *dz), m, false)?;
            of_gate.add(z, da, (us[0], &e), m);
            let e = up.input_gradient(db, wanted.then_some(&mut *dz), m, true)?;
            of_up.add(z, db, (us[1], &e), m);
            if let Some(dx) = &mut sums.x {
                norm_gradient(x, kept.norm, self.eps, g, dz, part_mut(dx, &rows, h));
            }
            if let Some(dw) = &mut sums.norm {
                add_norm_weight_gradient(x, dz, self.eps, dw);
            }
        }
        Ok(())
    }
}

/// What the backward pass reads: x, the gradient of y, a and b, u of each adapter, the norm's
/// weight.
struct Kept<'a, T> {
    x: &'a [T],
    g: &'a [T],
    a: &'a [T],
    b: &'a [T],
    us: [&'a [T]; 3],
    norm: &'a [T],
}

/// Gradients during accumulation, if needed.
struct Gradients<T> {
    x: Option<Vec<T>>,
    norm: Option<Vec<T>>,
    maps: [Sums<T>; 3],
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
