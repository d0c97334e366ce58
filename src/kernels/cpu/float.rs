//! The element types that the CPU kernels compute in (f32 and f64), vectorised elementary
//! functions, and access to slices of tensors.

use crate::kernels::cpu::transposed;
use crate::kernels::dispatch::is_cpu;
use candle_core::{CpuStorage, DType, Layout, Storage, Tensor, WithDType};

/// The type of a kernel's arithmetic: `f32` for training, `f64` for gradient checks by finite
/// differences.
///
/// `FMA` is true if the code is compiled for a processor with fused multiply-add (see
/// [`vectorised`]).
pub(crate) trait Float: WithDType {
    /// Returns eˣ, exactly 0 for −∞. The relative error in f32 is below 2.4·10⁻⁷, plus 3·10⁻⁹ |x|
    /// if `FMA`.
    fn exp<const FMA: bool>(self) -> Self;
    /// Returns eˣ for x ≤ 0; below about the smallest normal number it is 0. As accurate as
    /// [`Float::exp`].
    #[inline(always)]
    fn exp_nonpositive<const FMA: bool>(self) -> Self {
        self.clamped_exp::<FMA>().1
    }
    /// Returns (x, eˣ) for x ≤ 0, with x replaced by a finite number where eˣ is 0, so that x eˣ is
    /// 0 for −∞. See [`Float::exp_nonpositive`].
    fn clamped_exp<const FMA: bool>(self) -> (Self, Self);
    /// Returns self · a + b, rounded once if `FMA`.
    fn mul_add<const FMA: bool>(self, a: Self, b: Self) -> Self;
    /// Returns √x.
    fn sqrt(self) -> Self;
    /// Returns the larger of two numbers; NaN in `self` is kept.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self {
            other
        } else {
            self
        }
    }
    /// Converts from f32.
    fn from_f32(x: f32) -> Self;
    /// Transposes an 8 × 8 block.
    #[inline(always)]
    fn transposed<const FMA: bool>(rows: [[Self; 8]; 8]) -> [[Self; 8]; 8] {
        transposed::by_elements(rows)
    }
    /// Returns the slice itself if this type is f32, for callers with a faster path for f32 alone.
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// [`Float::as_f32`] for writing.
    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

/// The methods of [`Float`] that call the primitive type's own.
macro_rules! inherent_methods {
    ($T:ty) => {
        #[inline(always)]
        fn mul_add<const FMA: bool>(self, a: Self, b: Self) -> Self {
            if FMA {
                <$T>::mul_add(self, a, b)
            } else {
                self * a + b
            }
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            <$T>::sqrt(self)
        }
    };
}

impl Float for f32 {
    inherent_methods!(f32);

    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        exp_f32::<FMA>(self)
    }
    #[inline(always)]
    fn clamped_exp<const FMA: bool>(self) -> (Self, Self) {
        // Below −87.7, n is −127: the bit pattern of the number 0.
        let clamped = if self < -88.0 { -88.0 } else { self };
        let (p, power) = exp_parts::<FMA>(clamped);
        (clamped, p * f32::from_bits(power << 23))
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn transposed<const FMA: bool>(rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        if FMA {
            // SAFETY: code with FMA is compiled for processors with AVX2 and runs only on them.
            #[allow(unsafe_code)]
            unsafe {
                return transposed::by_registers(rows);
            }
        }
        transposed::by_elements(rows)
    }
    fn as_f32(slice: &[f32]) -> Option<&[f32]> {
        Some(slice)
    }
    fn as_f32_mut(slice: &mut [f32]) -> Option<&mut [f32]> {
        Some(slice)
    }
}

impl Float for f64 {
    inherent_methods!(f64);

    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn clamped_exp<const FMA: bool>(self) -> (Self, Self) {
        let clamped = if self < -800.0 { -800.0 } else { self };
        (clamped, f64::exp(clamped))
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f64::from(x)
    }
}

