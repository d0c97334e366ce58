//! The one place for every normaliser: each aggregation is a linear weighting of the tokens.
//!
//! Token mean, sequence mean and the paper's mean over turns differ only in the weight of a token.
//! The weights are computed once, for the whole batch. A micro-batch keeps its tokens' weights, so
//! neither gradients nor metrics depend on the cut. Suffixes: b rows, t token positions.

use std::collections::HashMap;
use std::str::FromStr;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::objective::layout::{gather, turn_numbers, TokenLayout};
use crate::objective::tensor_cache::TensorCache;
use crate::{Error, Result};

/// The reduction of per-token values to one number. A "sequence" is a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Σ m·x / Σ m (verl `token-mean`).
    TokenMean,
    /// Mean over rows of Σₜ m·x (verl `seq-mean-token-sum`).
    SeqMeanTokenSum,
    /// Mean over rows of the row's token mean (verl `seq-mean-token-mean`).
    SeqMeanTokenMean,
    /// Σ m·x / T with T the padded width of a row (verl `seq-mean-token-sum-norm`, Dr.GRPO). It is
    /// the only mode that depends on padding.
    SeqMeanTokenSumNorm,
    /// Token mean of a turn, then mean over the turns of a trajectory, then mean over trajectories
    /// (paper v2, eq. 2).
    #[default]
    TurnMean,
}

impl Aggregation {
    /// Returns the weights w [B·T] of the aggregate Σ w·x, zero where masked out.
    ///
    /// Rows, turns and trajectories without a masked-in token are not counted in any mean.
    pub fn weights(self, layout: &TokenLayout) -> Vec<f64> {
        let rows = (0..layout.rows()).filter(|&row| layout.row_count(row) > 0).count() as f64;
        let tokens = layout.count() as f64;
        match self {
            Self::TokenMean => spread(layout, |_| 1.0 / tokens),
            Self::SeqMeanTokenSum => spread(layout, |_| 1.0 / rows),
            Self::SeqMeanTokenMean => {
                spread(layout, |row| 1.0 / (rows * layout.row_count(row) as f64))
            }
            Self::SeqMeanTokenSumNorm => spread(layout, |_| 1.0 / layout.tokens() as f64),
            Self::TurnMean => turn_mean_weights(layout),
        }
    }

    /// Returns the authors' weights: every row counts, empty or not, and the token mean divides by
    /// Σ m + 10⁻⁸ (verl `agg_loss`). Their code has no [`Aggregation::TurnMean`]; its weights are
    /// those of [`Aggregation::weights`].
    ///
    /// # Errors
    /// [`Error::EmptyMask`] for [`Aggregation::SeqMeanTokenMean`] with an empty row, for which
    /// their code gives NaN.
    pub fn official_weights(self, layout: &TokenLayout) -> Result<Vec<f64>> {
        let rows = layout.rows() as f64;
        Ok(match self {
            Self::TokenMean => spread(layout, |_| official_share(layout)),
            Self::SeqMeanTokenSum => spread(layout, |_| 1.0 / rows),
            Self::SeqMeanTokenMean => {
                if let Some(row) = (0..layout.rows()).find(|&row| layout.row_count(row) == 0) {
                    return Err(Error::EmptyMask { name: "mask", at: format!("row {row}") });
                }
                spread(layout, |row| 1.0 / (rows * layout.row_count(row) as f64))
            }
            Self::SeqMeanTokenSumNorm | Self::TurnMean => self.weights(layout),
        })
    }
}

impl FromStr for Aggregation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "token-mean" => Self::TokenMean,
            "seq-mean-token-sum" => Self::SeqMeanTokenSum,
            "seq-mean-token-mean" => Self::SeqMeanTokenMean,
            "seq-mean-token-sum-norm" => Self::SeqMeanTokenSumNorm,
            "turn-mean" => Self::TurnMean,
            _ => {
                let known = "one of token-mean, seq-mean-token-sum, seq-mean-token-mean, \
                             seq-mean-token-sum-norm, turn-mean";
                return Err(Error::setting("aggregation", name, known));
            }
        })
    }
}

fn spread(layout: &TokenLayout, weight_of_row: impl Fn(usize) -> f64) -> Vec<f64> {
    let per_row: Vec<f64> = (0..layout.rows()).map(weight_of_row).collect();
    layout
        .mask()
        .iter()
        .enumerate()
        .map(|(i, &m)| if m { per_row[i / layout.tokens()] } else { 0.0 })
        .collect()
}

fn official_share(layout: &TokenLayout) -> f64 {
    1.0 / (layout.count() as f64 + 1e-8)
}

