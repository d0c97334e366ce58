//! A language-model head, one tile of the vocabulary at a time.
//!
//! Shapes: n = tokens, h = hidden width, v = vocabulary, w = columns of a tile. Only one tile of
//! logits `[n, w]` exists at a time. The rows' statistics are carried from tile to tile, and the
//! backward pass recomputes the logits, which makes four matrix multiplications in all. If one tile
//! holds the whole vocabulary, its logits are kept and three suffice. Each tile's part of dW is
//! written once, so nothing is rounded twice.

use crate::kernels::cpu::amx::Precision;
use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::element::{widened, Element};
use crate::kernels::cpu::float::Float;
use crate::kernels::cpu::matmul::matmul_sum;
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::quantized::matrix::QuantizedMatrix;
use crate::kernels::score::logit::{Factor, Logit};
use crate::kernels::score::scoring::{RowScore, Scoring};
use crate::kernels::score::softmax::{Running, ScoreGradient};
use rayon::prelude::*;
use std::ops::Range;

/// One term x Wᵀ of the logits: x `[n, width]` and W `[v, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) weight: TermWeight<'a, T>,
    pub(crate) width: usize,
}

/// The weight W of a [`Term`]. A quantised one is frozen, and converted a tile at a time.
#[derive(Clone, Copy)]
pub(crate) enum TermWeight<'a, T> {
    Dense(&'a [T]),
    Quantized(&'a QuantizedMatrix),
}

impl<T: Logit> Term<'_, T> {
    /// z = x Wᵀ of columns `start..start + width` of the logits, or z += x Wᵀ if `accumulate`.
    fn add_logits(
        &self,
        (start, width): (usize, usize),
        z: &mut [T::Float],
        [left, right]: &mut [Vec<T::Float>; 2],
        accumulate: bool,
    ) {
        let k = self.width;
        let n = self.x.len() / k;
        let x = View::new(self.x, n, k, k);
        let out = ViewMut::new(z, n, width, width);
        match self.weight {
            TermWeight::Dense(weight) => {
                let w = View::new(&weight[start * k..(start + width) * k], width, k, k);
                T::product(out, Factor::Own(x, left), (w.t(), right), accumulate);
            }
            TermWeight::Quantized(matrix) => {
                let w = View::new(rows(matrix, start..start + width, right), width, k, k);
                let x = x.with(widened(self.x, left));
                matmul_sum(out, &[(x, w.t())], accumulate, Precision::Reduced);
            }
        }
    }

    /// dx = z W of columns `start..start + width`, or dx += z W if `accumulate`.
    fn add_input_gradient(
        &self,
        (start, width): (usize, usize),
        z: View<'_, T::Float>,
        dx: &mut [T::Float],
        buffer: &mut Vec<T::Float>,
        accumulate: bool,
    ) {
        let k = self.width;
        let out = ViewMut::new(dx, z.rows, k, k);
        match self.weight {
            TermWeight::Dense(weight) => {
                let w = View::new(&weight[start * k..(start + width) * k], width, k, k);
                T::product(out, Factor::Wide(z), (w, buffer), accumulate);
            }
            TermWeight::Quantized(matrix) => {
                let w = View::new(rows(matrix, start..start + width, buffer), width, k, k);
                matmul_sum(out, &[(z, w)], accumulate, Precision::Reduced);
            }
        }
    }
}

/// Converts a range of rows into `buffer`.
fn rows<'a, T: Float>(
    matrix: &QuantizedMatrix,
    range: Range<usize>,
    buffer: &'a mut Vec<T>,
) -> &'a [T] {
    buffer.resize(range.len() * matrix.dims().1, T::from_f32(0.0));
    matrix.rows_to(range, buffer);
    buffer
}

/// Hidden states and weights of one call. `terms` contains the head's own term and, with a LoRA
/// adapter, the adapter's.
pub(crate) struct Head<'a, T> {
    pub(crate) terms: Vec<Term<'a, T>>,
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) scoring: &'a Scoring,
    pub(crate) chunk_bytes: usize,
}

/// Flags for the gradients of a term that are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) x: bool,
    pub(crate) weight: bool,
}

/// Gradients of all terms and of the bias; empty if not requested.
pub(crate) struct HeadGradients<T> {
    pub(crate) terms: Vec<TermGradient<T>>,
    pub(crate) bias: Vec<T>,
}

/// Gradients of one term; empty if not requested.
pub(crate) struct TermGradient<T> {
    pub(crate) x: Vec<T>,
    pub(crate) weight: Vec<T>,
}

