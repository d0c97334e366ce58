//! A frozen weight matrix in quantised blocks.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::Float;
use crate::kernels::quantized::unpack::{supports, unpack_rows};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A frozen matrix `[o, i]` whose rows are GGML's quantised blocks, as in a GGUF file.
///
/// Operators convert a part of it to f32 at a time, so a model takes the memory of its file. It has
/// no gradient; clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct QuantizedMatrix {
    dtype: GgmlDType,
    bytes: Arc<[u8]>,
    dims: [usize; 2],
}

impl QuantizedMatrix {
    /// Creates a matrix of `o` rows of `i` numbers from its blocks, row after row.
    ///
    /// # Errors
    /// A format that is not quantised, an `i` that is not a multiple of the format's block, or
    /// bytes of another length.
    pub fn new(
        dtype: GgmlDType,
        bytes: impl Into<Arc<[u8]>>,
        (o, i): (usize, usize),
    ) -> Result<Self> {
        let bytes = bytes.into();
        if !supports(dtype) {
            candle_core::bail!("quantised matrix: {dtype:?} is not a quantised format of weights");
        }
        let block = dtype.block_size();
        if i == 0 || !i.is_multiple_of(block) {
            candle_core::bail!(
                "quantised matrix: rows of {i} numbers cannot be {dtype:?}, whose blocks have \
                 {block}"
            );
        }
        let need = o.checked_mul(i / block).and_then(|n| n.checked_mul(dtype.type_size()));
        if need != Some(bytes.len()) {
            candle_core::bail!(
                "quantised matrix: [{o}, {i}] in {dtype:?} does not take {} bytes",
                bytes.len()
            );
        }
        Ok(Self { dtype, bytes, dims: [o, i] })
    }

    /// Quantises a matrix with candle's rounding.
    ///
    /// # Errors
    /// A tensor that is no matrix, a format that is not quantised, or rows that are not whole
    /// blocks.
    pub fn quantize(weight: &Tensor, dtype: GgmlDType) -> Result<Self> {
        let dims @ (_, i) = weight.dims2()?;
        if !supports(dtype) || !i.is_multiple_of(dtype.block_size()) {
            candle_core::bail!("quantised matrix: rows of {i} numbers cannot be {dtype:?}");
        }
        let quantized = QTensor::quantize(&weight.to_device(&Device::Cpu)?, dtype)?;
        Self::new(dtype, quantized.data()?.into_owned(), dims)
    }

    /// Rows o and columns i.
    pub fn dims(&self) -> (usize, usize) {
        (self.dims[0], self.dims[1])
    }

    /// [`QuantizedMatrix::dims`] as a shape.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.dims
    }

    /// The format of the blocks.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// All blocks, row after row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes per row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.dims[1] / self.dtype.block_size() * self.dtype.type_size()
    }

    /// Converts a range of rows to f32; `out` is `[rows, i]`.
    ///
    /// # Errors
    /// Rows outside the matrix, or an `out` of another length.
    pub fn dequantize_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let [o, i] = self.dims;
        if rows.start > rows.end || rows.end > o || out.len() != rows.len() * i {
            candle_core::bail!(
                "quantised matrix: rows {rows:?} of [{o}, {i}] do not fit {} numbers",
                out.len()
            );
        }
        self.rows_to(rows, out);
        Ok(())
    }

    /// [`QuantizedMatrix::dequantize_rows`] to any type of arithmetic, on all threads if there is
    /// much to do.
    pub(crate) fn rows_to<T: Float>(&self, rows: Range<usize>, out: &mut [T]) {
        let size = self.row_bytes();
        let bytes = &self.bytes[rows.start * size..rows.end * size];
        unpack_rows(self.dtype, bytes, self.dims[1], out);
    }

    /// All values in f32.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut values = zeros(self.dims[0] * self.dims[1]);
        self.rows_to(0..self.dims[0], &mut values);
        values
    }

    /// Converts the rows `ids`, which must exist, to `[ids, i]`.
    pub(crate) fn rows_of(&self, ids: &[u32], out: &mut [f32]) {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dims[1])) {
            self.rows_to(id as usize..id as usize + 1, out);
        }
    }

    /// Converts the whole matrix to an f32 tensor on the CPU.
    ///
    /// # Errors
    /// A failed tensor operation.
    pub fn dequantize(&self) -> Result<Tensor> {
        Tensor::from_vec(self.values(), self.dims(), &Device::Cpu)
    }
}

impl fmt::Debug for QuantizedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} [{}, {}]", self.dtype, self.dims[0], self.dims[1])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::decode::gemv::tests::numbers;

    /// A random matrix.
    pub(crate) fn quantized(
        dtype: GgmlDType,
        (o, i): (usize, usize),
        seed: u32,
    ) -> QuantizedMatrix {
        let numbers = Tensor::from_vec(numbers(o * i, seed), (o, i), &Device::Cpu).unwrap();
        QuantizedMatrix::quantize(&numbers, dtype).unwrap()
    }

    #[test]
    fn rows_are_those_of_the_whole_matrix() {
        let w = quantized(GgmlDType::Q5_1, (101, 96), 3);
        let whole = w.dequantize().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for rows in [0..101, 0..1, 40..75, 100..101, 7..7] {
            let mut part = vec![f32::NAN; rows.len() * 96];
            w.dequantize_rows(rows.clone(), &mut part).unwrap();
            assert_eq!(part, whole[rows.start * 96..rows.end * 96]);
        }
        assert!(w.dequantize_rows(100..102, &mut [0.0; 192]).is_err());
        assert!(w.dequantize_rows(0..1, &mut [0.0; 95]).is_err());
        assert_eq!(w, w.clone());
        assert_eq!(format!("{w:?}"), "Q5_1 [101, 96]");
    }

    #[test]
    fn a_matrix_that_is_not_made_of_whole_blocks_is_refused() {
        let refuse = |dtype, bytes: usize, dims, words: &str| {
            let error = QuantizedMatrix::new(dtype, vec![0; bytes], dims).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        refuse(GgmlDType::Q8_0, 34, (1, 33), "rows of 33 numbers cannot be Q8_0");
        refuse(GgmlDType::Q4K, 144, (1, 128), "whose blocks have 256");
        refuse(GgmlDType::Q8_0, 67, (2, 32), "[2, 32] in Q8_0 does not take 67 bytes");
        refuse(GgmlDType::Q8_0, 0, (usize::MAX, 64), "does not take 0 bytes");
        refuse(GgmlDType::F16, 64, (1, 32), "F16 is not a quantised format");
        refuse(GgmlDType::Q8_1, 36, (1, 32), "Q8_1 is not a quantised format");
        let odd = Tensor::zeros((2, 31), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(QuantizedMatrix::quantize(&odd, GgmlDType::Q8_0).is_err());
    }
}
