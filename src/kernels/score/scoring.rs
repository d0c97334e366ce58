//! The checked arguments of a scoring call, and the arithmetic of its rows, whole or in parts.
//!
//! The kernel on logits reads whole rows, the language-model head one tile of columns at a time.
//! Both go through the methods of [`Scoring`], which know each row's support.

use crate::kernels::layers::composed;
use crate::kernels::score::logit::Logit;
use crate::kernels::score::softmax::{gradient_in_place, RowStatistics, Running, ScoreGradient};
use crate::kernels::score::support::{RowSupport, Support};
use crate::{Error, Result};
use candle_core::{DType, Tensor, WithDType};

/// Options of a scoring call: temperature, supports, and memory.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreOptions {
    /// Temperature τ > 0 of the distribution softmax(logits/τ).
    pub temperature: f64,
    /// Candidate set of each row; `None` means the whole vocabulary for every row.
    pub support: Option<Support>,
    /// Bytes of logits that [`crate::kernels::linear_logprob_entropy()`] keeps in memory at a time.
    pub chunk_bytes: usize,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self { temperature: 1.0, support: None, chunk_bytes: 64 << 20 }
    }
}

impl ScoreOptions {
    /// Options for the whole vocabulary at a temperature.
    pub fn at(temperature: f64) -> Self {
        Self { temperature, ..Self::default() }
    }
}

/// Checked arguments of one scoring call.
pub(crate) struct Scoring {
    pub(crate) ids: Vec<u32>,
    pub(crate) support: Option<Support>,
    pub(crate) inverse_temperature: f64,
    pub(crate) vocabulary: usize,
}

impl Scoring {
    pub(crate) fn new(logits: &Tensor, ids: &Tensor, options: &ScoreOptions) -> Result<Self> {
        let (n, v) = logits.dims2()?;
        if v == 0 {
            return Err(Error::Shape {
                name: "logits",
                expected: "[n, v] with v > 0".into(),
                got: vec![n, v],
            });
        }
        if !matches!(logits.dtype(), DType::F32 | DType::F64 | DType::BF16 | DType::F16) {
            let reason = "must be f32, bf16, f16 or f64";
            return Err(Error::setting("logits.dtype", logits.dtype().as_str(), reason));
        }
        Self::checked(n, v, ids, options)
    }

