//! Conversion of GGML's quantised blocks to floats, bit for bit as candle's.
//!
//! A block holds 32 or 256 numbers as small integers q with scales: d q, or d q + m. The formats of
//! 256 numbers have parts of 16 or 32, whose scales are small integers themselves.

use crate::kernels::cpu::float::{vectorised, Float};
use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

/// Returns true for the formats that weights can have.
pub(crate) fn supports(dtype: GgmlDType) -> bool {
    use GgmlDType::{BF16, F16, F32, Q8_1};
    !matches!(dtype, F32 | F16 | BF16 | Q8_1)
}

/// Converts whole blocks of a format that [`supports`] allows; `out` has the length of their
/// numbers.
pub(crate) fn unpack<T: Float>(dtype: GgmlDType, blocks: &[u8], out: &mut [T]) {
    let numbers = blocks.len() / dtype.type_size() * dtype.block_size();
    assert_eq!(out.len(), numbers, "numbers of the blocks");
    match dtype {
        GgmlDType::Q4_0 => q4_0(blocks, out),
        GgmlDType::Q4_1 => q4_1(blocks, out),
        GgmlDType::Q5_0 => q5_0(blocks, out),
        GgmlDType::Q5_1 => q5_1(blocks, out),
        GgmlDType::Q8_0 => q8_0(blocks, out),
        GgmlDType::Q2K => q2_k(blocks, out),
        GgmlDType::Q3K => q3_k(blocks, out),
        GgmlDType::Q4K => q4_k(blocks, out),
        GgmlDType::Q5K => q5_k(blocks, out),
        GgmlDType::Q6K => q6_k(blocks, out),
        GgmlDType::Q8K => q8_k(blocks, out),
        other => panic!("{other:?} is not a format of quantised weights"),
    }
}

/// [`unpack`] of rows of `width` numbers, on all threads if there are many.
pub(crate) fn unpack_rows<T: Float>(dtype: GgmlDType, blocks: &[u8], width: usize, out: &mut [T]) {
    /// Rows per task.
    const TASK: usize = 32;
    if out.len() <= TASK * width {
        return unpack(dtype, blocks, out);
    }
    let bytes = TASK * width / dtype.block_size() * dtype.type_size();
    let tasks = blocks.par_chunks(bytes).zip(out.par_chunks_mut(TASK * width));
    tasks.for_each(|(blocks, out)| unpack(dtype, blocks, out));
}

/// Converts an f16 without a branch, so that it can be inlined into loops. It computes with no
/// subnormal f32, which is slow on some processors.
#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let exponent = bits & 0x7c00;
    let subnormal = (bits & 0x3ff) as f32 * f32::from_bits((127 - 24) << 23);
    let normal = ((bits & 0x7fff) << 13) + ((127 - 15) << 23);
    let infinite = if exponent == 0x7c00 { 0x7f80_0000 } else { 0 };
    let value = if exponent == 0 { subnormal.to_bits() } else { normal | infinite };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

vectorised! {
    fn q8_0<T>(blocks: &[u8], out: &mut [T]) {
        for ([d0, d1, q @ ..], out) in blocks.as_chunks::<34>().0.iter().zip(thirty_twos(out)) {
            let d = half([*d0, *d1]);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = T::from_f32(f32::from(q as i8) * d);
            }
        }
    }
}

fn thirty_twos<T>(out: &mut [T]) -> &mut [[T; 32]] {
    out.as_chunks_mut().0
}

/// Shifts that leave the lower halves of sixteen bytes, then the upper ones, in the lowest bits.
const HALVES: [u32; 32] = {
    let mut shifts = [0; 32];
    let mut j = 16;
    while j < 32 {
        shifts[j] = 4;
        j += 1;
    }
    shifts
};

/// Converts the halves of bytes: the lower ones first, then the upper ones.
#[inline(always)]
fn nibbles<T: Float>(q: &[u8; 16], out: &mut [T; 32], number: impl Fn(usize, i32) -> f32) {
    // One loop over the bytes twice, which vectorises; two loops of sixteen do not.
    let twice = [*q; 2];
    let bytes = twice.as_flattened();
    for (j, out) in out.iter_mut().enumerate() {
        let nibble = u32::from(bytes[j]) >> HALVES[j] & 15;
        *out = T::from_f32(number(j, nibble as i32));
    }
}