fn turn_mean_weights(layout: &TokenLayout) -> Vec<f64> {
    let turn_of = |i: usize| (layout.trajectories()[i / layout.tokens()], layout.turns()[i]);
    let mut tokens_of_turn: HashMap<(usize, usize), f64> = HashMap::new();
    for i in (0..layout.mask().len()).filter(|&i| layout.mask()[i]) {
        *tokens_of_turn.entry(turn_of(i)).or_default() += 1.0;
    }
    let mut turns_of_trajectory: HashMap<usize, f64> = HashMap::new();
    for (trajectory, _) in tokens_of_turn.keys() {
        *turns_of_trajectory.entry(*trajectory).or_default() += 1.0;
    }
    let trajectories = turns_of_trajectory.len() as f64;
    let weight = |i: usize| {
        let turn = turn_of(i);
        1.0 / (trajectories * turns_of_trajectory[&turn.0] * tokens_of_turn[&turn])
    };
    layout.mask().iter().enumerate().map(|(i, &m)| if m { weight(i) } else { 0.0 }).collect()
}

/// A batch of token rows: their layout and the weight of each token in the loss.
///
/// The weights come from the *whole* batch. A micro-batch made by [`TokenBatch::select`] keeps its
/// rows' weights, so losses, gradients and metrics of the micro-batches add up to the batch's. The
/// mask and the weights become tensors once per device and dtype.
///
/// ```
/// use epo::objective::TokenBatch;
/// // One trajectory of two turns: two sampled tokens, then one. Rows are padded to the longest.
/// let batch = TokenBatch::turns(&[2, 1], &[0, 0])?;
/// assert_eq!(batch.layout().mask(), [true, true, true, false]);
/// assert_eq!(batch.layout().turns(), [0, 0, 1, 1]);
/// assert_eq!(batch.weights(), [0.25, 0.25, 0.5, 0.0]);
/// assert_eq!(batch.select(&[1])?.weights(), [0.5, 0.0]);
/// # Ok::<(), epo::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    layout: TokenLayout,
    weights: Vec<f64>,
    share: f64,
    cache: TensorCache,
}

impl TokenBatch {
    /// Weighs the tokens of a whole batch.
    pub fn new(layout: TokenLayout, aggregation: Aggregation) -> Self {
        let weights = aggregation.weights(&layout);
        let share = 1.0 / layout.count() as f64;
        Self { layout, weights, share, cache: TensorCache::default() }
    }

    /// Builds a batch from turns, one per row: [`TokenLayout::turns_of`] with the default
    /// aggregation.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths disagree, [`Error::EmptyMask`] if there is no token.
    pub fn turns(lengths: &[usize], trajectories: &[usize]) -> Result<Self> {
        Ok(Self::new(TokenLayout::turns_of(lengths, trajectories)?, Aggregation::default()))
    }

    /// Builds a batch from a mask [B, T] of any dtype, non-zero where a token counts. Each row is
    /// one turn of the trajectory in `trajectories`; the rows of a trajectory are in the order of
    /// its turns.
    ///
    /// # Errors
    /// [`Error::Shape`] if the mask is not [B, T] with B trajectories, [`Error::EmptyMask`] if it
    /// selects no token.
    pub fn from_mask(mask_bt: &Tensor, trajectories: &[usize]) -> Result<Self> {
        let &[rows, tokens] = mask_bt.dims() else {
            let expected = "[rows, tokens]".into();
            return Err(Error::Shape { name: "mask_bt", expected, got: mask_bt.dims().to_vec() });
        };
        let values = mask_bt.to_dtype(DType::F32)?.reshape(rows * tokens)?.to_vec1::<f32>()?;
        let mask = values.into_iter().map(|value| value != 0.0).collect();
        let layout = TokenLayout::per_turn(
            tokens,
            mask,
            &turn_numbers(trajectories),
            trajectories.to_vec(),
        )?;
        Ok(Self::new(layout, Aggregation::default()))
    }

    /// Weighs the tokens by another aggregation.
    #[must_use]
    pub fn with_aggregation(self, aggregation: Aggregation) -> Self {
        Self::new(self.layout, aggregation)
    }

    /// Normalises one micro-batch by itself, as the authors' code does; divide its loss by the
    /// number of accumulation steps. The result depends on how the batch is cut.
    ///
    /// # Errors
    /// [`Error::EmptyMask`] for [`Aggregation::SeqMeanTokenMean`] with an empty row.
    pub fn official(layout: TokenLayout, aggregation: Aggregation) -> Result<Self> {
        let weights = aggregation.official_weights(&layout)?;
        let share = official_share(&layout);
        Ok(Self { layout, weights, share, cache: TensorCache::default() })
    }

    /// Selects rows, in the given order, with the weights they have in this batch.
    ///
    /// # Errors
    /// [`Error::Shape`] if a row does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let weights = gather(&self.weights, &self.layout.spans(rows)?);
        let layout = self.layout.select(rows)?;
        Ok(Self { layout, weights, share: self.share, cache: TensorCache::default() })
    }

    /// Returns the layout of these rows.
    pub fn layout(&self) -> &TokenLayout {
        &self.layout
    }

    /// Returns the aggregation weights w, row-major [B·T], zero where masked out.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Returns 1 / (masked-in tokens of the whole batch): a token's share in a token mean.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// The tensors built so far.
    pub(crate) fn cache(&self) -> &TensorCache {
        &self.cache
    }
}
