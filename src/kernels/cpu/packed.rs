//! Multiplication of packed matrices with AVX-512: f32, and bf16 with `VDPBF16PS`, which adds two
//! products to an f32 accumulator.
//!
//! Both matrices are packed into panels of words. A panel holds as many lines side by side as a
//! tile of accumulators ([`Word::tile`]) has rows or columns. Each sum takes its terms in one
//! order, whatever the number of threads.

use crate::kernels::cpu::element::Inline;
use crate::kernels::cpu::tile::{Pair, Single, Split, Tile, Word, COLUMNS, ROWS};
use crate::kernels::cpu::view::{Disjoint, View, ViewMut};
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Words whose products are summed before they are added to the output.
const DEPTH: usize = 256;
/// Words of a line that are packed at a time. A task adds all their sums to its part of the output
/// while that is in the cache.
const PACKED_WORDS: usize = 4 * DEPTH;
/// Rows and columns that are packed at a time.
const PACKED: [usize; 2] = [170 * ROWS, 64 * COLUMNS];
/// Tiles per task, down and across.
const TASK: [usize; 2] = [10, 8];

/// Returns true if a product is large enough for packing to pay off; smaller ones fill too little
/// of a tile.
pub(crate) fn worth_it((rows, columns, terms): (usize, usize, usize)) -> bool {
    rows >= ROWS && columns >= COLUMNS && terms >= 16
}

/// An element type that words of kind `W` are made of.
pub(crate) trait Term<W>: Copy + Sync {
    const ZERO: Self;
    /// Packs two consecutive terms into a word, or only the first if a word holds one.
    fn word(first: Self, second: Self) -> u32;
}

impl Term<Single> for f32 {
    const ZERO: f32 = 0.0;
    #[inline(always)]
    fn word(first: f32, _: f32) -> u32 {
        first.to_bits()
    }
}

impl Term<Pair> for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    #[inline(always)]
    fn word(first: bf16, second: bf16) -> u32 {
        u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
    }
}

impl Term<Split> for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    #[inline(always)]
    fn word(term: bf16, _: bf16) -> u32 {
        <bf16 as Term<Pair>>::word(term, term)
    }
}

impl Term<Split> for f32 {
    const ZERO: f32 = 0.0;
    #[inline(always)]
    fn word(term: f32, _: f32) -> u32 {
        let part: bf16 = Inline::narrow(term);
        <bf16 as Term<Pair>>::word(part, Inline::narrow(term - part.widen()))
    }
}

/// out = α a b, or out += α a b if `accumulate`, with terms packed in words of kind `W`; with
/// `threads` > 1 it runs on the rayon pool.
pub(crate) fn product<W: Word, A: Term<W>, B: Term<W>>(
    out: &mut ViewMut<'_, f32>,
    a: View<'_, A>,
    b: View<'_, B>,
    alpha: f32,
    accumulate: bool,
    threads: usize,
) {
    assert!(
        out.rows == a.rows && out.cols == b.cols && a.cols == b.rows && a.cols > 0,
        "product: shapes"
    );
    let b = b.t();
    let terms = a.cols;
    let out = ViewMut::new(out.data, out.rows, out.cols, out.row_stride);
    let mut target = Target { out: Disjoint::from(out), alpha, accumulate };
    let mut buffers = BUFFERS.take();
    for columns in blocks(0..b.rows, PACKED[1]) {
        for terms in blocks(0..terms, PACKED_WORDS * W::TERMS) {
            target.accumulate = accumulate || terms.start > 0;
            pack::<W, B, COLUMNS>(b, columns.clone(), terms.clone(), &mut buffers.right, threads);
            for rows in blocks(0..a.rows, PACKED[0]) {
                pack::<W, A, ROWS>(a, rows.clone(), terms.clone(), &mut buffers.left, threads);
                let words = terms.len().div_ceil(W::TERMS);
                let panels = (&buffers.left[..], &buffers.right[..]);
                add_panels::<W>(&target, (rows, columns.clone()), panels, words, threads);
            }
        }
    }
    BUFFERS.set(buffers);
}

/// Panels of both matrices. They are reused from call to call, since touching fresh memory takes
/// longer than packing.
#[derive(Default)]
struct Buffers {
    left: Vec<[u32; ROWS]>,
    right: Vec<[u32; COLUMNS]>,
}

thread_local! {
    static BUFFERS: Cell<Buffers> =
        const { Cell::new(Buffers { left: Vec::new(), right: Vec::new() }) };
}

/// Splits a range into consecutive blocks of at most `size`.
fn blocks(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(size).map(move |start| start..end.min(start + size))
}

