//! Matrices as tiles: f32 split into bf16, in the order in which [`multiply`] reads them.
//!
//! [`multiply`]: crate::kernels::cpu::amx::multiply

use crate::kernels::cpu::amx::{Line, TILE};
use crate::kernels::cpu::view::View;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Terms of a sum in a line of a tile.
pub(super) const TERMS: usize = 2 * TILE;
/// Rows of the left matrix, or columns of the right one, in a panel: two tiles.
pub(super) const PANEL: usize = 2 * TILE;
/// Parts of a number.
pub(super) const PARTS: usize = 3;
pub(super) type Tile<T> = [Line<T>; TILE];

/// [`TERMS`] terms of a panel: the two tiles of every part. On the left, a line of a tile has the
/// terms of a row; on the right, two terms of every column.
pub(super) type Step = [[Tile<u32>; 2]; PARTS];

const EMPTY: Step = [[[Line([0; TILE]); TILE]; 2]; PARTS];

/// Packed panels. Their memory is reused from call to call.
#[derive(Default)]
pub(super) struct Panels {
    /// At least `steps` of every panel, one panel after another.
    buffer: Vec<Step>,
    steps: usize,
    count: usize,
    /// False if all numbers are bf16, so that only the first parts are not 0.
    pub(super) lower_parts: bool,
}

impl Panels {
    /// Packs lines (rows of left factors or columns of right ones), side by side the given terms of
    /// every matrix.
    pub(super) fn pack<const RIGHT: bool>(
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

    #[rustversion::attr(before(1.89), allow(dead_code))]
    #[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), allow(dead_code))]
    pub(super) fn panels(&self) -> impl Iterator<Item = &[Step]> {
        self.buffer.chunks(self.steps).take(self.count)
    }
}

/// Splits a range into consecutive blocks of at most `size`.
pub(super) fn blocks(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(size).map(move |start| start..end.min(start + size))
}

/// Calls `f` with every item, on the rayon pool if `threads` > 1.
pub(super) fn each<I: Send>(
    items: impl Iterator<Item = I>,
    threads: usize,
    f: impl Fn(I) + Send + Sync,
) {
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
            for tile in tiles {
                *tile = [Line([0; TILE]); TILE];
            }
        } else {
            lower_parts |= words::pack::<RIGHT>(matrix, lines, terms.clone(), tiles);
        }
    }
    lower_parts
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[rustversion::since(1.89)]
mod words {
    use super::{Tile, PARTS, TERMS};
    use crate::kernels::cpu::amx::{supported, TILE};
    use crate::kernels::cpu::view::View;
    use std::arch::x86_64::*;
    use std::ops::Range;

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
        #[allow(clippy::needless_range_loop)] // what is unrolled into registers
        for line in 0..lines {
            let at = data.as_ptr().wrapping_add(line * stride);
            // SAFETY: the masks exclude terms beyond the line's; `UPPER` has 64 bytes.
            unsafe {
                let first = parts(_mm512_maskz_loadu_ps(mask as u16, at));
                let at = at.wrapping_add(TILE);
                let second = parts(_mm512_maskz_loadu_ps((mask >> TILE) as u16, at));
                let upper = _mm512_loadu_si512(UPPER.as_ptr().cast());
                for part in 0..PARTS {
                    words[part][line] = _mm512_permutex2var_epi16(first[part], upper, second[part]);
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
        #[allow(clippy::needless_range_loop)] // what is unrolled into registers
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
        // Rounded, so that two parts alone are as close as possible.
        let half = _mm512_set1_epi32(0x8000);
        let second = upper(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(rest), half)));
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
mod words {
    use super::{Tile, PARTS};
    use crate::kernels::cpu::view::View;
    use std::ops::Range;

    pub(super) fn pack<const RIGHT: bool>(
        _: View<'_, f32>,
        _: Range<usize>,
        _: Range<usize>,
        _: [&mut Tile<u32>; PARTS],
    ) -> bool {
        unreachable!("tiles are not supported")
    }
}