vectorised! {
    fn q4_0<T>(blocks: &[u8], out: &mut [T]) {
        for ([d0, d1, q @ ..], out) in blocks.as_chunks::<18>().0.iter().zip(thirty_twos(out)) {
            let d = half([*d0, *d1]);
            nibbles(q, out, |_, q| (q - 8) as f32 * d);
        }
    }
}

vectorised! {
    fn q4_1<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<20>().0.iter().zip(thirty_twos(out)) {
            let [d0, d1, m0, m1, q @ ..] = block;
            let d = half([*d0, *d1]);
            let m = half([*m0, *m1]);
            nibbles(q, out, |_, q| q as f32 * d + m);
        }
    }
}

/// The fifth bit of number `j`, at its place.
#[inline(always)]
fn fifth(bits: u32, j: usize) -> i32 {
    ((bits >> j & 1) << 4) as i32
}

vectorised! {
    fn q5_0<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<22>().0.iter().zip(thirty_twos(out)) {
            let [d0, d1, h0, h1, h2, h3, q @ ..] = block;
            let d = half([*d0, *d1]);
            let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
            nibbles(q, out, |j, q| (q + fifth(high, j) - 16) as f32 * d);
        }
    }
}

vectorised! {
    fn q5_1<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<24>().0.iter().zip(thirty_twos(out)) {
            let [d0, d1, m0, m1, h0, h1, h2, h3, q @ ..] = block;
            let d = half([*d0, *d1]);
            let m = half([*m0, *m1]);
            let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
            nibbles(q, out, |j, q| (q + fifth(high, j)) as f32 * d + m);
        }
    }
}

/// Scale and minimum, six bits each, of part `j` of a block of Q4_K or Q5_K.
#[inline(always)]
fn six_bits(j: usize, packed: &[u8]) -> [f32; 2] {
    let both = if j < 4 {
        [packed[j] & 63, packed[j + 4] & 63]
    } else {
        [packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4]
    };
    both.map(f32::from)
}

/// out = (d s) q − (m t) for the block's scales (d, m) and a part's (s, t).
#[inline(always)]
fn affine<T: Float>([d, m]: [f32; 2], [s, t]: [f32; 2], out: &mut [T], q: impl Fn(usize) -> u8) {
    let scale = d * s;
    let minimum = m * t;
    for (j, out) in out.iter_mut().enumerate() {
        *out = T::from_f32(scale * f32::from(q(j)) - minimum);
    }
}

vectorised! {
    fn q4_k<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let [d0, d1, m0, m1, rest @ ..] = block;
            let scales = [half([*d0, *d1]), half([*m0, *m1])];
            let (packed, q) = rest.split_at(12);
            let halves = out.as_chunks_mut::<64>().0.iter_mut().zip(q.as_chunks::<32>().0);
            for (pair, (out, q)) in halves.enumerate() {
                let (lower, upper) = out.split_at_mut(32);
                affine(scales, six_bits(2 * pair, packed), lower, |j| q[j] & 15);
                affine(scales, six_bits(2 * pair + 1, packed), upper, |j| q[j] >> 4);
            }
        }
    }
}

vectorised! {
    fn q5_k<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let [d0, d1, m0, m1, rest @ ..] = block;
            let scales = [half([*d0, *d1]), half([*m0, *m1])];
            let (packed, rest) = rest.split_at(12);
            let (high, q) = rest.split_at(32);
            let halves = out.as_chunks_mut::<64>().0.iter_mut().zip(q.as_chunks::<32>().0);
            for (pair, (out, q)) in halves.enumerate() {
                let at = 2 * pair;
                let bit = |j: usize, at: usize| (high[j] >> at & 1) << 4;
                let (lower, upper) = out.split_at_mut(32);
                affine(scales, six_bits(at, packed), lower, |j| q[j] & 15 | bit(j, at));
                affine(scales, six_bits(at + 1, packed), upper, |j| q[j] >> 4 | bit(j, at + 1));
            }
        }
    }
}

vectorised! {
    fn q2_k<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<84>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let [parts @ .., d0, d1, m0, m1] = block;
            let d = half([*d0, *d1]);
            let m = half([*m0, *m1]);
            let (scales, low) = parts.split_at(16);
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scales = [scales[part] & 15, scales[part] >> 4].map(f32::from);
                let low = &low[part / 8 * 32 + part % 2 * 16..][..16];
                affine([d, m], scales, out, |j| low[j] >> (part % 8 / 2 * 2) & 3);
            }
        }
    }
}

