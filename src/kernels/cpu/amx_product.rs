//! Multiplication of large f32 matrices with Intel's AMX, as accurate as f32 arithmetic and about
//! twice as fast as AVX-512.
//!
//! An f32 is exactly the sum of three bf16, its parts. Of the nine products of the parts of two
//! numbers, the six that matter in f32 are added in f32. If all numbers of a matrix are bf16, as
//! widened weights are, only their first parts are multiplied; the sums have the same bits.

use crate::kernels::cpu::amx::{supported, Line, TILE};
use crate::kernels::cpu::view::{Disjoint, View, ViewMut};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Terms of a sum in a line of a tile.
const TERMS: usize = 2 * TILE;
/// Rows of the left matrix, or columns of the right one, in a panel: two tiles.
const PANEL: usize = 2 * TILE;
/// Parts of a number.
const PARTS: usize = 3;
/// Most steps whose sums stay in registers before they are added to the output.
const STEPS: usize = 26;
/// Columns of the right matrix that are packed at a time.
const COLUMNS: usize = 64 * PANEL;
/// Most rows of a task: its panels fit into the second-level cache.
const ROWS: usize = 8 * PANEL;

type Tile<T> = [Line<T>; TILE];

/// [`TERMS`] terms of a panel: the two tiles of every part. On the left, a line of a tile has the
/// terms of a row; on the right, two terms of every column.
type Step = [[Tile<u32>; 2]; PARTS];

const EMPTY: Step = [[[Line([0; TILE]); TILE]; 2]; PARTS];

/// Returns true if this machine has tiles and a product is large enough for packing to pay off.
pub(crate) fn worth_it((rows, columns, terms): (usize, usize, usize)) -> bool {
    rows >= 64 && columns >= 192 && terms >= 192 && supported()
}

/// [`worth_it`] for a right matrix of few columns, which the caller would not pack otherwise.
pub(crate) fn worth_it_narrow((rows, _, terms): (usize, usize, usize)) -> bool {
    rows >= 64 && terms >= 192 && supported()
}

/// A factor on the left, one on the right, and the terms of their sums.
type Piece<'a> = (View<'a, f32>, View<'a, f32>, Range<usize>);

/// out = Σ α a b over all pairs (a, b), or out += the same if `accumulate`; with `threads` > 1 it
/// runs on the rayon pool.
///
/// Each sum takes its terms in one order, whatever the number of threads and the other rows.
pub(crate) fn product(
    out: ViewMut<'_, f32>,
    pairs: &[(View<'_, f32>, View<'_, f32>)],
    alpha: f32,
    accumulate: bool,
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
                tiles::add_products(&target, (rows, columns.clone()), (&left, &right));
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

/// The output of a product: α times the sums is added if `accumulate`, otherwise written.
struct Target<'a> {
    out: Disjoint<'a, f32>,
    alpha: f32,
    accumulate: bool,
}

/// Packed panels. Their memory is reused from call to call.
#[derive(Default)]
struct Panels {
    /// At least `steps` of every panel, one panel after another.
    buffer: Vec<Step>,
    steps: usize,
    count: usize,
    /// False if all numbers are bf16, so that only the first parts are not 0.
    lower_parts: bool,
}

thread_local! {
    static LEFT: Cell<Panels> = Cell::default();
    static RIGHT: Cell<Panels> = Cell::default();
}

