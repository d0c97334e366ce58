//! The band [κ_l·H̄, κ_r·H̄] around the reference, and the units it is applied to.
//! Suffixes: b rows, t token positions, u units (tokens or turn segments).

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::entropy::traits::EntropyInputs;
use crate::{Error, Result};

/// What is held inside the band.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// Every token's entropy.
    #[default]
    Token,
    /// The masked mean entropy of every turn of a row; its penalty goes to each of its tokens.
    Sequence,
}

/// The band [κ_l·H̄, κ_r·H̄] (paper v2, eq. 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// κ_l ≥ 0.
    pub kappa_low: f64,
    /// κ_r ≥ κ_l.
    pub kappa_high: f64,
}

impl Band {
    /// Checks 0 ≤ κ_l ≤ κ_r.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `entropy.kappa_low` or `entropy.kappa_high`.
    pub fn validate(&self) -> Result<()> {
        let (low, high) = (self.kappa_low, self.kappa_high);
        for (field, value) in [("entropy.kappa_low", low), ("entropy.kappa_high", high)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::setting(field, value, "must be finite and at least 0"));
            }
        }
        if low > high {
            let reason = format!("must not exceed entropy.kappa_high = {high}");
            return Err(Error::setting("entropy.kappa_low", low, reason));
        }
        Ok(())
    }

    /// Counts the tokens below, inside and above the closed band; those without a reference are in
    /// none of the three.
    pub(crate) fn occupancy(&self, entropies: &[f64], references: &[Option<f64>]) -> [f64; 3] {
        let mut counts = [0.0; 3];
        for (&entropy, reference) in entropies.iter().zip(references) {
            if let Some(reference) = reference {
                let below = entropy < self.kappa_low * reference;
                let above = entropy > self.kappa_high * reference;
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
    let of_token: Vec<u32> = segments.of_token.iter().map(|s| s.unwrap_or(0) as u32).collect();
    for (segment, weight) in segments.of_token.iter().zip(inputs.batch.weights()) {
        if let Some(segment) = segment {
            weights[*segment] += weight;
        }
    }
    let (dtype, device) = (entropy_n.dtype(), entropy_n.device());
    let of_token_n = Tensor::new(of_token, device)?;
    let counts: Vec<f64> = segments.counts.iter().map(|&n| n as f64).collect();
    let counts_u = Tensor::new(counts, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    let sums_u = Tensor::zeros(count, dtype, device)?.index_add(&of_token_n, entropy_n, 0)?;
    Ok((sums_u.div(&counts_u)?, weights, segments.turns))
}
