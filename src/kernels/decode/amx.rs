//! Products of quantised rows with Intel's AMX: tiles of bf16 whose products are added in f32.
//!
//! Integers of up to eight bits are exact in bf16, and an f32 is the sum of three bf16, so each
//! term of a sum over a block is exact in f32. The sum is then scaled by the block's f16. This is
//! at least as accurate as f32 arithmetic on converted weights, and much faster. A sum has the same
//! bits whatever the other rows, but not those of the other code.

use crate::kernels::cpu::amx::{supported, TILE};
use crate::kernels::cpu::float::vectorised;
use crate::kernels::decode::gemv::{Panels, LANES};
use crate::kernels::decode::scratch::Scratch;
use candle_core::quantized::GgmlDType;

/// Numbers in a block of the formats that this code reads.
const BLOCK: usize = 32;
/// Words of a tile: 16 lines of 16, each with two bf16.
const WORDS: usize = TILE * TILE;
/// Numbers of [`Parts`] per block: three tiles and the sums over the block.
const PART: usize = 3 * WORDS + TILE;

/// Returns true if this code multiplies rows of `dtype` on this machine.
pub(super) fn multiplies(dtype: GgmlDType) -> bool {
    matches!(dtype, GgmlDType::Q8_0 | GgmlDType::Q4_0 | GgmlDType::Q4_1) && supported()
}

/// Rows of x as tiles: for each panel and block of columns three tiles of bf16, whose sum is x, and
/// the sum of every row over the block.
pub(super) struct Parts {
    buffer: Scratch,
    /// Numbers before the first cache line.
    offset: usize,
    /// Blocks of a panel.
    blocks: usize,
}

impl Parts {
    pub(super) fn new(x: &Panels) -> Self {
        /// Numbers in a cache line.
        const LINE: usize = 16;
        let blocks = x.depth / BLOCK;
        let panels = x.registers() / x.width;
        let mut buffer = Scratch::new(panels * blocks * PART + LINE);
        let offset = buffer.as_ptr().align_offset(64).min(LINE);
        let parts = buffer[offset..].as_chunks_mut::<PART>().0;
        for (panel, parts) in parts.chunks_exact_mut(blocks.max(1)).take(panels).enumerate() {
            match x.width {
                1 => split::<f32>(x.panel::<1>(panel).as_flattened().as_flattened(), LANES, parts),
                _ => split::<f32>(x.panel::<2>(panel).as_flattened().as_flattened(), TILE, parts),
            }
        }
        Self { buffer, offset, blocks }
    }

    /// The blocks of a panel.
    fn panel(&self, panel: usize) -> &[[f32; PART]] {
        let all = self.buffer[self.offset..].as_chunks().0;
        &all[panel * self.blocks..(panel + 1) * self.blocks]
    }
}

vectorised! {
    /// Splits columns of `lanes` numbers into the parts of every block.
    fn split<T, FMA>(columns: &[f32], lanes: usize, parts: &mut [[f32; PART]]) {
        for (columns, part) in columns.chunks_exact(BLOCK * lanes).zip(parts) {
            part.fill(0.0);
            let (tiles, sums) = part.split_at_mut(3 * WORDS);
            for (line, pair) in columns.chunks_exact(2 * lanes).enumerate() {
                let (first, second) = pair.split_at(lanes);
                for lane in 0..lanes {
                    let mut rest = [first[lane], second[lane]];
                    sums[lane] += rest[0] + rest[1];
                    for part in 0..3 {
                        // The upper eight of the significant bits; all 24 in three steps.
                        let [low, high] = rest.map(|x| x.to_bits() & 0xffff_0000);
                        rest = [rest[0] - f32::from_bits(low), rest[1] - f32::from_bits(high)];
                        tiles[part * WORDS + line * TILE + lane] = f32::from_bits(low >> 16 | high);
                    }
                }
            }
        }
    }
}

