//! candle-transformers as a second, independent implementation.

use super::models::{gap, tensors, Expected};
use super::{cases, decoder};
use candle_core::{DType, Device, Tensor};
use epo::kernels::logprob_entropy;
use epo::optim::AdamW;
use epo::policy::{FrozenModel, Pretrained};
use epo::rollout::{MicroBatch, Row, RowKind};
use epo::train::learn::Learner;

#[test]
fn candle_transformers_agrees_on_every_model_it_supports() {
    let mut compared = Vec::new();
    for (folder, name) in cases() {
        let pretrained = Pretrained::open(&folder).unwrap();
        let Ok(mut other) = FrozenModel::open(&pretrained, DType::F32, &Device::Cpu) else {
            assert_eq!(name, "llama_biased", "candle-transformers supports this model");
            continue;
        };
        let expected = Expected::read(&folder);
        let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
        let decoder = decoder(&pretrained, &parameters);
        let logits: Vec<Tensor> =
            expected.rows().iter().map(|row| other.logits(row).unwrap()).collect();
        let logits = Tensor::cat(&logits, 0).unwrap();
        let ours = decoder.logits(&decoder.forward_packed(&expected.rows()).unwrap()).unwrap();
        let gaps = (gap(&ours, &logits), gap(&tensors(&folder)["logits"], &logits));
        assert!(gaps.0 <= 1e-4 && gaps.1 <= 1e-4, "{name}: {gaps:?}");
        compared.push(name);
    }
    assert!(compared.len() >= 8, "{compared:?}");
}

#[test]
fn a_frozen_model_computes_log_probs_of_given_ids() {
    let (folder, _) = cases().into_iter().find(|(_, name)| name == "qwen3").unwrap();
    let pretrained = Pretrained::open(&folder).unwrap();
    let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    let decoder = decoder(&pretrained, &parameters);
    let mut frozen = FrozenModel::open(&pretrained, DType::F32, &Device::Cpu).unwrap();
    let rows: [&[u32]; 2] = [&[3, 9, 4, 1], &[7, 7]];
    let got = frozen.log_probs(&rows, 0.7).unwrap();
    for (row, got) in rows.iter().zip(got) {
        let logits =
            decoder.logits(&decoder.forward_packed(&[&row[..row.len() - 1]]).unwrap()).unwrap();
        let targets = Tensor::new(&row[1..], &Device::Cpu).unwrap();
        let (log_probs, _) = logprob_entropy(&logits, &targets, 0.7).unwrap();
        assert!(gap(&log_probs, &Tensor::new(got, &Device::Cpu).unwrap()) < 1e-4);
    }
    // Rows of a rollout: two turns, and a token with a support of three ids.
    let turns: [(&[u32], &[u32]); 2] = [(&[3, 9], &[4]), (&[1, 5], &[2, 6])];
    let mut row = Row::from_turns(&turns, 0, RowKind::Trajectory).unwrap().remove(0);
    row.supports = vec![vec![], vec![2, 5, 9], vec![]];
    let learner =
        Learner::new(pretrained.config(), parameters, AdamW::new(Default::default()), 0.7);
    let batch = MicroBatch::new(&[&row], 3, &Device::Cpu).unwrap();
    let ours = learner.unwrap().token_terms(&batch).unwrap().0;
    let theirs = frozen.reference_log_probs(&[row], 0.7).unwrap();
    assert!(gap(&ours, &Tensor::new(theirs, &Device::Cpu).unwrap()) < 1e-4);
    assert!(frozen.reference_log_probs(&[Row::default()], 0.7).is_err());
    let error = frozen.log_probs(&[&[1]], 1.0).unwrap_err().to_string();
    assert!(error.contains("rows[0].len"), "{error}");
    assert!(frozen
        .log_probs(&[&[1, 2], &[1_000_000, 2]], 1.0)
        .unwrap_err()
        .to_string()
        .contains("1000000"));
}
