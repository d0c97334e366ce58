//! Finds numbers in stored tensors that are NaN or infinite.
//!
//! One such weight makes every later result NaN, where its origin can no longer be told. One
//! parallel pass over the bytes when they are read names the tensor and the place.

use crate::kernels::cpu::float::with_slice;
use crate::{Error, Result};
use candle_core::Tensor;
use half::{bf16, f16};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSlice;
use safetensors::Dtype;
use std::path::Path;

/// Bytes that one task scans.
const CHUNK: usize = 1 << 20;

/// Requires all numbers of a stored tensor to be finite. Types other than floats of 16 to 64 bits
/// pass.
pub(crate) fn check_finite(
    path: &Path,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
    bytes: &[u8],
) -> Result<()> {
    let found = match dtype {
        Dtype::F64 => first(bytes, |b| f64::from_le_bytes(b).is_finite()),
        Dtype::F32 => first(bytes, |b| f32::from_le_bytes(b).is_finite()),
        Dtype::BF16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
        Dtype::F16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
        _ => None,
    };
    let Some(index) = found else { return Ok(()) };
    let size = bytes.len() / shape.iter().product::<usize>().max(1);
    let at = format!("{:?} in {}", position(index, shape), path.display());
    let value = decoded(dtype, &bytes[index * size..]);
    Err(Error::NonFinite { name: name.to_owned(), value, at })
}

/// Requires all numbers of a tensor in f32 on the CPU to be finite.
pub(crate) fn check_finite_values(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    let flat = tensor.flatten_all()?.contiguous()?;
    let found = with_slice::<f32, _>(&flat, |numbers| {
        let in_chunk = |(chunk, numbers): (usize, &[f32])| {
            if numbers.iter().fold(true, |all, number| all & number.is_finite()) {
                return None;
            }
            let index = numbers.iter().position(|number| !number.is_finite())?;
            Some((chunk * CHUNK + index, numbers[index]))
        };
        let chunks = numbers.par_chunks(CHUNK).enumerate();
        Ok(chunks.map(in_chunk).find_map_first(|found| found))
    })?;
    let Some((index, value)) = found else { return Ok(()) };
    let at = format!("{:?} in {}", position(index, tensor.dims()), path.display());
    Err(Error::NonFinite { name: name.to_owned(), value: value.into(), at })
}

/// Index of the first number that is not finite.
fn first<const N: usize>(bytes: &[u8], finite: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    let in_chunk = |(chunk, bytes): (usize, &[u8])| {
        let (numbers, _) = bytes.as_chunks::<N>();
        // One result for the whole chunk needs no branch per number.
        if numbers.iter().fold(true, |all, &number| all & finite(number)) {
            return None;
        }
        let index = numbers.iter().position(|&number| !finite(number))?;
        Some(chunk * (CHUNK / N) + index)
    };
    bytes.par_chunks(CHUNK).enumerate().map(in_chunk).find_map_first(|found| found)
}

/// The first number of `bytes`.
fn decoded(dtype: Dtype, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (Dtype::F64, &[a, b, c, d, e, f, g, h, ..]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (Dtype::F32, &[a, b, c, d, ..]) => f32::from_le_bytes([a, b, c, d]).into(),
        (Dtype::BF16, &[a, b, ..]) => bf16::from_le_bytes([a, b]).into(),
        (Dtype::F16, &[a, b, ..]) => f16::from_le_bytes([a, b]).into(),
        _ => f64::NAN,
    }
}

/// The index in every dimension of element `index` in row-major order.
fn position(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut position = vec![0; shape.len()];
    for (place, &size) in position.iter_mut().zip(shape).rev() {
        *place = index % size.max(1);
        index /= size.max(1);
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_that_is_not_finite_is_named_with_its_place() {
        let path = Path::new("x.safetensors");
        let mut numbers = vec![1.5f32; 700_000];
        let check = |numbers: &[f32]| {
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            check_finite(path, "w", Dtype::F32, &[1000, 700], &bytes).map_err(|e| e.to_string())
        };
        assert_eq!(check(&numbers), Ok(()));
        numbers[699_999] = f32::NEG_INFINITY;
        numbers[600_003] = f32::NAN;
        assert_eq!(check(&numbers).unwrap_err(), "`w` is NaN at [857, 103] in x.safetensors");
        numbers[600_003] = -0.0;
        assert_eq!(check(&numbers).unwrap_err(), "`w` is -inf at [999, 699] in x.safetensors");
    }

    #[test]
    fn every_float_type_is_checked() {
        let path = Path::new("x");
        let cases = [
            (Dtype::F16, f16::INFINITY.to_le_bytes().to_vec()),
            (Dtype::BF16, bf16::NAN.to_le_bytes().to_vec()),
            (Dtype::F64, f64::NAN.to_le_bytes().to_vec()),
        ];
        for (dtype, bytes) in cases {
            assert!(check_finite(path, "w", dtype, &[1], &bytes).is_err(), "{dtype:?}");
        }
        let largest = [f16::MAX.to_le_bytes(), f16::MIN.to_le_bytes()].concat();
        assert!(check_finite(path, "w", Dtype::F16, &[2], &largest).is_ok());
        assert!(check_finite(path, "w", Dtype::I64, &[1], &[255; 8]).is_ok());
        assert!(check_finite(path, "w", Dtype::F32, &[0], &[]).is_ok());
    }
}
