//! Multiplication of large f32 matrices with Intel's AMX, as accurate as f32 arithmetic and faster
//! than AVX-512.
//!
//! An f32 is exactly the sum of three bf16, its parts. Of the nine products of the parts of two
//! numbers, the six that matter in f32 are added in f32. If all numbers of a matrix are bf16, as
//! widened weights are, only their first parts are multiplied; the sums have the same bits.

use crate::kernels::cpu::amx::multiply::{add_products, Target};
use crate::kernels::cpu::amx::panels::{blocks, each, Panels, PANEL, TERMS};
use crate::kernels::cpu::amx::{supported, Precision};
use crate::kernels::cpu::view::{Disjoint, View, ViewMut};
use std::cell::Cell;
use std::ops::Range;

/// Most steps whose sums stay in registers before they are added to the output.
const STEPS: usize = 26;
/// Columns of the right matrix that are packed at a time.
const COLUMNS: usize = 64 * PANEL;
/// Most rows of a task: its panels fit into the second-level cache.
const ROWS: usize = 8 * PANEL;

thread_local! {
    static LEFT: Cell<Panels> = Cell::default();
    static RIGHT: Cell<Panels> = Cell::default();
}

/// Returns true if this machine has tiles and a product is large enough for packing to pay off.
pub(crate) fn worth_it((rows, columns, terms): (usize, usize, usize)) -> bool {
    rows >= 64 && columns >= 192 && terms >= 192 && supported()
}

/// A factor on the left, one on the right, and the terms of their sums.
type Piece<'a> = (View<'a, f32>, View<'a, f32>, Range<usize>);

/// out = Σ α a b over all pairs (a, b), or out += the same if `accumulate`; with `threads` > 1 it
/// runs on the rayon pool.
///
/// Each sum takes its terms in one order, whatever the number of threads and the other rows. With
/// [`Precision::Reduced`], numbers are rounded to two parts, 16 bits.
pub(crate) fn product(
    out: ViewMut<'_, f32>,
    pairs: &[(View<'_, f32>, View<'_, f32>)],
    (alpha, accumulate): (f32, bool),
    precision: Precision,
    threads: usize,
) {
    let (rows, cols) = (out.rows, out.cols);
    let fits = |(a, b): &(View<'_, f32>, View<'_, f32>)| {
        rows == a.rows && cols == b.cols && a.cols == b.rows && a.cols > 0
    };
    assert!(!pairs.is_empty() && pairs.iter().all(fits), "product: shapes");
    let tasks = rows.div_ceil(ROWS).next_multiple_of(threads);
    let size = rows.div_ceil(tasks).next_multiple_of(PANEL);
    let mut target = Target { out: Disjoint::from(out), alpha, accumulate };
    let passes = passes(pairs);
    let mut right = RIGHT.take();
    for columns in blocks(0..cols, COLUMNS) {
        for (i, pieces) in passes.iter().enumerate() {
            target.accumulate = accumulate || i > 0;
            let sides = pieces.iter().map(|(_, b, terms)| (b.t(), terms.clone())).collect();
            right.pack::<true>(sides, columns.clone(), threads);
            each(blocks(0..rows, size), threads, |rows| {
                let mut left = LEFT.take();
                let sides = pieces.iter().map(|(a, _, terms)| (*a, terms.clone())).collect();
                left.pack::<false>(sides, rows.clone(), 1);
                add_products(&target, (rows, columns.clone()), (&left, &right), precision);
                LEFT.set(left);
            });
        }
    }
    RIGHT.set(right);
}

