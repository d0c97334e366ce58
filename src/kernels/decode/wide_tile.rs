//! Tiles of AVX-512 for products of a few rows: the sums of up to [`GROUP`] rows of W with sixteen
//! rows of x, one per lane, stay in registers.

/// Most rows of W in a tile.
pub(super) const GROUP: usize = 24;
/// Columns that are converted at a time, such that rows of W and the panel fit into the
/// first-level cache. It divides a block of a sum and is a multiple of all blocks of numbers.
pub(super) const COLUMNS: usize = 256;
/// Numbers from one row of W to the next; not a power of two, so that rows do not evict each other.
pub(super) const STRIDE: usize = COLUMNS + 16;

/// Returns true if this processor and this build have the instructions.
pub(super) fn supported() -> bool {
    crate::kernels::cpu::tile::instructions()[0]
}

/// sums_r += Σ_k w_rk x_k for every row of sums, with rows of W every [`STRIDE`] numbers.
///
/// Each sum takes its terms in the order of the columns with fused multiply-adds.
pub(super) fn add(x: &[[f32; 16]], w: &[f32], sums: &mut [[f32; 16]]) {
    assert!(sums.is_empty() || w.len() >= (sums.len() - 1) * STRIDE + x.len(), "rows are missing");
    let (whole, rest) = sums.as_chunks_mut::<GROUP>();
    let mut done = 0;
    for sums in whole {
        avx512::add(x, &w[done * STRIDE..], sums);
        done += GROUP;
    }
    let (whole, rest) = rest.as_chunks_mut::<8>();
    for sums in whole {
        avx512::add(x, &w[done * STRIDE..], sums);
        done += 8;
    }
    for sum in rest {
        avx512::add(x, &w[done * STRIDE..], std::array::from_mut(sum));
        done += 1;
    }
}

#[cfg(target_arch = "x86_64")]
#[rustversion::since(1.89)]
mod avx512 {
    use super::{supported, STRIDE};
    use std::arch::x86_64::*;

    // Stable since Rust 1.89, which this module requires.
    #[allow(unsafe_code, clippy::incompatible_msrv)]
    pub(super) fn add<const R: usize>(x: &[[f32; 16]], w: &[f32], sums: &mut [[f32; 16]; R]) {
        #[target_feature(enable = "avx512f")]
        #[allow(clippy::needless_range_loop)] // what is unrolled into registers
        fn add<const R: usize>(x: &[[f32; 16]], w: &[f32], sums: &mut [[f32; 16]; R]) {
            // SAFETY: each row has the sixteen elements of a register.
            let mut all: [__m512; R] =
                std::array::from_fn(|r| unsafe { _mm512_loadu_ps(sums[r].as_ptr()) });
            let mut column = w.as_ptr();
            for x in x {
                // SAFETY: as above, and W has all its rows, as the caller asserts.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
                for r in 0..R {
                    let w = unsafe { *column.add(r * STRIDE) };
                    all[r] = _mm512_fmadd_ps(x, _mm512_set1_ps(w), all[r]);
                }
                column = column.wrapping_add(1);
            }
            for r in 0..R {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(sums[r].as_mut_ptr(), all[r]) };
            }
        }
        assert!(supported() && w.len() >= (R - 1) * STRIDE + x.len(), "rows are missing");
        // SAFETY: the machine has the instructions.
        unsafe { add(x, w, sums) };
    }
}

/// For targets without these instructions and compilers that do not support them.
#[cfg_attr(target_arch = "x86_64", rustversion::before(1.89))]
mod avx512 {
    pub(super) fn add<const R: usize>(_: &[[f32; 16]], _: &[f32], _: &mut [[f32; 16]; R]) {
        unreachable!("these tiles are not supported");
    }
}
