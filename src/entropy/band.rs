//! The band [κ_l·H̄, κ_r·H̄] around the reference, and the units it is applied to.
//! Suffixes: b rows, t token positions, u units (tokens or turn segments).

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::entropy::traits::EntropyInputs;
use crate::kernels::layers::rows_at::row_sums;
use crate::settings::NonNegative;
use crate::{Error, Result};

/// The unit that is held inside the band.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// Every token's entropy.
    #[default]
    Token,
    /// The masked mean entropy of every turn of a row; each of its tokens has its penalty.
    Sequence,
}

/// The band [κ_l·H̄, κ_r·H̄] with 0 ≤ κ_l ≤ κ_r (paper v2, eq. 3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Edges", into = "Edges")]
pub struct Band {
    low: f64,
    high: f64,
}

/// A [`Band`] as a file writes it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edges {
    #[serde(default = "half")]
    kappa_low: NonNegative,
    #[serde(default = "one_and_a_half")]
    kappa_high: NonNegative,
}

fn half() -> NonNegative {
    NonNegative::literal(0.5)
}

fn one_and_a_half() -> NonNegative {
    NonNegative::literal(1.5)
}

impl TryFrom<Edges> for Band {
    type Error = String;

    fn try_from(edges: Edges) -> Result<Self, String> {
        let low = edges.kappa_low.get();
        let high = edges.kappa_high.get();
        if low > high {
            return Err(format!("kappa_low must not exceed kappa_high = {high}, got {low}"));
        }
        Ok(Self { low, high })
    }
}

impl From<Band> for Edges {
    fn from(band: Band) -> Self {
        Self {
            kappa_low: NonNegative::literal(band.low),
            kappa_high: NonNegative::literal(band.high),
        }
    }
}

impl Band {
    /// The band from κ_l to κ_r.
    ///
    /// # Errors
    /// [`Error::Setting`] for a number that is negative or not finite, or κ_l > κ_r.
    pub fn new(kappa_low: f64, kappa_high: f64) -> Result<Self> {
        let edges = Edges { kappa_low: kappa_low.try_into()?, kappa_high: kappa_high.try_into()? };
        edges.try_into().map_err(|reason: String| Error::setting("kappa_low", kappa_low, reason))
    }

    /// A band known when the program is written.
    ///
    /// # Panics
    /// See [`Band::new`].
    pub const fn literal(kappa_low: f64, kappa_high: f64) -> Self {
        assert!(kappa_low >= 0.0 && kappa_low <= kappa_high && kappa_high.is_finite());
        Self { low: kappa_low, high: kappa_high }
    }

    /// κ_l.
    pub const fn kappa_low(&self) -> f64 {
        self.low
    }

    /// κ_r.
    pub const fn kappa_high(&self) -> f64 {
        self.high
    }

    /// Counts the tokens below, inside and above the closed band; those without a reference are in
    /// none of the three.
    pub(crate) fn occupancy(&self, entropies: &[f64], references: &[Option<f64>]) -> [f64; 3] {
        let mut counts = [0.0; 3];
        for (&entropy, reference) in entropies.iter().zip(references) {
            if let Some(reference) = reference {
                let below = entropy < self.low * reference;
                let above = entropy > self.high * reference;
                counts[if below { 0 } else { 1 + usize::from(above) }] += 1.0;
            }
        }
        counts
    }
}

/// The units of a micro-batch with the aggregation weight of each and its reference.
pub(crate) struct Units {
    /// Entropies [U], differentiable.
    pub(crate) entropy_u: Tensor,
    /// Aggregation weights [U]; zero where there is no reference.
    pub(crate) weights: Vec<f64>,
    /// References [U]; zero where there is none.
    pub(crate) references: Vec<f64>,
}

impl Units {
    pub(crate) fn new(inputs: &EntropyInputs, granularity: Granularity) -> Result<Self> {
        let layout = inputs.batch.layout();
        let entropy_n = inputs.entropy_bt.flatten_all()?;
        let (entropy_u, weights, turns) = match granularity {
            Granularity::Token => {
                (entropy_n, inputs.batch.weights().to_vec(), layout.turns().to_vec())
            }
            Granularity::Sequence => segment_means(inputs, &entropy_n)?,
        };
        let mut units = Self { entropy_u, weights, references: vec![0.0; turns.len()] };
        for (u, &turn) in turns.iter().enumerate() {
            if units.weights[u] != 0.0 {
                match inputs.history.reference(turn)? {
                    Some(reference) => units.references[u] = reference,
                    None => units.weights[u] = 0.0,
                }
            }
        }
        Ok(units)
    }

    /// Host values [U] as a tensor like the entropies.
    pub(crate) fn tensor(&self, values: Vec<f64>) -> Result<Tensor> {
        let values_u = Tensor::new(values, &Device::Cpu)?;
        Ok(values_u.to_dtype(self.entropy_u.dtype())?.to_device(self.entropy_u.device())?)
    }
}

/// Masked mean entropy, summed aggregation weight and turn index of every turn segment.
fn segment_means(
    inputs: &EntropyInputs,
    entropy_n: &Tensor,
) -> Result<(Tensor, Vec<f64>, Vec<usize>)> {
    let mut segments = inputs.batch.layout().segments();
    if segments.turns.is_empty() {
        // A micro-batch of masked-out rows: one segment of weight zero keeps the shapes alive.
        segments.turns.push(0);
        segments.counts.push(1);
    }
    let count = segments.turns.len();
    let mut weights = vec![0.0; count];
    // Masked-out positions hold a zero entropy: they may go to any segment.
    let of_token: Arc<[u32]> = segments.of_token.iter().map(|s| s.unwrap_or(0) as u32).collect();
    for (segment, weight) in segments.of_token.iter().zip(inputs.batch.weights()) {
        if let Some(segment) = segment {
            weights[*segment] += weight;
        }
    }
    let dtype = entropy_n.dtype();
    let device = entropy_n.device();
    let counts: Vec<f64> = segments.counts.iter().map(|&n| n as f64).collect();
    let counts_u = Tensor::new(counts, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    let sums_u = row_sums(&entropy_n.unsqueeze(1)?, &of_token, count)?.squeeze(1)?;
    Ok((sums_u.div(&counts_u)?, weights, segments.turns))
}
