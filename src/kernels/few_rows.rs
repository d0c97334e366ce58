//! x Wᵀ for few rows of x, the product that decoding consists of: W is read once, as it lies.
//!
//! Rows of x stand in the lanes of vector registers ([`Panels`]), an element of W is broadcast, and nothing has to be
//! summed across lanes. Every element is the sum over blocks of [`DEPTH`] terms, whatever rows stand beside it and whatever
//! the number of threads.

use super::logit::Inline;
use super::real::{vectorised, Real};
use rayon::prelude::*;

/// Rows of x in one register.
const LANES: usize = 8;
/// Registers of a panel's column.
const WIDTH: usize = 2;
/// Rows of x in a panel.
const ROWS: usize = LANES * WIDTH;
/// Rows of W multiplied with a panel at once: their sums fill the registers.
const HEIGHT: usize = 6;
/// Terms summed before they are added to the rest.
const DEPTH: usize = 512;
/// Multiply-adds below which a product stays on the calling thread: waking another one costs more.
const THREADING: usize = 1 << 20;

/// One column of a panel, or the products of its rows with one row of W.
type Column = [[f32; LANES]; WIDTH];

/// Rows of x `[n, i]`, sixteen to a panel and column by column; the last panel is filled up with zeros.
pub(super) struct Panels {
    columns: Vec<Column>,
    rows: usize,
    depth: usize,
}

impl Panels {
    pub(super) fn new(x: &[f32], depth: usize) -> Self {
        let rows = x.len() / depth;
        let mut columns = vec![[[0.0; LANES]; WIDTH]; rows.div_ceil(ROWS) * depth];
        for (r, row) in x.chunks_exact(depth).enumerate() {
            let (start, lane) = (r / ROWS * depth, r % ROWS);
            for (column, &value) in columns[start..start + depth].iter_mut().zip(row) {
                column[lane / LANES][lane % LANES] = value;
            }
        }
        Self { columns, rows, depth }
    }

    fn count(&self) -> usize {
        self.columns.len() / self.depth
    }

    /// The columns `start..end` of a panel, and whether their second halves are all zero.
    #[inline(always)]
    fn block(&self, panel: usize, start: usize, end: usize) -> (&[Column], bool) {
        let first = panel * self.depth;
        (&self.columns[first + start..first + end], self.rows <= panel * ROWS + LANES)
    }

    /// y (`[n, o]`) += x Wᵀ.
    pub(super) fn add_product<L: Inline<Real = f32>>(&self, w: &[L], y: &mut [f32]) {
        let (o, panels, threads) = (w.len() / self.depth, self.count(), rayon::current_num_threads());
        let mut products = vec![[[0.0; LANES]; WIDTH]; o * panels];
        let large = threads > 1 && self.rows * w.len() >= THREADING;
        if large {
            let height = o.div_ceil(4 * threads).next_multiple_of(HEIGHT);
            let parts = w.par_chunks(height * self.depth).zip(products.par_chunks_mut(height * panels));
            parts.for_each(|(w, products)| multiply(w, self, products));
        } else {
            multiply(w, self, &mut products);
        }
        let add = |(r, y): (usize, &mut [f32])| {
            let (panel, lane) = (r / ROWS, r % ROWS);
            for (y, products) in y.iter_mut().zip(products.chunks_exact(panels)) {
                *y += products[panel][lane / LANES][lane % LANES];
            }
        };
        match large && y.len() >= THREADING {
            true => y.par_chunks_exact_mut(o).enumerate().for_each(add),
            false => y.chunks_exact_mut(o).enumerate().for_each(add),
        }
    }
}

vectorised! {
    /// out `[o, panels]` = W xᵀ.
    fn multiply<L: Inline<Real = f32>, FMA>(w: &[L], x: &Panels, out: &mut [Column]) {
        let (depth, panels) = (x.depth, x.count());
        let parts = w.chunks(HEIGHT * depth).zip(out.chunks_mut(HEIGHT * panels));
        for (w, out) in parts {
            match w.len() / depth {
                1 => multiply_rows::<L, 1, FMA>(w, x, out),
                2 => multiply_rows::<L, 2, FMA>(w, x, out),
                3 => multiply_rows::<L, 3, FMA>(w, x, out),
                4 => multiply_rows::<L, 4, FMA>(w, x, out),
                5 => multiply_rows::<L, 5, FMA>(w, x, out),
                _ => multiply_rows::<L, HEIGHT, FMA>(w, x, out),
            }
        }
    }
}

