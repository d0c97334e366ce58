//! Element types of tensors (f32, bf16, f16, f64) and the type that each is computed in.
//!
//! bf16 and f16 are storage formats on the CPU: kernels widen blocks of them to f32, compute, and
//! round the result once.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::float::{vectorised, Float};
use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// An element type and the type it is computed in.
pub(crate) trait Element: WithDType {
    /// f32 for f32, bf16 and f16; f64 for f64.
    type Float: Float + Element<Float = Self::Float>;
    /// Returns the block's values: the block itself, or `buffer` (of the block's length) filled
    /// with the converted values.
    fn load<'a>(block: &'a [Self], buffer: &'a mut [Self::Float]) -> &'a [Self::Float];
    /// Rounds `values` to `out`.
    fn store(values: &[Self::Float], out: &mut [Self]);
    /// Fills `out` with what `f` writes; `f` writes to `buffer` if the two types differ.
    fn fill(out: &mut [Self], buffer: &mut Vec<Self::Float>, f: impl FnOnce(&mut [Self::Float])) {
        buffer.resize(out.len(), Self::Float::from_f32(0.0));
        f(buffer);
        Self::store(buffer, out);
    }
    /// Rounds all values to this type; returns them unchanged if they have it already.
    fn rounded(values: Vec<Self::Float>) -> Vec<Self> {
        let mut out = zeros(values.len());
        Self::store(&values, &mut out);
        out
    }
}

/// Widens `data` to the type it is computed in; borrows it unchanged if the types are the same.
pub(crate) fn widened<'a, T: Element>(
    data: &'a [T],
    buffer: &'a mut Vec<T::Float>,
) -> &'a [T::Float] {
    if T::DTYPE != <T::Float as WithDType>::DTYPE {
        buffer.resize(data.len(), T::Float::from_f32(0.0));
    }
    T::load(data, buffer)
}

/// An [`Element`] whose conversions are cheap enough to be part of a kernel's loop.
pub(crate) trait Inline: Element {
    /// Converts to the type of the arithmetic.
    fn widen(self) -> Self::Float;
    /// Rounds to nearest, ties to even; NaN stays NaN.
    fn narrow(value: Self::Float) -> Self;
    /// Rounds as [`Inline::narrow`] does; the only NaNs it accepts are those that arithmetic makes.
    fn narrow_result(value: Self::Float) -> Self;
}

/// Implements both traits for a type that is computed in itself.
macro_rules! wide_element {
    ($T:ty) => {
        impl Element for $T {
            type Float = $T;
            fn load<'a>(block: &'a [Self], _: &'a mut [Self]) -> &'a [Self] {
                block
            }
            fn store(values: &[Self], out: &mut [Self]) {
                out.copy_from_slice(values);
            }
            fn fill(out: &mut [Self], _: &mut Vec<Self>, f: impl FnOnce(&mut [Self])) {
                f(out);
            }
            fn rounded(values: Vec<Self>) -> Vec<Self> {
                values
            }
        }

        impl Inline for $T {
            #[inline(always)]
            fn widen(self) -> $T {
                self
            }
            #[inline(always)]
            fn narrow(value: $T) -> Self {
                value
            }
            #[inline(always)]
            fn narrow_result(value: $T) -> Self {
                value
            }
        }
    };
}
wide_element!(f32);
wide_element!(f64);

impl Element for bf16 {
    type Float = f32;
    fn load<'a>(block: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        widen_all(block, buffer);
        buffer
    }
    fn store(values: &[f32], out: &mut [Self]) {
        narrow_all(values, out);
    }
}

impl Inline for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let quiet = bf16::from_bits(((value.to_bits() | 0x0040_0000) >> 16) as u16);
        if value.is_nan() {
            quiet
        } else {
            Self::narrow_result(value)
        }
    }
    // Rounding turns a NaN into a number only if just its lower bits are set, and no arithmetic
    // operation produces such a NaN.
    #[inline(always)]
    fn narrow_result(value: f32) -> Self {
        let bits = value.to_bits();
        bf16::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }
}

impl Element for f16 {
    type Float = f32;
    fn load<'a>(block: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        block.convert_to_f32_slice(buffer);
        buffer
    }
    fn store(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

vectorised! {
    fn widen_all<L: Inline>(block: &[L], out: &mut [L::Float]) {
        for (o, x) in out.iter_mut().zip(block) {
            *o = x.widen();
        }
    }
}

vectorised! {
    fn narrow_all<L: Inline>(values: &[L::Float], out: &mut [L]) {
        for (o, x) in out.iter_mut().zip(values) {
            *o = L::narrow(*x);
        }
    }
}
