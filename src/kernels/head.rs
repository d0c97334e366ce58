//! The product and the row arithmetic of a language-model head, one tile of the vocabulary at a time.
//!
//! Shapes: n = tokens, h = hidden width, v = vocabulary, w = columns of a tile. Only a tile of logits `[n, w]` exists;
//! the statistics of its rows are carried from tile to tile, and the backward pass computes the logits again
//! (four products in all). A tile's part of dW is written once, so nothing is rounded twice.

use super::buffer::zeros;
use super::logprob_entropy::Scoring;
use super::matmul::{matmul, View, ViewMut};
use super::real::Real;
use super::rows::{gradient_in_place, Logit, RowGradient, RowStatistics, Running};
use super::support::RowSupport;
use candle_core::WithDType;
use rayon::prelude::*;

/// x `[n, width]` and W `[v, width]`: one term of logits = Σ x Wᵀ + b.
#[derive(Clone, Copy)]
pub(super) struct Term<'a, T> {
    pub(super) x: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) width: usize,
}

/// Hidden states and weights of one call; `terms` has the head's own, and that of a low-rank update where there is
/// one.
pub(super) struct Head<'a, T> {
    pub(super) terms: Vec<Term<'a, T>>,
    pub(super) bias: Option<&'a [T]>,
    pub(super) scoring: &'a Scoring,
    pub(super) chunk_bytes: usize,
}

/// Which gradients of a term are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) x: bool,
    pub(super) weight: bool,
}

/// Gradients of one term; empty where they were not wanted.
pub(super) struct TermGradient<T> {
    pub(super) x: Vec<T>,
    pub(super) weight: Vec<T>,
}

/// Statistics of every row, and the logit of its id.
pub(super) type Scored = Vec<(RowStatistics, f64)>;

/// Rows of one element type widened for the products; nothing is copied where it is its own arithmetic.
fn widened<'a, T: Logit>(data: &'a [T], buffer: &'a mut Vec<T::Real>) -> &'a [T::Real] {
    if T::DTYPE != <T::Real as WithDType>::DTYPE {
        buffer.resize(data.len(), T::Real::from_f32(0.0));
    }
    T::load(data, buffer)
}

