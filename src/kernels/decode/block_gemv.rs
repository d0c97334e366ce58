//! Products of quantised rows with panels: the rows are converted a block of columns at a time, and
//! all panels use the converted numbers while they are in the cache.
//!
//! Every sum has the terms, the order and therefore the bits of the same product with f32 weights,
//! except on processors with matrix tiles ([`amx`]).

use crate::kernels::cpu::float::{prefetch, vectorised};
use crate::kernels::decode::amx;
use crate::kernels::decode::gemv::{tile, Panels, DEPTH, LANES};
use crate::kernels::decode::rows::row_bytes;
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::decode::wide_tile;
use crate::kernels::decode::wide_tile::{COLUMNS, GROUP, STRIDE};
use crate::kernels::quantized::unpack::unpack;
use candle_core::quantized::GgmlDType;
use std::ops::Range;

/// Rows that a thread should take a multiple of: of a tile of either kind.
pub(super) const TOGETHER: usize = 48;

/// out `[o, registers]` = W xᵀ for rows of W in blocks of `dtype`. Meanwhile the memory at `next`,
/// which is read afterwards, is prefetched.
pub(super) fn multiply_blocks(
    dtype: GgmlDType,
    w: &[u8],
    next: *const u8,
    x: &Panels,
    out: &mut [[f32; LANES]],
) {
    if amx::multiplies(dtype) {
        return amx::multiply(dtype, w, (x, x.parts()), out);
    }
    let size = GROUP * row_bytes(dtype, x.depth);
    let wide = x.width == 2 && wide_tile::supported();
    let mut buffer = Scratch::new(GROUP * if wide { STRIDE } else { DEPTH });
    let mut sums = Scratch::new(if wide { GROUP * x.registers() * LANES } else { 0 });
    for (rows, out) in w.chunks(size).zip(out.chunks_mut(GROUP * x.registers())) {
        let after = rows.as_ptr_range().end;
        let next = if after < w.as_ptr_range().end { after } else { next };
        if wide {
            multiply_wide(dtype, (rows, next), x, &mut buffer, (&mut sums, out));
        } else {
            multiply_group::<f32>(dtype, (rows, next), x, &mut buffer, out);
        }
    }
}

/// Converts columns of rows to every `stride` numbers of `buffer`. The same part of the memory at
/// `next` is prefetched.
#[inline(always)]
fn convert(
    dtype: GgmlDType,
    (w, next): (&[u8], *const u8),
    columns: &Range<usize>,
    depth: usize,
    (buffer, stride): (&mut [f32], usize),
) {
    /// Bytes of a cache line.
    const LINE: usize = 64;
    let size = row_bytes(dtype, depth);
    let bytes = row_bytes(dtype, columns.start)..row_bytes(dtype, columns.end);
    let rows = w.chunks_exact(size).zip(buffer.chunks_mut(stride));
    for (row, (w, buffer)) in rows.enumerate() {
        for line in bytes.clone().step_by(LINE) {
            prefetch(next.wrapping_add(row * size + line));
        }
        unpack(dtype, &w[bytes.clone()], &mut buffer[..columns.len()]);
    }
}

/// [`multiply_group`] with tiles of AVX-512, for panels of sixteen rows. `sums` holds the running
/// sums over a block of [`DEPTH`] columns, of which less is converted at a time.
fn multiply_wide(
    dtype: GgmlDType,
    rows: (&[u8], *const u8),
    x: &Panels,
    buffer: &mut [f32],
    (sums, out): (&mut [f32], &mut [[f32; LANES]]),
) {
    let panels = x.registers() / 2;
    let count = out.len() / x.registers();
    let sums = &mut sums.as_chunks_mut::<{ 2 * LANES }>().0[..count * panels];
    let out = out.as_flattened_mut().as_chunks_mut::<{ 2 * LANES }>().0;
    sums.fill([0.0; 2 * LANES]);
    for start in (0..x.depth).step_by(COLUMNS) {
        let end = x.depth.min(start + COLUMNS);
        convert(dtype, rows, &(start..end), x.depth, (&mut *buffer, STRIDE));
        for (panel, sums) in sums.chunks_exact_mut(count).enumerate() {
            let x = &x.panel::<2>(panel)[start..end];
            wide_tile::add(x.as_flattened().as_flattened().as_chunks().0, buffer, sums);
        }
        if end.is_multiple_of(DEPTH) || end == x.depth {
            for (panel, sums) in sums.chunks_exact_mut(count).enumerate() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let out = &mut out[row * panels + panel];
                    let before = |out: f32| if end <= DEPTH { 0.0 } else { out };
                    out.iter_mut().zip(&*sums).for_each(|(out, sum)| *out = before(*out) + sum);
                    *sums = [0.0; 2 * LANES];
                }
            }
        }
    }
}

vectorised! {
    fn multiply_group<T, FMA>(
        dtype: GgmlDType,
        rows: (&[u8], *const u8),
        x: &Panels,
        buffer: &mut [f32],
        out: &mut [[f32; LANES]],
    ) {
        for start in (0..x.depth).step_by(DEPTH) {
            let columns = start..x.depth.min(start + DEPTH);
            convert(dtype, rows, &columns, x.depth, (&mut *buffer, DEPTH));
            match x.width {
                1 => {
                    let done = add_tiles::<4, 3, 1, FMA>(x, &columns, buffer, out, 0);
                    add_tiles::<1, 1, 1, FMA>(x, &columns, buffer, out, done);
                }
                _ => {
                    let done = add_tiles::<2, 3, 2, FMA>(x, &columns, buffer, out, 0);
                    add_tiles::<1, 1, 2, FMA>(x, &columns, buffer, out, done);
                }
            }
        }
    }
}

