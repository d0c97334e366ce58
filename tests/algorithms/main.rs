//! The algorithms other than EPO: reference numbers, gradients, invariances, and
//! docs/ALGORITHMS.md.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod forms;
mod golden;
mod gradients;
#[cfg(feature = "text")]
mod own;
#[cfg(feature = "text")]
mod page;
mod selections;
#[cfg(feature = "text")]
mod settings;
use candle_core::{DType, Tensor};
use epo::entropy::{EntropyInputs, PolicyInputs};
use epo::objective::{Aggregation, TokenBatch, TokenLayout};
use epo::rng::{Purpose, Stream};
use serde_json::Value;
use support::*;

/// tests/data/algorithms.json, written by scripts/algorithms_numpy.py.
struct Golden(Value);

impl Golden {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/algorithms.json");
        Self(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    fn layout(&self) -> TokenLayout {
        let (mask, turns) = (mask(&self.0["mask"]), indices(&self.0["turns"]));
        TokenLayout::new(6, mask, turns, indices(&self.0["trajectories"])).unwrap()
    }

    fn batch(&self, aggregation: Aggregation) -> TokenBatch {
        TokenBatch::new(self.layout(), aggregation)
    }

    fn tensor(&self, name: &str) -> Tensor {
        tensor(&self.0[name], DType::F64)
    }

    fn list(&self, name: &str) -> Vec<f64> {
        flat(&self.0[name])
    }
}

/// The values where the mask is true.
fn masked(values: &[f64], layout: &TokenLayout) -> Vec<f64> {
    values.iter().zip(layout.mask()).filter(|(_, &m)| m).map(|(&v, _)| v).collect()
}

fn stream(step: u64) -> Stream {
    Stream::new(5, Purpose::Selection, step, 0, 0)
}

/// Inputs without a reference.
fn entropy_inputs<'a>(
    entropy_bt: &'a Tensor,
    batch: &'a TokenBatch,
    beta: f64,
    policy: Option<PolicyInputs<'a>>,
) -> EntropyInputs<'a> {
    const NOTHING: &Nothing = &Nothing;
    EntropyInputs::new(entropy_bt, batch, NOTHING, beta).unwrap().with_policy(policy)
}

/// A history without references.
struct Nothing;

impl epo::entropy::State for Nothing {}

impl epo::entropy::EntropyHistory for Nothing {
    fn reference(&self, _: usize) -> epo::Result<Option<f64>> {
        Ok(None)
    }
    fn record(&mut self, _: &epo::entropy::StepEntropy) -> epo::Result<()> {
        Ok(())
    }
}
