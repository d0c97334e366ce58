//! The two element types the CPU kernels run in, vectorised elementary functions, and slice access.

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor, WithDType};

/// An element type of the CPU kernels: `f32` for training, `f64` for finite differences.
pub(crate) trait Real: WithDType {
    /// eˣ, exactly 0 for −∞; relative error below 2 ulp.
    fn exp(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// The larger of two numbers; NaN in `self` is kept.
    fn larger(self, other: Self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn exp(self) -> Self {
        exp_f32(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self {
            other
        } else {
            self
        }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self {
            other
        } else {
            self
        }
    }
}

/// eˣ in single precision without branches, so that loops over it vectorise.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; eʳ by its Taylor polynomial of degree 7; 2ⁿ in two factors so that
/// subnormal results and n = 128 are reached. Results below e⁻¹⁰⁴ are 0.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let exponent = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
    let half = exponent >> 1;
    let scale = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    let value = p * scale(half) * scale(exponent - half);
    if x < -104.0 {
        0.0
    } else {
        value
    }
}

/// Sum of eight lanes, pairwise.
#[inline(always)]
pub(crate) fn lane_sum<T: Real>(l: [T; 8]) -> T {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Largest element of a row that is not empty; a NaN may or may not show.
#[inline(always)]
pub(crate) fn largest<T: Real>(row: &[T]) -> T {
    let (chunks, tail) = row.as_chunks::<16>();
    let mut lanes = [row[0]; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(x);
        }
    }
    lanes.iter().chain(tail).fold(row[0], |a, &b| a.larger(b))
}

/// Σ f(a_i, b_i) in eight lanes.
#[inline(always)]
pub(crate) fn sum_of<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::from_f64(0.0); 8];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
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
macro_rules! with_real {
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
pub(crate) use with_real;

/// Defines a function whose loops are compiled for AVX2 where the machine has it.
///
/// Multiplications and additions are never contracted, so both versions compute the same bits.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident<$T:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $name<$T: crate::kernels::real::Real>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable<$T: crate::kernels::real::Real>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<$T: crate::kernels::real::Real>($($arg: $ty),*) $(-> $ret)? {
                    portable::<$T>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the function needs AVX2 and nothing else, and the CPU has just said it has it.
                    #[allow(unsafe_code)]
                    return unsafe { avx2::<$T>($($arg),*) };
                }
            }
            portable::<$T>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// The contiguous elements of a CPU storage seen through `layout`.
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

/// Calls `f` with the tensor's elements: in place for a contiguous CPU tensor of type `T`, else with a copy.
pub(crate) fn with_slice<T: WithDType, R>(
    tensor: &Tensor,
    f: impl FnOnce(&[T]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    if tensor.dtype() == T::DTYPE && tensor.is_contiguous() {
        let (storage, layout) = tensor.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            return f(slice_of(storage, layout)?);
        }
    }
    let copy = tensor.to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1::<T>()?;
    f(&copy)
}

/// Whether the CPU kernels can serve this tensor.
pub(crate) fn on_cpu(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_f32_is_within_two_ulp_and_handles_the_ends() {
        let mut x = -87.0f32;
        while x < 88.5 {
            let (got, want) = (exp_f32(x) as f64, (x as f64).exp());
            assert!(((got - want) / want).abs() < 2.4e-7, "x = {x}: {got} against {want}");
            x += 0.001_37;
        }
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(0.0), 1.0);
        assert!(exp_f32(f32::INFINITY).is_infinite());
        assert!(exp_f32(f32::NAN).is_nan());
    }
}
