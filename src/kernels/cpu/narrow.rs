//! Products with matrices of few columns, such as those of LoRA adapters. The other factor is read
//! once, where it lies: to pack it would take longer than to multiply it.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{prefetch, vectorised, Float};
use crate::kernels::cpu::view::View;
use rayon::prelude::*;
use std::array::from_fn;

/// Columns that are computed at a time: one register of AVX-512 in f32.
const LANES: usize = 16;
/// Rows, or columns, whose sums stay in registers.
const STEP: usize = 6;
/// Rows of a task, and rows that are read before the next columns.
const ROWS: usize = 16 * STEP;
/// Numbers between those that are multiplied and those that are prefetched.
const AHEAD: usize = 64;

/// Computes x m for x `[n, k]` and m `[k, r]`: `[n, r]`.
pub(crate) fn narrow_product<T: Float>(x: View<'_, T>, m: View<'_, T>) -> Vec<T> {
    assert!(x.cols == m.rows && x.col_stride == 1, "narrow product: shapes");
    by_lanes(x.rows, m, |m, out| {
        let tasks = out.par_chunks_mut(ROWS).zip(x.data.par_chunks(ROWS * x.row_stride));
        tasks.for_each(|(out, x_rows)| multiply(x_rows, x.row_stride, m, out));
    })
}

/// Computes xᵀ m for x `[n, k]` and m `[n, r]`: `[k, r]`.
pub(crate) fn narrow_product_transposed<T: Float>(x: View<'_, T>, m: View<'_, T>) -> Vec<T> {
    assert!(x.rows == m.rows && x.col_stride == 1, "narrow product: shapes");
    let x_stride = x.row_stride;
    let columns = x.cols.div_ceil(rayon::current_num_threads()).next_multiple_of(STEP).max(STEP);
    by_lanes(x.cols, m, |m, out| {
        let tasks = out.par_chunks_mut(columns).enumerate();
        tasks.for_each(|(task, out)| {
            for (x, m) in x.data.chunks(ROWS * x.row_stride).zip(m.chunks(ROWS)) {
                add_transposed(&x[task * columns..], x_stride, m, out);
            }
        });
    })
}

/// Calls `f` with every [`LANES`] columns of m, the last ones filled up with zeros, for it to write
/// these columns of the result, which has `rows` rows.
fn by_lanes<T: Float>(
    rows: usize,
    m: View<'_, T>,
    f: impl Fn(&[[T; LANES]], &mut [[T; LANES]]),
) -> Vec<T> {
    let mut result = zeros(rows * m.cols);
    let mut lanes = vec![[T::from_f32(0.0); LANES]; m.rows];
    let mut out = vec![[T::from_f32(0.0); LANES]; rows];
    for start in (0..m.cols).step_by(LANES) {
        let width = LANES.min(m.cols - start);
        for (row, lanes) in lanes.iter_mut().enumerate() {
            let first = row * m.row_stride + start * m.col_stride;
            let columns = m.data[first..].iter().step_by(m.col_stride);
            lanes.iter_mut().zip(columns.take(width)).for_each(|(lane, &x)| *lane = x);
        }
        out.fill([T::from_f32(0.0); LANES]);
        f(&lanes, &mut out);
        for (row, out) in result.chunks_exact_mut(m.cols).zip(&out) {
            row[start..start + width].copy_from_slice(&out[..width]);
        }
    }
    result
}

vectorised! {
    /// out = x m for rows of x, `stride` numbers from one to the next.
    fn multiply<T, FMA>(x: &[T], stride: usize, m: &[[T; LANES]], out: &mut [[T; LANES]]) {
        let (blocks, rest) = out.as_chunks_mut::<STEP>();
        let whole = blocks.len() * STEP;
        for (block, out) in blocks.iter_mut().enumerate() {
            *out = products::<T, STEP, FMA>(&x[block * STEP * stride..], stride, m);
        }
        for (row, out) in rest.iter_mut().enumerate() {
            [*out] = products::<T, 1, FMA>(&x[(whole + row) * stride..], stride, m);
        }
    }
}