impl Panels {
    /// Packs lines (rows of left factors or columns of right ones), side by side the given terms of
    /// every matrix.
    fn pack<const RIGHT: bool>(
        &mut self,
        matrices: Vec<(View<'_, f32>, Range<usize>)>,
        lines: Range<usize>,
        threads: usize,
    ) {
        self.steps = matrices.iter().map(|(_, terms)| terms.len().div_ceil(TERMS)).sum();
        self.count = lines.len().div_ceil(PANEL);
        let len = self.count * self.steps;
        if self.buffer.len() < len {
            self.buffer.resize(len, EMPTY);
        }
        let panels = self.buffer[..len].chunks_mut(self.steps).zip(blocks(lines, PANEL));
        let lower_parts = AtomicBool::new(false);
        each(panels, threads, |(panel, lines)| {
            let mut panel = panel.iter_mut();
            for (matrix, terms) in &matrices {
                for (terms, step) in blocks(terms.clone(), TERMS).zip(&mut panel) {
                    if pack_step::<RIGHT>(*matrix, lines.clone(), terms, step) {
                        lower_parts.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        self.lower_parts = lower_parts.into_inner();
    }

    fn panels(&self) -> impl Iterator<Item = &[Step]> {
        self.buffer.chunks(self.steps).take(self.count)
    }
}

/// Splits a range into consecutive blocks of at most `size`.
fn blocks(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(size).map(move |start| start..end.min(start + size))
}

/// Calls `f` with every item, on the rayon pool if `threads` > 1.
fn each<I: Send>(items: impl Iterator<Item = I>, threads: usize, f: impl Fn(I) + Send + Sync) {
    if threads > 1 {
        items.collect::<Vec<_>>().into_par_iter().for_each(f);
    } else {
        items.for_each(f);
    }
}

/// Packs up to [`TERMS`] terms of up to [`PANEL`] lines; returns true if any lower part is not 0.
fn pack_step<const RIGHT: bool>(
    matrix: View<'_, f32>,
    lines: Range<usize>,
    terms: Range<usize>,
    step: &mut Step,
) -> bool {
    let mut lower_parts = false;
    for half in 0..2 {
        let start = lines.end.min(lines.start + half * TILE);
        let lines = start..lines.end.min(start + TILE);
        let tiles = step.each_mut().map(|tiles| &mut tiles[half]);
        if lines.is_empty() {
            tiles.into_iter().for_each(|tile| *tile = [Line([0; TILE]); TILE]);
        } else {
            lower_parts |= tiles::pack::<RIGHT>(matrix, lines, terms.clone(), tiles);
        }
    }
    lower_parts
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[rustversion::since(1.89)]
mod tiles {
    use super::{blocks, Panels, Step, Target, Tile, PANEL, PARTS, TERMS};
    use crate::kernels::cpu::amx::{supported, Line, Registers, TILE};
    use crate::kernels::cpu::view::{Disjoint, View};
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Adds the products of all panels of both sides to the given rows and columns of `target`.
    pub(super) fn add_products(
        target: &Target<'_>,
        (rows, columns): (Range<usize>, Range<usize>),
        (left, right): (&Panels, &Panels),
    ) {
        let registers = Registers::new();
        let kernel = match (left.lower_parts, right.lower_parts) {
            (false, false) => first_parts,
            (true, false) => left_parts,
            (false, true) => right_parts,
            (true, true) => all_parts,
        };
        let mut sums = [[Line([0.0; TILE]); TILE]; 4];
        for (columns, b) in blocks(columns, PANEL).zip(right.panels()) {
            // The next panel is prefetched meanwhile.
            let mut next = b.as_ptr_range().end.cast();
            for (rows, a) in blocks(rows.clone(), PANEL).zip(left.panels()) {
                next = kernel(&registers, (a, b), next, &mut sums);
                add(target, (rows, columns.clone()), &sums);
            }
        }
    }

    /// Adds the sums of a tile, or writes them.
    fn add(
        target: &Target<'_>,
        (rows, columns): (Range<usize>, Range<usize>),
        sums: &[Tile<f32>; 4],
    ) {
        #[allow(unsafe_code, clippy::incompatible_msrv)]
        #[target_feature(enable = "avx512f")]
        fn add(
            out: &Disjoint<'_, f32>,
            (alpha, accumulate): (f32, bool),
            (rows, columns): (Range<usize>, Range<usize>),
            sums: &[Tile<f32>; 4],
        ) {
            let alpha = _mm512_set1_ps(alpha);
            for (i, row) in rows.enumerate() {
                // SAFETY: no other task writes these rows and columns.
                let out = unsafe { out.row(row, columns.clone()) };
                for (out, sums) in out.chunks_mut(TILE).zip(&sums[i / TILE * 2..]) {
                    let mask = (u32::MAX >> (32 - out.len())) as u16;
                    // SAFETY: a line has sixteen numbers, and the mask excludes those beyond `out`.
                    unsafe {
                        let sums = _mm512_load_ps(sums[i % TILE].0.as_ptr());
                        let before = if accumulate { mask } else { 0 };
                        let before = _mm512_maskz_loadu_ps(before, out.as_ptr());
                        let sums = _mm512_fmadd_ps(sums, alpha, before);
                        _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, sums);
                    }
                }
            }
        }
        assert!(supported() && columns.len() <= PANEL && rows.len() <= PANEL, "outside the tiles");
        // SAFETY: machines with tiles have AVX-512.
        #[allow(unsafe_code)]
        unsafe { add(&target.out, (target.alpha, target.accumulate), (rows, columns), sums) };
    }

    /// Loads both tiles of a part of the left panel.
    macro_rules! left {
        ($part:literal) => {
            concat!(
                "tileloadd tmm4, [{a} + {line}*1 + 2048*",
                $part,
                "]\ntileloadd tmm5, [{a} + {line}*1 + 2048*",
                $part,
                " + 1024]",
            )
        };
    }

    /// Loads both tiles of a part of the right panel.
    macro_rules! right {
        ($part:literal) => {
            concat!(
                "tileloadd tmm6, [{b} + {line}*1 + 2048*",
                $part,
                "]\ntileloadd tmm7, [{b} + {line}*1 + 2048*",
                $part,
                " + 1024]",
            )
        };
    }

    /// Adds the products of the loaded tiles.
    macro_rules! multiply {
        () => {
            "tdpbf16ps tmm0, tmm4, tmm6\n\
             tdpbf16ps tmm1, tmm4, tmm7\n\
             tdpbf16ps tmm2, tmm5, tmm6\n\
             tdpbf16ps tmm3, tmm5, tmm7"
        };
    }

    /// Bytes that are prefetched per step.
    const PREFETCHED: usize = 12 * 64;

    /// Defines the product of two panels: 32 × 32 sums over all steps. Of the bytes at `next`,
    /// [`PREFETCHED`] per step are prefetched; returns where those end.
    macro_rules! kernel {
        ($name:ident: $($instructions:expr),*) => {
            fn $name(
                _: &Registers,
                (a, b): (&[Step], &[Step]),
                next: *const u8,
                sums: &mut [Tile<f32>; 4],
            ) -> *const u8 {
                assert!(a.len() == b.len() && !a.is_empty(), "panels of different depth");
                let mut next = next;
                // SAFETY: the registers are configured. A step, and all sums, have the bytes that
                // are accessed. A prefetch may have any address.
                #[allow(unsafe_code)]
                unsafe {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "2:",
                        "prefetcht1 [{next}]",
                        "prefetcht1 [{next} + 64]",
                        "prefetcht1 [{next} + 128]",
                        "prefetcht1 [{next} + 192]",
                        "prefetcht1 [{next} + 256]",
                        "prefetcht1 [{next} + 320]",
                        "prefetcht1 [{next} + 384]",
                        "prefetcht1 [{next} + 448]",
                        "prefetcht1 [{next} + 512]",
                        "prefetcht1 [{next} + 576]",
                        "prefetcht1 [{next} + 640]",
                        "prefetcht1 [{next} + 704]",
                        "add {next}, {prefetched}",
                        $($instructions,)*
                        "add {a}, {step}",
                        "add {b}, {step}",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {line}*1], tmm0",
                        "tilestored [{sums} + {line}*1 + 1024], tmm1",
                        "tilestored [{sums} + {line}*1 + 2048], tmm2",
                        "tilestored [{sums} + {line}*1 + 3072], tmm3",
                        a = inout(reg) a.as_ptr() => _,
                        b = inout(reg) b.as_ptr() => _,
                        next = inout(reg) next,
                        steps = inout(reg) a.len() => _,
                        sums = in(reg) sums.as_mut_ptr(),
                        line = in(reg) 64usize,
                        step = const size_of::<Step>(),
                        prefetched = const PREFETCHED,
                        options(nostack),
                    );
                }
                next
            }
        };
    }

    // Where parts are 0, leaving them out changes no bit: the others follow in the same order.
    kernel!(first_parts: left!(0), right!(0), multiply!());
    kernel!(
        left_parts: right!(0), left!(1), multiply!(), left!(0), multiply!(), left!(2), multiply!()
    );
    kernel!(
        right_parts:
            left!(0), right!(2), multiply!(), right!(1), multiply!(), right!(0), multiply!()
    );
    kernel!(
        all_parts:
            left!(0), right!(2), multiply!(), right!(1), multiply!(), left!(1), multiply!(),
            right!(0), multiply!(), left!(0), multiply!(), left!(2), multiply!()
    );

    /// Packs up to 16 lines; returns true if any lower part is not 0.
    pub(super) fn pack<const RIGHT: bool>(
        matrix: View<'_, f32>,
        lines: Range<usize>,
        terms: Range<usize>,
        tiles: [&mut Tile<u32>; PARTS],
    ) -> bool {
        let View { data, row_stride, col_stride, .. } = matrix;
        let data = &data[lines.start * row_stride + terms.start * col_stride..];
        let size = [lines.len(), terms.len()];
        let last = (size[0] - 1) * row_stride + (size[1] - 1) * col_stride;
        assert!(supported() && size[0] <= TILE && size[1] <= TERMS && last < data.len(), "pack");
        let along = col_stride == 1;
        assert!(along || row_stride == 1, "a packed matrix has neighbours in one direction");
        // SAFETY: machines with tiles have AVX-512, and all terms lie in the slice.
        #[allow(unsafe_code)]
        unsafe {
            let words = if along {
                lines_of_words(data, row_stride, size)
            } else {
                words_of_lines(data, col_stride, size)
            };
            store(words, along == RIGHT, tiles)
        }
    }

    /// The words of a tile's lines, for every part.
    type Words = [[__m512i; TILE]; PARTS];

    /// Reads lines whose terms are contiguous: every line has its words side by side.
    ///
    /// # Safety
    /// All terms lie in `data`.
    #[allow(unsafe_code, clippy::incompatible_msrv)]
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn lines_of_words(data: &[f32], stride: usize, [lines, terms]: [usize; 2]) -> Words {
        const UPPER: [u16; TERMS] = {
            let mut indices = [0; TERMS];
            let mut i = 0;
            while i < TERMS {
                indices[i] = 2 * i as u16 + 1;
                i += 1;
            }
            indices
        };
        let mask = u32::MAX >> (TERMS - terms);
        let mut words = [[_mm512_setzero_si512(); TILE]; PARTS];
        for line in 0..lines {
            let at = data.as_ptr().wrapping_add(line * stride);
            // SAFETY: the masks exclude terms beyond the line's; `UPPER` has 64 bytes.
            unsafe {
                let first = parts(_mm512_maskz_loadu_ps(mask as u16, at));
                let at = at.wrapping_add(TILE);
                let second = parts(_mm512_maskz_loadu_ps((mask >> TILE) as u16, at));
                let upper = _mm512_loadu_si512(UPPER.as_ptr().cast());
                for part in 0..PARTS {
                    words[part][line] =
                        _mm512_permutex2var_epi16(first[part], upper, second[part]);
                }
            }
        }
        words
    }

    /// Reads lines that are contiguous term by term: every word has all lines side by side.
    ///
    /// # Safety
    /// All terms lie in `data`.
    #[allow(unsafe_code, clippy::incompatible_msrv)]
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn words_of_lines(data: &[f32], stride: usize, [lines, terms]: [usize; 2]) -> Words {
        let mask = u16::MAX >> (TILE - lines);
        let mut words = [[_mm512_setzero_si512(); TILE]; PARTS];
        for word in 0..terms.div_ceil(2) {
            let at = data.as_ptr().wrapping_add(2 * word * stride);
            let second = if 2 * word + 1 < terms { mask } else { 0 };
            // SAFETY: the masks exclude lines and terms that do not exist.
            unsafe {
                let first = parts(_mm512_maskz_loadu_ps(mask, at));
                let second = parts(_mm512_maskz_loadu_ps(second, at.wrapping_add(stride)));
                for part in 0..PARTS {
                    let low = _mm512_srli_epi32::<16>(first[part]);
                    words[part][word] = _mm512_or_si512(low, second[part]);
                }
            }
        }
        words
    }

    /// Splits numbers into their parts, each in the upper half of its word.
    #[allow(clippy::incompatible_msrv)]
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn parts(x: __m512) -> [__m512i; PARTS] {
        let upper_half = _mm512_set1_epi32(!0xffff);
        let upper = |x| _mm512_and_si512(_mm512_castps_si512(x), upper_half);
        let first = upper(x);
        let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(first));
        let second = upper(rest);
        let third = upper(_mm512_sub_ps(rest, _mm512_castsi512_ps(second)));
        [first, second, third]
    }

    /// Writes the words to tiles, transposed if asked for; returns true if any word of a lower part
    /// is not 0.
    #[allow(unsafe_code, clippy::incompatible_msrv)]
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn store(words: Words, transpose: bool, tiles: [&mut Tile<u32>; PARTS]) -> bool {
        let mut lower_parts = _mm512_setzero_si512();
        for (part, (words, tile)) in words.into_iter().zip(tiles).enumerate() {
            if part > 0 {
                for words in words {
                    lower_parts = _mm512_or_si512(lower_parts, words);
                }
            }
            let words = if transpose { transposed(words) } else { words };
            for (line, words) in tile.iter_mut().zip(words) {
                // SAFETY: a line has 64 bytes and is aligned to them.
                unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), words) };
            }
        }
        _mm512_test_epi32_mask(lower_parts, lower_parts) != 0
    }