/// Returns eʳ and n + 127 (in the lowest nine bits) with x = n ln 2 + r and |r| ≤ ln 2 / 2, for |x|
/// < 128 ln 2. It has no branches, so loops over it vectorise.
///
/// eʳ is a polynomial of degree 6, minimax in the relative error (3.1·10⁻⁹ before rounding).
#[inline(always)]
fn exp_parts<const FMA: bool>(x: f32) -> (f32, u32) {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0 + 127.0; // 1.5 · 2²³: adding it rounds to an integer
    let shifted = Float::mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // One step if the product is not rounded: ln 2 in f32 is off by 1.9·10⁻⁹.
    let r = if FMA {
        f32::mul_add(n, -std::f32::consts::LN_2, x)
    } else {
        x - n * LN2_HIGH - n * LN2_LOW
    };
    let mut p = 1.381_459_9e-3;
    for c in [8.368_717e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1, 1.0, 1.0] {
        p = Float::mul_add::<FMA>(p, r, c);
    }
    (p, shifted.to_bits())
}

/// Returns 2ᵉ for −126 ≤ e ≤ 127.
#[inline(always)]
fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// Returns eˣ in f32; 0 below e⁻¹⁰⁴. 2ⁿ is split into two factors to reach subnormal results and n
/// = 128.
#[inline(always)]
fn exp_f32<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let (p, power) = exp_parts::<FMA>(clamped);
    let exponent = (power & 0x1ff) as i32 - 127;
    let half = exponent >> 1;
    let value = p * power_of_two(half) * power_of_two(exponent - half);
    if x < -104.0 {
        0.0
    } else {
        value
    }
}

/// Adds eight lanes pairwise.
#[inline(always)]
pub(crate) fn lane_sum<T: Float>(l: [T; 8]) -> T {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Returns the largest element of a non-empty row; NaNs may be ignored.
#[inline(always)]
pub(crate) fn largest<T: Float>(row: &[T]) -> T {
    let (chunks, tail) = row.as_chunks::<16>();
    let mut lanes = [row[0]; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(x);
        }
    }
    lanes.iter().chain(tail).fold(row[0], |a, &b| a.larger(b))
}

/// Returns Σ f(a_i, b_i), accumulated in eight lanes.
#[inline(always)]
pub(crate) fn sum_of<T: Float>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::from_f64(0.0); 8];
    let (a, a_tail) = a.as_chunks::<8>();
    let (b, b_tail) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(x, y);
        }
    }
    let mut sum = lane_sum(lanes);
    for (&x, &y) in a_tail.iter().zip(b_tail) {
        sum += f(x, y);
    }
    sum
}

/// Runs `$body` with the type alias `$T` bound to the element type of `$dtype`, f32 or f64.
macro_rules! with_float {
    ($dtype:expr, $name:literal, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, $name)),
        }
    };
}
pub(crate) use with_float;

