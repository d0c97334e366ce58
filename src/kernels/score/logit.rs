//! The arithmetic of logits for every element type: block statistics, gradients, and the GEMMs of a
//! language-model head.

use crate::kernels::cpu::element::{widened, Element};
use crate::kernels::cpu::float::Float;
use crate::kernels::cpu::matmul::{matmul, threads_for};
use crate::kernels::cpu::packed;
use crate::kernels::cpu::tile;
use crate::kernels::cpu::tile::{Pair, Split};
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::score::block::{block_sums, gradient_values, largest_of, Factors, Sums, BLOCK};
use half::{bf16, f16};

/// An element type of logits.
pub(crate) trait Logit: Element<Float = Self::Wide> {
    /// [`Element::Float`], which is itself an element type of logits.
    type Wide: Float + Logit<Wide = Self::Wide>;
    /// Returns the largest element of a block.
    fn largest(block: &[Self]) -> Self::Float;
    /// Returns the sums of a block of at most [`BLOCK`] elements.
    fn sums(block: &[Self], scale: Self::Float, max: Self::Float) -> Sums;
    /// Replaces a block of at most [`BLOCK`] elements by its gradient.
    fn gradient(block: &mut [Self], factors: &Factors<Self::Float>);
    /// out = a b, or out += a b if `accumulate`, on all threads.
    fn product(
        out: ViewMut<'_, Self::Float>,
        a: Factor<'_, Self>,
        (b, buffer): (View<'_, Self>, &mut Vec<Self::Float>),
        accumulate: bool,
    ) {
        widened_product(out, a, (b, buffer), accumulate);
    }
}

/// The left matrix of a product.
pub(crate) enum Factor<'a, T: Element> {
    /// In the type of the right matrix, with a buffer to widen it in.
    Own(View<'a, T>, &'a mut Vec<T::Float>),
    /// In the type of the arithmetic.
    Wide(View<'a, T::Float>),
}

fn widened_product<T: Element>(
    out: ViewMut<'_, T::Float>,
    a: Factor<'_, T>,
    (b, buffer): (View<'_, T>, &mut Vec<T::Float>),
    accumulate: bool,
) {
    let a = match a {
        Factor::Own(a, buffer) => a.with(widened(a.data, buffer)),
        Factor::Wide(a) => a,
    };
    let b = b.with(widened(b.data, buffer));
    matmul(out, a, b, T::Float::from_f32(1.0), accumulate, rayon::current_num_threads());
}

/// The methods of a type whose elements are converted inside the loops.
macro_rules! inline_blocks {
    ($Float:ty) => {
        fn largest(block: &[Self]) -> $Float {
            largest_of(block)
        }
        fn sums(block: &[Self], scale: $Float, max: $Float) -> Sums {
            block_sums(block, scale, max)
        }
        fn gradient(block: &mut [Self], factors: &Factors<$Float>) {
            gradient_values(block, factors)
        }
    };
}

impl Logit for f32 {
    type Wide = f32;
    inline_blocks!(f32);
}

impl Logit for f64 {
    type Wide = f64;
    inline_blocks!(f64);
}

impl Logit for bf16 {
    type Wide = f32;
    inline_blocks!(f32);

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

/// Converts whole blocks: f16 has no cheap conversion of single elements.
impl Logit for f16 {
    type Wide = f32;

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
