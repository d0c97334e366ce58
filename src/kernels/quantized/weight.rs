//! A weight matrix of a layer: a tensor, or frozen quantised blocks.

use crate::kernels::cpu::amx::Precision;
use crate::kernels::cpu::float::{with_slice, Float};
use crate::kernels::cpu::matmul::matmul_sum;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::dispatch::is_cpu;
use crate::kernels::quantized::matrix::QuantizedMatrix;
use candle_core::{DType, Device, Result, Tensor};
use std::ops::Range;

/// A weight matrix `[o, i]`, or a vector as a tensor.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    Dense(Tensor),
    Quantized(QuantizedMatrix),
}

/// Numbers of a quantised matrix that are converted at a time (4 MB in f32).
const PART: usize = if cfg!(test) { 1 << 10 } else { 1 << 20 };

impl Weight {
    /// Rows o and columns i.
    pub(crate) fn dims2(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(tensor) => tensor.dims2(),
            Self::Quantized(matrix) => Ok(matrix.dims()),
        }
    }

    /// The shape.
    pub(crate) fn dims(&self) -> Vec<usize> {
        match self {
            Self::Dense(tensor) => tensor.dims().to_vec(),
            Self::Quantized(matrix) => vec![matrix.dims().0, matrix.dims().1],
        }
    }

    /// Number of rows o.
    pub(crate) fn rows(&self) -> usize {
        self.dims().first().copied().unwrap_or_default()
    }

    /// Number of elements.
    pub(crate) fn elem_count(&self) -> usize {
        self.dims().into_iter().product()
    }

    /// Returns true if a gradient of it is computed.
    pub(crate) fn track_op(&self) -> bool {
        match self {
            Self::Dense(tensor) => tensor.track_op(),
            Self::Quantized(_) => false,
        }
    }

    /// The element type that operators see: quantised weights are converted to f32.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Dense(tensor) => tensor.dtype(),
            Self::Quantized(_) => DType::F32,
        }
    }

    /// The device that computes with it.
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Dense(tensor) => tensor.device(),
            Self::Quantized(_) => &Device::Cpu,
        }
    }

    /// Returns the tensor, if it is one.
    pub(crate) fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(tensor) => Some(tensor),
            Self::Quantized(_) => None,
        }
    }

    /// All values as a detached tensor.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.detach()),
            Self::Quantized(matrix) => matrix.dequantize(),
        }
    }

    /// Calls `f` with consecutive ranges of rows and their values `[rows, i]`, until all rows are
    /// covered: once with all of a tensor's, and with some hundred at a time of a quantised matrix.
    fn for_parts<T: Float>(&self, mut f: impl FnMut(Range<usize>, &[T])) -> Result<()> {
        let (o, i) = self.dims2()?;
        let matrix = match self {
            Self::Dense(tensor) => {
                return with_slice(tensor, |w| {
                    f(0..o, w);
                    Ok(())
                })
            }
            Self::Quantized(matrix) => matrix,
        };
        let rows = (PART / i).max(1);
        let mut buffer = vec![T::from_f32(0.0); rows.min(o) * i];
        for start in (0..o).step_by(rows) {
            let part = start..o.min(start + rows);
            let values = &mut buffer[..part.len() * i];
            matrix.rows_to(part.clone(), values);
            f(part, values);
        }
        Ok(())
    }

    /// y = x Wᵀ + u Bᵀ, or y += the same if `accumulate`, for x `[n, i]` and y `[n, o]`; `adapter`
    /// is (u `[n, r]`, B `[o, r]`).
    pub(crate) fn product<T: Float>(
        &self,
        x: &[T],
        adapter: Option<(&[T], &[T])>,
        y: &mut [T],
        n: usize,
        accumulate: bool,
    ) -> Result<()> {
        let (o, i) = self.dims2()?;
        let x = View::new(x, n, i, i);
        self.for_parts(|part, w: &[T]| {
            let w = View::new(w, part.len(), i, i);
            let columns = y.get_mut(part.start..).unwrap_or_default();
            let out = ViewMut::new(columns, n, part.len(), o);
            let adapter = adapter.map(|(u, b)| {
                let r = b.len() / o;
                let b = View::new(&b[part.start * r..], part.len(), r, r);
                (View::new(u, n, r, r), b.t())
            });
            self.multiply(out, (x, w.t()), adapter, accumulate);
        })
    }

    /// dx = g W + e A, or dx += the same if `accumulate`, for g `[n, o]` and dx `[n, i]`; `adapter`
    /// is (e `[n, r]`, A `[r, i]`).
    pub(crate) fn add_input_gradient<T: Float>(
        &self,
        g: &[T],
        adapter: Option<(&[T], &[T])>,
        dx: &mut [T],
        n: usize,
        accumulate: bool,
    ) -> Result<()> {
        let (o, i) = self.dims2()?;
        self.for_parts(|part, w: &[T]| {
            let columns = g.get(part.start..).unwrap_or_default();
            let g = View::new(columns, n, part.len(), o);
            let w = View::new(w, part.len(), i, i);
            let out = ViewMut::new(dx, n, i, i);
            let accumulate = accumulate || part.start > 0;
            let adapter = adapter.filter(|_| part.start == 0).map(|(e, a)| {
                let r = a.len() / i;
                (View::new(e, n, r, r), View::new(a, r, i, i))
            });
            self.multiply(out, (g, w), adapter, accumulate);
        })
    }

    /// out = the product of a pair, plus the adapter's.
    fn multiply<T: Float>(
        &self,
        out: ViewMut<'_, T>,
        pair: (View<'_, T>, View<'_, T>),
        adapter: Option<(View<'_, T>, View<'_, T>)>,
        accumulate: bool,
    ) {
        let precision = match self {
            Self::Dense(_) => Precision::Full,
            Self::Quantized(_) => Precision::Reduced,
        };
        match adapter {
            Some(adapter) => matmul_sum(out, &[pair, adapter], accumulate, precision),
            None => matmul_sum(out, &[pair], accumulate, precision),
        }
    }
}

/// Requires x to be where quantised weights are computed with.
pub(crate) fn check_device(x: &Tensor, weight: &Weight) -> Result<()> {
    if matches!(weight, Weight::Quantized(_)) && !is_cpu(x) {
        candle_core::bail!("quantised weights are computed with on the CPU only");
    }
    Ok(())
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl From<QuantizedMatrix> for Weight {
    fn from(matrix: QuantizedMatrix) -> Self {
        Self::Quantized(matrix)
    }
}
