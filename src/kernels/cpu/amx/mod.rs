//! The tile registers of Intel's AMX, which multiply matrices of bf16 and add in f32.

mod multiply;
mod panels;
pub(crate) mod product;

/// The significant bits of the numbers that are multiplied; sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// All 24 of f32.
    Full,
    /// 16 where AMX multiplies, at twice the speed: for quantised weights, which have fewer bits,
    /// and the activations that they are multiplied with.
    Reduced,
}

/// Lines of a tile, and 32-bit words of a line.
pub(crate) const TILE: usize = 16;

/// A line of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) [T; TILE]);

pub(crate) use registers::supported;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[rustversion::since(1.89)]
pub(crate) mod registers {
    use super::TILE;
    use crate::kernels::cpu::tile::instructions;
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::OnceLock;

    /// Returns true if the processor has tiles of bf16 and the system lets this process use them.
    pub(crate) fn supported() -> bool {
        static SUPPORTED: OnceLock<bool> = OnceLock::new();
        *SUPPORTED.get_or_init(|| instructions()[0] && has_tiles() && permitted())
    }

    /// Bits 22 (AMX-BF16) and 24 (AMX-TILE) of CPUID 7.0, register EDX.
    fn has_tiles() -> bool {
        const BITS: u32 = 1 << 22 | 1 << 24;
        // SAFETY: every x86-64 processor has this instruction, which older compilers call unsafe.
        #[allow(unsafe_code, unused_unsafe)]
        let [most, features] = unsafe { [__cpuid(0).eax, __cpuid_count(7, 0).edx] };
        most >= 7 && features & BITS == BITS
    }

    /// Requests the state component of tile data from Linux, for all threads of the process.
    fn permitted() -> bool {
        const REQUEST_PERMISSION: libc::c_int = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // SAFETY: this request changes nothing but the permission.
        #[allow(unsafe_code)]
        let result = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
        result == 0
    }

    /// The eight tile registers of this thread, 16 lines of 64 bytes each.
    pub(crate) struct Registers(());

    impl Registers {
        /// Prepares the registers for use, until this value is dropped.
        pub(crate) fn new() -> Self {
            assert!(supported(), "tiles are not supported");
            let mut bytes = [0u8; 64];
            bytes[0] = 1; // palette
            for tile in 0..8 {
                bytes[16 + 2 * tile] = 64;
                bytes[48 + tile] = TILE as u8;
            }
            // SAFETY: the machine has tiles, and this is a valid configuration of 64 bytes.
            #[allow(unsafe_code)]
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &bytes, options(nostack, readonly));
            }
            Self(())
        }
    }

    impl Drop for Registers {
        fn drop(&mut self) {
            // SAFETY: the registers are this thread's, and nothing uses them afterwards.
            #[allow(unsafe_code)]
            unsafe {
                asm!("tilerelease", options(nostack, nomem));
            }
        }
    }
}

/// For machines without tiles and compilers that do not support their instructions.
#[cfg_attr(all(target_arch = "x86_64", target_os = "linux"), rustversion::before(1.89))]
mod registers {
    pub(crate) fn supported() -> bool {
        false
    }
}
