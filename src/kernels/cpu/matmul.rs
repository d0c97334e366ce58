//! Multiplication of strided matrices on the CPU.
//!
//! The `gemm` crate does it, except on processors with AVX-512: that crate's AVX-512 code requires
//! a newer compiler than this crate's minimum. There, [`packed`](crate::kernels::cpu::packed) is
//! used for all but small f32 products.

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
    let threads = threads_for((out.rows, out.cols, a.cols), threads);
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

/// Computes the product with this crate's AVX-512 code; false if the type, the size or the
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
    let (Some(left), Some(right)) = (T::as_f32(a.data), T::as_f32(b.data)) else { return false };
    let rows = out.rows;
    let cols = out.cols;
    let row_stride = out.row_stride;
    let Some(data) = T::as_f32_mut(out.data) else { return false };
    let mut out = ViewMut { data, rows, cols, row_stride };
    let alpha = alpha.to_f64() as f32;
    packed::product::<Single, _, _>(
        &mut out,
        a.with(left),
        b.with(right),
        alpha,
        accumulate,
        threads,
    );
    true
}
