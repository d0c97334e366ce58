//! The decoder's two modes, compared with each other and with their specification.

use crate::kernels::score::logprob_entropy::logprob_entropy;
use crate::policy::*;
use crate::rng::{Purpose, Stream};
use candle_core::{DType, Device, Tensor};

mod files;
mod fuzz;
mod generation;
mod lora;
mod published;
mod quantized;
#[cfg(feature = "text")]
mod tokenizer;

fn config() -> DecoderConfig {
    DecoderConfig { initializer_range: 0.3, ..DecoderConfig::tiny(40) }
}

/// One configuration for every variant of a block.
fn families() -> Vec<DecoderConfig> {
    let of = |family| DecoderConfig { family, ..config() };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    let linear = RopeScaling::Linear { factor: 2.0 };
    vec![
        of(Family::Qwen2),
        DecoderConfig { head_dim: Some(6), ..of(Family::Qwen3) },
        DecoderConfig { attention_bias: true, tie_word_embeddings: false, ..of(Family::Qwen3) },
        DecoderConfig { rope_scaling: llama3, head_dim: Some(10), ..of(Family::Llama) },
        DecoderConfig { attention_bias: true, rope_scaling: linear, ..of(Family::Llama) },
        DecoderConfig { tie_word_embeddings: false, ..of(Family::Mistral) },
    ]
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
    let rows: Vec<Vec<u32>> = [90, 3, 150, 41, 2].iter().map(|&n| ids(n, n as u64, 40)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    for config in families() {
        let (decoder, parameters) = decoder(&config, DType::F32);
        roughen(&parameters);
        let gap = max_decode_forward_gap(&decoder, &rows).unwrap();
        println!("max |Δ log p| between decode and forward: {gap:.2e}");
        assert!(gap < 1e-4, "{config:?}: {gap}");
    }
}

/// Changes biases and norms so that a missing one would be noticed.
fn roughen(parameters: &Parameters) {
    for (name, var) in
        parameters.iter().filter(|(name, _)| name.ends_with("norm.weight") | name.ends_with("bias"))
    {
        let count = var.elem_count();
        let wave = (0..count).map(|i| 0.3 * ((i + name.len()) as f64).sin()).collect::<Vec<_>>();
        let wave =
            Tensor::from_vec(wave, count, &Device::Cpu).unwrap().to_dtype(var.dtype()).unwrap();
        var.set(&(var.as_detached_tensor() + wave).unwrap()).unwrap();
    }
}

#[test]
fn every_parameter_has_its_gradient() {
    let small = DecoderConfig {
        vocab_size: 7,
        hidden_size: 8,
        intermediate_size: 6,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        ..config()
    };
    for tied in [false, true] {
        check_parameters(&DecoderConfig { tie_word_embeddings: tied, ..small.clone() });
    }
    for DecoderConfig { family, head_dim, attention_bias, rope_scaling, .. } in families() {
        let form =
            DecoderConfig { family, head_dim, attention_bias, rope_scaling, ..small.clone() };
        check_parameters(&form);
    }
}

fn check_parameters(config: &DecoderConfig) {
    let (decoder, parameters) = decoder(config, DType::F64);
    roughen(&parameters);
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
            assert!(
                (got - exact[i]).abs() < 1e-6,
                "{name}[{i}]: central difference {got}, backward {}",
                exact[i]
            );
        }
        var.set(&base).unwrap();
    }
}

fn hidden(decoder: &Decoder, rows: &[&[u32]]) -> Vec<Vec<f32>> {
    decoder.forward_packed(rows).unwrap().to_vec2().unwrap()
}

#[test]
fn padding_is_zero_and_its_ids_do_not_matter() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let rows: [Vec<u32>; 2] = [ids(9, 1, 40), ids(4, 2, 40)];
    let padded = |pad: u32| {
        let mut second = rows[1].clone();
        second.resize(9, pad);
        let ids = Tensor::new(vec![rows[0].clone(), second], &Device::Cpu).unwrap();
        decoder.forward(&ids, &[9, 4]).unwrap().to_vec3::<f32>().unwrap()
    };
    let a = padded(0);
    let packed = hidden(&decoder, &[&rows[0], &rows[1]]);
    assert_eq!(a, padded(39));
    assert_eq!(a[0], packed[..9]);
    assert_eq!(a[1][..4], packed[9..]);
    assert!(a[1][4..].iter().flatten().all(|&x| x == 0.0));
}

