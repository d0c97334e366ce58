//! The assignment of tokens to turns and trajectories. Suffixes: b rows, t token positions.

use std::collections::HashMap;
use std::ops::Range;

use crate::{Error, Result};

/// The layout of B token rows of T positions: a mask, a turn index per token and a trajectory id
/// per row.
///
/// A row may be one turn, as in the authors' code, or a whole trajectory with its turns one after
/// the other. Only the masked-in (generated) tokens enter any statistic. Data live on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLayout {
    tokens: usize,
    mask: Vec<bool>,
    turns: Vec<usize>,
    trajectories: Vec<usize>,
}

impl TokenLayout {
    /// Makes a layout of B = `trajectories.len()` rows of `tokens` positions; `mask` and `turns`
    /// are row-major [B·T].
    ///
    /// A row without a masked-in token is allowed: it carries no weight and is not counted in any
    /// mean.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths disagree, [`Error::EmptyMask`] if no token at all is masked
    /// in.
    pub fn new(
        tokens: usize,
        mask: Vec<bool>,
        turns: Vec<usize>,
        trajectories: Vec<usize>,
    ) -> Result<Self> {
        let expected = trajectories.len() * tokens;
        check_len("mask", mask.len(), expected)?;
        check_len("turns", turns.len(), expected)?;
        if !mask.contains(&true) {
            let at = format!("all {} rows of {tokens} tokens", trajectories.len());
            return Err(Error::EmptyMask { name: "mask", at });
        }
        Ok(Self { tokens, mask, turns, trajectories })
    }

    /// Makes the layout of rows that are one turn each, from the sampled tokens of every turn and
    /// the trajectory it belongs to. Rows are padded on the right to the longest; the turns of a
    /// trajectory are in order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths disagree, [`Error::EmptyMask`] if there is no token.
    pub fn turns_of(lengths: &[usize], trajectories: &[usize]) -> Result<Self> {
        let tokens = lengths.iter().copied().max().unwrap_or(0);
        let mut mask = Vec::with_capacity(lengths.len() * tokens);
        for &length in lengths {
            mask.extend((0..tokens).map(|token| token < length));
        }
        check_len("lengths", lengths.len(), trajectories.len())?;
        Self::per_turn(tokens, mask, &turn_numbers(trajectories), trajectories.to_vec())
    }

    /// Makes the layout of rows that are one turn each, with a turn index and a trajectory id per
    /// row.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths disagree, [`Error::EmptyMask`] if no token at all is masked
    /// in.
    pub fn per_turn(
        tokens: usize,
        mask: Vec<bool>,
        turn_of_row: &[usize],
        trajectories: Vec<usize>,
    ) -> Result<Self> {
        check_len("turn_of_row", turn_of_row.len(), trajectories.len())?;
        let turns =
            turn_of_row.iter().flat_map(|&turn| std::iter::repeat_n(turn, tokens)).collect();
        Self::new(tokens, mask, turns, trajectories)
    }

    /// Returns the number of rows B.
    pub fn rows(&self) -> usize {
        self.trajectories.len()
    }

    /// Returns the number of token positions T of a row, padding included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns the mask, row-major [B·T]: true if the token was generated and counts.
    pub fn mask(&self) -> &[bool] {
        &self.mask
    }

    /// Returns the turn index of every position, row-major [B·T]; meaningless where masked out.
    pub fn turns(&self) -> &[usize] {
        &self.turns
    }

    /// Returns the trajectory id of every row `[B]`.
    pub fn trajectories(&self) -> &[usize] {
        &self.trajectories
    }

    /// Counts the masked-in tokens.
    pub fn count(&self) -> usize {
        self.mask.iter().filter(|&&m| m).count()
    }

    /// Counts the masked-in tokens of one row.
    pub fn row_count(&self, row: usize) -> usize {
        self.mask[self.span(row)].iter().filter(|&&m| m).count()
    }

