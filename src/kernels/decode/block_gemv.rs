//! Products of quantised rows with panels: the rows are converted a block of columns at a time, and
//! all panels use the converted numbers while they are in the cache.
//!
//! Every sum has the terms, the order and therefore the bits of the same product with f32 weights.

use crate::kernels::cpu::float::vectorised;
use crate::kernels::decode::gemv::{tile, Panels, DEPTH, LANES};
use crate::kernels::decode::rows::row_bytes;
use crate::kernels::quantized::unpack::unpack;
use candle_core::quantized::GgmlDType;

/// Rows that are converted at a time.
const GROUP: usize = 12;

/// out `[o, registers]` = W xᵀ for rows of W in blocks of `dtype`. Meanwhile the memory at `next`,
/// which is read afterwards, is prefetched.
pub(super) fn multiply_blocks(
    dtype: GgmlDType,
    w: &[u8],
    next: *const u8,
    x: &Panels,
    out: &mut [[f32; LANES]],
) {
    let size = GROUP * row_bytes(dtype, x.depth);
    let mut buffer = [[0.0; DEPTH]; GROUP];
    for (rows, out) in w.chunks(size).zip(out.chunks_mut(GROUP * x.registers())) {
        multiply_group::<f32>(dtype, rows, next, x, &mut buffer, out);
    }
}

vectorised! {
    fn multiply_group<T, FMA>(
        dtype: GgmlDType,
        w: &[u8],
        next: *const u8,
        x: &Panels,
        buffer: &mut [[f32; DEPTH]; GROUP],
        out: &mut [[f32; LANES]],
    ) {
        for start in (0..x.depth).step_by(DEPTH) {
            let end = x.depth.min(start + DEPTH);
            let columns = row_bytes(dtype, start)..row_bytes(dtype, end);
            let rows = w.chunks_exact(row_bytes(dtype, x.depth));
            for (buffer, row) in buffer.iter_mut().zip(rows) {
                unpack(dtype, &row[columns.clone()], &mut buffer[..end - start]);
            }
            match x.width {
                1 => {
                    let done = add_tiles::<4, 3, 1, FMA>(x, start..end, next, buffer, out, 0);
                    add_tiles::<1, 1, 1, FMA>(x, start..end, next, buffer, out, done);
                }
                _ => {
                    let done = add_tiles::<2, 3, 2, FMA>(x, start..end, next, buffer, out, 0);
                    add_tiles::<1, 1, 2, FMA>(x, start..end, next, buffer, out, done);
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
    columns: std::ops::Range<usize>,
    next: *const u8,
    buffer: &[[f32; DEPTH]; GROUP],
    out: &mut [[f32; LANES]],
    mut first: usize,
) -> usize {
    let registers = x.registers();
    while first + B * R <= out.len() / registers {
        let rows = (buffer[first..].as_flattened(), DEPTH);
        for panel in 0..registers / P {
            let x = &x.panel::<P>(panel)[columns.clone()];
            let sums = tile::<B, R, P, u8, FMA>(x, rows, next);
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
