//! The layers and scores written with differentiable candle operations.
//!
//! Devices without a kernel of their own run these, and the CPU kernels are tested against them.

use crate::kernels::layers::attention_rows::{AttentionRows, AttentionShape, AttentionWeights};
use crate::kernels::layers::rope_table::RopeTable;
use candle_core::{Result, Tensor, D};

/// x Wᵀ + b for x `[n, i]`, W `[o, i]`, b `[o]`.
///
/// # Errors
/// Mismatched shapes.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// x / √(mean x² + ε) · w over the last dimension of x `[n, h]`, w `[h]`.
///
/// # Errors
/// Mismatched shapes.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(weight)
}

/// x Wᵀ + b + s (x Aᵀ) Bᵀ for x `[n, i]`, W `[o, i]`, b `[o]`, A `[r, i]`, B `[o, r]`.
///
/// # Errors
/// Mismatched shapes.
pub fn linear_lora(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    linear(x, weight, bias)? + (linear(&linear(x, a, None)?, b, None)? * scale)?
}

/// Rotates the halves (a, b) of every head of x `[n, heads·d]` to (a cos − b sin, b cos + a sin).
///
/// # Errors
/// A position outside the table, or mismatched shapes.
pub fn rope(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = table.head_dim() / 2;
    let x4 = x.reshape((n, width / table.head_dim(), 2, half))?;
    let a = x4.narrow(2, 0, 1)?;
    let b = x4.narrow(2, 1, 1)?;
    let (cos, sin) = table.tensors(positions, x.dtype(), x.device())?;
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((n, width))
}

/// silu(x W_gᵀ) ∘ (x W_uᵀ) for x `[n, i]`, W_g and W_u `[f, i]`.
///
/// # Errors
/// Mismatched shapes.
pub fn swiglu(x: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    linear(x, gate, None)?.silu()? * linear(x, up, None)?
}

/// x + (silu(z W_gᵀ) ∘ (z W_uᵀ)) W_dᵀ with z = norm(x) · w; see [`crate::kernels::feed_forward()`].
///
/// # Errors
/// Mismatched shapes.
pub fn feed_forward(x: &Tensor, [norm, gate, up, down]: [&Tensor; 4], eps: f64) -> Result<Tensor> {
    x + linear(&swiglu(&rms_norm(x, norm, eps)?, gate, up)?, down, None)?
}

/// x + attention over rotated projections of norm(x) · w, projected; see
/// [`crate::kernels::attention_branch()`].
///
/// # Errors
/// Mismatched shapes, or rows with shared prefixes.
pub fn attention_branch(
    x: &Tensor,
    w: &AttentionWeights<'_>,
    rows: &AttentionRows,
    eps: f64,
) -> Result<Tensor> {
    if rows.shared.is_some() {
        candle_core::bail!("composed::attention_branch: shared prefixes are not supported");
    }
    let z = rms_norm(x, w.norm, eps)?;
    let [q, k, v] = [0, 1, 2].map(|i| linear(&z, w.qkv[i], w.biases[i]));
    let rope = |x: Tensor| rope(&x, &rows.table, &rows.positions);
    x + linear(&attention(&rope(q?)?, &rope(k?)?, &v?, &rows.shape)?, w.output, None)?
}

/// Causal grouped-query attention over packed sequences: q `[n, heads·d]`, k and v `[n,
/// kv_heads·d]`.
///
/// # Errors
/// Mismatched shapes.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let mut start = 0;
    let mut outputs = Vec::with_capacity(shape.lengths.len());
    for &len in &shape.lengths {
        let part = |x: &Tensor| x.narrow(0, start, len);
        outputs.push(attention_one(&part(q)?, &part(k)?, &part(v)?, shape)?);
        start += len;
    }
    Tensor::cat(&outputs, 0)
}

fn attention_one(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let t = q.dim(0)?;
    let d = shape.head_dim;
    let heads = shape.heads;
    let kv_heads = shape.kv_heads;
    let split = |x: &Tensor, count: usize| x.reshape((t, count, d))?.transpose(0, 1)?.contiguous();
    let repeat = |x: &Tensor| {
        let x = split(x, kv_heads)?.unsqueeze(1)?;
        x.broadcast_as((kv_heads, heads / kv_heads, t, d))?.contiguous()?.reshape((heads, t, d))
    };
    let scores = (split(q, heads)?.matmul(&repeat(k)?.t()?)? * (1.0 / (d as f64).sqrt()))?;
    let causal: Vec<u8> = (0..t * t).map(|i| u8::from(i % t <= i / t)).collect();
    let causal = Tensor::from_vec(causal, (1, t, t), q.device())?.broadcast_as(scores.shape())?;
    let minus_infinity = Tensor::new(f32::NEG_INFINITY, q.device())?.to_dtype(q.dtype())?;
    let scores = causal.where_cond(&scores, &minus_infinity.broadcast_as(scores.shape())?)?;
    let probs = candle_nn::ops::softmax(&scores, D::Minus1)?;
    probs.matmul(&repeat(v)?)?.transpose(0, 1)?.contiguous()?.reshape((t, heads * d))
}

/// Log-probabilities and entropies, stacked `[2, n]`; see [`crate::kernels::logprob_entropy()`].
///
/// # Errors
/// Mismatched shapes.
pub fn logprob_entropy(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let z = (logits * (1.0 / temperature))?;
    let max = z.max_keepdim(D::Minus1)?.detach();
    let dead = max.eq(&Tensor::new(f32::NEG_INFINITY, z.device())?
        .to_dtype(z.dtype())?
        .broadcast_as(max.shape())?)?;
    let u = z.broadcast_sub(&dead.where_cond(&max.zeros_like()?, &max)?)?;
    let u = dead.broadcast_as(u.shape())?.where_cond(&u.zeros_like()?, &u)?;
    let log_probs = u.broadcast_sub(&u.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    let target = log_probs.gather(&ids.unsqueeze(1)?, 1)?;
    let finite = log_probs.clamp(-1e4, 0.0)?;
    let entropy = (log_probs.exp()? * finite)?.sum_keepdim(D::Minus1)?.neg()?;
    let zero = entropy.zeros_like()?;
    let entropy = dead.where_cond(&zero, &entropy)?;
    let target = dead.where_cond(&(zero + f64::NEG_INFINITY)?, &target)?;
    Tensor::cat(&[target, entropy], 1)?.t()?.contiguous()
}
