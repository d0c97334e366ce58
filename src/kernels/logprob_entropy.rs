//! Log-probability of a token and entropy of its distribution in one pass over the logits.
//!
//! With z = logits/τ, m = max z, u = z − m, s = Σ eᵘ, t = Σ u eᵘ: log p_y = u_y − ln s and H = ln s − t/s.
//! The statistics are shifted by m, so a peaked row keeps its relative accuracy.

use super::composed;
use super::real::{largest, on_cpu, slice_of, vectorised, with_real, with_slice, Real};
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// log p(id) `[n]` and entropy H `[n]` in nats of softmax(logits/τ), for logits `[n, v]` and ids `[n]` (u32).
///
/// Differentiable through both outputs: ∂L/∂logits = (1/τ) [ g (1_y − p) + h p (Ē − u) ] with Ē = t/s, where
/// g and h are the gradients of log p and H. A logit of −∞ is outside the support and gets no gradient; a
/// row of −∞ has log p = −∞, H = 0 and gradient 0.
///
/// # Errors
/// Shapes that do not fit, an id outside the vocabulary, τ that is not a positive number, and a NaN or +∞
/// among the logits.
pub fn logprob_entropy(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<(Tensor, Tensor)> {
    let (n, v) = logits.dims2()?;
    if v == 0 {
        return Err(Error::Shape { name: "logits", expected: "[n, v] with v > 0".into(), got: vec![n, v] });
    }
    if ids.dims() != [n] {
        return Err(Error::Shape { name: "ids", expected: format!("[{n}]"), got: ids.dims().to_vec() });
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::setting("temperature", temperature, "must be a positive number"));
    }
    let ids_host = ids.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    if let Some((i, id)) = ids_host.iter().enumerate().find(|(_, &id)| id as usize >= v) {
        return Err(Error::setting(
            format!("ids[{i}]"),
            id,
            format!("must be below the vocabulary size {v}"),
        ));
    }
    let both = scores(logits, ids, ids_host, temperature)?;
    let entropies = both.get(1)?;
    let host = entropies.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if let Some(row) = host.iter().position(|h| h.is_nan()) {
        return Err(Error::NonFinite { name: "logits".into(), value: f64::NAN, at: format!("row {row}") });
    }
    Ok((both.get(0)?, entropies))
}

/// (log p, H) stacked `[2, n]` for checked arguments.
fn scores(logits: &Tensor, ids: &Tensor, host: Vec<u32>, temperature: f64) -> candle_core::Result<Tensor> {
    on_device!(logits => {
        let whole = host.iter().map(|_| None);
        super::gpu::logprob_entropy(logits, super::gpu::Rows::new(&host, whole, temperature, logits.device())?)
    });
    if !on_cpu(logits) {
        return composed::logprob_entropy(logits, ids, temperature);
    }
    let op = LogprobEntropy { ids: host, inverse_temperature: 1.0 / temperature, rows: OnceLock::new() };
    logits.contiguous()?.apply_op1(op)
}

/// The statistics of one row that its outputs and its gradient need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowStatistics {
    /// m = max logits/τ.
    pub(crate) max: f64,
    /// ln Σ eᵘ.
    pub(crate) log_sum: f64,
    /// Ē = Σ u eᵘ / Σ eᵘ.
    pub(crate) mean: f64,
}

impl RowStatistics {
    /// log p of a logit.
    pub(crate) fn log_prob(&self, logit: f64, inverse_temperature: f64) -> f64 {
        if self.max == f64::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        logit * inverse_temperature - self.max - self.log_sum
    }

    /// H = ln s − Ē in nats.
    pub(crate) fn entropy(&self) -> f64 {
        self.log_sum - self.mean
    }
}

/// Elements summed in the element type before they join a double-precision total.
const BLOCK: usize = 512;

/// Σ eᵘ over u ≠ 0, the number of u = 0, and Σ u eᵘ.
///
/// The largest elements have u = 0 and are counted rather than summed, so that ln s of a peaked row keeps the small
/// terms.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    rest: f64,
    tops: f64,
    weighted: f64,
}

vectorised! {
    fn row_max<T>(row: &[T]) -> T {
        largest(row)
    }
}

#[inline(always)]
fn add_element<T: Real>(u: T, rest: &mut T, tops: &mut T, weighted: &mut T) {
    let (zero, one) = (T::from_f64(0.0), T::from_f64(1.0));
    let e = u.exp();
    *rest += if u == zero { zero } else { e };
    *tops += if u == zero { one } else { zero };
    *weighted += if e == zero { zero } else { u * e };
}

vectorised! {
    fn block_sums<T>(block: &[T], inverse_temperature: T, max: T) -> Sums {
        let (chunks, tail) = block.as_chunks::<16>();
        let mut lanes = [[T::from_f64(0.0); 16]; 3];
        let [rest, tops, weighted] = &mut lanes;
        for chunk in chunks {
            for l in 0..16 {
                add_element(chunk[l] * inverse_temperature - max, &mut rest[l], &mut tops[l], &mut weighted[l]);
            }
        }
        for (l, &x) in tail.iter().enumerate() {
            add_element(x * inverse_temperature - max, &mut rest[l], &mut tops[l], &mut weighted[l]);
        }
        let sum = |lanes: &[T; 16]| lanes.iter().map(|x| x.to_f64()).sum::<f64>();
        Sums { rest: sum(rest), tops: sum(tops), weighted: sum(weighted) }
    }
}

