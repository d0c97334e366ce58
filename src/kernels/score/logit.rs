//! The element types of logits, and how each is converted to and from the type it is computed in.

use crate::kernels::cpu::matmul::{matmul, threads_for, View, ViewMut};
use crate::kernels::cpu::packed;
use crate::kernels::cpu::real::{vectorised, Real};
use crate::kernels::cpu::tile;
use crate::kernels::cpu::tile::{Pair, Split};
use crate::kernels::score::rows::{block_sums, gradient_values, largest_of, Factors, Sums, BLOCK};
use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// An element type of logits and the type it is computed in.
pub(crate) trait Logit: WithDType {
    /// f32 for f32, bf16 and f16; f64 for f64.
    type Real: Real + Logit<Real = Self::Real>;
    /// The block's values: itself, or converted into `buffer`, which is as long as the block.
    fn load<'a>(block: &'a [Self], buffer: &'a mut [Self::Real]) -> &'a [Self::Real];
    /// Rounds `values` to `out`.
    fn store(values: &[Self::Real], out: &mut [Self]);
    /// The largest element of a block.
    fn largest(block: &[Self]) -> Self::Real;
    /// The sums of a block of at most [`BLOCK`] elements.
    fn sums(block: &[Self], scale: Self::Real, max: Self::Real) -> Sums;
    /// Replaces a block of at most [`BLOCK`] elements by its gradient.
    fn gradient(block: &mut [Self], factors: &Factors<Self::Real>);
    /// out = a b, or out += a b where `accumulate`, on all threads.
    fn product(
        out: ViewMut<'_, Self::Real>,
        a: Factor<'_, Self>,
        (b, buffer): (View<'_, Self>, &mut Vec<Self::Real>),
        accumulate: bool,
    ) {
        widened_product(out, a, (b, buffer), accumulate);
    }
    /// Fills `out` with what `f` writes, in `buffer` where the types differ.
    fn fill(out: &mut [Self], buffer: &mut Vec<Self::Real>, f: impl FnOnce(&mut [Self::Real])) {
        buffer.resize(out.len(), Self::Real::from_f32(0.0));
        f(buffer);
        Self::store(buffer, out);
    }
    /// The values rounded to this type.
    fn own(values: Vec<Self::Real>) -> Vec<Self> {
        let mut out = crate::kernels::cpu::buffer::zeros(values.len());
        Self::store(&values, &mut out);
        out
    }
}

/// The left matrix of a product: in the type of the right one, with a buffer to widen it in, or in that of the arithmetic.
pub(crate) enum Factor<'a, T: Logit> {
    Own(View<'a, T>, &'a mut Vec<T::Real>),
    Wide(View<'a, T::Real>),
}

fn widened_product<T: Logit>(
    out: ViewMut<'_, T::Real>,
    a: Factor<'_, T>,
    (b, buffer): (View<'_, T>, &mut Vec<T::Real>),
    accumulate: bool,
) {
    let a = match a {
        Factor::Own(a, buffer) => a.with(widened(a.data, buffer)),
        Factor::Wide(a) => a,
    };
    let b = b.with(widened(b.data, buffer));
    matmul(out, a, b, T::Real::from_f32(1.0), accumulate, rayon::current_num_threads());
}

/// Elements of one type widened for what is computed with them; nothing is copied where it is its own arithmetic.
pub(crate) fn widened<'a, T: Logit>(data: &'a [T], buffer: &'a mut Vec<T::Real>) -> &'a [T::Real] {
    if T::DTYPE != <T::Real as WithDType>::DTYPE {
        buffer.resize(data.len(), T::Real::from_f32(0.0));
    }
    T::load(data, buffer)
}

/// A [`Logit`] whose conversions are part of the loops.
pub(crate) trait Inline: Logit {
    /// In the type of the arithmetic.
    fn widen(self) -> Self::Real;
    /// To the nearest, ties to even; a NaN stays one.
    fn narrow(value: Self::Real) -> Self;
    /// The same for a number, or a NaN that an operation on numbers made.
    fn narrow_result(value: Self::Real) -> Self;
}

macro_rules! inline {
    ($T:ty, $Real:ty, $widen:expr, $narrow:expr, $narrow_result:expr, { $($item:item)* }) => {
        impl Inline for $T {
            #[inline(always)]
            fn widen(self) -> $Real {
                $widen(self)
            }
            #[inline(always)]
            fn narrow(value: $Real) -> Self {
                $narrow(value)
            }
            #[inline(always)]
            fn narrow_result(value: $Real) -> Self {
                $narrow_result(value)
            }
        }

        impl Logit for $T {
            type Real = $Real;
            fn largest(block: &[Self]) -> $Real {
                largest_of(block)
            }
            fn sums(block: &[Self], scale: $Real, max: $Real) -> Sums {
                block_sums(block, scale, max)
            }
            fn gradient(block: &mut [Self], factors: &Factors<$Real>) {
                gradient_values(block, factors)
            }
            $($item)*
        }
    };
}

/// What a type that is its own arithmetic does not have to do.
macro_rules! own_arithmetic {
    ($T:ty) => {
        inline!($T, $T, |x| x, |x| x, |x| x, {
            fn load<'a>(block: &'a [Self], _: &'a mut [Self]) -> &'a [Self] {
                block
            }
            fn store(values: &[Self], out: &mut [Self]) {
                out.copy_from_slice(values);
            }
            fn fill(out: &mut [Self], _: &mut Vec<Self>, f: impl FnOnce(&mut [Self])) {
                f(out);
            }
            fn own(values: Vec<Self>) -> Vec<Self> {
                values
            }
        });
    };
}
own_arithmetic!(f32);
own_arithmetic!(f64);

inline!(
    bf16,
    f32,
    |x: bf16| f32::from_bits(u32::from(x.to_bits()) << 16),
    narrow_bf16,
    narrow_bf16_result,
    {
        fn load<'a>(block: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
            widen_all(block, buffer);
            buffer
        }
        fn store(values: &[f32], out: &mut [Self]) {
            narrow_all(values, out);
        }
        fn product(
            mut out: ViewMut<'_, f32>,
            a: Factor<'_, Self>,
            (b, buffer): (View<'_, Self>, &mut Vec<f32>),
            accumulate: bool,
        ) {
            let size = (out.rows, out.cols, b.rows);
            if !(tile::instructions()[1] && packed::worth_it(size)) {
                return widened_product(out, a, (b, buffer), accumulate);
            }
            let threads = threads_for(size, rayon::current_num_threads());
            match a {
                Factor::Own(a, _) => {
                    packed::product::<Pair, _, _>(&mut out, a, b, 1.0, accumulate, threads)
                }
                Factor::Wide(a) => {
                    packed::product::<Split, _, _>(&mut out, a, b, 1.0, accumulate, threads)
                }
            }
        }
    }
);

impl Logit for f16 {
    type Real = f32;
    fn load<'a>(block: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        block.convert_to_f32_slice(buffer);
        buffer
    }
    fn store(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
    fn largest(block: &[Self]) -> f32 {
        f32::largest(Self::load(block, &mut [0.0; BLOCK][..block.len()]))
    }
    fn sums(block: &[Self], scale: f32, max: f32) -> Sums {
        f32::sums(Self::load(block, &mut [0.0; BLOCK][..block.len()]), scale, max)
    }
    fn gradient(block: &mut [Self], factors: &Factors<f32>) {
        let mut values = [0.0; BLOCK];
        let values = &mut values[..block.len()];
        Self::load(block, values);
        f32::gradient(values, factors);
        Self::store(values, block);
    }
}

#[inline(always)]
fn narrow_bf16(x: f32) -> bf16 {
    let quiet = bf16::from_bits(((x.to_bits() | 0x0040_0000) >> 16) as u16);
    if x.is_nan() {
        quiet
    } else {
        narrow_bf16_result(x)
    }
}

/// Only a NaN whose lower bits are set would be rounded to a number, and operations do not make those.
#[inline(always)]
fn narrow_bf16_result(x: f32) -> bf16 {
    let bits = x.to_bits();
    bf16::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
}

vectorised! {
    fn widen_all<L: Inline>(block: &[L], out: &mut [L::Real]) {
        for (o, x) in out.iter_mut().zip(block) {
            *o = x.widen();
        }
    }
}

vectorised! {
    fn narrow_all<L: Inline>(values: &[L::Real], out: &mut [L]) {
        for (o, x) in out.iter_mut().zip(values) {
            *o = L::narrow(*x);
        }
    }
}