#[test]
fn padded_forward_has_the_gradients_of_the_packed_one() {
    let (decoder, parameters) = decoder(&config(), DType::F64);
    let ids = Tensor::new(vec![vec![1u32, 2, 3], vec![4, 0, 0]], &Device::Cpu).unwrap();
    let of = |hidden: Tensor| {
        Gradients::of(&hidden.sqr().unwrap().sum_all().unwrap(), &parameters).unwrap()
    };
    let padded = of(decoder.forward(&ids, &[3, 1]).unwrap());
    let packed = of(decoder.forward_packed(&[&[1, 2, 3], &[4]]).unwrap());
    for (name, grad) in packed.iter() {
        let gap = (grad - padded.get(name).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f64>().unwrap() < 1e-12, "{name}");
    }
}

#[test]
fn later_tokens_do_not_change_earlier_hidden_states_but_earlier_ones_do() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let row = ids(100, 1, 40);
    let mut changed = row.clone();
    changed[70] = (changed[70] + 1) % 40;
    let a = hidden(&decoder, &[&row]);
    let b = hidden(&decoder, &[&changed]);
    assert_eq!(a[..70], b[..70]);
    assert!((70..100).all(|i| a[i] != b[i]));
}

#[test]
fn rows_do_not_see_each_other() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let rows: Vec<Vec<u32>> = [65, 7, 130].iter().map(|&n| ids(n, n as u64, 40)).collect();
    let together = hidden(&decoder, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut start = 0;
    for row in &rows {
        for (a, b) in
            together[start..].iter().flatten().zip(hidden(&decoder, &[row]).iter().flatten())
        {
            assert!((a - b).abs() < 1e-5);
        }
        start += row.len();
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let config =
        DecoderConfig { hidden_size: 64, intermediate_size: 160, vocab_size: 500, ..config() };
    let rows: Vec<Vec<u32>> = (0..6).map(|i| ids(100 + 31 * i, i as u64, 500)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (decoder, parameters) = decoder(&config, DType::F32);
            let hidden = decoder.forward_packed(&rows).unwrap();
            let targets = Tensor::new(rows.concat(), &Device::Cpu).unwrap();
            let (log_probs, entropies) =
                logprob_entropy(&decoder.logits(&hidden).unwrap(), &targets, 1.0).unwrap();
            let loss = (log_probs * entropies).unwrap().mean_all().unwrap();
            let gradients = Gradients::of(&loss, &parameters).unwrap();
            let flat: Vec<Vec<f32>> = gradients
                .iter()
                .map(|(_, g)| g.flatten_all().unwrap().to_vec1().unwrap())
                .collect();
            let mut cache = KvCache::new(&config, rows.len());
            let logits = decoder.extend(&mut cache, &[0, 1, 2, 3, 4, 5], &rows).unwrap();
            (loss.to_scalar::<f32>().unwrap().to_bits(), flat, logits)
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

/// Rows with common prefixes: two rows of a group, a continuation of another row, a copy, and a row
/// that is a prefix of others.
fn rows_with_common_prefixes() -> Vec<Vec<u32>> {
    let prompt = ids(12, 1, 40);
    let tail = |n: usize, salt: u64| [prompt.clone(), ids(n, salt, 40)].concat();
    let first = tail(5, 2);
    vec![
        first.clone(),
        tail(9, 3),
        [first.clone(), ids(6, 4, 40)].concat(),
        ids(4, 5, 40),
        first,
        prompt,
    ]
}

#[test]
fn common_prefixes_are_computed_once_and_change_nothing() {
    let rows = rows_with_common_prefixes();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    for (config, rank) in families().into_iter().map(|c| (c, 0)).chain([(config(), 2)]) {
        let (_, mut parameters) = decoder(&config, DType::F64);
        if rank > 0 {
            parameters = parameters.with_lora(&config, &LoraConfig::of_rank(rank), 7).unwrap();
        }
        roughen(&parameters);
        let plain = Decoder::new(&config, &parameters).unwrap();
        for decoder in [plain.clone(), plain.with_checkpointing(true)] {
            let of = |rows: &[&[u32]]| {
                let hidden = decoder.forward_packed(rows).unwrap();
                let values: Vec<Vec<f64>> = hidden.to_vec2().unwrap();
                let loss = (hidden.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap();
                (values, Gradients::of(&loss, &parameters).unwrap())
            };
            let (together, whole) = of(&rows);
            let mut apart = Vec::new();
            let mut sum = Gradients::default();
            for row in &rows {
                let (values, gradients) = of(&[row]);
                apart.extend(values);
                sum.add(gradients).unwrap();
            }
            for (a, b) in together.iter().flatten().zip(apart.iter().flatten()) {
                assert!((a - b).abs() < 1e-10, "{config:?}");
            }
            assert!(whole.iter().count() > 3 && whole.iter().count() == sum.iter().count());
            for (name, gradient) in whole.iter() {
                let gap =
                    (gradient - sum.get(name).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
                assert!(gap.to_scalar::<f64>().unwrap() < 1e-8, "{name} {config:?}");
            }
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_do_not_change_the_others() {
    let (free, mut parameters) = decoder(&config(), DType::F64);
    let loss =
        |d: &Decoder| d.forward_packed(&[&[1, 2, 3]]).unwrap().sqr().unwrap().sum_all().unwrap();
    let all = Gradients::of(&loss(&free), &parameters).unwrap();
    let frozen = "model.layers.0.mlp.up_proj.weight";
    parameters.set_trainable(frozen, false).unwrap();
    let decoder = Decoder::new(&config(), &parameters).unwrap();
    let some = Gradients::take(&mut loss(&decoder).backward().unwrap(), &parameters);
    assert!(some.get(frozen).is_none() && all.get(frozen).is_some());
    some.check(&parameters).unwrap();
    for (name, grad) in some.iter() {
        let gap = (grad - all.get(name).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f64>().unwrap() < 1e-12, "{name}");
    }
}

#[test]
fn bad_rows_are_named() {
    let (decoder, _) = decoder(&config(), DType::F32);
    let error = |rows: &[&[u32]]| decoder.forward_packed(rows).unwrap_err().to_string();
    assert!(error(&[&[1], &[]]).contains("rows[1].len"));
    assert!(error(&[&[1, 40]]).contains("rows[0][1]") && error(&[&[1, 40]]).contains("40"));
    assert!(error(&[&[0; 257]]).contains("257"));
    let ids = Tensor::zeros((2, 3), DType::U32, &Device::Cpu).unwrap();
    assert!(decoder.forward(&ids, &[3]).is_err());
    assert!(decoder.forward(&ids, &[3, 4]).unwrap_err().to_string().contains("lengths[1]"));
    assert!(decoder.forward(&ids, &[0, 1]).unwrap_err().to_string().contains("lengths[0]"));
}

#[test]
fn gradients_add_up_and_errors_name_the_parameter() {
    let (decoder, parameters) = decoder(&config(), DType::F64);
    let of = |rows: &[&[u32]]| {
        let hidden = decoder.forward_packed(rows).unwrap();
        Gradients::of(&hidden.sqr().unwrap().sum_all().unwrap(), &parameters).unwrap()
    };
    let a: &[u32] = &[1, 2, 3];
    let b: &[u32] = &[4, 5];
    let mut sum = of(&[a]);
    let whole = of(&[a, b]);
    sum.add(of(&[b])).unwrap();
    for (name, grad) in whole.iter() {
        let gap = (grad - sum.get(name).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f64>().unwrap() < 1e-10, "{name}");
    }
    // Embedding gradients that stay rows until the end have the same sum.
    let micro = |rows: &[&[u32]]| {
        let hidden = decoder.forward_packed(rows).unwrap();
        MicroGradients::of(&hidden.sqr().unwrap().sum_all().unwrap(), &parameters).unwrap()
    };
    let mut rows = GradientSum::default();
    for row in [a, b] {
        rows.add(micro(&[row])).unwrap();
    }
    let rows = rows.finish(&parameters).unwrap();
    for (name, grad) in whole.iter() {
        let gap = (grad - rows.get(name).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f64>().unwrap() < 1e-10, "{name}");
    }
    let empty = Gradients::default().check(&parameters).unwrap_err().to_string();
    assert!(empty.contains("model.embed_tokens.weight"), "{empty}");
    sum.scale(f64::NAN).unwrap();
    assert!(sum.check(&parameters).unwrap_err().to_string().contains("model.embed_tokens.weight"));
}