    /// Selects rows, in the given order: a micro-batch. Unlike a whole batch it may be all masked
    /// out.
    ///
    /// # Errors
    /// [`Error::Shape`] if a row does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let spans = self.spans(rows)?;
        Ok(Self {
            tokens: self.tokens,
            mask: gather(&self.mask, &spans),
            turns: gather(&self.turns, &spans),
            trajectories: rows.iter().map(|&row| self.trajectories[row]).collect(),
        })
    }

    /// Returns the range of each of the given rows in a row-major [B·T] slice.
    pub(crate) fn spans(&self, rows: &[usize]) -> Result<Vec<Range<usize>>> {
        match rows.iter().find(|&&row| row >= self.rows()) {
            Some(&row) => Err(Error::Shape {
                name: "rows",
                expected: format!("row numbers below {}", self.rows()),
                got: vec![row],
            }),
            None => Ok(rows.iter().map(|&row| self.span(row)).collect()),
        }
    }

    fn span(&self, row: usize) -> Range<usize> {
        row * self.tokens..(row + 1) * self.tokens
    }

    /// Returns the turn segments: every (row, turn) with at least one masked-in token, in order of
    /// first appearance, and for each position the number of its segment.
    pub fn segments(&self) -> Segments {
        let mut index = HashMap::new();
        let mut turns = Vec::new();
        let mut counts = Vec::new();
        let of_token = (0..self.mask.len()).map(|i| {
            self.mask[i].then(|| {
                let segment = *index.entry((i / self.tokens, self.turns[i])).or_insert_with(|| {
                    turns.push(self.turns[i]);
                    counts.push(0);
                    turns.len() - 1
                });
                counts[segment] += 1;
                segment
            })
        });
        let of_token = of_token.collect();
        Segments { of_token, turns, counts }
    }
}

/// The turn segments of a layout, see [`TokenLayout::segments`].
#[derive(Clone, Debug, PartialEq)]
pub struct Segments {
    /// For every position [B·T] its segment, `None` where masked out.
    pub of_token: Vec<Option<usize>>,
    /// The turn index of every segment `[S]`.
    pub turns: Vec<usize>,
    /// The number of masked-in tokens of every segment `[S]`.
    pub counts: Vec<usize>,
}

impl Segments {
    /// Returns, for every token [B·T], the mean of `values` [B·T] over its segment; zero where
    /// masked out.
    pub(crate) fn means(&self, values: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.counts.len()];
        for (segment, value) in self.of_token.iter().zip(values) {
            if let Some(segment) = segment {
                sums[*segment] += value;
            }
        }
        let mean =
            |segment: &Option<usize>| segment.map_or(0.0, |s| sums[s] / self.counts[s] as f64);
        self.of_token.iter().map(mean).collect()
    }
}

/// Returns the turn index of each row: how many earlier rows belong to the same trajectory.
pub(crate) fn turn_numbers(trajectories: &[usize]) -> Vec<usize> {
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut numbers = Vec::with_capacity(trajectories.len());
    for &trajectory in trajectories {
        let turns = seen.entry(trajectory).or_default();
        numbers.push(*turns);
        *turns += 1;
    }
    numbers
}

pub(crate) fn gather<T: Copy>(values: &[T], spans: &[Range<usize>]) -> Vec<T> {
    spans.iter().flat_map(|span| &values[span.clone()]).copied().collect()
}

fn check_len(name: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { name, expected: format!("{expected} values"), got: vec![got] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lengths_and_empty_masks_are_named() {
        let short = TokenLayout::new(2, vec![true; 3], vec![0; 4], vec![0, 1]);
        assert_eq!(short.unwrap_err().to_string(), "`mask` has shape [3], expected 4 values");
        let empty = TokenLayout::new(2, vec![false; 4], vec![0; 4], vec![0, 1]);
        assert!(matches!(empty.unwrap_err(), Error::EmptyMask { name: "mask", .. }));
        let layout = TokenLayout::per_turn(1, vec![true; 2], &[0, 1], vec![0, 0]).unwrap();
        assert!(matches!(layout.select(&[2]).unwrap_err(), Error::Shape { name: "rows", .. }));
    }

    #[test]
    fn segments_are_the_turns_of_a_row() {
        let mask = vec![true, false, true, true, false, true];
        let layout = TokenLayout::new(3, mask, vec![0, 0, 1, 4, 4, 5], vec![7, 7]).unwrap();
        let segments = layout.segments();
        assert_eq!(segments.of_token, [Some(0), None, Some(1), Some(2), None, Some(3)]);
        assert_eq!(segments.turns, [0, 1, 4, 5]);
        assert_eq!(segments.counts, [1, 1, 1, 1]);
        assert_eq!(layout.select(&[1]).unwrap().turns(), [4, 4, 5]);
    }
}
