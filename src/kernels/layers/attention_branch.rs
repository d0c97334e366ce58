//! The attention branch of a pre-norm block as one operator.
//!
//! One operator instead of seven keeps fewer activations, and candle adds up one gradient of the
//! hidden state instead of ten.

use crate::kernels::autograd::bundle::{bundle, token, Found};
use crate::kernels::autograd::chain::{Chain, Residual};
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, with_float, with_slice, with_slices};
use crate::kernels::layers::affine::{Affine, Sums};
use crate::kernels::layers::attention_rows::{AttentionRows, AttentionWeights};
use crate::kernels::layers::linear::{linear, linear_residual};
use crate::kernels::layers::residual::{
    add_norm_weight_gradient, norm, norm_gradient, tensor_like,
};
use crate::kernels::layers::rms_norm::rms_norm;
use crate::kernels::layers::rope::rope;
use crate::kernels::layers::rope_table::{rotate_rows, TableFloat};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Computes y = x + attention(rope(z W_qᵀ + b_q), rope(z W_kᵀ + b_k), z W_vᵀ + b_v) W_oᵀ with z =
/// norm(x) · w, for x `[n, h]`.
///
/// Same value and gradients as [`crate::kernels::rms_norm()`], [`crate::kernels::linear()`],
/// [`crate::kernels::rope()`], [`crate::kernels::attention()`] and
/// [`crate::kernels::linear_residual()`] in sequence. The projections and attention's output are
/// kept for the backward pass; the norm is recomputed.
///
/// # Errors
/// Mismatched shapes, or a position outside the table.
pub fn attention_branch(
    x: &Tensor,
    weights: &AttentionWeights<'_>,
    rows: &AttentionRows,
    eps: f64,
) -> Result<Tensor> {
    let maps = AttentionMaps::plain(weights);
    if !on_cpu(x) {
        check(x, &maps, rows)?;
        return separately(x, weights, rows, eps);
    }
    attention_branch_over(x, maps, rows, eps)
}

/// [`attention_branch`] with adapters and weights that may be quantised, on the CPU.
pub(crate) fn attention_branch_over(
    x: &Tensor,
    maps: AttentionMaps,
    rows: &AttentionRows,
    eps: f64,
) -> Result<Tensor> {
    let (branch, bundle) = AttentionBranch::new(x, maps, rows, eps)?;
    x.contiguous()?.apply_op2(&bundle, branch)
}

/// Appends [`attention_branch_over()`] to a chain.
pub(crate) fn chain_attention(
    chain: &Chain,
    maps: AttentionMaps,
    rows: &AttentionRows,
    eps: f64,
) -> Result<Chain> {
    let (branch, bundle) = AttentionBranch::new(chain.x(), maps, rows, eps)?;
    chain.through(branch, &bundle)
}

/// The weight of the norm `[h]`, and the maps to queries, keys, values and the output.
#[derive(Debug, Clone)]
pub(crate) struct AttentionMaps {
    pub(crate) norm: Tensor,
    pub(crate) maps: [Affine; 4],
}

impl AttentionMaps {
    /// Maps without adapters.
    fn plain(weights: &AttentionWeights<'_>) -> Self {
        let map = |which: usize| Affine::new(weights.qkv[which], weights.biases[which]);
        let maps = [map(0), map(1), map(2), Affine::new(weights.output, None)];
        Self { norm: weights.norm.clone(), maps }
    }
}

/// The branch composed of its layers.
fn separately(
    x: &Tensor,
    w: &AttentionWeights<'_>,
    rows: &AttentionRows,
    eps: f64,
) -> Result<Tensor> {
    let normed = rms_norm(x, w.norm, eps)?;
    let [q, k, v] = [0, 1, 2].map(|i| linear(&normed, w.qkv[i], w.biases[i]));
    let rope = |x: &Tensor| rope(x, &rows.table, &rows.positions);
    let mixed = rows.attention(&rope(&q?)?, &rope(&k?)?, &v?)?;
    linear_residual(x, &mixed, w.output)
}

fn check(x: &Tensor, weights: &AttentionMaps, rows: &AttentionRows) -> Result<()> {
    let (n, h) = x.dims2()?;
    let s = &rows.shape;
    s.validate()?;
    rows.table.check(&rows.positions)?;
    if rows.computed() != n
        || !rows.is_consistent()
        || rows.positions.len() != n
        || rows.table.head_dim() != s.head_dim
    {
        let p = rows.positions.len();
        let d = rows.table.head_dim();
        candle_core::bail!(
            "attention_branch: {n} rows, {p} positions, angles for heads of {d}, {s:?}"
        );
    }
    let [wide, narrow] = rows.widths();
    let sizes = [(wide, h), (narrow, h), (narrow, h), (h, wide)];
    let maps_fit = weights.maps.iter().zip(sizes).all(|(map, (o, i))| map.fits(o, i));
    if weights.norm.dims() != [h] || !maps_fit {
        let shapes = weights.maps.each_ref().map(Affine::shapes);
        candle_core::bail!(
            "attention_branch: mismatched shapes: x {:?}, {s:?}, norm {:?}, q, k, v, o {shapes:?}",
            x.dims(),
            weights.norm.dims()
        );
    }
    Ok(())
}

struct AttentionBranch {
    norm: Tensor,
    /// Maps to queries, keys, values and the output.
    maps: [Affine; 4],
    rows: AttentionRows,
    eps: f64,
    /// Rotated queries and keys, values, and attention's output, then u of the maps' adapters, kept
    /// for the backward pass.
    inner: OnceLock<[[Tensor; 4]; 2]>,
    found: Found,
}

