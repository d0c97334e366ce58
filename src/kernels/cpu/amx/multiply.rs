//! The product of packed panels, 32 × 32 sums at a time.

use crate::kernels::cpu::view::Disjoint;

pub(super) use tiles::add_products;

/// The output of a product: α times the sums is added if `accumulate`, otherwise written.
#[rustversion::attr(before(1.89), allow(dead_code))]
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), allow(dead_code))]
pub(super) struct Target<'a> {
    pub(super) out: Disjoint<'a, f32>,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[rustversion::since(1.89)]
mod tiles {
    use super::Target;
    use crate::kernels::cpu::amx::panels::{blocks, Panels, Step, Tile, PANEL};
    use crate::kernels::cpu::amx::registers::Registers;
    use crate::kernels::cpu::amx::{supported, Line, Precision, TILE};
    use crate::kernels::cpu::view::Disjoint;
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Adds the products of all panels of both sides to the given rows and columns of `target`.
    pub(in crate::kernels::cpu::amx) fn add_products(
        target: &Target<'_>,
        (rows, columns): (Range<usize>, Range<usize>),
        (left, right): (&Panels, &Panels),
        precision: Precision,
    ) {
        let registers = Registers::new();
        let kernel = match (left.lower_parts, right.lower_parts, precision) {
            (false, false, _) => first_parts,
            (true, false, Precision::Full) => left_parts,
            (false, true, Precision::Full) => right_parts,
            (true, true, Precision::Full) => all_parts,
            (true, false, Precision::Reduced) => two_left_parts,
            (false, true, Precision::Reduced) => two_right_parts,
            (true, true, Precision::Reduced) => two_parts,
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
        unsafe {
            add(&target.out, (target.alpha, target.accumulate), (rows, columns), sums)
        };
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
    kernel!(two_left_parts: right!(0), left!(0), multiply!(), left!(1), multiply!());
    kernel!(two_right_parts: left!(0), right!(1), multiply!(), right!(0), multiply!());
    kernel!(
        two_parts:
            left!(0), right!(1), multiply!(), right!(0), multiply!(), left!(1), multiply!()
    );
}

/// For machines without tiles and compilers that do not support their instructions.
#[cfg_attr(all(target_arch = "x86_64", target_os = "linux"), rustversion::before(1.89))]
mod tiles {
    use super::Target;
    use crate::kernels::cpu::amx::panels::Panels;
    use crate::kernels::cpu::amx::Precision;
    use std::ops::Range;

    pub(in crate::kernels::cpu::amx) fn add_products(
        _: &Target<'_>,
        _: (Range<usize>, Range<usize>),
        _: (&Panels, &Panels),
        _: Precision,
    ) {
        unreachable!("tiles are not supported")
    }
}
