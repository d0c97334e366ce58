//! Multiplication of strided matrices on the CPU.
//!
//! The `gemm` crate does it, except on processors with AVX-512: that crate's AVX-512 code requires
//! a newer compiler than this crate's minimum. There, [`packed`](crate::kernels::cpu::packed) is
//! used for all but small f32 products, and [`amx`](crate::kernels::cpu::amx) for
//! large ones where the processor has AMX.

use crate::kernels::cpu::amx::product as tiled;
use crate::kernels::cpu::amx::Precision;
use crate::kernels::cpu::float::Float;
use crate::kernels::cpu::packed;
use crate::kernels::cpu::tile;
use crate::kernels::cpu::tile::Single;
use crate::kernels::cpu::view::{View, ViewMut};
use gemm::Parallelism;

/// Multiply-adds below which a product runs on the calling thread: waking another one takes longer.
const THREADING: usize = 1 << 22;

/// Returns the number of threads, 1 or `threads`, for a product of this many rows, columns and
/// terms.
pub(crate) fn threads_for((rows, columns, terms): (usize, usize, usize), threads: usize) -> usize {
    if rows * columns * terms < THREADING {
        1
    } else {
        threads
    }
}

/// out = α a b, or out += α a b if `accumulate`; with `threads` > 1 it runs on the rayon pool.
///
/// Each element is summed in an order that does not depend on the number of threads.
#[allow(unsafe_code)]
pub(crate) fn matmul<T: Float>(
    mut out: ViewMut<'_, T>,
    a: View<'_, T>,
    b: View<'_, T>,
    alpha: T,
    accumulate: bool,
    threads: usize,
) {
    assert!(out.rows == a.rows && out.cols == b.cols && a.cols == b.rows, "matmul shapes");
    let size = (out.rows, out.cols, a.cols);
    let threads = threads_for(size, threads);
    let scaling = (alpha.to_f64() as f32, accumulate);
    let large = tiled::worth_it(size);
    if large && tiled_product(&mut out, &[(a, b)], scaling, Precision::Full, threads) {
        return;
    }
    if packed_product(&mut out, a, b, alpha, accumulate, threads) {
        return;
    }
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let one = T::from_f64(1.0);
    // SAFETY: the constructors of the views checked that every element (row, column) lies inside
    // its slice, `out` is uniquely borrowed and its rows do not overlap, and the shapes agree.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            one,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Computes the product with this crate's code for AVX-512; false if the type, the size or the
/// processor rules that out.
fn packed_product<T: Float>(
    out: &mut ViewMut<'_, T>,
    a: View<'_, T>,
    b: View<'_, T>,
    alpha: T,
    accumulate: bool,
    threads: usize,
) -> bool {
    if !(tile::instructions()[0] && packed::worth_it((out.rows, out.cols, a.cols))) {
        return false;
    }
    let (Some(a), Some(b)) = (as_f32(a), as_f32(b)) else { return false };
    let Some(mut out) = as_f32_mut(out) else { return false };
    let alpha = alpha.to_f64() as f32;
    packed::product::<Single, _, _>(&mut out, a, b, alpha, accumulate, threads);
    true
}

/// out = Σ a b over the pairs (a, b), or out += the same if `accumulate`; the pairs after the first
/// have far fewer terms. [`Precision::Reduced`] allows, but does not require, fewer bits.
pub(crate) fn matmul_sum<T: Float>(
    mut out: ViewMut<'_, T>,
    pairs: &[(View<'_, T>, View<'_, T>)],
    accumulate: bool,
    precision: Precision,
) {
    let terms = pairs.first().map_or(0, |(a, _)| a.cols);
    let size = (out.rows, out.cols, terms);
    let threads = threads_for(size, rayon::current_num_threads());
    let large = tiled::worth_it(size);
    if large && tiled_product(&mut out, pairs, (1.0, accumulate), precision, threads) {
        return;
    }
    for (i, &(a, b)) in pairs.iter().enumerate() {
        matmul(out.reborrow(), a, b, T::from_f64(1.0), accumulate || i > 0, threads);
    }
}

/// Computes the products with this crate's code for AMX; false if the type is not f32.
fn tiled_product<T: Float>(
    out: &mut ViewMut<'_, T>,
    pairs: &[(View<'_, T>, View<'_, T>)],
    scaling: (f32, bool),
    precision: Precision,
    threads: usize,
) -> bool {
    let in_f32 = pairs.iter().map(|&(a, b)| as_f32(a).zip(as_f32(b)));
    let (Some(pairs), Some(out)) = (in_f32.collect::<Option<Vec<_>>>(), as_f32_mut(out)) else {
        return false;
    };
    tiled::product(out, &pairs, scaling, precision, threads);
    true
}

fn as_f32<'a, T: Float>(view: View<'a, T>) -> Option<View<'a, f32>> {
    T::as_f32(view.data).map(|data| view.with(data))
}

fn as_f32_mut<'a, T: Float>(out: &'a mut ViewMut<'_, T>) -> Option<ViewMut<'a, f32>> {
    let ViewMut { rows, cols, row_stride, .. } = *out;
    T::as_f32_mut(out.data).map(|data| ViewMut { data, rows, cols, row_stride })
}