    pub(crate) fn checked(
        n: usize,
        v: usize,
        ids: &Tensor,
        options: &ScoreOptions,
    ) -> Result<Self> {
        if ids.dims() != [n] {
            return Err(Error::Shape {
                name: "ids",
                expected: format!("[{n}]"),
                got: ids.dims().to_vec(),
            });
        }
        let temperature = options.temperature;
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::setting("temperature", temperature, "must be a positive number"));
        }
        let ids = ids.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        if let Some(support) = &options.support {
            support.check(&ids, v)?;
        }
        let support = options.support.clone();
        let scoring = Self { ids, support, inverse_temperature: 1.0 / temperature, vocabulary: v };
        let outside =
            |&(i, &id): &(usize, &u32)| id as usize >= v && scoring.row(i) != RowSupport::Skipped;
        match scoring.ids.iter().enumerate().find(outside) {
            Some((i, id)) => {
                let reason = format!("must be below the vocabulary size {v}");
                Err(Error::setting(format!("ids[{i}]"), id, reason))
            }
            None => Ok(scoring),
        }
    }

    /// Returns the arguments of the rows `kept`.
    pub(crate) fn select(&self, kept: &[u32]) -> Self {
        let rows = || kept.iter().map(|&i| i as usize);
        let support = self.support.as_ref().map(|support| support.select(rows()));
        Self { ids: rows().map(|i| self.ids[i]).collect(), support, ..*self }
    }

    pub(crate) fn row(&self, i: usize) -> RowSupport<'_> {
        self.support.as_ref().map_or(RowSupport::Whole, |support| support.row(i))
    }

    /// Uploads the rows to a device.
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    pub(crate) fn on(
        &self,
        device: &candle_core::Device,
    ) -> Result<crate::kernels::gpu::logprob_entropy::Rows> {
        let support = |i| match self.row(i) {
            RowSupport::Whole => None,
            RowSupport::Skipped => Some(&[][..]),
            RowSupport::Allowed(list) => Some(list),
        };
        let supports = (0..self.ids.len()).map(support);
        Ok(crate::kernels::gpu::logprob_entropy::Rows::new(
            &self.ids,
            supports,
            1.0 / self.inverse_temperature,
            device,
        )?)
    }

    /// Computes both outputs `[2, n]` with differentiable candle operations, on any device.
    pub(crate) fn composed(&self, logits: &Tensor) -> Result<Tensor> {
        let n = self.ids.len();
        let device = logits.device();
        let skipped = |i: usize| self.row(i) == RowSupport::Skipped;
        let ids: Vec<u32> = (0..n).map(|i| if skipped(i) { 0 } else { self.ids[i] }).collect();
        let ids = Tensor::from_vec(ids, n, device)?;
        let both = composed::logprob_entropy(
            &self.restrict(logits)?,
            &ids,
            1.0 / self.inverse_temperature,
        )?;
        let kept: Vec<u8> = (0..2 * n).map(|i| u8::from(!skipped(i % n))).collect();
        Ok(Tensor::from_vec(kept, (2, n), device)?.where_cond(&both, &both.zeros_like()?)?)
    }

    /// Returns the logits with −∞ outside the supports.
    fn restrict(&self, logits: &Tensor) -> Result<Tensor> {
        let Some(support) = &self.support else { return Ok(logits.clone()) };
        let (n, v) = logits.dims2()?;
        let mut keep = vec![1u8; n * v];
        for (keep, i) in keep.chunks_exact_mut(v).zip(0..) {
            if support.row(i) != RowSupport::Whole {
                keep.fill(0);
            }
            if let RowSupport::Allowed(list) = support.row(i) {
                for &id in list {
                    keep[id as usize] = 1;
                }
            }
        }
        let keep = Tensor::from_vec(keep, (n, v), logits.device())?;
        let outside = Tensor::new(f32::NEG_INFINITY, logits.device())?.to_dtype(logits.dtype())?;
        Ok(keep.where_cond(logits, &outside.broadcast_as((n, v))?)?)
    }

    /// Adds a part of row `i` that begins at column `start` to its statistics.
    pub(crate) fn add_part<T: Logit>(
        &self,
        i: usize,
        part: &[T],
        start: usize,
        row: &mut (Running, f64),
    ) {
        match self.row(i) {
            RowSupport::Skipped => return,
            RowSupport::Whole => row.0.add(part, self.inverse_temperature),
            RowSupport::Allowed(list) => {
                let kept: Vec<T> = places_in(list, start, part.len()).map(|j| part[j]).collect();
                row.0.add(&kept, self.inverse_temperature);
            }
        }
        if let Some(logit) = (self.ids[i] as usize).checked_sub(start).and_then(|j| part.get(j)) {
            row.1 = logit.to_f64();
        }
    }

    /// Computes the score of row `i` from all its logits.
    pub(crate) fn score<T: Logit>(&self, i: usize, row: &[T]) -> RowScore {
        let mut running = (Running::EMPTY, 0.0);
        self.add_part(i, row, 0, &mut running);
        (running.0.finish(), running.1)
    }

    /// Returns (log p, H) of row `i`; zeros for a skipped row.
    pub(crate) fn value(&self, i: usize, (s, logit): &RowScore) -> (f64, f64) {
        match self.row(i) {
            RowSupport::Skipped => (0.0, 0.0),
            _ => (s.log_prob(*logit, self.inverse_temperature), s.entropy()),
        }
    }

    /// Returns both outputs `[2, n]` of all rows.
    pub(crate) fn values<T: WithDType>(&self, rows: &[RowScore]) -> Vec<T> {
        let values: Vec<(f64, f64)> =
            rows.iter().enumerate().map(|(i, row)| self.value(i, row)).collect();
        values.iter().map(|v| v.0).chain(values.iter().map(|v| v.1)).map(T::from_f64).collect()
    }

    /// Replaces a part of row `i`'s logits, which begins at column `start`, by their gradient.
    pub(crate) fn gradient_part<T: Logit>(
        &self,
        i: usize,
        part: &mut [T],
        start: usize,
        s: &RowStatistics,
        grad: ScoreGradient,
    ) {
        let id = (self.ids[i] as usize).checked_sub(start).filter(|&j| j < part.len());
        match self.row(i) {
            RowSupport::Skipped => part.fill(T::from_f64(0.0)),
            RowSupport::Whole => gradient_in_place(part, id, self.inverse_temperature, s, grad),
            RowSupport::Allowed(list) => {
                let places = places_in(list, start, part.len());
                let mut kept: Vec<T> = places.clone().map(|j| part[j]).collect();
                let id = id.and_then(|id| places.clone().position(|j| j == id));
                gradient_in_place(&mut kept, id, self.inverse_temperature, s, grad);
                part.fill(T::from_f64(0.0));
                places.zip(kept).for_each(|(j, value)| part[j] = value);
            }
        }
    }
}

/// Statistics of a row, and the logit of its token.
pub(crate) type RowScore = (RowStatistics, f64);

/// Returns the ids of an ascending list within columns `start..start + width`, relative to `start`.
fn places_in(list: &[u32], start: usize, width: usize) -> impl Iterator<Item = usize> + Clone + '_ {
    let place = |column: usize| list.partition_point(|&id| (id as usize) < column);
    list[place(start)..place(start + width)].iter().map(move |&id| id as usize - start)
}
