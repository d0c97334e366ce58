//! Rows: the sequences that the loss is computed on, and their packing into tensors.
//!
//! Shape suffixes: b = rows, t = tokens of a row, r = sampled tokens of a row.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::kernels::layers::rows_at::rows_at;
use crate::kernels::score::support::{RowSupport, Support};
use crate::objective::layout::TokenLayout;
use crate::rollout::trajectory::Trajectory;
use crate::{Error, Result};

/// Layout of trajectories as rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// One row per trajectory: all turns concatenated, each token computed once.
    #[default]
    Trajectory,
    /// One row per turn, preceded by its whole history, as the paper's authors train.
    Turn,
}

/// One sequence with the positions of its sampled tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// All token ids, prompts and actions.
    pub ids: Vec<u32>,
    /// Indices into `ids` of the sampled tokens, ascending, never 0.
    pub positions: Vec<u32>,
    /// Turn index of each sampled token.
    pub turns: Vec<u32>,
    /// Log-probability of each sampled token when it was sampled (empty for demonstrations), nats.
    pub old_log_probs: Vec<f32>,
    /// Entropy of the distribution of each sampled token (empty for demonstrations), nats.
    pub entropies: Vec<f32>,
    /// Candidate set of each sampled token; empty for the whole vocabulary.
    pub supports: Vec<Vec<u32>>,
    /// Index of the row's trajectory.
    pub trajectory: usize,
}

/// A demonstration: a row of all tokens after the first, with those of the actions to imitate
/// marked.
#[derive(Debug, Clone, PartialEq)]
pub struct DemonstrationRow {
    /// The row; its positions are all but the first.
    pub row: Row,
    /// True at the positions of imitated actions, including their end tokens.
    pub imitated: Vec<bool>,
}

impl Row {
    /// Rows from (prompt ids, action ids) per turn.
    ///
    /// # Errors
    /// A turn without prompt or without action tokens.
    pub fn from_turns(
        turns: &[(&[u32], &[u32])],
        trajectory: usize,
        kind: RowKind,
    ) -> Result<Vec<Self>> {
        let mut rows = Vec::new();
        let mut row = Self { trajectory, ..Self::default() };
        for (turn, (prompt, action)) in turns.iter().enumerate() {
            if prompt.is_empty() || action.is_empty() {
                let at = format!("trajectory {trajectory}, turn {turn}");
                return Err(Error::EmptyMask { name: "action tokens", at });
            }
            if kind == RowKind::Turn {
                (row.positions, row.turns) = (Vec::new(), Vec::new());
            }
            row.ids.extend_from_slice(prompt);
            row.positions.extend((0..action.len()).map(|i| (row.ids.len() + i) as u32));
            row.turns.extend(std::iter::repeat_n(turn as u32, action.len()));
            row.ids.extend_from_slice(action);
            if kind == RowKind::Turn {
                rows.push(row.clone());
            }
        }
        if kind == RowKind::Trajectory && !row.positions.is_empty() {
            rows.push(row);
        }
        Ok(rows)
    }

    /// The rows of a played trajectory, with log-probabilities and entropies at sampling time.
    ///
    /// # Errors
    /// An episode without sampled tokens.
    pub fn from_trajectory(
        trajectory: &Trajectory,
        index: usize,
        kind: RowKind,
    ) -> Result<Vec<Self>> {
        let turns: Vec<_> = trajectory
            .turns
            .iter()
            .map(|t| (t.prompt_ids.as_slice(), t.action_ids.as_slice()))
            .collect();
        let mut rows = Self::from_turns(&turns, index, kind)?;
        if rows.is_empty() {
            let at = format!("episode {} of {}", trajectory.member, trajectory.task);
            return Err(Error::EmptyMask { name: "action tokens", at });
        }
        let mut log_probs = trajectory.turns.iter().flat_map(|t| t.log_probs.iter().copied());
        let mut entropies = trajectory.turns.iter().flat_map(|t| t.entropies.iter().copied());
        let mut supports = trajectory.turns.iter().flat_map(|t| t.supports.iter().cloned());
        for row in &mut rows {
            row.entropies = entropies.by_ref().take(row.positions.len()).collect();
            row.old_log_probs = log_probs.by_ref().take(row.positions.len()).collect();
            row.supports = supports.by_ref().take(row.positions.len()).collect();
        }
        Ok(rows)
    }
}