    /// Transposes 16 × 16 words.
    #[allow(clippy::incompatible_msrv)]
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn transposed(rows: [__m512i; TILE]) -> [__m512i; TILE] {
        let mut pairs = rows;
        for i in (0..TILE).step_by(2) {
            pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        // Then element 4 i + c has, in its l-th quarter, column 4 l + c of rows 4 i to 4 i + 3.
        let mut fours = rows;
        for i in (0..TILE).step_by(4) {
            fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
        }
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        let mut columns = rows;
        for c in 0..4 {
            let [a, b, d, e] = [fours[c], fours[c + 4], fours[c + 8], fours[c + 12]];
            let even = [_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(d, e)];
            let odd = [_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(d, e)];
            columns[c] = _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]);
            columns[c + 4] = _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]);
            columns[c + 8] = _mm512_shuffle_i32x4::<ODD>(even[0], even[1]);
            columns[c + 12] = _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]);
        }
        columns
    }
}

/// For machines without tiles and compilers that do not support their instructions.
#[cfg_attr(all(target_arch = "x86_64", target_os = "linux"), rustversion::before(1.89))]
mod tiles {
    use super::{Panels, Target, Tile, PARTS};
    use crate::kernels::cpu::view::View;
    use std::ops::Range;

    pub(super) fn add_products(
        _: &Target<'_>,
        _: (Range<usize>, Range<usize>),
        _: (&Panels, &Panels),
    ) {
        unreachable!("tiles are not supported")
    }

