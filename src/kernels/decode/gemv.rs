//! x Wᵀ for a small batch of rows (GEMV): the matrix multiplication of decoding, bound by reading W
//! once.
//!
//! General matrix multiplication packs W first, which does not pay off for few rows. Here W is read
//! in place. Rows of x occupy the lanes of vector registers ([`Panels`]) and elements of W are
//! broadcast, so no sums across lanes are needed. Quantised rows are converted a block at a time
//! ([`multiply_blocks`]). Each output element is a sum over blocks of
//! [`DEPTH`] terms, so it has the same bits whatever the other rows of the batch and whatever the
//! number of threads.

use crate::kernels::cpu::element::Inline;
use crate::kernels::cpu::float::{prefetch, vectorised, Float};
use crate::kernels::cpu::view::{Disjoint, ViewMut};
use crate::kernels::decode::amx::Parts;
use crate::kernels::decode::block_gemv::{multiply_blocks, TOGETHER};
use crate::kernels::decode::rows::Rows;
use crate::kernels::decode::scratch::Scratch;
use crate::kernels::decode::team::Team;
use crate::kernels::layers::swiglu::swiglu_in_place;
use candle_core::DType;
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of x in one register.
pub(super) const LANES: usize = 8;
/// Accumulators kept in registers: rows of W multiplied at once with a panel, times the panel's
/// registers.
const SUMS: usize = 12;
/// Terms summed before they are added to the total.
pub(super) const DEPTH: usize = 512;
/// Parts of W per thread: more parts mean less idle time at the end.
const PARTS: usize = 8;

/// Rows of x `[n, i]` in panels of eight or sixteen rows, stored column by column; the last panel
/// is padded with zeros.
pub(crate) struct Panels {
    columns: Scratch,
    rows: usize,
    pub(super) depth: usize,
    /// Registers per column of a panel: 1 or 2.
    pub(super) width: usize,
    /// The rows as tiles of bf16, made when they are first needed.
    parts: OnceLock<Parts>,
}