impl<T: Logit> Head<'_, T> {
    fn tokens(&self) -> usize {
        self.scoring.ids.len()
    }

    /// Columns of a tile.
    fn tile(&self) -> usize {
        let bytes = self.tokens().max(1) * std::mem::size_of::<T::Real>();
        let most = (self.chunk_bytes / bytes).max(64);
        // Tiles of one size, so that the last is not a sliver.
        self.scoring.vocabulary.div_ceil(self.scoring.vocabulary.div_ceil(most))
    }

    /// Calls `f` for every tile with its first column and its width.
    fn for_tiles(&self, mut f: impl FnMut(usize, usize)) {
        let (v, width) = (self.scoring.vocabulary, self.tile());
        (0..v).step_by(width).for_each(|start| f(start, width.min(v - start)));
    }

    /// The logits of columns `start..start + width` of rows `rows`, written to `z`.
    fn logits(
        &self,
        rows: std::ops::Range<usize>,
        (start, width): (usize, usize),
        z: &mut [T::Real],
        buffers: &mut [Vec<T::Real>; 2],
    ) {
        let n = rows.len();
        if let Some(bias) = self.bias {
            let bias = widened(&bias[start..start + width], &mut buffers[0]);
            z.par_chunks_mut(width).for_each(|row| row.copy_from_slice(bias));
        }
        let [left, right] = buffers;
        for (i, term) in self.terms.iter().enumerate() {
            let k = term.width;
            let x = widened(&term.x[rows.start * k..rows.end * k], left);
            let w = widened(&term.weight[start * k..(start + width) * k], right);
            let (x, w) = (View::new(x, n, k, k), View::new(w, width, k, k));
            let out = ViewMut::new(z, n, width, width);
            let accumulate = i > 0 || self.bias.is_some();
            matmul(out, x, w.t(), T::Real::from_f32(1.0), accumulate, rayon::current_num_threads());
        }
    }

    /// One pass over the vocabulary: the statistics of every row and its own logit.
    pub(super) fn score(&self) -> Scored {
        let n = self.tokens();
        let mut rows = vec![(Running::EMPTY, 0.0); n];
        let (mut z, mut buffers) = (zeros::<T::Real>(n * self.tile()), [vec![], vec![]]);
        self.for_tiles(|start, width| {
            let z = &mut z[..n * width];
            self.logits(0..n, (start, width), z, &mut buffers);
            z.par_chunks(width).zip(&mut rows).enumerate().for_each(|(i, (z, row))| {
                self.scoring.add_tile(i, z, start, row);
            });
        });
        rows.iter().map(|(running, logit)| (running.finish(), *logit)).collect()
    }

    /// The gradients of all terms, and of the bias where `bias` is wanted.
    pub(super) fn gradient(
        &self,
        scored: &Scored,
        grads: &[RowGradient],
        wanted: &[Wanted],
        bias: bool,
    ) -> (Vec<TermGradient<T>>, Vec<T>) {
        let n = self.tokens();
        let mut gradients = Gradients::new(self, wanted, bias);
        let (mut z, mut buffers) = (zeros::<T::Real>(n * self.tile()), [vec![], vec![]]);
        self.for_tiles(|start, width| {
            let z = &mut z[..n * width];
            self.logits(0..n, (start, width), z, &mut buffers);
            let rows = z.par_chunks_mut(width).zip(scored).zip(grads).enumerate();
            rows.for_each(|(i, ((z, (s, _)), &grad))| self.scoring.gradient_tile(i, z, start, s, grad));
            gradients.add_tile(self, 0..n, (start, width), z, &mut buffers);
        });
        gradients.finish()
    }

    /// Scores and gradients together, a few whole rows of logits at a time: three products instead of four. `loss`
    /// gives the gradients of a row's log-probability and entropy from their values.
    pub(super) fn score_and_gradient(
        &self,
        loss: &(dyn Fn(usize, f64, f64) -> RowGradient + Sync),
        wanted: &[Wanted],
        bias: bool,
    ) -> (Scored, Vec<TermGradient<T>>, Vec<T>) {
        let (n, v) = (self.tokens(), self.scoring.vocabulary);
        let at_once = (self.chunk_bytes / (v * std::mem::size_of::<T::Real>())).clamp(1, n.max(1));
        let mut gradients = Gradients::new(self, wanted, bias);
        let (mut z, mut buffers) = (zeros::<T::Real>(at_once * v), [vec![], vec![]]);
        let mut scored = Vec::with_capacity(n);
        for first in (0..n).step_by(at_once) {
            let rows = first..n.min(first + at_once);
            let z = &mut z[..rows.len() * v];
            self.logits(rows.clone(), (0, v), z, &mut buffers);
            let work = z.par_chunks_mut(v).enumerate().map(|(i, z)| {
                let (i, mut row) = (first + i, (Running::EMPTY, 0.0));
                self.scoring.add_tile(i, z, 0, &mut row);
                let (s, logit) = (row.0.finish(), row.1);
                let grad = loss(i, self.scoring.log_prob(i, logit, &s), s.entropy());
                self.scoring.gradient_tile(i, z, 0, &s, grad);
                (s, logit)
            });
            scored.extend(work.collect::<Vec<_>>());
            gradients.add_tile(self, rows, (0, v), z, &mut buffers);
        }
        let (terms, bias) = gradients.finish();
        (scored, terms, bias)
    }
}

