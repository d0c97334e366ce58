//! A language-model head, one tile of the vocabulary at a time.
//!
//! Shapes: n = tokens, h = hidden width, v = vocabulary, w = columns of a tile. Only one tile of
//! logits `[n, w]` exists at a time. The rows' statistics are carried from tile to tile, and the
//! backward pass recomputes the logits, which makes four matrix multiplications in all. If one tile
//! holds the whole vocabulary, its logits are kept and three suffice. Each tile's part of dW is
//! written once, so nothing is rounded twice.

use crate::kernels::cpu::buffer::zeros;
use crate::kernels::cpu::element::{widened, Element};
use crate::kernels::cpu::view::{View, ViewMut};
use crate::kernels::score::logit::{Factor, Logit};
use crate::kernels::score::scoring::{RowScore, Scoring};
use crate::kernels::score::softmax::{Running, ScoreGradient};
use rayon::prelude::*;

/// One term x Wᵀ of the logits: x `[n, width]` and W `[v, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) weight: &'a [T],
    pub(crate) width: usize,
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
        let n = self.tokens();
        if let Some(bias) = self.bias {
            let bias = widened(&bias[start..start + width], &mut buffers[0]);
            z.par_chunks_mut(width).for_each(|row| row.copy_from_slice(bias));
        }
        let [left, right] = buffers;
        for (i, term) in self.terms.iter().enumerate() {
            let k = term.width;
            let x = View::new(term.x, n, k, k);
            let w = View::new(&term.weight[start * k..(start + width) * k], width, k, k);
            let out = ViewMut::new(z, n, width, width);
            T::product(out, Factor::Own(x, left), (w.t(), right), i > 0 || self.bias.is_some());
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
            (wanted.x.then(|| zeros(term.x.len())), wanted.weight.then(|| zeros(term.weight.len())))
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
                let w = View::new(&term.weight[columns.clone()], width, k, k);
                let out = ViewMut::new(dx, n, k, k);
                T::product(out, Factor::Wide(z_view), (w, right), start > 0);
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
