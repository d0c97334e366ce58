//! The innermost kernel of a product: a tile of accumulators that stays in registers while words of
//! two packed matrices stream through.
//!
//! A word has 32 bits: one f32, or two bf16, whose products with another two `VDPBF16PS` adds to an
//! f32 accumulator.

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Columns of a tile: two registers.
pub(crate) const COLUMNS: usize = 32;

pub(crate) type Tile = [[f32; COLUMNS]; ROWS];

/// The contents of a word.
pub(crate) trait Word {
    /// Terms of a sum per word.
    const TERMS: usize;
    /// Computes the tile of sums over the words of one panel of each side.
    fn tile(a: &[[u32; ROWS]], b: &[[u32; COLUMNS]]) -> Tile;
}

/// One f32 term.
pub(crate) struct Single;

/// Two consecutive bf16 terms, the first in the lower half.
pub(crate) struct Pair;

/// One term. The left word has an f32 split into two bf16 parts (16 of its 24 significant bits);
/// the right word has a bf16 twice.
pub(crate) struct Split;

impl Word for Single {
    const TERMS: usize = 1;
    fn tile(a: &[[u32; ROWS]], b: &[[u32; COLUMNS]]) -> Tile {
        let mut sums = [[0.0; COLUMNS]; ROWS];
        if !avx512::single(a, b, &mut sums) {
            add_words(a, b, &mut sums, |a, b| f32::from_bits(a) * f32::from_bits(b));
        }
        sums
    }
}

impl Word for Pair {
    const TERMS: usize = 2;
    fn tile(a: &[[u32; ROWS]], b: &[[u32; COLUMNS]]) -> Tile {
        let mut sums = [[0.0; COLUMNS]; ROWS];
        if !avx512::pair(a, b, &mut sums) {
            let low = |word: u32| f32::from_bits(word << 16);
            let high = |word: u32| f32::from_bits(word & 0xffff_0000);
            add_words(a, b, &mut sums, |a, b| low(a) * low(b) + high(a) * high(b));
        }
        sums
    }
}

impl Word for Split {
    const TERMS: usize = 1;
    fn tile(a: &[[u32; ROWS]], b: &[[u32; COLUMNS]]) -> Tile {
        Pair::tile(a, b)
    }
}

/// The same arithmetic without the instructions, for tests on other processors.
#[inline(always)]
fn add_words(
    a: &[[u32; ROWS]],
    b: &[[u32; COLUMNS]],
    sums: &mut Tile,
    product: impl Fn(u32, u32) -> f32 + Copy,
) {
    for (a, b) in a.iter().zip(b) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            sums.iter_mut().zip(b).for_each(|(sum, &b)| *sum += product(a, b));
        }
    }
}

/// Returns true, for f32 words and for bf16 words, if this processor has the instructions.
pub(crate) fn instructions() -> [bool; 2] {
    avx512::found()
}

#[cfg(target_arch = "x86_64")]
#[rustversion::since(1.89)]
mod avx512 {
    use super::{Tile, COLUMNS, ROWS};
    use crate::kernels::cpu::float::{vector_unit, VectorUnit};
    use std::arch::is_x86_feature_detected as has;
    use std::arch::x86_64::*;

    pub(crate) fn found() -> [bool; 2] {
        let wide = vector_unit() == VectorUnit::Avx512;
        [wide, wide && has!("avx512bf16")]
    }

    /// Adds the products of all words to `sums`; false if this processor has no such instruction.
    macro_rules! tile {
        (
            $name:ident, $which:literal, $features:literal,
            |$sum:ident, $a:ident, $b:ident| $add:expr
        ) => {
            // Stable since Rust 1.89, which this module requires.
            #[allow(unsafe_code, clippy::incompatible_msrv)]
            pub(crate) fn $name(a: &[[u32; ROWS]], b: &[[u32; COLUMNS]], sums: &mut Tile) -> bool {
                #[target_feature(enable = $features)]
                #[allow(clippy::needless_range_loop)] // what is unrolled into registers
                fn add(a: &[[u32; ROWS]], b: &[[u32; COLUMNS]], sums: &mut Tile) {
                    let mut all = [[_mm512_setzero_ps(); 2]; ROWS];
                    for (a, b) in a.iter().zip(b) {
                        // SAFETY: both halves of a column have sixteen words.
                        let b = unsafe {
                            let b = b.as_ptr().cast();
                            [_mm512_loadu_si512(b), _mm512_loadu_si512(b.add(1))]
                        };
                        for i in 0..ROWS {
                            let $a = _mm512_set1_epi32(a[i] as i32);
                            for j in 0..2 {
                                let $sum = all[i][j];
                                let $b = b[j];
                                all[i][j] = $add;
                            }
                        }
                    }
                    for (out, sums) in sums.iter_mut().zip(all) {
                        for (out, sum) in out.chunks_exact_mut(16).zip(sums) {
                            // SAFETY: a chunk has sixteen elements.
                            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
                        }
                    }
                }
                let found = found()[$which];
                if found {
                    // SAFETY: the machine has the features.
                    unsafe { add(a, b, sums) };
                }
                found
            }
        };
    }

    tile!(single, 0, "avx512f", |sum, a, b| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
    });
    tile!(pair, 1, "avx512f,avx512bf16", |sum, a, b| {
        // SAFETY: both types are 512 bits of which each pattern is valid.
        let [a, b] = unsafe { std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([a, b]) };
        _mm512_dpbf16_ps(sum, a, b)
    });
}

/// For targets without these instructions and compilers that do not support them.
#[cfg_attr(target_arch = "x86_64", rustversion::before(1.89))]
mod avx512 {
    use super::{Tile, COLUMNS, ROWS};

    pub(crate) fn found() -> [bool; 2] {
        [false; 2]
    }

    pub(crate) fn single(_: &[[u32; ROWS]], _: &[[u32; COLUMNS]], _: &mut Tile) -> bool {
        false
    }

    pub(crate) fn pair(_: &[[u32; ROWS]], _: &[[u32; COLUMNS]], _: &mut Tile) -> bool {
        false
    }
}