/// out `[o, registers]` = W xᵀ for rows of W in blocks of `dtype`.
pub(super) fn multiply(
    dtype: GgmlDType,
    w: &[u8],
    (x, parts): (&Panels, &Parts),
    out: &mut [[f32; LANES]],
) {
    let size = x.depth / BLOCK * dtype.type_size();
    let registers = x.registers();
    let panels = registers / x.width;
    // One panel needs a converted block once, several need all blocks again.
    let mut tiles = tiles::Tiles::new(if panels == 1 { 2 } else { parts.blocks.max(2) });
    for (rows, out) in w.chunks(TILE * size).zip(out.chunks_mut(TILE * registers)) {
        for panel in 0..panels {
            let sums = tiles.multiply(dtype, (rows, size), parts.panel(panel), panel == 0);
            for (out, sums) in out.chunks_exact_mut(registers).zip(sums) {
                let out = &mut out[panel * x.width..(panel + 1) * x.width];
                out.copy_from_slice(&sums.0.as_chunks().0[..x.width]);
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[rustversion::since(1.89)]
mod tiles {
    use super::{PART, WORDS};
    use crate::kernels::cpu::amx::registers::Registers;
    use crate::kernels::cpu::amx::{Line, TILE};
    use candle_core::quantized::GgmlDType;
    use std::arch::asm;
    use std::arch::x86_64::*;

    /// A block of 16 rows as a tile of bf16, their scales and, if the format has any, minima.
    #[derive(Clone, Copy)]
    struct Converted {
        tile: [Line<u32>; TILE],
        scales: [[f32; TILE]; 2],
    }

    /// The tile registers of this thread, with room for converted blocks and for a result.
    pub(super) struct Tiles {
        room: Vec<Converted>,
        sums: [Line<f32>; TILE],
        _registers: Registers,
    }

    impl Tiles {
        /// Prepares the registers, with room for so many blocks.
        pub(super) fn new(room: usize) -> Self {
            let nothing = Converted { tile: [Line([0; TILE]); TILE], scales: [[0.0; TILE]; 2] };
            let sums = [Line([0.0; TILE]); TILE];
            Self { room: vec![nothing; room], sums, _registers: Registers::new() }
        }

        /// Multiplies up to 16 quantised rows of `size` bytes with all blocks of a panel. Without
        /// `convert`, they are the rows of the last call, and there is room for all their blocks.
        pub(super) fn multiply(
            &mut self,
            dtype: GgmlDType,
            rows: (&[u8], usize),
            x: &[[f32; PART]],
            convert: bool,
        ) -> &[Line<f32>; TILE] {
            let need = x.len() * dtype.type_size();
            assert!(rows.1 == need && !rows.0.is_empty() && rows.0.len().is_multiple_of(rows.1));
            assert!(self.room.len() >= if convert { 2 } else { x.len() }, "no room");
            let blocks = (&mut self.room[..], convert);
            // SAFETY: the machine has the instructions, and every row has all its blocks.
            #[allow(unsafe_code)]
            unsafe {
                match dtype {
                    GgmlDType::Q8_0 => q8_0(rows, x, blocks, &mut self.sums),
                    GgmlDType::Q4_0 => q4_0(rows, x, blocks, &mut self.sums),
                    GgmlDType::Q4_1 => q4_1(rows, x, blocks, &mut self.sums),
                    other => unreachable!("{other:?} is not multiplied with tiles"),
                }
            }
            &self.sums
        }
    }

    /// c = Σ of the products of `a` with three tiles.
    ///
    /// # Safety
    /// The registers are configured.
    #[allow(unsafe_code)]
    #[inline(always)]
    unsafe fn add_products(a: &[Line<u32>; TILE], x: &[f32; PART], c: &mut [Line<f32>; TILE]) {
        const { assert!(3 * WORDS <= PART) };
        // SAFETY: a, the three parts of x and c have 16 lines of 64 bytes.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm1, [{a} + {line}*1]",
                "tileloadd tmm2, [{x} + {line}*1]",
                "tileloadd tmm3, [{x} + {line}*1 + 1024]",
                "tileloadd tmm4, [{x} + {line}*1 + 2048]",
                "tdpbf16ps tmm0, tmm1, tmm2",
                "tdpbf16ps tmm0, tmm1, tmm3",
                "tdpbf16ps tmm0, tmm1, tmm4",
                "tilestored [{c} + {line}*1], tmm0",
                a = in(reg) a.as_ptr(),
                x = in(reg) x.as_ptr(),
                c = in(reg) c.as_mut_ptr(),
                line = in(reg) 64usize,
                options(nostack),
            );
        }
    }

    /// Reads an f16.
    ///
    /// # Safety
    /// Two bytes are readable.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn half(at: *const u8) -> f32 {
        // SAFETY: the caller's.
        let bits = unsafe { at.cast::<u16>().read_unaligned() };
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }

    /// Defines a product of 16 rows with a panel: `$line` converts a block's integers to bf16.
    macro_rules! rows_of {
        ($name:ident, $bytes:literal, $minimum:literal, |$block:ident| $line:expr) => {
            /// # Safety
            /// The processor has AVX-512 and configured tiles; every row has a block for each of x.
            #[allow(unsafe_code, clippy::incompatible_msrv)]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            unsafe fn $name(
                (rows, size): (&[u8], usize),
                x: &[[f32; PART]],
                (room, convert): (&mut [Converted], bool),
                sums: &mut [Line<f32>; TILE],
            ) {
                let last = rows.len() / size - 1;
                let first = rows.as_ptr();
                let slots = if room.len() > 2 { x.len() } else { 2 };
                let mut products = [[Line([0f32; TILE]); TILE]; 2];
                let mut all = [_mm512_setzero_ps(); TILE];
                // A block is converted, multiplied in the next round, and scaled in the one after
                // that: what a tile loads or stores cannot be forwarded.
                for round in 0..x.len() + 2 {
                    // SAFETY: rows beyond the last repeat it; each has a block for every one of x.
                    unsafe {
                        if let Some(at) = round.checked_sub(2) {
                            let Converted { scales, .. } = &room[at % slots];
                            let totals = _mm512_loadu_ps(x[at].as_ptr().add(3 * WORDS));
                            for r in 0..TILE {
                                let product = _mm512_load_ps(products[at % 2][r].0.as_ptr());
                                let scale = _mm512_set1_ps(scales[0][r]);
                                all[r] = _mm512_fmadd_ps(product, scale, all[r]);
                                if $minimum {
                                    let minimum = _mm512_set1_ps(scales[1][r]);
                                    all[r] = _mm512_fmadd_ps(totals, minimum, all[r]);
                                }
                            }
                        }
                        if (1..=x.len()).contains(&round) {
                            let at = round - 1;
                            add_products(&room[at % slots].tile, &x[at], &mut products[at % 2]);
                        }
                        if convert && round < x.len() {
                            let Converted { tile, scales } = &mut room[round % slots];
                            for r in 0..TILE {
                                let $block = first.add(r.min(last) * size + round * $bytes);
                                let next = $block.wrapping_add(TILE * size);
                                _mm_prefetch::<_MM_HINT_T0>(next.cast());
                                scales[0][r] = half($block);
                                if $minimum {
                                    scales[1][r] = half($block.add(2));
                                }
                                _mm512_store_si512(tile[r].0.as_mut_ptr().cast(), $line);
                            }
                        }
                    }
                }
                for (sums, all) in sums.iter_mut().zip(all) {
                    // SAFETY: a line has the sixteen numbers of a register.
                    unsafe { _mm512_store_ps(sums.0.as_mut_ptr(), all) };
                }
            }
        };
    }

    rows_of!(q8_0, 34, false, |block| {
        let pairs = _mm512_cvtepi8_epi16(_mm256_loadu_si256(block.add(2).cast()));
        let high = _mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(pairs));
        let low = _mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(pairs)));
        // Small integers have zeros in the lower half of an f32.
        let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(low));
        _mm512_or_si512(_mm512_castps_si512(high), low)
    });
    rows_of!(q4_0, 18, false, |block| nibbles(block.add(2), EIGHT_LESS));
    rows_of!(q4_1, 20, true, |block| nibbles(block.add(4), NIBBLE));

    /// The bf16 of `i` + `offset` for a nibble i.
    const fn table(offset: i32) -> [u16; TILE] {
        let mut table = [0; TILE];
        let mut i = 0;
        while i < TILE {
            table[i] = ((i as i32 + offset) as f32).to_bits().wrapping_shr(16) as u16;
            i += 1;
        }
        table
    }
    const NIBBLE: [u16; TILE] = table(0);
    const EIGHT_LESS: [u16; TILE] = table(-8);

    /// Looks up 32 nibbles: the lower ones of 16 bytes, then the upper ones.
    ///
    /// # Safety
    /// Sixteen bytes are readable.
    #[allow(unsafe_code, clippy::incompatible_msrv)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn nibbles(at: *const u8, table: [u16; TILE]) -> __m512i {
        // SAFETY: the caller's, and the table has 32 bytes.
        let (bytes, table) =
            unsafe { (_mm_loadu_si128(at.cast()), _mm256_loadu_si256(table.as_ptr().cast())) };
        // A lookup reads only the lower four bits of each index.
        let words = _mm256_cvtepu8_epi16(bytes);
        let lower = _mm256_permutexvar_epi16(words, table);
        let upper = _mm256_permutexvar_epi16(_mm256_srli_epi16::<4>(words), table);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper)
    }
}

/// For machines without tiles and compilers that do not support their instructions.
#[cfg_attr(all(target_arch = "x86_64", target_os = "linux"), rustversion::before(1.89))]
mod tiles {
    use super::PART;
    use crate::kernels::cpu::amx::{Line, TILE};
    use candle_core::quantized::GgmlDType;

    pub(super) struct Tiles([Line<f32>; TILE]);

    impl Tiles {
        pub(super) fn new(_: usize) -> Self {
            unreachable!("tiles are not supported")
        }

        pub(super) fn multiply(
            &mut self,
            _: GgmlDType,
            _: (&[u8], usize),
            _: &[[f32; PART]],
            _: bool,
        ) -> &[Line<f32>; TILE] {
            &self.0
        }
    }
}