/// Packs lines of `matrix` into panels of `L`: word p of a panel has the p-th terms of its `L`
/// lines. Missing lines are 0.
fn pack<W: Word, S: Term<W>, const L: usize>(
    matrix: View<'_, S>,
    lines: Range<usize>,
    terms: Range<usize>,
    panels: &mut Vec<[u32; L]>,
    threads: usize,
) {
    let words = terms.len().div_ceil(W::TERMS);
    panels.resize(lines.len().div_ceil(L) * words, [0; L]);
    let pack = |(i, panel): (usize, &mut [[u32; L]])| {
        let start = lines.start + i * L;
        let lines = start..lines.end.min(start + L);
        if lines.len() < L {
            panel.fill([0; L]);
        }
        if matrix.col_stride == 1 {
            pack_along::<W, S, L>(matrix, lines, terms.clone(), panel);
        } else {
            pack_across::<W, S, L>(matrix, lines, terms.clone(), panel);
        }
    };
    if threads > 1 {
        panels.par_chunks_mut(words).enumerate().for_each(pack);
    } else {
        panels.chunks_mut(words).enumerate().for_each(pack);
    }
}

/// Packs a matrix in which the terms of a line are contiguous.
fn pack_along<W: Word, S: Term<W>, const L: usize>(
    matrix: View<'_, S>,
    lines: Range<usize>,
    terms: Range<usize>,
    panel: &mut [[u32; L]],
) {
    for (lane, line) in lines.enumerate() {
        let line = &matrix.data[line * matrix.row_stride..][terms.clone()];
        let mut words = panel.iter_mut().map(|word| &mut word[lane]);
        if W::TERMS == 1 {
            words.zip(line).for_each(|(word, &term)| *word = S::word(term, S::ZERO));
            continue;
        }
        let (pairs, rest) = line.as_chunks::<2>();
        pairs
            .iter()
            .zip(&mut words)
            .for_each(|(&[first, second], word)| *word = S::word(first, second));
        rest.iter().zip(&mut words).for_each(|(&term, word)| *word = S::word(term, S::ZERO));
    }
}

/// Packs a matrix in which the lines' terms of one position are contiguous.
fn pack_across<W: Word, S: Term<W>, const L: usize>(
    matrix: View<'_, S>,
    lines: Range<usize>,
    terms: Range<usize>,
    panel: &mut [[u32; L]],
) {
    assert_eq!(matrix.row_stride, 1, "a packed matrix has neighbours in one direction");
    let zeros = [S::ZERO; L];
    let all = |term: usize| &matrix.data[term * matrix.col_stride..][lines.clone()];
    for (word, term) in panel.iter_mut().zip(terms.clone().step_by(W::TERMS)) {
        let second = if term + 1 < terms.end { all(term + 1) } else { &zeros[..lines.len()] };
        for (word, (&first, &second)) in word.iter_mut().zip(all(term).iter().zip(second)) {
            *word = S::word(first, second);
        }
    }
}

/// The output of a product: α times the sums is added if `accumulate`, otherwise written.
struct Target<'a> {
    out: Disjoint<'a, f32>,
    alpha: f32,
    accumulate: bool,
}

/// Adds the products of all panels of both sides, each of `words` words, to the given rows and
/// columns of `target`.
fn add_panels<W: Word>(
    target: &Target<'_>,
    (rows, columns): (Range<usize>, Range<usize>),
    (left, right): (&[[u32; ROWS]], &[[u32; COLUMNS]]),
    words: usize,
    threads: usize,
) {
    let across = columns.len().div_ceil(TASK[1] * COLUMNS);
    let task = |i: usize| {
        let down = i / across;
        let across = i % across;
        let left = left.chunks(words).enumerate().skip(down * TASK[0]).take(TASK[0]);
        let right = right.chunks(words).enumerate().skip(across * TASK[1]).take(TASK[1]);
        for piece in blocks(0..words, DEPTH) {
            let accumulate = target.accumulate || piece.start > 0;
            for (j, b) in right.clone() {
                let start = columns.start + j * COLUMNS;
                let columns = start..columns.end.min(start + COLUMNS);
                for (i, a) in left.clone() {
                    let start = rows.start + i * ROWS;
                    let rows = start..rows.end.min(start + ROWS);
                    let tile = W::tile(&a[piece.clone()], &b[piece.clone()]);
                    add_tile(target, (rows, columns.clone()), &tile, accumulate);
                }
            }
        }
    };
    let tasks = rows.len().div_ceil(TASK[0] * ROWS) * across;
    if threads > 1 {
        (0..tasks).into_par_iter().for_each(task);
    } else {
        (0..tasks).for_each(task);
    }
}

