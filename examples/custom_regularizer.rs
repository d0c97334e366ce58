//! Your own entropy regulariser: implement one method, and the rest of the machinery is yours.
//!
//! `cargo run --release --example custom_regularizer`
//!
//! The regulariser below pulls every token towards the reference with a parabola, a soft spring where EPO has a
//! band with walls. Four toy tokens over eight symbols start at entropies between 0.2 and 2 nats; the history
//! says 1.2.

use candle_core::{DType, Device, Tensor, Var, D};
use epo::entropy::{
    AverageHistory, Averaging, BetaSchedule, EntropyControl, EntropyHistory, EntropyInputs,
    EntropyRegularizer, State, StepEntropy,
};
use epo::objective::{Aggregation, LossOutput, Metrics, TokenBatch, TokenLayout};
use epo::settings::{Count, NonNegative};
use epo::Result;

/// λ·β·agg((H − H̄)²): a spring of stiffness λ·β between the entropies and their reference.
struct Spring {
    lambda: f64,
}

impl State for Spring {}

impl EntropyRegularizer for Spring {
    fn term(&self, inputs: &EntropyInputs) -> Result<LossOutput> {
        let entropy_bt = inputs.entropy_bt;
        let Some(reference) = inputs.history.reference(0)? else {
            return Ok(LossOutput {
                loss: entropy_bt.zeros_like()?.sum_all()?,
                metrics: Metrics::new(),
            });
        };
        let spring = inputs.batch.aggregate(&(entropy_bt - reference)?.sqr()?)?;
        let mut metrics = Metrics::new();
        metrics.add("spring", spring.to_dtype(DType::F64)?.to_scalar::<f64>()?);
        Ok(LossOutput { loss: (spring * (self.lambda * inputs.beta))?, metrics })
    }
}

/// Entropies of softmax(logits) over the last dimension, in nats.
fn entropies(logits: &Tensor) -> Result<Tensor> {
    let log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    Ok((log_p.exp()? * log_p)?.sum(D::Minus1)?.neg()?)
}

fn main() -> Result<()> {
    // One row of four generated tokens, all of turn 0; each prefers symbol 0, more and more strongly.
    let layout = TokenLayout::per_turn(4, vec![true; 4], &[0], vec![0])?;
    let batch = TokenBatch::new(layout.clone(), Aggregation::TokenMean);
    let first = Tensor::eye(8, DType::F64, &Device::Cpu)?.narrow(0, 0, 1)?;
    let strength = Tensor::new(&[[0.5f64], [2.0], [4.0], [6.0]], &Device::Cpu)?;
    let logits = Var::from_tensor(&strength.broadcast_mul(&first)?.unsqueeze(0)?)?;

    let mut history = AverageHistory::new(Averaging::Anchored { steps: Count::literal(1) }, false);
    history.record(&StepEntropy::from_tokens(&[1.2; 4], &layout)?)?;
    let beta = BetaSchedule::Linear {
        from: NonNegative::literal(1.0),
        to: NonNegative::literal(0.25),
        total_steps: Count::literal(60),
    };
    let mut control =
        EntropyControl::new(Box::new(Spring { lambda: 2.0 }), Box::new(history), Box::new(beta));

    println!("step  beta  spring  in band  entropies (nats), pulled towards 1.2");
    for step in 0..=60 {
        let entropy_bt = entropies(&logits)?;
        let values: Vec<f64> = entropy_bt.flatten_all()?.to_vec1()?;
        control.begin_step(step, StepEntropy::from_tokens(&values, &layout)?)?;
        let term = control.term(&entropy_bt, &batch)?;
        if step % 10 == 0 {
            let metric = |name: &str| term.metrics.get(name).unwrap_or(f64::NAN);
            let (spring, inside) = (metric("spring"), metric("entropy/in_band"));
            println!("{step:4}  {:.2}  {spring:.4}  {inside:7.2}  {values:.2?}", control.beta());
        }
        let grads = term.loss.backward()?;
        if let Some(grad) = grads.get(&logits) {
            logits.set(&(logits.as_tensor() - (grad * 0.5)?)?)?;
        }
        control.finish_step()?;
    }
    Ok(())
}
