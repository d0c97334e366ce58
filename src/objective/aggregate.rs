//! The one place for every normaliser: each aggregation is a linear weighting of the tokens.
//! Suffixes: b rows, t token positions.

use std::collections::HashMap;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::objective::layout::{gather, TokenLayout};
use crate::{Error, Result};

/// How per-token values become one number. A "sequence" is a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Σ m·x / Σ m (verl `token-mean`).
    TokenMean,
    /// Mean over rows of Σₜ m·x (verl `seq-mean-token-sum`).
    SeqMeanTokenSum,
    /// Mean over rows of the row's token mean (verl `seq-mean-token-mean`).
    SeqMeanTokenMean,
    /// Σ m·x / T with T the padded width of a row (verl `seq-mean-token-sum-norm`, Dr.GRPO): the one mode
    /// that depends on padding.
    SeqMeanTokenSumNorm,
    /// Token mean of a turn → mean over the turns of a trajectory → mean over trajectories (paper v2, eq. 2).
    #[default]
    TurnMean,
}

impl Aggregation {
    /// The weights w [B·T] with which the aggregate is Σ w·x, zero where masked out.
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
            Self::TurnMean => paper_weights(layout),
        }
    }

    /// The authors' weights: every row counts, empty or not, and the token mean divides by Σ m + 10⁻⁸
    /// (verl `agg_loss`). [`Aggregation::TurnMean`], which their code lacks, is as in [`Aggregation::weights`].
    ///
    /// # Errors
    /// [`Error::EmptyMask`] for [`Aggregation::SeqMeanTokenMean`] with an empty row, where their code gives NaN.
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

fn paper_weights(layout: &TokenLayout) -> Vec<f64> {
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

/// A layout with the weights of its tokens: what every loss term sums over.
///
/// The weights come from the *whole* batch. A micro-batch made by [`TokenBatch::select`] takes its rows'
/// weights along, so losses, gradients and metrics of the micro-batches simply add up to the batch's.
///
/// ```
/// use epo::objective::{Aggregation, TokenBatch, TokenLayout};
/// let mask = vec![true, true, true, false]; // two rows of two positions, one of them padding
/// let layout = TokenLayout::per_turn(2, mask, &[0, 1], vec![0, 0])?;
/// let batch = TokenBatch::new(layout, Aggregation::TurnMean);
/// assert_eq!(batch.weights(), [0.25, 0.25, 0.5, 0.0]);
/// assert_eq!(batch.select(&[1])?.weights(), [0.5, 0.0]);
/// # Ok::<(), epo::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    layout: TokenLayout,
    weights: Vec<f64>,
    share: f64,
}

impl TokenBatch {
    /// The whole batch under an aggregation.
    pub fn new(layout: TokenLayout, aggregation: Aggregation) -> Self {
        let (weights, share) = (aggregation.weights(&layout), 1.0 / layout.count() as f64);
        Self { layout, weights, share }
    }

    /// One micro-batch normalised by itself alone, as the authors' code does; divide each micro-batch's loss
    /// by the number of accumulation steps. The result depends on how the batch is cut.
    ///
    /// # Errors
    /// As [`Aggregation::official_weights`].
    pub fn official(layout: TokenLayout, aggregation: Aggregation) -> Result<Self> {
        let (weights, share) = (aggregation.official_weights(&layout)?, official_share(&layout));
        Ok(Self { layout, weights, share })
    }

    /// The given rows, in the given order, with the weights they have in this batch.
    ///
    /// # Errors
    /// [`Error::Shape`] where a row does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let weights = gather(&self.weights, &self.layout.spans(rows)?);
        Ok(Self { layout: self.layout.select(rows)?, weights, share: self.share })
    }

    /// The layout of these rows.
    pub fn layout(&self) -> &TokenLayout {
        &self.layout
    }

    /// The aggregation weights w, row-major [B·T], zero where masked out.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// 1 / (masked-in tokens of the whole batch): a token's share in a metric that is a token mean.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Host values as a tensor [B, T] of the same dtype and device as `like`.
    pub(crate) fn tensor_like(&self, values: &[f64], like: &Tensor) -> Result<Tensor> {
        let shape = (self.layout.rows(), self.layout.tokens());
        Ok(Tensor::from_slice(values, shape, &Device::Cpu)?
            .to_dtype(like.dtype())?
            .to_device(like.device())?)
    }

    /// The aggregate Σ w·x as a differentiable scalar; masked-out entries of `x_bt` may hold anything.
    ///
    /// # Errors
    /// [`Error::Shape`] where `x_bt` is not [B, T].
    pub fn aggregate(&self, x_bt: &Tensor) -> Result<Tensor> {
        let weights_bt = self.tensor_like(&self.weights, x_bt)?;
        Ok(self.zero_masked("x_bt", x_bt)?.mul(&weights_bt)?.sum_all()?)
    }

    /// The token mean Σ share·m·x as a number, for metrics.
    pub(crate) fn token_mean(&self, x_bt: &Tensor) -> Result<f64> {
        let total = self.zero_masked("x_bt", &x_bt.detach())?.sum_all()?;
        Ok(total.to_dtype(DType::F64)?.to_scalar::<f64>()? * self.share)
    }

    /// `x_bt` with zeros where masked out; gradients flow to the other entries only.
    pub(crate) fn zero_masked(&self, name: &'static str, x_bt: &Tensor) -> Result<Tensor> {
        let shape = (self.layout.rows(), self.layout.tokens());
        if x_bt.dims() != [shape.0, shape.1] {
            let expected = format!("[rows, tokens] = [{}, {}]", shape.0, shape.1);
            return Err(Error::Shape { name, expected, got: x_bt.dims().to_vec() });
        }
        let mask: Vec<u8> = self.layout.mask().iter().map(|&m| u8::from(m)).collect();
        let mask_bt = Tensor::from_vec(mask, shape, x_bt.device())?;
        Ok(mask_bt.where_cond(x_bt, &x_bt.zeros_like()?)?)
    }

    /// The values of `x_bt` on the host, row-major [B·T], zero where masked out.
    ///
    /// # Errors
    /// [`Error::Shape`] where `x_bt` is not [B, T]; [`Error::NonFinite`] where a masked-in entry is NaN or infinite.
    pub fn host(&self, name: &'static str, x_bt: &Tensor) -> Result<Vec<f64>> {
        let x_bt = self.zero_masked(name, &x_bt.detach())?;
        let values = x_bt.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => {
                let at =
                    format!("row {}, token {}", i / self.layout.tokens(), i % self.layout.tokens());
                Err(Error::NonFinite { name: name.into(), value: values[i], at })
            }
            None => Ok(values),
        }
    }
}
