//! The decoder's two modes against each other and against their specification.

use super::*;
use crate::kernels::logprob_entropy;
use crate::rng::{Purpose, Stream};
use candle_core::{DType, Device, Tensor};

fn config() -> DecoderConfig {
    DecoderConfig { initializer_range: 0.3, ..DecoderConfig::tiny(40) }
}

fn decoder(config: &DecoderConfig, dtype: DType) -> (Decoder, Parameters) {
    let parameters = Parameters::init(config, 5, dtype, &Device::Cpu).unwrap();
    (Decoder::new(config, &parameters).unwrap(), parameters)
}

fn ids(len: usize, salt: u64, vocab: usize) -> Vec<u32> {
    let stream = Stream::new(3, Purpose::Tasks, salt, 0, 0);
    (0..len).map(|i| (stream.uniform(0, i as u64) * vocab as f64) as u32).collect()
}

#[test]
fn decode_agrees_with_forward() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let rows: Vec<Vec<u32>> = [90, 3, 150, 41, 2].iter().map(|&n| ids(n, n as u64, 40)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let gap = max_decode_forward_gap(&decoder, &rows).unwrap();
    println!("max |Δ log p| between decode and forward: {gap:.2e}");
    assert!(gap < 1e-4, "{gap}");
}

#[test]
fn every_parameter_has_its_gradient() {
    let config = DecoderConfig {
        vocab_size: 7,
        hidden_size: 8,
        intermediate_size: 6,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        tie_word_embeddings: false,
        ..config()
    };
    for tied in [false, true] {
        check_parameters(&DecoderConfig { tie_word_embeddings: tied, ..config.clone() });
    }
}

fn check_parameters(config: &DecoderConfig) {
    let (decoder, parameters) = decoder(config, DType::F64);
    let rows: [&[u32]; 2] = [&[1, 2, 3, 6, 2], &[4, 0, 5]];
    let targets = Tensor::new(&[2u32, 3, 6, 2, 0, 0, 5, 1], &Device::Cpu).unwrap();
    let loss = || {
        let logits = decoder.logits(&decoder.forward_packed(&rows).unwrap()).unwrap();
        let (log_probs, entropies) = logprob_entropy(&logits, &targets, 1.3).unwrap();
        (log_probs + (entropies * 0.7).unwrap()).unwrap().sum_all().unwrap()
    };
    let gradients = Gradients::of(&loss(), &parameters).unwrap();
    gradients.check(&parameters).unwrap();
    for (name, var) in parameters.iter() {
        let exact = gradients.get(name).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let base = var.as_detached_tensor().copy().unwrap();
        let values = base.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for i in 0..values.len() {
            let at = |delta: f64| {
                let mut moved = values.clone();
                moved[i] += delta;
                var.set(&Tensor::from_vec(moved, base.shape(), &Device::Cpu).unwrap()).unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let got = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((got - exact[i]).abs() < 1e-6, "{name}[{i}]: differences {got}, backward {}", exact[i]);
        }
        var.set(&base).unwrap();
    }
}
