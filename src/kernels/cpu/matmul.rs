//! Multiplication of strided matrices on the CPU.
//!
//! The `gemm` crate does it, except on processors with AVX-512: that crate's AVX-512 code requires
//! a newer compiler than this crate's minimum. There, [`packed`](crate::kernels::cpu::packed) is
//! used for all but small f32 products, and [`amx`](crate::kernels::cpu::amx) for
//! large ones where the processor has AMX.

use crate::kernels::cpu::amx::product as tiled;
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

/// Computes the product with this crate's code for AVX-512 or AMX; false if the type, the size or
/// the processor rules that out.
fn packed_product<T: Float>(
    out: &mut ViewMut<'_, T>,
    a: View<'_, T>,
    b: View<'_, T>,
    alpha: T,
    accumulate: bool,
    threads: usize,
) -> bool {
    let size = (out.rows, out.cols, a.cols);
    if !(tile::instructions()[0] && packed::worth_it(size)) {
        return false;
    }
    let (Some(a), Some(b)) = (as_f32(a), as_f32(b)) else { return false };
    let Some(mut out) = as_f32_mut(out) else { return false };
    let alpha = alpha.to_f64() as f32;
    if tiled::worth_it(size) {
        tiled::product(out, &[(a, b)], alpha, accumulate, threads);
    } else {
        packed::product::<Single, _, _>(&mut out, a, b, alpha, accumulate, threads);
    }
    true
}

/// out = a b + c d, or out += a b + c d if `accumulate`, where c d has far fewer terms than a b.
pub(crate) fn matmul_sum<T: Float>(
    mut out: ViewMut<'_, T>,
    (a, b): (View<'_, T>, View<'_, T>),
    (c, d): (View<'_, T>, View<'_, T>),
    accumulate: bool,
) {
    let threads = rayon::current_num_threads();
    let size = (out.rows, out.cols, a.cols);
    if tiled::worth_it(size) {
        let pairs = (as_f32(a).zip(as_f32(b)), as_f32(c).zip(as_f32(d)));
        if let ((Some(first), Some(second)), Some(out)) = (pairs, as_f32_mut(&mut out)) {
            let threads = threads_for(size, threads);
            return tiled::product(out, &[first, second], 1.0, accumulate, threads);
        }
    }
    let one = T::from_f64(1.0);
    matmul(out.reborrow(), a, b, one, accumulate, threads);
    matmul(out, c, d, one, true, threads);
}

/// out = a b for b of few columns.
pub(crate) fn matmul_narrow<T: Float>(
    mut out: ViewMut<'_, T>,
    a: View<'_, T>,
    b: View<'_, T>,
    threads: usize,
) {
    let size = (out.rows, out.cols, a.cols);
    if tiled::worth_it_narrow(size) {
        if let (Some(a), Some(b), Some(out)) = (as_f32(a), as_f32(b), as_f32_mut(&mut out)) {
            let threads = threads_for(size, threads);
            return tiled::product(out, &[(a, b)], 1.0, false, threads);
        }
    }
    matmul(out, a, b, T::from_f64(1.0), false, threads);
}

fn as_f32<'a, T: Float>(view: View<'a, T>) -> Option<View<'a, f32>> {
    T::as_f32(view.data).map(|data| view.with(data))
}

fn as_f32_mut<'a, T: Float>(out: &'a mut ViewMut<'_, T>) -> Option<ViewMut<'a, f32>> {
    let ViewMut { rows, cols, row_stride, .. } = *out;
    T::as_f32_mut(out.data).map(|data| ViewMut { data, rows, cols, row_stride })
}
