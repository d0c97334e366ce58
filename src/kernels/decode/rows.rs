//! The rows of weight matrices as decoding reads them.

use crate::kernels::cpu::float::slice_of;
use crate::kernels::quantized::weight::Weight;
use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use half::bf16;
use std::ops::Range;

/// Consecutive rows of a matrix, all of the same length.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    /// Quantised blocks.
    Blocks(GgmlDType, &'a [u8]),
}

impl<'a> Rows<'a> {
    /// Number of rows of `depth` numbers.
    pub(crate) fn count(self, depth: usize) -> usize {
        match self {
            Self::F32(values) => values.len() / depth,
            Self::Bf16(values) => values.len() / depth,
            Self::Blocks(dtype, bytes) => bytes.len() / row_bytes(dtype, depth),
        }
    }

    /// Returns a range of the rows.
    pub(crate) fn range(self, range: Range<usize>, depth: usize) -> Self {
        let within = |width: usize| range.start * width..range.end * width;
        match self {
            Self::F32(values) => Self::F32(&values[within(depth)]),
            Self::Bf16(values) => Self::Bf16(&values[within(depth)]),
            Self::Blocks(dtype, bytes) => {
                Self::Blocks(dtype, &bytes[within(row_bytes(dtype, depth))])
            }
        }
    }

    /// Address of the first row.
    pub(crate) fn start(self) -> *const u8 {
        match self {
            Self::F32(values) => values.as_ptr().cast(),
            Self::Bf16(values) => values.as_ptr().cast(),
            Self::Blocks(_, bytes) => bytes.as_ptr(),
        }
    }
}

/// Bytes of a quantised row of `depth` numbers.
pub(crate) fn row_bytes(dtype: GgmlDType, depth: usize) -> usize {
    depth / dtype.block_size() * dtype.type_size()
}

/// Calls `f` with the rows of every weight: tensors in f32 and bf16 and quantised blocks in place,
/// other tensors converted to f32.
pub(crate) fn with_rows<R, const N: usize>(
    weights: [&Weight; N],
    f: impl FnOnce([Rows<'_>; N]) -> R,
) -> Result<R> {
    let mut tensors: [Option<Tensor>; N] = [const { None }; N];
    for (tensor, weight) in tensors.iter_mut().zip(weights) {
        *tensor = weight.dense().map(readable).transpose()?;
    }
    let guards = tensors.each_ref().map(|tensor| tensor.as_ref().map(Tensor::storage_and_layout));
    let mut rows = [Rows::F32(&[]); N];
    for ((rows, weight), guard) in rows.iter_mut().zip(weights).zip(&guards) {
        match (weight, guard.as_ref().map(|(storage, layout)| (&**storage, layout))) {
            (Weight::Quantized(matrix), _) => *rows = Rows::Blocks(matrix.dtype(), matrix.bytes()),
            (_, Some((Storage::Cpu(storage @ CpuStorage::BF16(_)), layout))) => {
                *rows = Rows::Bf16(slice_of(storage, layout)?);
            }
            (_, Some((Storage::Cpu(storage), layout))) => {
                *rows = Rows::F32(slice_of(storage, layout)?);
            }
            _ => candle_core::bail!("decoding: the weights must be on the CPU"),
        }
    }
    Ok(f(rows))
}

fn readable(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    match tensor.dtype() {
        DType::F32 | DType::BF16 => Ok(tensor),
        _ => tensor.to_dtype(DType::F32),
    }
}
