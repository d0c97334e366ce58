//! Losses from tensors of every float dtype, as the README's quick start computes them.

use candle_core::{DType, Device, Tensor, Var};
use epo::entropy::EntropyConfig;
use epo::kernels::logprob_entropy;
use epo::objective::{policy_loss, LossInputs, PolicyLoss, TokenBatch};
use epo::Error;

use super::support::*;

/// Loss, its gradient and its dtype after a second step, everything given in `dtype`.
fn quick_start(dtype: DType) -> (f64, Vec<f64>, DType) {
    let of = |values: &Tensor| values.to_dtype(dtype).unwrap();
    let logits = Tensor::from_vec(random(3, 48, -2.0, 2.0), (6, 8), &Device::Cpu).unwrap();
    let logits = Var::from_tensor(&of(&logits)).unwrap();
    let ids = Tensor::new(&[1u32, 4, 2, 0, 3, 0], &Device::Cpu).unwrap();
    let advantages = Tensor::new(&[[1.0, 1.0, 1.0], [-0.5, -0.5, f64::NAN]], &Device::Cpu).unwrap();
    let advantages = of(&advantages);
    let forward = || {
        let (log_probs, entropies) = logprob_entropy(&logits, &ids, 1.0).unwrap();
        [log_probs, entropies].map(|x| of(&x.reshape((2, 3)).unwrap()))
    };
    let old_log_probs = forward()[0].detach();
    let batch = TokenBatch::turns(&[3, 2], &[0, 0]).unwrap();
    let objective = PolicyLoss { kl: None, ..PolicyLoss::default() };
    let mut control = EntropyConfig::paper_v2().build().unwrap();
    let mut last = None;
    for step in 0..2 {
        let [log_probs, entropies] = forward();
        control.begin_step(step, &entropies, &batch).unwrap();
        let inputs = LossInputs::new(&log_probs, &old_log_probs, &advantages, &batch);
        let term = control.term(&entropies, &batch).unwrap();
        last = Some(policy_loss(&inputs, &objective).unwrap().plus(term).unwrap().loss);
        control.finish_step().unwrap();
    }
    let loss = last.unwrap();
    let gradient = loss.backward().unwrap().get(&logits).unwrap().clone();
    (host(&loss)[0], host(&gradient), loss.dtype())
}

#[test]
fn the_quick_start_runs_in_every_float_dtype() {
    let (want, gradient, dtype) = quick_start(DType::F64);
    assert_eq!(dtype, DType::F64);
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 1e-2), (DType::BF16, 5e-2)] {
        let (loss, got, of) = quick_start(dtype);
        assert_eq!(of, DType::F32, "{dtype:?} is widened");
        assert!((loss - want).abs() < tolerance, "{dtype:?}: {loss} {want}");
        let worst = got.iter().zip(&gradient).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < tolerance, "{dtype:?}: {worst}");
    }
}

#[test]
fn a_batch_from_turns_is_the_batch_from_its_mask() {
    let turns = TokenBatch::turns(&[3, 1, 2], &[4, 7, 4]).unwrap();
    assert_eq!(turns.layout().turns(), [0, 0, 0, 0, 0, 0, 1, 1, 1]);
    let mask_bt = Tensor::new(&[[1f32, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], &Device::Cpu);
    let mask_bt = mask_bt.unwrap().to_dtype(DType::U8).unwrap();
    assert_eq!(TokenBatch::from_mask(&mask_bt, &[4, 7, 4]).unwrap(), turns);
    assert!(matches!(TokenBatch::turns(&[3], &[0, 1]), Err(Error::Shape { .. })));
    assert!(matches!(TokenBatch::turns(&[0, 0], &[0, 1]), Err(Error::EmptyMask { .. })));
    let flat = mask_bt.flatten_all().unwrap();
    assert!(matches!(TokenBatch::from_mask(&flat, &[0]), Err(Error::Shape { .. })));
}