impl Panels {
    pub(crate) fn new(x: &[f32], depth: usize) -> Self {
        let rows = x.len() / depth;
        let width = if rows <= LANES { 1 } else { 2 };
        let len = rows.div_ceil(LANES * width) * LANES * width * depth;
        let mut columns = if len == x.len() { Scratch::new(len) } else { Scratch::zeros(len) };
        for (register, rows) in x.chunks(LANES * depth).enumerate() {
            let start = register / width * width * depth + register % width;
            pack(rows, depth, width, &mut columns.as_chunks_mut().0[start..]);
        }
        Self { columns, rows, depth, width, parts: OnceLock::new() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The rows as tiles of bf16.
    pub(super) fn parts(&self) -> &Parts {
        self.parts.get_or_init(|| Parts::new(self))
    }

    /// Returns the number of accumulator registers per row of W.
    pub(super) fn registers(&self) -> usize {
        self.columns.len() / LANES / self.depth
    }

    /// Returns the columns of a panel of `P` registers.
    #[inline(always)]
    pub(super) fn panel<const P: usize>(&self, panel: usize) -> &[[[f32; LANES]; P]] {
        &self.columns.as_chunks().0.as_chunks::<P>().0[panel * self.depth..(panel + 1) * self.depth]
    }

    /// Computes y (`[n, o]`) = x Wᵀ, or y += x Wᵀ if `accumulate`, for every W and its (y,
    /// `accumulate`).
    pub(crate) fn products<const N: usize>(
        &self,
        team: Team<'_>,
        w: [Rows<'_>; N],
        y: [(&mut [f32], bool); N],
    ) {
        let y = y.map(|(y, accumulate)| {
            let o = y.len() / self.rows.max(1);
            (Disjoint::from(ViewMut::new(y, self.rows, o, o)), accumulate)
        });
        let matrices = w.map(|w| [w]);
        self.each_part(team, &matrices, |matrix, columns, [products]| {
            let (y, accumulate) = &y[matrix];
            for (register, start) in (0..self.rows).step_by(LANES).enumerate() {
                let mut rows: [&mut [f32]; LANES] = Default::default();
                for (row, at) in rows.iter_mut().zip(start..self.rows) {
                    // SAFETY: no other part writes these columns.
                    #[allow(unsafe_code)]
                    let columns = unsafe { y.row(at, columns.clone()) };
                    *row = columns;
                }
                let count = LANES.min(self.rows - start);
                add_lanes(&products[register..], self.registers(), *accumulate, &mut rows[..count]);
            }
        });
    }

    /// Computes silu(x Gᵀ) ∘ (x Uᵀ) for G and U `[o, i]`.
    pub(crate) fn gated(&self, team: Team<'_>, gate: Rows<'_>, up: Rows<'_>) -> Panels {
        let o = gate.count(self.depth);
        let registers = self.registers();
        let width = self.width;
        let mut columns = Scratch::new(o * registers * LANES);
        let line = o * width * LANES;
        let panels = Disjoint::from(ViewMut::new(&mut columns, registers / width, line, line));
        self.each_part(team, &[[gate, up]], |_, rows, [gate, up]| {
            swiglu_in_place(gate.as_flattened_mut(), up.as_flattened());
            for panel in 0..registers / width {
                let numbers = rows.start * width * LANES..rows.end * width * LANES;
                // SAFETY: the columns belong to rows of G and U that only this part computes.
                #[allow(unsafe_code)]
                let columns = unsafe { panels.row(panel, numbers) };
                let products = gate.chunks(registers).map(|gate| &gate[panel * width..][..width]);
                for (column, product) in columns.as_chunks_mut().0.chunks_mut(width).zip(products) {
                    column.copy_from_slice(product);
                }
            }
        });
        Panels { columns, rows: self.rows, depth: o, width, parts: OnceLock::new() }
    }

    /// Calls `work` with a range of rows of the matrices of a group (all of one shape) and their
    /// products with all panels, `[rows, registers]` each, until all rows of all groups are
    /// covered.
    fn each_part<const N: usize>(
        &self,
        team: Team<'_>,
        groups: &[[Rows<'_>; N]],
        work: impl Fn(usize, Range<usize>, [&mut [[f32; LANES]]; N]) + Send + Sync,
    ) {
        let depth = self.depth;
        let heights = groups.iter().map(|group| group[0].count(depth));
        let o: usize = heights.clone().sum();
        let multiply_adds = N * self.rows * o * depth;
        let threads = team.threads_for(multiply_adds);
        let quantized = groups.iter().flatten().any(|w| matches!(w, Rows::Blocks(..)));
        let together = if quantized { TOGETHER } else { SUMS / self.width };
        let size = o.div_ceil(PARTS * threads).next_multiple_of(together);
        let parts_of =
            |(at, o)| (0..o).step_by(size).map(move |start| (at, start..o.min(start + size)));
        let parts: Vec<(usize, Range<usize>)> = heights.enumerate().flat_map(parts_of).collect();
        team.each_index(parts.len(), multiply_adds, |i| {
            let (at, rows) = parts[i].clone();
            // The part that this thread takes next if all threads are equally fast.
            let later = parts
                .get(i + threads)
                .map(|(at, rows)| groups[*at][0].range(rows.clone(), depth).start());
            let len = rows.len() * self.registers() * LANES;
            let mut products: [_; N] = std::array::from_fn(|_| Scratch::new(len));
            for (n, products) in products.iter_mut().enumerate() {
                let other = groups[at].get(n + 1).map(|w| w.range(rows.clone(), depth).start());
                let w = groups[at][n].range(rows.clone(), depth);
                let next = other.or(later).unwrap_or(w.start());
                let products = products.as_chunks_mut().0;
                match w {
                    Rows::F32(w) => multiply(w, next.cast(), self, products),
                    Rows::Bf16(w) => multiply(w, next.cast(), self, products),
                    Rows::Blocks(dtype, w) => multiply_blocks(dtype, w, next, self, products),
                }
            }
            work(at, rows, products.each_mut().map(|products| products.as_chunks_mut().0));
        });
    }
}

vectorised! {
    /// Writes the columns of up to eight rows to every `width`-th of `columns`.
    fn pack<T, FMA>(rows: &[T], depth: usize, width: usize, columns: &mut [[T; LANES]]) {
        let count = rows.len() / depth;
        let whole = if count == LANES { depth / LANES * LANES } else { 0 };
        for start in (0..whole).step_by(LANES) {
            let block = std::array::from_fn(|r| rows[r * depth + start..].as_chunks().0[0]);
            let transposed = T::transposed::<FMA>(block);
            let columns = columns[start * width..].iter_mut().step_by(width);
            columns.zip(transposed).for_each(|(column, values)| *column = values);
        }
        for column in whole..depth {
            (0..count).for_each(|r| columns[column * width][r] = rows[r * depth + column]);
        }
    }
}

vectorised! {
    /// rows `[≤ 8][o]` = the lanes of every `registers`-th of `products`, or += them if
    /// `accumulate`.
    fn add_lanes<T, FMA>(
        products: &[[T; LANES]],
        registers: usize,
        accumulate: bool,
        rows: &mut [&mut [T]],
    ) {
        let zero = T::from_f32(0.0);
        let o = rows.first().map_or(0, |row| row.len());
        let whole = if rows.len() == LANES { o / LANES * LANES } else { 0 };
        for start in (0..whole).step_by(LANES) {
            let block = std::array::from_fn(|i| products[(start + i) * registers]);
            let transposed = T::transposed::<FMA>(block);
            for (row, values) in rows.iter_mut().zip(transposed) {
                let row = &mut row[start..start + LANES];
                for (y, value) in row.iter_mut().zip(values) {
                    *y = if accumulate { *y } else { zero } + value;
                }
            }
        }
        for at in whole..o {
            let products = products[at * registers];
            for (row, value) in rows.iter_mut().zip(products) {
                row[at] = if accumulate { row[at] } else { zero } + value;
            }
        }
    }
}

vectorised! {
    /// out `[o, registers]` = W xᵀ. Meanwhile the memory at `next`, which is read afterwards, is
    /// prefetched.
    fn multiply<L: Inline<Float = f32>, FMA>(
        w: &[L],
        next: *const L,
        x: &Panels,
        out: &mut [[f32; LANES]],
    ) {
        let rest = (w, out);
        match x.width {
            1 => {
                let rest = multiply_by::<L, 4, 3, 1, FMA>(rest, next, x);
                let rest = multiply_by::<L, 1, 4, 1, FMA>(rest, next, x);
                multiply_by::<L, 1, 1, 1, FMA>(rest, next, x);
            }
            _ => {
                let rest = multiply_by::<L, 2, 3, 2, FMA>(rest, next, x);
                let rest = multiply_by::<L, 1, 2, 2, FMA>(rest, next, x);
                multiply_by::<L, 1, 1, 2, FMA>(rest, next, x);
            }
        }
    }
}

/// Multiplies `B` · `R` rows of W at a time with all panels; returns the remaining rows of W and of
/// `out`.
#[inline(always)]
fn multiply_by<
    'a,
    L: Inline<Float = f32>,
    const B: usize,
    const R: usize,
    const P: usize,
    const FMA: bool,
>(
    (mut w, mut out): (&'a [L], &'a mut [[f32; LANES]]),
    next: *const L,
    x: &Panels,
) -> (&'a [L], &'a mut [[f32; LANES]]) {
    while let Some((rows, rest)) = w.split_at_checked(B * R * x.depth) {
        let (products, others) = out.split_at_mut(B * R * x.registers());
        let next = if rest.is_empty() { next } else { rest.as_ptr() };
        multiply_rows::<L, B, R, P, FMA>(rows, next, x, products);
        w = rest;
        out = others;
    }
    (w, out)
}

/// Multiplies `B` · `R` rows of W with all panels of `P` registers.
#[inline(always)]
fn multiply_rows<
    L: Inline<Float = f32>,
    const B: usize,
    const R: usize,
    const P: usize,
    const FMA: bool,
>(
    w: &[L],
    next: *const L,
    x: &Panels,
    out: &mut [[f32; LANES]],
) {
    let registers = x.registers();
    let depth = x.depth;
    let mut buffers = [[[0.0; DEPTH]; R]; B];
    for start in (0..depth).step_by(DEPTH) {
        let end = depth.min(start + DEPTH);
        let rows = if L::DTYPE == DType::F32 {
            (L::load(&w[start..], &mut []), depth)
        } else {
            for (buffer, row) in buffers.as_flattened_mut().iter_mut().zip(w.chunks_exact(depth)) {
                L::load(&row[start..end], &mut buffer[..end - start]);
            }
            (buffers.as_flattened().as_flattened(), DEPTH)
        };
        for panel in 0..registers / P {
            let sums = tile::<B, R, P, _, FMA>(
                &x.panel(panel)[start..end],
                rows,
                next.wrapping_add(B * R * start),
            );
            for (j, sums) in sums.as_flattened().iter().enumerate() {
                let out = out[j * registers + panel * P..][..P].as_flattened_mut();
                let before = |out: f32| if start == 0 { 0.0 } else { out };
                out.iter_mut()
                    .zip(sums.as_flattened())
                    .for_each(|(out, sum)| *out = before(*out) + sum);
            }
        }
    }
}

/// f32 elements per cache line.
pub(crate) const LINE: usize = 16;

/// Multiplies `B` · `R` rows of W, given with their row stride, with one block of columns of a
/// panel.
///
/// Keeps one pointer per group of `R` rows, so that all pointers fit in registers. For each cache
/// line read, one line from `next` on is prefetched: the hardware prefetcher cannot follow this
/// many streams.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // constant ranges of indices unroll into registers
pub(super) fn tile<const B: usize, const R: usize, const P: usize, L, const FMA: bool>(
    x: &[[[f32; LANES]; P]],
    (w, stride): (&[f32], usize),
    next: *const L,
) -> [[[[f32; LANES]; P]; R]; B] {
    assert!(w.len() >= (B * R - 1) * stride + x.len(), "rows of W are missing");
    let mut sums = [[[[0.0; LANES]; P]; R]; B];
    let mut first: [*const f32; B] =
        std::array::from_fn(|b| w.as_ptr().wrapping_add(b * R * stride));
    for (line, x) in x.chunks(LINE).enumerate() {
        for j in 0..B * R {
            prefetch(next.wrapping_add((line * B * R + j) * LINE));
        }
        for x in x {
            let x = *x;
            for b in 0..B {
                for r in 0..R {
                    // SAFETY: row `b * R + r` has an element for every column of x, as asserted.
                    #[allow(unsafe_code)]
                    let w = unsafe { *first[b].wrapping_add(r * stride) };
                    for p in 0..P {
                        for l in 0..LANES {
                            sums[b][r][p][l] = Float::mul_add::<FMA>(x[p][l], w, sums[b][r][p][l]);
                        }
                    }
                }
                first[b] = first[b].wrapping_add(1);
            }
        }
    }
    sums
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use half::bf16;

    /// Returns `n` pseudo-random numbers in [−1, 1).
    pub(crate) fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let next = |s: &u32| Some(s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let states = std::iter::successors(Some(seed), next);
        states.skip(1).take(n).map(|s| (s >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn products_are_right_for_every_number_of_rows_and_of_outputs() {
        for (n, o, i) in [
            (1, 1, 1),
            (3, 5, 7),
            (8, 6, 512),
            (9, 13, 513),
            (16, 12, 40),
            (17, 7, 1025),
            (40, 1100, 64),
        ] {
            let x = numbers(n * i, 1);
            let w = numbers(o * i, 2);
            let mut y = vec![0.5; n * o];
            let mut alone = vec![f32::NAN; n * o];
            Panels::new(&x, i).products(Team::Pool, [Rows::F32(&w)], [(&mut y, true)]);
            Panels::new(&x, i).products(Team::Pool, [Rows::F32(&w)], [(&mut alone, false)]);
            for (at, got) in y.iter().enumerate() {
                assert_eq!(0.5 + alone[at], *got, "{n} {o} {i} at {at}");
                let x = &x[at / o * i..][..i];
                let w = &w[at % o * i..][..i];
                let want =
                    0.5 + x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>();
                assert!(
                    (f64::from(*got) - want).abs() < 1e-4,
                    "{n} {o} {i} at {at}: {got} against {want}"
                );
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_beside_any_others_and_with_any_threads() {
        let n = 35;
        let o = 700;
        let i = 96;
        let x = numbers(n * i, 3);
        let w = numbers(o * i, 4);
        let product = |x: &[f32], threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = vec![0.0; x.len() / i * o];
            pool.install(|| {
                Team::awake(|team| {
                    Panels::new(x, i).products(team, [Rows::F32(&w)], [(&mut y, false)])
                })
            });
            y
        };
        let all = product(&x, 3);
        assert_eq!(all, product(&x, 1));
        for r in [0, 7, 8, 15, 16, 34] {
            assert_eq!(product(&x[r * i..(r + 1) * i], 2), all[r * o..(r + 1) * o], "row {r}");
        }
    }

    #[test]
    fn gated_rows_are_multiplied_as_if_they_had_been_rows_in_between() {
        let i = 24;
        let f = 35;
        let o = 10;
        let [gate, up, down] =
            [(f * i, 7), (f * i, 8), (o * f, 9)].map(|(len, seed)| numbers(len, seed));
        for n in [1, 8, 9, 16, 17, 40] {
            let panels = Panels::new(&numbers(n * i, 10), i);
            let [mut a, mut b] = [0; 2].map(|_| vec![0.0; n * f]);
            let weights = [Rows::F32(&gate), Rows::F32(&up)];
            panels.products(Team::Pool, weights, [(&mut a, false), (&mut b, false)]);
            swiglu_in_place(&mut a, &b);
            let [mut got, mut want] = [0; 2].map(|_| vec![0.0; n * o]);
            let gated = panels.gated(Team::Pool, Rows::F32(&gate), Rows::F32(&up));
            gated.products(Team::Pool, [Rows::F32(&down)], [(&mut got, false)]);
            Panels::new(&a, f).products(Team::Pool, [Rows::F32(&down)], [(&mut want, false)]);
            assert_eq!(got, want, "{n} rows");
        }
    }

    #[test]
    fn narrow_weights_are_widened() {
        let x = numbers(5 * 600, 5);
        let w = numbers(9 * 600, 6);
        let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
        let wide: Vec<f32> = narrow.iter().map(|w| w.to_f32()).collect();
        let mut a = vec![0.0; 45];
        let mut b = vec![0.0; 45];
        Panels::new(&x, 600).products(Team::Pool, [Rows::Bf16(&narrow)], [(&mut a, false)]);
        Panels::new(&x, 600).products(Team::Pool, [Rows::F32(&wide)], [(&mut b, false)]);
        assert_eq!(a, b);
    }
}
