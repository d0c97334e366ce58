//! Prefixes that packed sequences share, computed once.
//!
//! Under a causal mask, a layer's output for a token depends only on the tokens before it.
//! Sequences with a common prefix, such as the members of a group or the turns of a trajectory,
//! therefore have the same activations there. Only attention looks at whole sequences: it receives
//! each with copies of the shared queries, keys and values, and their gradients are summed.

use crate::kernels::cpu::float::Float;
use crate::kernels::layers::rows_at::rows_at;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Mapping between the tokens of packed sequences and the computed tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPrefixes {
    /// Computed token of each token of the sequences.
    of: Arc<[u32]>,
    /// First position of each computed token among all tokens.
    pub(super) first: Arc<[u32]>,
}

/// Length below which a common prefix is computed again: indexing it would cost as much.
const LEAST: usize = 8;

impl SharedPrefixes {
    /// Finds the prefixes that `rows` share with earlier rows; `None` if none is long enough.
    pub fn of_rows(rows: &[&[u32]]) -> Option<Self> {
        let tokens = rows.iter().map(|row| row.len()).sum();
        let mut of = Vec::with_capacity(tokens);
        let mut first = Vec::with_capacity(tokens);
        let mut starts: Vec<usize> = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let common = |j: &usize| row.iter().zip(rows[*j]).take_while(|(a, b)| a == b).count();
            let longest =
                (0..i).map(|j| (common(&j), j)).max_by_key(|&(length, j)| (length, usize::MAX - j));
            let (length, j) = longest.filter(|&(length, _)| length >= LEAST).unwrap_or((0, 0));
            let start = of.len();
            for t in 0..row.len() {
                if t < length {
                    of.push(of[starts[j] + t]);
                } else {
                    of.push(first.len() as u32);
                    first.push((start + t) as u32);
                }
            }
            starts.push(start);
        }
        (first.len() < of.len()).then(|| Self { of: of.into(), first: first.into() })
    }

    /// Returns the number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.of.len()
    }

    /// Returns the number of computed tokens.
    pub fn computed(&self) -> usize {
        self.first.len()
    }

    /// Returns the entry of each computed token from `all` tokens' entries.
    pub(crate) fn pick<T: Copy>(&self, all: &[T]) -> Vec<T> {
        self.first.iter().map(|&at| all[at as usize]).collect()
    }

    /// Returns the rows of all tokens, given those of the computed ones, `width` wide.
    pub(super) fn spread<T: Float>(&self, computed: &[T], width: usize) -> Vec<T> {
        copied(&self.of, computed, width)
    }

    /// Returns the rows of the computed tokens, given those of all tokens.
    pub(super) fn gather<T: Float>(&self, all: &[T], width: usize) -> Vec<T> {
        copied(&self.first, all, width)
    }

    /// The adjoint of `gather`: zero at every other position.
    pub(super) fn place<T: Float>(&self, computed: &[T], width: usize) -> Vec<T> {
        let mut all = vec![T::from_f64(0.0); self.of.len() * width];
        for (&at, row) in self.first.iter().zip(computed.chunks_exact(width)) {
            all[at as usize * width..][..width].copy_from_slice(row);
        }
        all
    }

    /// The adjoint of `spread`: the sum over a computed token's positions, in order.
    pub(super) fn sum<T: Float>(&self, all: &[T], width: usize) -> Vec<T> {
        let mut computed = vec![T::from_f64(0.0); self.first.len() * width];
        for (&u, row) in self.of.iter().zip(all.chunks_exact(width)) {
            let sums = &mut computed[u as usize * width..][..width];
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
        computed
    }

    /// Returns the rows of all tokens `[tokens, h]`, given those of the computed ones.
    ///
    /// # Errors
    /// A failed tensor operation.
    pub(crate) fn spread_rows(&self, computed: &Tensor) -> Result<Tensor> {
        rows_at(computed, &self.of)
    }
}

/// Copies the rows `at` of `from`.
fn copied<T: Float>(at: &[u32], from: &[T], width: usize) -> Vec<T> {
    let mut rows = Vec::with_capacity(at.len() * width);
    for &row in at {
        rows.extend_from_slice(&from[row as usize * width..][..width]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_begin_alike_share_their_tokens() {
        let long: Vec<u32> = (0..12).collect();
        let other: Vec<u32> = (0..10).chain([50, 51]).collect();
        let further: Vec<u32> = other.iter().copied().chain([60]).collect();
        let short: Vec<u32> = (0..LEAST as u32 - 1).chain([70]).collect();
        let shared = SharedPrefixes::of_rows(&[&long, &other, &further, &short]).unwrap();
        let computed = 12 + 2 + 1 + LEAST;
        assert_eq!((shared.tokens(), shared.computed()), (12 + 12 + 13 + LEAST, computed));
        // The second continues the first, the third the second; the fourth shares too short a
        // prefix.
        assert_eq!(shared.of[12..24], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]);
        assert_eq!(shared.of[24..37], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14]);
        assert_eq!(shared.of[37], 15);
        let ids = [long, other, further, short].concat();
        let spread: Vec<u32> = shared.of.iter().map(|&u| shared.pick(&ids)[u as usize]).collect();
        assert_eq!(spread, ids);
        assert_eq!(SharedPrefixes::of_rows(&[&[1; 4], &[1; 4]]), None);
        assert_eq!(SharedPrefixes::of_rows(&[]), None);
    }

    #[test]
    fn spreading_and_gathering_have_their_adjoints() {
        let rows: [&[u32]; 2] = [&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1, 2, 3, 4, 5, 6, 7, 8, 10, 11]];
        let shared = SharedPrefixes::of_rows(&rows).unwrap();
        let numbers =
            |n: usize, a: usize| (0..n).map(|i| ((i * a) % 17) as f64 - 8.0).collect::<Vec<_>>();
        let computed = numbers(2 * shared.computed(), 5);
        let all = numbers(2 * shared.tokens(), 7);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert_eq!(dot(&shared.spread(&computed, 2), &all), dot(&computed, &shared.sum(&all, 2)));
        assert_eq!(dot(&shared.gather(&all, 2), &computed), dot(&all, &shared.place(&computed, 2)));
        assert_eq!(shared.gather(&shared.spread(&computed, 2), 2), computed);
    }
}