/// Rows packed one after another without padding, with their sampled tokens laid out as [b, r].
#[derive(Debug, Clone)]
pub struct MicroBatch<'a> {
    /// The rows' token ids.
    pub ids: Vec<&'a [u32]>,
    /// Index in the packed hidden states that predicts each of the n sampled tokens.
    pub predictors: Arc<[u32]>,
    /// The sampled ids, u32 `[n]`.
    pub targets: Tensor,
    /// Candidate set of each of the n tokens; empty for the whole vocabulary.
    pub supports: Vec<&'a [u32]>,
    /// Index among the n tokens at each of the b·r places of [b, r]; n in padding.
    pub places: Arc<[u32]>,
    /// 1 for sampled tokens, 0 for padding, f32 [b, r].
    pub mask_br: Tensor,
    /// Log-probabilities at sampling time, f32 [b, r]; padding and demonstrations hold 0.
    pub old_log_probs_br: Tensor,
    /// Number of rows b.
    pub rows: usize,
    /// Width r of the sampled tokens.
    pub width: usize,
}

/// The objective's layout of `rows`, `width` sampled tokens wide.
///
/// # Errors
/// No sampled token at all.
pub fn layout(rows: &[&Row], width: usize) -> Result<TokenLayout> {
    layout_where(rows, width, |_, _| true)
}

/// The layout of the rows' tokens that satisfy `counts(row, token)`.
fn layout_where(
    rows: &[&Row],
    width: usize,
    counts: impl Fn(usize, usize) -> bool,
) -> Result<TokenLayout> {
    let n = rows.len() * width;
    let (mut mask, mut turns) = (vec![false; n], vec![0; n]);
    for (i, row) in rows.iter().enumerate() {
        for (j, &turn) in row.turns.iter().enumerate() {
            mask[i * width + j] = counts(i, j);
            turns[i * width + j] = turn as usize;
        }
    }
    TokenLayout::new(width, mask, turns, rows.iter().map(|r| r.trajectory).collect())
}

/// Two layouts of demonstrations, `width` tokens wide: the imitated tokens, and all others.
///
/// # Errors
/// No token of one of the two kinds.
pub fn demonstration_layouts(rows: &[&DemonstrationRow], width: usize) -> Result<[TokenLayout; 2]> {
    let tokens: Vec<&Row> = rows.iter().map(|r| &r.row).collect();
    let of = |imitated| layout_where(&tokens, width, |i, j| rows[i].imitated[j] == imitated);
    Ok([of(true)?, of(false)?])
}

impl<'a> MicroBatch<'a> {
    /// Packs `rows`, their sampled tokens laid out `width` wide.
    ///
    /// # Errors
    /// No sampled token, a row with more than `width` of them, or a failed allocation on the
    /// device.
    pub fn new(rows: &[&'a Row], width: usize, device: &Device) -> Result<Self> {
        let most = rows.iter().map(|r| r.positions.len()).max().unwrap_or(0);
        if most == 0 {
            return Err(Error::EmptyMask {
                name: "rows",
                at: "a micro-batch without sampled tokens".into(),
            });
        }
        if most > width {
            let expected = format!("at most {width} sampled tokens per row");
            return Err(Error::Shape { name: "rows", expected, got: vec![most] });
        }
        let n: usize = rows.iter().map(|r| r.positions.len()).sum();
        let (mut predictors, mut targets) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut supports = Vec::with_capacity(n);
        let mut places = vec![n as u32; rows.len() * width];
        let (mut mask, mut old) = (vec![0f32; places.len()], vec![0f32; places.len()]);
        let mut start = 0;
        for (i, row) in rows.iter().enumerate() {
            for (j, &p) in row.positions.iter().enumerate() {
                let place = i * width + j;
                places[place] = targets.len() as u32;
                mask[place] = 1.0;
                old[place] = row.old_log_probs.get(j).copied().unwrap_or(0.0);
                predictors.push(start + p - 1);
                targets.push(row.ids[p as usize]);
                supports.push(row.supports.get(j).map_or(&[][..], Vec::as_slice));
            }
            start += row.ids.len() as u32;
        }
        let shape = (rows.len(), width);
        Ok(Self {
            ids: rows.iter().map(|r| r.ids.as_slice()).collect(),
            predictors: predictors.into(),
            targets: Tensor::from_vec(targets, n, device)?,
            supports,
            places: places.into(),
            mask_br: Tensor::from_vec(mask, shape, device)?,
            old_log_probs_br: Tensor::from_vec(old, shape, device)?,
            rows: rows.len(),
            width,
        })
    }

    /// Candidate sets of the n tokens; `None` if all were sampled from the whole vocabulary.
    ///
    /// # Errors
    /// A list that is not ascending.
    pub fn support(&self) -> Result<Option<Support>> {
        if self.supports.iter().all(|list| list.is_empty()) {
            return Ok(None);
        }
        let row = |list: &&'a [u32]| match **list {
            [] => RowSupport::Whole,
            _ => RowSupport::Allowed(list),
        };
        Support::new(self.supports.iter().map(row)).map(Some)
    }