/// Statistics of softmax(row · `inverse_temperature`).
pub(crate) fn row_statistics<T: Real>(row: &[T], inverse_temperature: f64) -> RowStatistics {
    let scale = T::from_f64(inverse_temperature);
    let max = row_max(row) * scale;
    if max == T::from_f64(f64::NEG_INFINITY) {
        let nan = if row.iter().any(|x| x.to_f64().is_nan()) { f64::NAN } else { 0.0 };
        return RowStatistics { max: max.to_f64(), log_sum: nan, mean: 0.0 };
    }
    let mut total = Sums { rest: 0.0, tops: 0.0, weighted: 0.0 };
    for block in row.chunks(BLOCK) {
        let sums = block_sums(block, scale, max);
        total.rest += sums.rest;
        total.tops += sums.tops;
        total.weighted += sums.weighted;
    }
    let log_sum = (total.rest + (total.tops - 1.0)).ln_1p();
    RowStatistics { max: max.to_f64(), log_sum, mean: total.weighted / (total.tops + total.rest) }
}

vectorised! {
    /// `row` ← e^(row · scale − shift).
    fn exponentials<T>(row: &mut [T], scale: T, shift: T) {
        for x in row.iter_mut() {
            *x = (*x * scale - shift).exp();
        }
    }
}

/// The probabilities of a row with these statistics, written over its logits.
pub(crate) fn probabilities(row: &mut [f32], inverse_temperature: f64, s: &RowStatistics) {
    exponentials(row, inverse_temperature as f32, (s.max + s.log_sum) as f32);
}

vectorised! {
    /// p (c − h u) / τ of every logit, where p = e^(u − ln s).
    fn gradient_row<T>(row: &[T], scale: T, max: T, log_sum: T, c: T, h: T, out: &mut [T]) {
        let zero = T::from_f64(0.0);
        for (o, &x) in out.iter_mut().zip(row) {
            let u = x * scale - max;
            let p = (u - log_sum).exp();
            *o = if p == zero { zero } else { p * (c - h * u) * scale };
        }
    }
}

struct LogprobEntropy {
    ids: Vec<u32>,
    inverse_temperature: f64,
    rows: OnceLock<Vec<RowStatistics>>,
}

impl LogprobEntropy {
    fn forward<T: Real>(&self, logits: &[T], v: usize) -> CpuStorage {
        let rows: Vec<RowStatistics> =
            logits.par_chunks(v).map(|row| row_statistics(row, self.inverse_temperature)).collect();
        let targets = self.ids.iter().zip(logits.chunks(v)).map(|(&id, row)| row[id as usize].to_f64());
        let log_probs = rows.iter().zip(targets).map(|(s, x)| s.log_prob(x, self.inverse_temperature));
        let out = log_probs.chain(rows.iter().map(RowStatistics::entropy)).map(T::from_f64).collect();
        self.rows.get_or_init(|| rows);
        T::to_cpu_storage_owned(out)
    }

    fn backward<T: Real>(&self, logits: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        let (n, v) = logits.dims2()?;
        let mut dx = vec![T::from_f64(0.0); n * v];
        let (g, h) = (grad.get(0)?.to_vec1::<T>()?, grad.get(1)?.to_vec1::<T>()?);
        let rows = self.rows.get().map(Vec::as_slice).unwrap_or_default();
        with_slice::<T, _>(logits, |x| {
            let work = dx.par_chunks_mut(v).zip(x.par_chunks(v)).zip(rows).zip(&self.ids).zip(g).zip(h);
            work.for_each(|(((((dx, x), s), &id), g), h)| self.backward_row(dx, x, s, id as usize, (g, h)));
            Ok(())
        })?;
        Tensor::from_vec(dx, (n, v), logits.device())
    }

    fn backward_row<T: Real>(&self, dx: &mut [T], x: &[T], s: &RowStatistics, id: usize, (g, h): (T, T)) {
        if s.max == f64::NEG_INFINITY {
            return;
        }
        let scale = T::from_f64(self.inverse_temperature);
        let real = T::from_f64;
        gradient_row(x, scale, real(s.max), real(s.log_sum), h * real(s.mean) - g, h, dx);
        dx[id] += g * scale;
    }
}

impl CustomOp1 for LogprobEntropy {
    fn name(&self) -> &'static str {
        "logprob_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, v) = layout.shape().dims2()?;
        let out = with_real!(candle_core::backend::BackendStorage::dtype(logits), "logprob_entropy", T => {
            Ok(self.forward::<T>(slice_of(logits, layout)?, v))
        })?;
        Ok((out, (2, n).into()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_real!(grad.dtype(), "logprob_entropy", T => self.backward::<T>(logits, grad))?;
        Ok(Some(dx))
    }
}