/// Multiplies `B` · `R` converted rows at a time, from row `first` on, with a block of columns of
/// all panels of `P` registers. Returns the first row that is left.
#[inline(always)]
fn add_tiles<const B: usize, const R: usize, const P: usize, const FMA: bool>(
    x: &Panels,
    columns: &Range<usize>,
    buffer: &[f32],
    out: &mut [[f32; LANES]],
    mut first: usize,
) -> usize {
    let registers = x.registers();
    while first + B * R <= out.len() / registers {
        let rows = (&buffer[first * DEPTH..], DEPTH);
        for panel in 0..registers / P {
            let x = &x.panel::<P>(panel)[columns.clone()];
            let sums = tile::<B, R, P, u8, FMA>(x, rows, rows.0.as_ptr().cast());
            for (j, sums) in sums.as_flattened().iter().enumerate() {
                let at = (first + j) * registers + panel * P;
                let out = out[at..at + P].as_flattened_mut();
                let before = |out: f32| if columns.start == 0 { 0.0 } else { out };
                out.iter_mut()
                    .zip(sums.as_flattened())
                    .for_each(|(out, sum)| *out = before(*out) + sum);
            }
        }
        first += B * R;
    }
    first
}

#[cfg(test)]
mod tests {
    use crate::kernels::decode::amx;
    use crate::kernels::decode::gemv::tests::numbers;
    use crate::kernels::decode::gemv::Panels;
    use crate::kernels::decode::rows::Rows;
    use crate::kernels::decode::team::Team;
    use crate::kernels::quantized::matrix::tests::quantized;
    use candle_core::quantized::GgmlDType;

    fn product(x: &[f32], i: usize, w: Rows<'_>, threads: usize) -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut y = vec![0.0; x.len() / i * w.count(i)];
        pool.install(|| {
            Team::awake(|team| Panels::new(x, i).products(team, [w], [(&mut y, false)]));
        });
        y
    }

    #[test]
    fn products_are_those_of_the_converted_weights() {
        use GgmlDType::{Q2K, Q4K, Q4_0, Q4_1, Q5_0, Q5_1, Q6K, Q8_0};
        for dtype in [Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q4K, Q6K] {
            let block = dtype.block_size();
            for (n, o, blocks) in [(1, 1, 1), (3, 50, 2), (8, 24, 1), (16, 97, 3), (40, 35, 18)] {
                let i = block * blocks;
                let x = numbers(n * i, 1);
                let w = quantized(dtype, (o, i), 2);
                let values = w.values();
                let got = product(&x, i, Rows::Blocks(dtype, w.bytes()), 2);
                let same = product(&x, i, Rows::F32(&values), 2);
                for (at, got) in got.iter().enumerate() {
                    let terms = || x[at / o * i..][..i].iter().zip(&values[at % o * i..][..i]);
                    let want: f64 = terms().map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let size: f64 = terms().map(|(&x, &w)| f64::from((x * w).abs())).sum();
                    let gap = (f64::from(*got) - want).abs();
                    assert!(gap <= 1e-6 * size, "{dtype:?} {n} {o} {i} at {at}: {gap} of {size}");
                }
                assert!(amx::multiplies(dtype) || got == same, "{dtype:?} {n} {o} {i}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_beside_any_others_and_with_any_threads() {
        let n = 35;
        let o = 700;
        let i = 256;
        let x = numbers(n * i, 3);
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q6K] {
            let w = quantized(dtype, (o, i), 4);
            let product =
                |x: &[f32], threads| product(x, i, Rows::Blocks(dtype, w.bytes()), threads);
            let all = product(&x, 3);
            assert_eq!(all, product(&x, 1));
            for r in [0, 7, 8, 15, 16, 34] {
                let alone = product(&x[r * i..(r + 1) * i], 2);
                assert_eq!(alone, all[r * o..(r + 1) * o], "{dtype:?}, row {r}");
            }
        }
    }

    #[test]
    fn numbers_of_every_size_are_multiplied_exactly() {
        let i = 64;
        let mut x: Vec<f32> = numbers(16 * i, 5);
        for (at, x) in x.iter_mut().enumerate() {
            *x *= 10f32.powi(at as i32 % 61 - 30);
        }
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4_1] {
            let w = quantized(dtype, (20, i), 6);
            let values = w.values();
            let got = product(&x, i, Rows::Blocks(dtype, w.bytes()), 1);
            for (at, got) in got.iter().enumerate() {
                let x = &x[at / 20 * i..][..i];
                let w = &values[at % 20 * i..][..i];
                let want: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                let largest = w.iter().fold(0f32, |most, w| most.max(w.abs()));
                let size: f64 = x.iter().map(|x| f64::from((x * largest).abs())).sum();
                assert!((f64::from(*got) - want).abs() <= 1e-6 * size, "{dtype:?} at {at}");
            }
        }
    }
}