impl Scoring {
    /// The part of an ascending list that falls into a tile, counted from the tile's first column.
    fn allowed_in<'a>(
        list: &'a [u32],
        start: usize,
        width: usize,
    ) -> impl Iterator<Item = usize> + Clone + 'a {
        let place = |column: usize| list.partition_point(|&id| (id as usize) < column);
        list[place(start)..place(start + width)].iter().map(move |&id| id as usize - start)
    }

    fn add_tile<T: Real + Logit>(&self, i: usize, z: &[T], start: usize, row: &mut (Running, f64)) {
        match self.row(i) {
            RowSupport::Skipped => return,
            RowSupport::Whole => row.0.add(z, self.inverse_temperature),
            RowSupport::Allowed(list) => {
                let kept: Vec<T> = Self::allowed_in(list, start, z.len()).map(|j| z[j]).collect();
                row.0.add(&kept, self.inverse_temperature);
            }
        }
        if let Some(logit) = (self.ids[i] as usize).checked_sub(start).and_then(|j| z.get(j)) {
            row.1 = logit.to_f64();
        }
    }

    fn gradient_tile<T: Real + Logit>(
        &self,
        i: usize,
        z: &mut [T],
        start: usize,
        s: &RowStatistics,
        grad: RowGradient,
    ) {
        let id = (self.ids[i] as usize).checked_sub(start).filter(|&j| j < z.len());
        match self.row(i) {
            RowSupport::Skipped => z.fill(T::from_f32(0.0)),
            RowSupport::Whole => gradient_in_place(z, id, self.inverse_temperature, s, grad),
            RowSupport::Allowed(list) => {
                let places = Self::allowed_in(list, start, z.len());
                let mut kept: Vec<T> = places.clone().map(|j| z[j]).collect();
                let id = id.and_then(|id| places.clone().position(|j| j == id));
                gradient_in_place(&mut kept, id, self.inverse_temperature, s, grad);
                z.fill(T::from_f32(0.0));
                places.zip(kept).for_each(|(j, value)| z[j] = value);
            }
        }
    }
}

/// dx and dW of one term, where they are wanted.
type Sums<T> = (Option<Vec<<T as Logit>::Real>>, Option<Vec<T>>);

/// Gradients while they are summed: those of the inputs in the type of the arithmetic, those of the weights in
/// their own, since each tile's part is written once.
struct Gradients<T: Logit> {
    terms: Vec<Sums<T>>,
    bias: Option<Vec<T::Real>>,
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

    /// Adds what the gradient `z` of a tile of logits contributes.
    fn add_tile(
        &mut self,
        head: &Head<'_, T>,
        rows: std::ops::Range<usize>,
        (start, width): (usize, usize),
        z: &[T::Real],
        [left, right]: &mut [Vec<T::Real>; 2],
    ) {
        let (n, one, threads) = (rows.len(), T::Real::from_f32(1.0), rayon::current_num_threads());
        let z_view = View::new(z, n, width, width);
        for (term, (dx, dw)) in head.terms.iter().zip(&mut self.terms) {
            let k = term.width;
            let (tokens, columns) = (rows.start * k..rows.end * k, start * k..(start + width) * k);
            if let Some(dx) = dx {
                let w = View::new(widened(&term.weight[columns.clone()], right), width, k, k);
                matmul(ViewMut::new(&mut dx[tokens.clone()], n, k, k), z_view, w, one, start > 0, threads);
            }
            if let Some(dw) = dw {
                let x = View::new(widened(&term.x[tokens], left), n, k, k);
                T::fill(&mut dw[columns], right, |dw| {
                    matmul(ViewMut::new(dw, width, k, k), z_view.t(), x, one, rows.start > 0, threads);
                });
            }
        }
        if let Some(db) = &mut self.bias {
            let db = &mut db[start..start + width];
            z.chunks_exact(width).for_each(|row| db.iter_mut().zip(row).for_each(|(b, &z)| *b += z));
        }
    }

    fn finish(self) -> (Vec<TermGradient<T>>, Vec<T>) {
        let own = |sum: Option<Vec<T::Real>>| sum.map(T::own).unwrap_or_default();
        let terms = self
            .terms
            .into_iter()
            .map(|(x, weight)| TermGradient { x: own(x), weight: weight.unwrap_or_default() });
        (terms.collect(), own(self.bias))
    }
}