    /// One value per sampled token of each row as f32 [b, r], padded with 0.
    ///
    /// # Errors
    /// A number of rows, or of a row's values, that differs from the batch's.
    pub fn filled(&self, rows: &[&[f32]]) -> Result<Tensor> {
        let mut values = vec![0f32; self.rows * self.width];
        if rows.len() != self.rows || rows.iter().any(|row| row.len() > self.width) {
            let expected = format!("{} rows of at most {} values", self.rows, self.width);
            return Err(Error::Shape {
                name: "rows",
                expected,
                got: rows.iter().map(|r| r.len()).collect(),
            });
        }
        for (place, row) in values.chunks_exact_mut(self.width).zip(rows) {
            place[..row.len()].copy_from_slice(row);
        }
        Ok(Tensor::from_vec(values, (self.rows, self.width), self.mask_br.device())?)
    }

    /// Values of the n sampled tokens laid out as [b, r], padded with 0; differentiable.
    ///
    /// # Errors
    /// `values` is not `[n]`.
    pub fn lay_out(&self, values: &Tensor) -> Result<Tensor> {
        let padded = Tensor::cat(&[values, &values.zeros_like()?.narrow(0, 0, 1)?], 0)?;
        let laid = rows_at(&padded.unsqueeze(1)?, &self.places)?;
        Ok(laid.reshape((self.rows, self.width))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNS: [(&[u32], &[u32]); 2] = [(&[1, 2, 3], &[4, 5]), (&[6], &[7])];

    #[test]
    fn a_trajectory_row_marks_its_action_tokens() {
        let rows = Row::from_turns(&TURNS, 0, RowKind::Trajectory).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].ids, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(rows[0].positions, [3, 4, 6]);
        assert_eq!(rows[0].turns, [0, 0, 1]);
    }

    #[test]
    fn turn_rows_hold_the_same_tokens_behind_the_same_history() {
        let rows = Row::from_turns(&TURNS, 0, RowKind::Turn).unwrap();
        assert_eq!(rows[0].ids, [1, 2, 3, 4, 5]);
        assert_eq!(
            (rows[1].ids.len(), &rows[1].positions[..], &rows[1].turns[..]),
            (7, &[6u32][..], &[1u32][..])
        );
    }

    #[test]
    fn a_token_is_predicted_from_the_one_before() {
        let a = Row::from_turns(&TURNS, 0, RowKind::Trajectory).unwrap().remove(0);
        let b = Row::from_turns(&TURNS[..1], 1, RowKind::Trajectory).unwrap().remove(0);
        let batch = MicroBatch::new(&[&a, &b], 3, &Device::Cpu).unwrap();
        assert_eq!(batch.predictors[..], [2, 3, 5, 9, 10]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [4, 5, 7, 4, 5]);
        let values = Tensor::new(&[1f32, 2., 3., 4., 5.], &Device::Cpu).unwrap();
        let laid = batch.lay_out(&values).unwrap();
        assert_eq!(laid.to_vec2::<f32>().unwrap(), [[1., 2., 3.], [4., 5., 0.]]);
        assert_eq!(batch.mask_br.to_vec2::<f32>().unwrap(), [[1., 1., 1.], [1., 1., 0.]]);
    }

    #[test]
    fn an_episode_without_tokens_is_an_error() {
        let turns: [(&[u32], &[u32]); 1] = [(&[1], &[])];
        assert!(matches!(Row::from_turns(&turns, 3, RowKind::Turn), Err(Error::EmptyMask { .. })));
        assert!(MicroBatch::new(&[], 1, &Device::Cpu).is_err());
    }
}