impl<T: Logit> Head<'_, T> {
    fn tokens(&self) -> usize {
        self.scoring.ids.len()
    }

    /// Returns the number of columns of a tile.
    fn tile(&self) -> usize {
        let bytes = self.tokens().max(1) * std::mem::size_of::<T::Float>();
        let most = (self.chunk_bytes / bytes).max(64);
        // Tiles of about equal width, so that the last one is not a sliver.
        self.scoring.vocabulary.div_ceil(self.scoring.vocabulary.div_ceil(most))
    }

    /// Calls `f` for every tile with its first column and its width.
    fn for_tiles(&self, mut f: impl FnMut(usize, usize)) {
        let v = self.scoring.vocabulary;
        let width = self.tile();
        (0..v).step_by(width).for_each(|start| f(start, width.min(v - start)));
    }

    /// Writes the logits of columns `start..start + width` to `z`.
    fn logits(
        &self,
        (start, width): (usize, usize),
        z: &mut [T::Float],
        buffers: &mut [Vec<T::Float>; 2],
    ) {
        if let Some(bias) = self.bias {
            let bias = widened(&bias[start..start + width], &mut buffers[0]);
            z.par_chunks_mut(width).for_each(|row| row.copy_from_slice(bias));
        }
        for (i, term) in self.terms.iter().enumerate() {
            term.add_logits((start, width), z, buffers, i > 0 || self.bias.is_some());
        }
    }

    /// Computes every row's statistics and its token's logit in one pass over the vocabulary. Also
    /// returns the logits if one tile holds them all.
    pub(crate) fn score(&self) -> (Vec<RowScore>, Option<Vec<T::Float>>) {
        let n = self.tokens();
        let mut rows = vec![(Running::EMPTY, 0.0); n];
        let mut z = zeros::<T::Float>(n * self.tile());
        let mut buffers = [vec![], vec![]];
        self.for_tiles(|start, width| {
            let z = &mut z[..n * width];
            self.logits((start, width), z, &mut buffers);
            z.par_chunks(width).zip(&mut rows).enumerate().for_each(|(i, (z, row))| {
                self.scoring.add_part(i, z, start, row);
            });
        });
        let scores = rows.iter().map(|(running, logit)| (running.finish(), *logit)).collect();
        (scores, (self.tile() == self.scoring.vocabulary).then_some(z))
    }

    /// Computes the gradients of all terms, and of the bias if `bias`. `kept` are the logits from
    /// [`Head::score`], if it returned them.
    pub(crate) fn gradient(
        &self,
        kept: Option<Vec<T::Float>>,
        scored: &[RowScore],
        grads: &[ScoreGradient],
        wanted: &[Wanted],
        bias: bool,
    ) -> HeadGradients<T> {
        let n = self.tokens();
        let mut gradients = Gradients::new(self, wanted, bias);
        let known = kept.is_some();
        let mut buffers = [vec![], vec![]];
        let mut z = kept.unwrap_or_else(|| zeros(n * self.tile()));
        self.for_tiles(|start, width| {
            let z = &mut z[..n * width];
            if !known {
                self.logits((start, width), z, &mut buffers);
            }
            let rows = z.par_chunks_mut(width).zip(scored).zip(grads).enumerate();
            rows.for_each(|(i, ((z, (s, _)), &grad))| {
                self.scoring.gradient_part(i, z, start, s, grad)
            });
            gradients.add_tile(self, (start, width), z, &mut buffers);
        });
        gradients.finish()
    }
}

/// dx and dW of one term, if requested.
type Sums<T> = (Option<Vec<<T as Element>::Float>>, Option<Vec<T>>);

/// Gradients during accumulation. Those of the inputs are in the type of the arithmetic; those of
/// the weights in their own type, since each tile's part is written once.
struct Gradients<T: Logit> {
    terms: Vec<Sums<T>>,
    bias: Option<Vec<T::Float>>,
}

impl<T: Logit> Gradients<T> {
    fn new(head: &Head<'_, T>, wanted: &[Wanted], bias: bool) -> Self {
        let sums = |(term, wanted): (&Term<'_, T>, &Wanted)| {
            let weights = head.scoring.vocabulary * term.width;
            (wanted.x.then(|| zeros(term.x.len())), wanted.weight.then(|| zeros(weights)))
        };
        Self {
            terms: head.terms.iter().zip(wanted).map(sums).collect(),
            bias: bias.then(|| zeros(head.scoring.vocabulary)),
        }
    }

    /// Adds the contribution of a tile, given the gradient `z` of its logits.
    fn add_tile(
        &mut self,
        head: &Head<'_, T>,
        (start, width): (usize, usize),
        z: &[T::Float],
        [left, right]: &mut [Vec<T::Float>; 2],
    ) {
        let n = head.tokens();
        let z_view = View::new(z, n, width, width);
        for (term, (dx, dw)) in head.terms.iter().zip(&mut self.terms) {
            let k = term.width;
            let columns = start * k..(start + width) * k;
            if let Some(dx) = dx {
                term.add_input_gradient((start, width), z_view, dx, right, start > 0);
            }
            if let Some(dw) = dw {
                let x = View::new(term.x, n, k, k);
                T::fill(&mut dw[columns], right, |dw| {
                    let out = ViewMut::new(dw, width, k, k);
                    T::product(out, Factor::Wide(z_view.t()), (x, left), false);
                });
            }
        }
        if let Some(db) = &mut self.bias {
            let db = &mut db[start..start + width];
            z.chunks_exact(width)
                .for_each(|row| db.iter_mut().zip(row).for_each(|(b, &z)| *b += z));
        }
    }

    fn finish(self) -> HeadGradients<T> {
        let own = |sum: Option<Vec<T::Float>>| sum.map(T::rounded).unwrap_or_default();
        let terms = self
            .terms
            .into_iter()
            .map(|(x, weight)| TermGradient { x: own(x), weight: weight.unwrap_or_default() });
        HeadGradients { terms: terms.collect(), bias: own(self.bias) }
    }
}