/// Defines a function over a [`Float`] type that is compiled three times: for AVX-512, for AVX2
/// with FMA, and for the target's baseline. A call runs the first version that this processor
/// supports.
///
/// A second generic name, as in `fn f<T, FMA>`, is a constant that is true if multiply-adds are
/// fused. Without it, all versions compute the same bits; with it, the versions with FMA agree with
/// each other.
macro_rules! vectorised {
    (
        $(#[$meta:meta])* fn $name:ident<$T:ident>
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        crate::kernels::cpu::float::vectorised! {
            $(#[$meta])* fn $name<$T: crate::kernels::cpu::float::Float, FMA>
            ($($arg: $ty),*) $(-> $ret)? $body
        }
    };
    (
        $(#[$meta:meta])* fn $name:ident<$T:ident: $bound:path>
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        crate::kernels::cpu::float::vectorised! {
            $(#[$meta])* fn $name<$T: $bound, FMA>($($arg: $ty),*) $(-> $ret)? $body
        }
    };
    (
        $(#[$meta:meta])* fn $name:ident<$T:ident, $F:ident>
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        crate::kernels::cpu::float::vectorised! {
            $(#[$meta])* fn $name<$T: crate::kernels::cpu::float::Float, $F>
            ($($arg: $ty),*) $(-> $ret)? $body
        }
    };
    (
        $(#[$meta:meta])* fn $name:ident<$T:ident: $bound:path, $F:ident>
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $name<$T: $bound>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$T: $bound, const $F: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use crate::kernels::cpu::float::{vector_unit, VectorUnit};
                #[rustversion::attr(
                    since(1.89),
                    target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")
                )]
                #[allow(clippy::too_many_arguments)]
                fn avx512<$T: $bound>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T, true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<$T: $bound>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T, true>($($arg),*)
                }
                // SAFETY: each function requires only the features that its branch detected.
                #[allow(unsafe_code, unused_unsafe)]
                match vector_unit() {
                    VectorUnit::Avx512 => return unsafe { avx512::<$T>($($arg),*) },
                    VectorUnit::Avx2 => return unsafe { avx2::<$T>($($arg),*) },
                    VectorUnit::Baseline => {}
                }
            }
            body::<$T, { cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Instruction sets that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VectorUnit {
    /// AVX-512 F, BW, DQ and VL, with FMA; requires Rust 1.89.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// The target's baseline.
    Baseline,
}

/// Returns the widest supported instruction set of this processor.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn vector_unit() -> VectorUnit {
    use std::arch::is_x86_feature_detected as has;
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    match has!("avx2") && has!("fma") {
        true if avx512 && rustversion::cfg!(since(1.89)) => VectorUnit::Avx512,
        true => VectorUnit::Avx2,
        false => VectorUnit::Baseline,
    }
}

/// Prefetches the cache line at an address. The address does not have to be valid.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never reads memory, wherever the address points.
    #[allow(unsafe_code)]
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch(at.cast(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Returns the contiguous elements of a CPU storage seen through `layout`.
pub(crate) fn slice_of<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    let data = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "kernel" }),
    }
}

/// Calls `f` with the elements of a tensor on the CPU: borrowed from a contiguous one of type `T`,
/// otherwise copied.
pub(crate) fn with_slice<T: WithDType, R>(
    tensor: &Tensor,
    f: impl FnOnce(&[T]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    with_slices([tensor], |[slice]| f(slice))
}

/// Calls `f` with the elements of tensors on the CPU: borrowed from contiguous ones of type `T`,
/// otherwise copied.
///
/// # Errors
/// Those of `f`, and a tensor on another device: a kernel must not move work to the CPU unnoticed.
pub(crate) fn with_slices<T: WithDType, R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let mut tensors = tensors.map(Tensor::clone);
    for tensor in &mut tensors {
        if !is_cpu(tensor) {
            let device = tensor.device().location();
            candle_core::bail!("a kernel of the CPU was called with a tensor on {device:?}");
        }
        if tensor.dtype() != T::DTYPE || !tensor.is_contiguous() {
            *tensor = tensor.to_dtype(T::DTYPE)?.contiguous()?;
        }
    }
    let guards = tensors.each_ref().map(Tensor::storage_and_layout);
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        if let Storage::Cpu(storage) = &**storage {
            *slice = slice_of(storage, layout)?;
        }
    }
    f(slices)
}

/// Returns true if the CPU kernels support this tensor's device and type.
pub(crate) fn on_cpu(tensor: &Tensor) -> bool {
    is_cpu(tensor) && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const FMA: bool>() {
        let mut x = -87.0f32;
        while x < 88.5 {
            let want = (x as f64).exp();
            let bound = 2.4e-7 + if FMA { 3e-9 * f64::from(x.abs()) } else { 0.0 };
            let close = |got: f32| ((got as f64 - want) / want).abs() < bound;
            assert!(close(exp_f32::<FMA>(x)), "x = {x}: {} against {want}", exp_f32::<FMA>(x));
            assert!(x > 0.0 || close(x.exp_nonpositive::<FMA>()), "x = {x}");
            x += 0.001_37;
        }
        assert_eq!((exp_f32::<FMA>(f32::NEG_INFINITY), exp_f32::<FMA>(0.0)), (0.0, 1.0));
        assert_eq!(
            (f32::NEG_INFINITY.exp_nonpositive::<FMA>(), 0f32.exp_nonpositive::<FMA>()),
            (0.0, 1.0)
        );
        assert_eq!((-1e30f32).exp_nonpositive::<FMA>(), 0.0);
        assert!(exp_f32::<FMA>(f32::INFINITY).is_infinite());
        assert!(exp_f32::<FMA>(f32::NAN).is_nan() && f32::NAN.exp_nonpositive::<FMA>().is_nan());
    }

    #[test]
    fn exponentials_are_within_their_bound_and_handle_the_ends() {
        check::<true>();
        check::<false>();
    }
}