/// `J` rows of W with all panels.
#[inline(always)]
fn multiply_rows<L: Inline<Real = f32>, const J: usize, const FMA: bool>(
    w: &[L],
    x: &Panels,
    out: &mut [Column],
) {
    let (panels, depth) = (x.count(), x.depth);
    let mut buffers = [[0.0; DEPTH]; J];
    for start in (0..depth).step_by(DEPTH) {
        let end = depth.min(start + DEPTH);
        let mut block: [&[f32]; J] = [&[]; J];
        for ((block, buffer), row) in block.iter_mut().zip(&mut buffers).zip(w.chunks_exact(depth)) {
            *block = L::load(&row[start..end], &mut buffer[..end - start]);
        }
        for panel in 0..panels {
            let (x, half) = x.block(panel, start, end);
            let next = Next { w: w[start..].as_ptr().wrapping_add(J * depth), stride: depth };
            let sums = match half {
                true => half_tile::<J, _, FMA>(x, block, &next),
                false => tile::<J, _, FMA>(x, block, &next),
            };
            for (j, sums) in sums.iter().enumerate() {
                let out = out[j * panels + panel].as_flattened_mut();
                out.iter_mut().zip(sums.as_flattened()).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}

/// Where the rows of W that are multiplied next lie.
struct Next<L> {
    w: *const L,
    stride: usize,
}

impl<L> Next<L> {
    /// Asks for the elements from column `k` on of each of `J` rows: far fewer streams are seen by the processor itself.
    #[inline(always)]
    fn fetch<const J: usize>(&self, k: usize) {
        for j in 0..J {
            let at = self.w.wrapping_add(j * self.stride + k);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an address that is only prefetched is never read, wherever it points.
            #[allow(unsafe_code)]
            unsafe {
                use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
                _mm_prefetch(at.cast(), _MM_HINT_T0);
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = at;
        }
    }
}

/// Columns between two requests: a cache line of single precision.
const LINE: usize = 16;

/// The products of `J` rows of W with a panel over one block of columns.
#[inline(always)]
fn tile<const J: usize, L, const FMA: bool>(x: &[Column], w: [&[f32]; J], next: &Next<L>) -> [Column; J] {
    let mut sums = [[[0.0; LANES]; WIDTH]; J];
    let depth = x.len();
    let w = w.map(|row| &row[..depth]);
    for start in (0..depth).step_by(LINE) {
        next.fetch::<J>(start);
        for k in start..depth.min(start + LINE) {
            for j in 0..J {
                let w = w[j][k];
                for p in 0..WIDTH {
                    for l in 0..LANES {
                        sums[j][p][l] = Real::mul_add::<FMA>(x[k][p][l], w, sums[j][p][l]);
                    }
                }
            }
        }
    }
    sums
}

/// [`tile`] where the second half of every column is zero.
#[inline(always)]
fn half_tile<const J: usize, L, const FMA: bool>(
    x: &[Column],
    w: [&[f32]; J],
    next: &Next<L>,
) -> [Column; J] {
    let mut sums = [[0.0; LANES]; J];
    let depth = x.len();
    let w = w.map(|row| &row[..depth]);
    for start in (0..depth).step_by(LINE) {
        next.fetch::<J>(start);
        for k in start..depth.min(start + LINE) {
            for j in 0..J {
                let w = w[j][k];
                for l in 0..LANES {
                    sums[j][l] = Real::mul_add::<FMA>(x[k][0][l], w, sums[j][l]);
                }
            }
        }
    }
    sums.map(|half| [half, [0.0; LANES]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let next = |s: &u32| Some(s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let states = std::iter::successors(Some(seed), next);
        states.skip(1).take(n).map(|s| (s >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn products_are_right_for_every_number_of_rows_and_of_outputs() {
        for (n, o, i) in
            [(1, 1, 1), (3, 5, 7), (8, 6, 512), (9, 13, 513), (16, 12, 40), (17, 7, 1025), (40, 1100, 64)]
        {
            let (x, w) = (numbers(n * i, 1), numbers(o * i, 2));
            let mut y = vec![0.5; n * o];
            Panels::new(&x, i).add_product(&w, &mut y);
            for (at, got) in y.iter().enumerate() {
                let (x, w) = (&x[at / o * i..][..i], &w[at % o * i..][..i]);
                let want = 0.5 + x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>();
                assert!((f64::from(*got) - want).abs() < 1e-4, "{n} {o} {i} at {at}: {got} against {want}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_beside_any_others_and_with_any_threads() {
        let (n, o, i) = (35, 700, 96);
        let (x, w) = (numbers(n * i, 3), numbers(o * i, 4));
        let product = |x: &[f32], threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = vec![0.0; x.len() / i * o];
            pool.install(|| Panels::new(x, i).add_product(&w, &mut y));
            y
        };
        let all = product(&x, 3);
        assert_eq!(all, product(&x, 1));
        for r in [0, 7, 8, 15, 16, 34] {
            assert_eq!(product(&x[r * i..(r + 1) * i], 2), all[r * o..(r + 1) * o], "row {r}");
        }
    }

    #[test]
    fn narrow_weights_are_widened() {
        let (x, w) = (numbers(5 * 600, 5), numbers(9 * 600, 6));
        let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
        let wide: Vec<f32> = narrow.iter().map(|w| w.to_f32()).collect();
        let (mut a, mut b) = (vec![0.0; 45], vec![0.0; 45]);
        Panels::new(&x, 600).add_product(&narrow, &mut a);
        Panels::new(&x, 600).add_product(&wide, &mut b);
        assert_eq!(a, b);
    }
}