impl AttentionBranch {
    /// Creates the operator and the bundle of its weights.
    fn new(
        x: &Tensor,
        weights: AttentionMaps,
        rows: &AttentionRows,
        eps: f64,
    ) -> Result<(Self, Tensor)> {
        check(x, &weights, rows)?;
        let found = Found::default();
        let norm = weights.norm.contiguous()?;
        let [q, k, v, o] = weights.maps.map(Affine::contiguous);
        let maps = [q?, k?, v?, o?];
        let all = std::iter::once(&norm).chain(maps.iter().flat_map(Affine::tensors));
        let bundle = bundle(all, x, &found)?;
        let rows = rows.clone();
        Ok((Self { norm, maps, rows, eps, inner: OnceLock::new(), found }, bundle))
    }

    fn rotate<T: TableFloat>(&self, data: &mut [T], inverse: bool) {
        rotate_rows(&self.rows.table, &self.rows.positions, data, inverse);
    }

    /// norm(x) · w.
    fn normed<T: TableFloat>(&self, x: &[T]) -> Result<Vec<T>> {
        let mut z = zeros(x.len());
        with_slice(&self.norm, |w| {
            norm(x, w, self.eps, &mut z);
            Ok(())
        })?;
        Ok(z)
    }

    fn forward<T: TableFloat>(&self, x: &[T], n: usize) -> Result<CpuStorage> {
        let z = self.normed(x)?;
        let [q, k, v, o] = &self.maps;
        let project = |map: &Affine| -> Result<(Vec<T>, Vec<T>)> {
            let mut y = zeros(n * map.weight.rows());
            let u = map.forward(&z, &mut y, n, false)?;
            Ok((y, u))
        };
        let (mut q, of_q) = project(q)?;
        let (mut k, of_k) = project(k)?;
        let (v, of_v) = project(v)?;
        drop(z);
        self.rotate(&mut q, false);
        self.rotate(&mut k, false);
        let mixed = self.rows.attend(&q, &k, &v);
        let mut y = x.to_vec();
        let of_o = o.forward(&mixed, &mut y, n, true)?;
        let keep = |[q, k, v, o]: [Vec<T>; 4]| -> Result<[Tensor; 4]> {
            let [q, k, v, o] = [q, k, v, o].map(|data| {
                let len = data.len();
                Tensor::from_vec(data, len, &Device::Cpu)
            });
            Ok([q?, k?, v?, o?])
        };
        let inner = [keep([q, k, v, mixed])?, keep([of_q, of_k, of_v, of_o])?];
        self.inner.get_or_init(|| inner);
        Ok(T::to_cpu_storage_owned(y))
    }

    fn gradients<T: TableFloat>(
        &self,
        x: &Tensor,
        wanted: bool,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Some([activations, us]) = self.inner.get() else {
            candle_core::bail!("attention_branch: backward before forward");
        };
        let dx = with_slices::<T, _, 2>([x, grad], |[x, g]| {
            with_slices(activations.each_ref(), |activations| {
                with_slices(us.each_ref(), |us| self.all_gradients((x, wanted), g, activations, us))
            })
        })?;
        dx.map(|dx| tensor_like(dx, x)).transpose()
    }

    /// Computes the gradient of x, if wanted, and leaves those of the weights in `found`.
    fn all_gradients<T: TableFloat>(
        &self,
        (x, wanted): (&[T], bool),
        g: &[T],
        [q, k, v, mixed]: [&[T]; 4],
        us: [&[T]; 4],
    ) -> Result<Option<Vec<T>>> {
        let n = self.rows.computed();
        let [.., o] = &self.maps;
        let mut sums = self.maps.each_ref().map(Sums::new);
        let mut d_mixed = zeros(mixed.len());
        let e = o.input_gradient(g, Some(&mut d_mixed), n, false)?;
        sums[3].add(mixed, g, (us[3], &e), n);
        let (mut dq, mut dk, dv) = self.rows.attend_backward(q, k, v, &d_mixed);
        drop(d_mixed);
        self.rotate(&mut dq, true);
        self.rotate(&mut dk, true);

        let learning = self.maps[..3].iter().any(Affine::learns_from_input);
        let z = if learning { self.normed(x)? } else { vec![] };
        let through_norm = wanted || self.norm.track_op();
        let mut dz = if through_norm { zeros(x.len()) } else { vec![] };
        for (which, d) in [dq, dk, dv].iter().enumerate() {
            let out = through_norm.then_some(&mut dz[..]);
            let e = self.maps[which].input_gradient(d, out, n, which > 0)?;
            sums[which].add(&z, d, (us[which], &e), n);
        }
        let (dx, d_norm) = with_slice(&self.norm, |w: &[T]| {
            let dx = wanted.then(|| {
                let mut dx = zeros(x.len());
                norm_gradient(x, w, self.eps, g, &dz, &mut dx);
                dx
            });
            let d_norm = self.norm.track_op().then(|| {
                let mut dw = zeros(w.len());
                add_norm_weight_gradient(x, &dz, self.eps, &mut dw);
                dw
            });
            Ok((dx, d_norm))
        })?;
        let mut found = vec![d_norm.map(|dw| tensor_like(dw, &self.norm)).transpose()?];
        for (sums, map) in sums.into_iter().zip(&self.maps) {
            found.extend(sums.into_tensors(map)?);
        }
        self.found.set(found);
        Ok(dx)
    }
}

impl Residual for AttentionBranch {
    fn backward(&self, x: &Tensor, wanted: bool, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        with_float!(grad.dtype(), "attention_branch", T => self.gradients::<T>(x, wanted, &grad))
    }
}

impl CustomOp2 for AttentionBranch {
    fn name(&self) -> &'static str {
        "attention_branch"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, _) = lx.shape().dims2()?;
        let y = with_float!(BackendStorage::dtype(x), "attention_branch", T => {
            self.forward::<T>(slice_of(x, lx)?, n)
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