/// The products of R rows.
#[inline(always)]
fn products<T: Float, const R: usize, const FMA: bool>(
    x: &[T],
    stride: usize,
    m: &[[T; LANES]],
) -> [[T; LANES]; R] {
    let rows: [&[T]; R] = from_fn(|row| &x[row * stride..][..m.len()]);
    let mut sums = [[T::from_f32(0.0); LANES]; R];
    for (term, m) in m.iter().enumerate() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            let x = row[term];
            for (sum, &m) in sums.iter_mut().zip(m) {
                *sum = x.mul_add::<FMA>(m, *sum);
            }
        }
    }
    sums
}

vectorised! {
    /// out += xᵀ m for the first columns of the rows of x, `stride` numbers from one to the next.
    fn add_transposed<T, FMA>(x: &[T], stride: usize, m: &[[T; LANES]], out: &mut [[T; LANES]]) {
        let (blocks, rest) = out.as_chunks_mut::<STEP>();
        let whole = blocks.len() * STEP;
        for (block, sums) in blocks.iter_mut().enumerate() {
            add_columns::<T, STEP, FMA>(&x[block * STEP..], stride, m, sums);
        }
        for (column, sum) in rest.iter_mut().enumerate() {
            let sums = std::array::from_mut(sum);
            add_columns::<T, 1, FMA>(&x[whole + column..], stride, m, sums);
        }
    }
}

/// Adds the products of C columns, and prefetches the rows further to the right.
#[inline(always)]
fn add_columns<T: Float, const C: usize, const FMA: bool>(
    x: &[T],
    stride: usize,
    m: &[[T; LANES]],
    out: &mut [[T; LANES]; C],
) {
    let mut sums = *out;
    for (row, m) in m.iter().enumerate() {
        let x = &x[row * stride..];
        prefetch(x.as_ptr().wrapping_add(AHEAD));
        for (&x, sums) in x.as_chunks::<C>().0[0].iter().zip(&mut sums) {
            for (sum, &m) in sums.iter_mut().zip(m) {
                *sum = x.mul_add::<FMA>(m, *sum);
            }
        }
    }
    *out = sums;
}

#[cfg(test)]
mod tests {
    use super::{narrow_product, narrow_product_transposed};
    use crate::kernels::cpu::view::View;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f64 / 500.0 - 1.0).collect()
    }

    #[test]
    fn products_are_right_at_every_border() {
        for (n, k, r) in [(1, 1, 1), (5, 7, 16), (6, 97, 17), (100, 13, 3), (211, 96, 40)] {
            let x = numbers(n * k, 1);
            let m = numbers(k * r, 2);
            let made = narrow_product(View::new(&x, n, k, k), View::new(&m, k, r, r));
            let t: Vec<f64> = (0..r * k).map(|i| m[i % k * r + i / k]).collect();
            let across = View::new(&t, r, k, k).t();
            assert_eq!(made, narrow_product(View::new(&x, n, k, k), across));
            for (i, &got) in made.iter().enumerate() {
                let sum: f64 = (0..k).map(|t| x[i / r * k + t] * m[t * r + i % r]).sum();
                assert!((got - sum).abs() < 1e-12, "{n} {k} {r} {i}: {got}, {sum}");
            }
            let u = numbers(n * r, 3);
            let made = narrow_product_transposed(View::new(&x, n, k, k), View::new(&u, n, r, r));
            for (i, &got) in made.iter().enumerate() {
                let sum: f64 = (0..n).map(|t| x[t * k + i / r] * u[t * r + i % r]).sum();
                assert!((got - sum).abs() < 1e-12, "{n} {k} {r} {i}: {got}, {sum}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_the_others() {
        let (n, k, r) = (230, 50, 8);
        let x: Vec<f32> = numbers(n * k, 4).into_iter().map(|x| x as f32).collect();
        let m: Vec<f32> = numbers(k * r, 5).into_iter().map(|x| x as f32).collect();
        let m = View::new(&m, k, r, r);
        let all = narrow_product(View::new(&x, n, k, k), m);
        let some = narrow_product(View::new(&x[17 * k..50 * k], 33, k, k), m);
        assert_eq!(all[17 * r..50 * r], some);
    }
}