vectorised! {
    fn q3_k<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let [parts @ .., d0, d1] = block;
            let d = half([*d0, *d1]);
            let (high, rest) = parts.split_at(32);
            let (low, scales) = rest.split_at(64);
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let lower = if part < 8 { scales[part] & 15 } else { scales[part - 8] >> 4 };
                let upper = scales[8 + part % 4] >> (part / 4 * 2) & 3;
                let scale = d * (f32::from(lower | upper << 4) - 32.0);
                let low = &low[part / 8 * 32 + part % 2 * 16..][..16];
                let high = &high[part % 2 * 16..][..16];
                for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                    let q = low >> (part % 8 / 2 * 2) & 3 | (high >> (part / 2) & 1) << 2;
                    *out = T::from_f32(scale * (i32::from(q) - 4) as f32);
                }
            }
        }
    }
}

vectorised! {
    fn q6_k<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let [parts @ .., d0, d1] = block;
            let d = half([*d0, *d1]);
            let (low, rest) = parts.split_at(128);
            let (high, scales) = rest.split_at(64);
            // Sixteen parts of sixteen numbers each.
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = d * f32::from(scales[part] as i8);
                let quarter = part % 8 / 2;
                let low = &low[part / 8 * 64 + quarter % 2 * 32 + part % 2 * 16..][..16];
                let high = &high[part / 8 * 32 + part % 2 * 16..][..16];
                for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                    let q = low >> (4 * (quarter / 2)) & 15 | (high >> (2 * quarter) & 3) << 4;
                    *out = T::from_f32(scale * (i32::from(q) - 32) as f32);
                }
            }
        }
    }
}

vectorised! {
    fn q8_k<T>(blocks: &[u8], out: &mut [T]) {
        for (block, out) in blocks.as_chunks::<292>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let [d0, d1, d2, d3, q @ ..] = block;
            let d = f32::from_le_bytes([*d0, *d1, *d2, *d3]);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = T::from_f32(d * f32::from(q as i8));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::half::f16;
    use candle_core::CpuStorage;
    use std::borrow::Cow;

    #[test]
    fn every_f16_is_converted_to_its_value() {
        for bits in 0..=u16::MAX {
            let want = f16::from_bits(bits).to_f32();
            let got = half(bits.to_le_bytes());
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#x}: {got}, {want}");
            assert_eq!(got.is_sign_negative(), want.is_sign_negative(), "{bits:#x}");
        }
    }

    /// Blocks of random bytes with finite scales, whose upper bytes are at `scales`.
    fn blocks(dtype: GgmlDType, scales: &[usize], count: usize) -> Vec<u8> {
        let size = dtype.type_size();
        let next = |s: &u32| Some(s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let states = std::iter::successors(Some(7u32), next);
        let mut all: Vec<u8> = states.map(|s| (s >> 24) as u8).take(count * size).collect();
        for block in all.chunks_exact_mut(size) {
            for &at in scales {
                block[at] &= 0xbf;
            }
        }
        all
    }

    #[test]
    fn random_blocks_have_the_bits_of_candles_conversion() {
        let formats: [(GgmlDType, &[usize]); 11] = [
            (GgmlDType::Q4_0, &[1]),
            (GgmlDType::Q4_1, &[1, 3]),
            (GgmlDType::Q5_0, &[1]),
            (GgmlDType::Q5_1, &[1, 3]),
            (GgmlDType::Q8_0, &[1]),
            (GgmlDType::Q2K, &[81, 83]),
            (GgmlDType::Q3K, &[109]),
            (GgmlDType::Q4K, &[1, 3]),
            (GgmlDType::Q5K, &[1, 3]),
            (GgmlDType::Q6K, &[209]),
            (GgmlDType::Q8K, &[3]),
        ];
        for (dtype, scales) in formats {
            let bytes = blocks(dtype, scales, 40);
            let mut got = vec![0f32; 40 * dtype.block_size()];
            unpack(dtype, &bytes, &mut got);
            let blocks = dtype.from_data(Cow::Borrowed(&bytes));
            let CpuStorage::F32(want) = blocks.dequantize(got.len()).unwrap() else {
                panic!("candle converts to f32")
            };
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want), "{dtype:?}");
            let mut wide = vec![0f64; got.len()];
            unpack(dtype, &bytes, &mut wide);
            assert!(wide.iter().zip(&got).all(|(a, b)| *a == f64::from(*b)), "{dtype:?}");
        }
    }

    #[test]
    fn formats_that_are_not_of_weights_are_excluded() {
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_1] {
            assert!(!supports(dtype));
        }
    }
}
