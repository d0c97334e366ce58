//! The attention branch of a pre-norm block as one operator.
//!
//! One operator instead of seven keeps fewer activations, and candle adds up one gradient of the
//! hidden state instead of ten.

use crate::kernels::autograd::bundle::{bundle, token, Found};
use crate::kernels::autograd::chain::{Chain, Residual};
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{on_cpu, slice_of, with_float, with_slice, with_slices};
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::layers::attention_rows::{AttentionRows, AttentionWeights};
use crate::kernels::layers::linear::{linear, linear_residual, product};
use crate::kernels::layers::residual::{
    add_norm_weight_gradient, multiply, norm, norm_gradient, row_sum, tensor_like,
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
    if !on_cpu(x) {
        return separately(x, weights, rows, eps);
    }
    let (branch, bundle) = AttentionBranch::new(x, weights, rows, eps)?;
    x.contiguous()?.apply_op2(&bundle, branch)
}

/// Appends [`attention_branch()`] to a chain.
pub(crate) fn chain_attention(
    chain: &Chain,
    weights: &AttentionWeights<'_>,
    rows: &AttentionRows,
    eps: f64,
) -> Result<Chain> {
    let (branch, bundle) = AttentionBranch::new(chain.x(), weights, rows, eps)?;
    chain.through(branch, &bundle)
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

fn check(x: &Tensor, w: &AttentionWeights<'_>, rows: &AttentionRows) -> Result<()> {
    let (n, h) = x.dims2()?;
    let s = &rows.shape;
    s.validate()?;
    rows.table.check(&rows.positions)?;
    let wide = s.heads * s.head_dim;
    let narrow = s.kv_heads * s.head_dim;
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
    let [q, k, v] = w.qkv.map(Tensor::dims);
    let biases = w.biases.iter().zip([wide, narrow, narrow]);
    let biases_fit =
        biases.flat_map(|(b, width)| Some(b.as_ref()?.dims() == [width])).all(|fits| fits);
    let fits = [q, k, v, w.norm.dims(), w.output.dims()]
        == [&[wide, h][..], &[narrow, h], &[narrow, h], &[h], &[h, wide]];
    if !fits || !biases_fit {
        candle_core::bail!(
            "attention_branch: mismatched shapes: x {:?}, {s:?}, weights {w:?}",
            x.dims()
        );
    }
    Ok(())
}

struct AttentionBranch {
    /// w, W_q, W_k, W_v, W_o.
    matrices: Vec<Tensor>,
    biases: [Option<Tensor>; 3],
    rows: AttentionRows,
    eps: f64,
    /// Rotated queries and keys, values, and attention's output, kept for the backward pass.
    inner: OnceLock<[Tensor; 4]>,
    found: Found,
}

/// Computes aᵀ b for a and b with the same number of rows.
fn transposed_product<T: TableFloat>(a: &[T], b: &[T], (n, i, o): (usize, usize, usize)) -> Vec<T> {
    let mut out = zeros(i * o);
    multiply(
        ViewMut::new(&mut out, i, o, o),
        View::new(a, n, i, i).t(),
        View::new(b, n, o, o),
        false,
    );
    out
}

impl AttentionBranch {
    /// Creates the operator and the bundle of its weights.
    fn new(
        x: &Tensor,
        w: &AttentionWeights<'_>,
        rows: &AttentionRows,
        eps: f64,
    ) -> Result<(Self, Tensor)> {
        check(x, w, rows)?;
        let found = Found::default();
        let [q, k, v] = w.qkv;
        let matrices = [w.norm, q, k, v, w.output].map(Tensor::contiguous);
        let matrices = matrices.into_iter().collect::<Result<Vec<_>>>()?;
        let [q, k, v] = w.biases.map(|bias| bias.map(Tensor::contiguous).transpose());
        let biases = [q?, k?, v?];
        let bundle = bundle(matrices.iter().chain(biases.iter().flatten()), x, &found)?;
        Ok((
            Self { matrices, biases, rows: rows.clone(), eps, inner: OnceLock::new(), found },
            bundle,
        ))
    }

    /// Returns the widths of queries, keys and values.
    fn widths(&self) -> [usize; 3] {
        let s = &self.rows.shape;
        [s.heads, s.kv_heads, s.kv_heads].map(|heads| heads * s.head_dim)
    }

    fn rotate<T: TableFloat>(&self, data: &mut [T], inverse: bool) {
        rotate_rows(&self.rows.table, &self.rows.positions, data, inverse);
    }

    fn project<T: TableFloat>(
        &self,
        z: &[T],
        which: usize,
        (n, h): (usize, usize),
    ) -> Result<Vec<T>> {
        let start = match &self.biases[which] {
            Some(bias) => Some(with_slice::<T, _>(bias, |bias| Ok(bias.repeat(n)))?),
            None => None,
        };
        let size = (n, h, self.widths()[which]);
        with_slice::<T, _>(&self.matrices[1 + which], |w| Ok(product(z, w, start, size)))
    }

    fn forward<T: TableFloat>(&self, x: &[T], (n, h): (usize, usize)) -> Result<CpuStorage> {
        let mut z = zeros(n * h);
        with_slice::<T, _>(&self.matrices[0], |w| {
            norm(x, w, self.eps, &mut z);
            Ok(())
        })?;
        let [q, k, v] = [0, 1, 2].map(|which| self.project(&z, which, (n, h)));
        let mut q = q?;
        let mut k = k?;
        let v = v?;
        drop(z);
        self.rotate(&mut q, false);
        self.rotate(&mut k, false);
        let mixed = self.rows.attend(&q, &k, &v);
        let [wide, narrow, _] = self.widths();
        let y = with_slice::<T, _>(&self.matrices[4], |w| {
            Ok(product(&mixed, w, Some(x.to_vec()), (n, wide, h)))
        })?;
        let keep = |data, width: usize| Tensor::from_vec(data, (n, width), &Device::Cpu);
        let inner = [keep(q, wide)?, keep(k, narrow)?, keep(v, narrow)?, keep(mixed, wide)?];
        self.inner.get_or_init(|| inner);
        Ok(T::to_cpu_storage_owned(y))
    }

    fn gradients<T: TableFloat>(
        &self,
        x: &Tensor,
        wanted: bool,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Some([q, k, v, mixed]) = self.inner.get() else {
            candle_core::bail!("attention_branch: backward before forward");
        };
        let (n, h) = x.dims2()?;
        let [wide, ..] = self.widths();
        let output = &self.matrices[4];
        let (d_output, dqkv) =
            with_slices::<T, _, 6>([grad, q, k, v, mixed, output], |[g, q, k, v, mixed, w]| {
                let d_output =
                    output.track_op().then(|| transposed_product(g, mixed, (n, h, wide)));
                let mut d_mixed = zeros(n * wide);
                let out = ViewMut::new(&mut d_mixed, n, wide, wide);
                multiply(out, View::new(g, n, h, h), View::new(w, h, wide, wide), false);
                let (mut dq, mut dk, dv) = self.rows.attend_backward(q, k, v, &d_mixed);
                self.rotate(&mut dq, true);
                self.rotate(&mut dk, true);
                Ok((d_output, [dq, dk, dv]))
            })?;
        let mut found = self.projection_gradients(x, &dqkv)?;
        found[4] = d_output.map(|data| tensor_like(data, output)).transpose()?;
        let (dx, d_norm) = self.input_gradients((x, wanted), grad, &dqkv)?;
        found[0] = d_norm;
        self.found.set(found);
        Ok(dx)
    }

    /// Computes the gradients of the projections and their biases, at their places in the bundle.
    fn projection_gradients<T: TableFloat>(
        &self,
        x: &Tensor,
        dqkv: &[Vec<T>; 3],
    ) -> Result<Vec<Option<Tensor>>> {
        let (n, h) = x.dims2()?;
        let widths = self.widths();
        let mut z = zeros(n * h);
        with_slices([x, &self.matrices[0]], |[x, w]| {
            norm(x, w, self.eps, &mut z);
            Ok(())
        })?;
        let mut found = vec![None; 5];
        for which in 0..3 {
            let weight = &self.matrices[1 + which];
            if weight.track_op() {
                let dw = transposed_product(&dqkv[which], &z, (n, widths[which], h));
                found[1 + which] = Some(tensor_like(dw, weight)?);
            }
        }
        for (which, bias) in self.biases.iter().enumerate() {
            let Some(bias) = bias else { continue };
            let db =
                bias.track_op().then(|| tensor_like(row_sum(&dqkv[which], widths[which]), bias));
            found.push(db.transpose()?);
        }
        Ok(found)
    }

    /// Computes the gradients of x and of the norm's weight, if needed.
    fn input_gradients<T: TableFloat>(
        &self,
        (x, wanted): (&Tensor, bool),
        grad: &Tensor,
        dqkv: &[Vec<T>; 3],
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, h) = x.dims2()?;
        let widths = self.widths();
        let weight = &self.matrices[0];
        if !wanted && !weight.track_op() {
            return Ok((None, None));
        }
        let [norm_weight, q, k, v] = [0, 1, 2, 3].map(|i| &self.matrices[i]);
        let (dx, dw) = with_slices([x, grad, norm_weight, q, k, v], |[x, g, w, q, k, v]| {
            let mut dz = zeros(n * h);
            for (which, matrix) in [q, k, v].into_iter().enumerate() {
                let d = View::new(&dqkv[which], n, widths[which], widths[which]);
                let matrix = View::new(matrix, widths[which], h, h);
                multiply(ViewMut::new(&mut dz, n, h, h), d, matrix, which > 0);
            }
            let mut dx = zeros(n * h);
            norm_gradient(x, w, self.eps, g, &dz, &mut dx);
            let mut dw = zeros(h);
            if weight.track_op() {
                add_norm_weight_gradient(x, &dz, self.eps, &mut dw);
            }
            Ok((dx, dw))
        })?;
        let dx = wanted.then(|| tensor_like(dx, x)).transpose()?;
        Ok((dx, weight.track_op().then(|| tensor_like(dw, weight)).transpose()?))
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
        let size = lx.shape().dims2()?;
        let y = with_float!(BackendStorage::dtype(x), "attention_branch", T => {
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