#[inline(always)]
fn add_tile(
    target: &Target<'_>,
    (rows, columns): (Range<usize>, Range<usize>),
    tile: &Tile,
    accumulate: bool,
) {
    for (row, sums) in rows.zip(tile) {
        // SAFETY: no other task writes this tile's rows and columns.
        #[allow(unsafe_code)]
        let out = unsafe { target.out.row(row, columns.clone()) };
        let terms = out.iter_mut().zip(sums.map(|sum| target.alpha * sum));
        if accumulate {
            terms.for_each(|(out, sum)| *out += sum);
        } else {
            terms.for_each(|(out, sum)| *out = sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::decode::gemv::tests::numbers;

    fn narrow(x: &[f32]) -> Vec<bf16> {
        x.iter().map(|&x| bf16::from_f32(x)).collect()
    }

    /// A view of `rows` × `cols` numbers, stored column by column if `across`.
    fn view<T>(data: &[T], rows: usize, cols: usize, across: bool) -> View<'_, T> {
        if across {
            View::new(data, cols, rows, rows).t()
        } else {
            View::new(data, rows, cols, cols)
        }
    }

    const SHAPES: [(usize, usize, usize); 6] =
        [(1, 1, 1), (12, 32, 2), (13, 33, 3), (5, 70, 515), (125, 40, 1031), (2050, 35, 4)];

    /// Compares out = 0.5 + 2 a b by `product` with the same in f64.
    fn check<W: Word, A: Term<W>, B: Term<W>>(
        (m, n, k): (usize, usize, usize),
        (a, b): (&[A], &[B]),
        wide: (impl Fn(A) -> f32, impl Fn(B) -> f32),
        tolerance: f64,
    ) {
        for [left, right] in [[false, false], [true, false], [false, true], [true, true]] {
            let mut out = vec![0.5; m * n];
            let x = view(a, m, k, left);
            let y = view(b, k, n, right);
            product::<W, A, B>(&mut ViewMut::new(&mut out, m, n, n), x, y, 2.0, true, 2);
            for (at, &got) in out.iter().enumerate().step_by(7) {
                let i = at / n;
                let j = at % n;
                let term = |t: usize| {
                    let a = wide.0(a[if left { t * m + i } else { i * k + t }]);
                    let b = wide.1(b[if right { j * k + t } else { t * n + j }]);
                    f64::from(a) * f64::from(b)
                };
                let want = 0.5 + 2.0 * (0..k).map(term).sum::<f64>();
                let close = (f64::from(got) - want).abs() < tolerance;
                assert!(close, "{m} {n} {k}, {left} {right}, ({i}, {j}): {got} against {want}");
            }
        }
    }

    #[test]
    fn products_of_single_terms_are_right_at_every_border() {
        for (m, n, k) in SHAPES {
            let a = numbers(m * k, 1);
            let b = numbers(k * n, 2);
            check::<Single, f32, f32>((m, n, k), (&a, &b), (|x| x, |x| x), 1e-4);
        }
    }

    #[test]
    fn products_of_bf16_are_right_at_every_border_and_lose_little_of_f32() {
        for (m, n, k) in SHAPES {
            let a = numbers(m * k, 3);
            let b = narrow(&numbers(k * n, 4));
            check::<Pair, bf16, bf16>(
                (m, n, k),
                (&narrow(&a), &b),
                (bf16::to_f32, bf16::to_f32),
                1e-4,
            );
            check::<Split, f32, bf16>((m, n, k), (&a, &b), (|x| x, bf16::to_f32), 3e-4);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_and_what_was_there_is_replaced() {
        let m = 301;
        let n = 530;
        let k = 700;
        let a = numbers(m * k, 5);
        let b = numbers(k * n, 6);
        let made = |threads: usize| {
            let mut out = vec![f32::NAN; m * (n + 3)];
            let x = view(&a, m, k, false);
            let y = view(&b, k, n, true);
            product::<Single, f32, f32>(
                &mut ViewMut::new(&mut out, m, n, n + 3),
                x,
                y,
                1.0,
                false,
                threads,
            );
            let rows = out.chunks(n + 3);
            assert!(
                rows.clone().all(|row| row[n..].iter().all(|x| x.is_nan())),
                "columns of others were written"
            );
            rows.flat_map(|row| row[..n].to_vec()).collect::<Vec<f32>>()
        };
        assert_eq!(made(1), made(4));
        assert!(made(2).iter().all(|x| x.is_finite()));
    }

    #[test]
    fn a_product_is_the_sum_of_its_pieces_in_order() {
        let (m, n, k) = (130, 70, 2 * PACKED_WORDS + 300);
        let a = numbers(m * k, 7);
        let b = numbers(n * k, 8);
        let add = |out: &mut [f32], terms: Range<usize>| {
            let left = View::new(&a[terms.start..], m, terms.len(), k);
            let right = View::new(&b[terms.start..], n, terms.len(), k).t();
            let accumulate = terms.start > 0;
            let mut out = ViewMut::new(out, m, n, n);
            product::<Single, f32, f32>(&mut out, left, right, 1.0, accumulate, 2);
        };
        let mut whole = vec![f32::NAN; m * n];
        add(&mut whole, 0..k);
        let mut pieces = vec![f32::NAN; m * n];
        for piece in blocks(0..k, DEPTH) {
            add(&mut pieces, piece);
        }
        assert_eq!(whole, pieces);
    }
}