    pub(super) fn pack<const RIGHT: bool>(
        _: View<'_, f32>,
        _: Range<usize>,
        _: Range<usize>,
        _: [&mut Tile<u32>; PARTS],
    ) -> bool {
        unreachable!("tiles are not supported")
    }
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
                product(ViewMut::new(&mut out, m, n, n + 3), &[(x, y)], 2.0, true, 2);
                for (i, row) in out.chunks(n + 3).enumerate() {
                    assert_eq!(row[n..], [0.5; 3], "columns of others were written");
                    for (j, &got) in row[..n].iter().enumerate().step_by(7) {
                        let sum: f64 = (0..k).map(|t| at(x, i, t) * at(y, t, j)).sum();
                        let close = (f64::from(got) - 0.5 - 2.0 * sum).abs() < 4e-5;
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
        a[..300 * k].iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        let mut b = numbers(k * n, 4);
        let made = |a: &[f32], b: &[f32], threads: usize| {
            let m = a.len() / k;
            let mut out = vec![f32::NAN; m * n];
            let out_view = ViewMut::new(&mut out, m, n, n);
            let pair = (View::new(a, m, k, k), View::new(b, k, n, n));
            product(out_view, &[pair], 1.0, false, threads);
            out
        };
        for wide in [true, false] {
            if !wide {
                b.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
            }
            let one = made(&a, &b, 1);
            assert!(one.iter().all(|x| x.is_finite()));
            assert_eq!(one, made(&a, &b, 3));
            let rows = 250..350;
            assert_eq!(
                one[rows.start * n..rows.end * n],
                made(&a[rows.start * k..rows.end * k], &b, 2)
            );
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
            product(ViewMut::new(&mut out, m, n, n), &[pair(0), pair(1)], 1.0, false, 2);
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
            product(ViewMut::new(&mut out, 2, 2, 2), &[(a, b)], 1.0, false, 1);
            assert!(out[..2].iter().all(|x| x.is_finite()), "{out:?}");
            assert!(out[2..].iter().all(|x| !x.is_finite()), "{out:?}");
        }
    }
}