/// Divides the terms of all pairs into passes over the output, each of at most [`STEPS`].
fn passes<'a>(pairs: &[(View<'a, f32>, View<'a, f32>)]) -> Vec<Vec<Piece<'a>>> {
    let mut passes: Vec<Vec<Piece<'a>>> = vec![Vec::new()];
    let mut room = STEPS;
    for &(a, b) in pairs {
        let mut start = 0;
        while start < a.cols {
            if room == 0 {
                passes.push(Vec::new());
                room = STEPS;
            }
            let end = a.cols.min(start + room * TERMS);
            passes.last_mut().unwrap_or(&mut Vec::new()).push((a, b, start..end));
            room -= (end - start).div_ceil(TERMS);
            start = end;
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::decode::gemv::tests::numbers;
    use half::bf16;

    /// A view of `rows` × `cols` numbers, stored column by column if `across`.
    fn view(data: &[f32], rows: usize, cols: usize, across: bool) -> View<'_, f32> {
        if across {
            View::new(data, cols, rows, rows).t()
        } else {
            View::new(data, rows, cols, cols)
        }
    }

    fn at(view: View<'_, f32>, row: usize, col: usize) -> f64 {
        f64::from(view.data[row * view.row_stride + col * view.col_stride])
    }

    #[test]
    fn products_are_right_at_every_border() {
        if !supported() {
            return;
        }
        let shapes = [(1, 1, 1), (16, 33, 2), (33, 16, 31), (5, 70, 33), (300, 40, 1031)];
        for (m, n, k) in shapes {
            let a = numbers(m * k, 1);
            let b = numbers(k * n, 2);
            for across in [[false, false], [true, false], [false, true], [true, true]] {
                let x = view(&a, m, k, across[0]);
                let y = view(&b, k, n, across[1]);
                let mut out = vec![0.5; m * (n + 3)];
                product(
                    ViewMut::new(&mut out, m, n, n + 3),
                    &[(x, y)],
                    (2.0, true),
                    Precision::Full,
                    2,
                );
                for (i, row) in out.chunks(n + 3).enumerate() {
                    assert_eq!(row[n..], [0.5; 3], "columns of others were written");
                    for (j, &got) in row[..n].iter().enumerate().step_by(7) {
                        let sum: f64 = (0..k).map(|t| at(x, i, t) * at(y, t, j)).sum();
                        let close = (f64::from(got) - 0.5 - 2.0 * sum).abs() < 1e-4;
                        assert!(close, "{m} {n} {k} {across:?} ({i}, {j}): {got}, sum {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_and_other_rows_change_no_bit_and_what_was_there_is_replaced() {
        if !supported() {
            return;
        }
        let (m, n, k) = (601, 70, 900);
        let mut a = numbers(m * k, 3);
        // Rows whose lower parts are 0 between others: some tasks leave those parts out.
        for x in &mut a[..300 * k] {
            *x = bf16::from_f32(*x).to_f32();
        }
        let mut b = numbers(k * n, 4);
        let made = |a: &[f32], b: &[f32], precision: Precision, threads: usize| {
            let m = a.len() / k;
            let mut out = vec![f32::NAN; m * n];
            let out_view = ViewMut::new(&mut out, m, n, n);
            let pair = (View::new(a, m, k, k), View::new(b, k, n, n));
            product(out_view, &[pair], (1.0, false), precision, threads);
            out
        };
        for wide in [true, false] {
            if !wide {
                for x in &mut b {
                    *x = bf16::from_f32(*x).to_f32();
                }
            }
            for precision in [Precision::Full, Precision::Reduced] {
                let one = made(&a, &b, precision, 1);
                assert!(one.iter().all(|x| x.is_finite()));
                assert_eq!(one, made(&a, &b, precision, 3));
                let rows = 250..350;
                let some = &a[rows.start * k..rows.end * k];
                assert_eq!(one[rows.start * n..rows.end * n], made(some, &b, precision, 2));
            }
        }
    }

    #[test]
    fn several_pairs_are_added_in_any_division_into_passes() {
        if !supported() {
            return;
        }
        let (m, n) = (70, 50);
        for terms in [[5, 3], [576, 16], [1536, 16], [900, 900]] {
            let a = terms.map(|k| numbers(m * k, 7));
            let b = terms.map(|k| numbers(k * n, 8));
            let pair = |i: usize| {
                let k = terms[i];
                (View::new(&a[i], m, k, k), View::new(&b[i], n, k, k).t())
            };
            let mut out = vec![f32::NAN; m * n];
            product(
                ViewMut::new(&mut out, m, n, n),
                &[pair(0), pair(1)],
                (1.0, false),
                Precision::Full,
                2,
            );
            for (at_out, &got) in out.iter().enumerate() {
                let (i, j) = (at_out / n, at_out % n);
                let sum = |(x, y): (View<'_, f32>, View<'_, f32>)| -> f64 {
                    (0..x.cols).map(|t| at(x, i, t) * at(y, t, j)).sum()
                };
                let want = sum(pair(0)) + sum(pair(1));
                assert!((f64::from(got) - want).abs() < 1e-4, "{terms:?}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn the_reduced_precision_is_that_of_sixteen_bits() {
        if !supported() {
            return;
        }
        let (m, n, k) = (64, 64, 600);
        let a = numbers(m * k, 9);
        let b = numbers(k * n, 10);
        let (x, y) = (View::new(&a, m, k, k), View::new(&b, k, n, n));
        let mut out = vec![0.0; m * n];
        let view = ViewMut::new(&mut out, m, n, n);
        product(view, &[(x, y)], (1.0, false), Precision::Reduced, 1);
        for (at_out, &got) in out.iter().enumerate() {
            let (i, j) = (at_out / n, at_out % n);
            let terms = (0..k).map(|t| at(x, i, t) * at(y, t, j));
            let (sum, size) =
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let error = (f64::from(got) - sum).abs() / size;
            assert!(error < 2f64.powi(-16), "({i}, {j}): {error:e}");
        }
    }

    #[test]
    fn infinities_and_nans_reach_the_output() {
        if !supported() {
            return;
        }
        for bad in [f32::INFINITY, f32::NAN] {
            let mut a = numbers(64, 5);
            a[33] = bad;
            let b = numbers(64, 6);
            let mut out = vec![0.0; 4];
            let (a, b) = (View::new(&a, 2, 32, 32), View::new(&b, 32, 2, 2));
            product(ViewMut::new(&mut out, 2, 2, 2), &[(a, b)], (1.0, false), Precision::Full, 1);
            assert!(out[..2].iter().all(|x| x.is_finite()), "{out:?}");
            assert!(out[2..].iter().all(|x| !x.is_finite()), "{out:?}");
        }
    }
}
