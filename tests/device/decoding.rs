//! Decoding, compared with the forward pass and with decoding on the CPU.

use super::learner::on_the_cpu;
use candle_core::{DType, Device};
use epo::policy::{
    max_decode_forward_gap, Decoder, DecoderConfig, Family, Generated, KvCache, LoraConfig,
    Parameters, Request, SamplingParams, TokenTrie,
};
use epo::rng::{Purpose, Stream};

/// A model of a family, with LoRA adapters or without.
fn decoder(family: Family, lora: bool, dtype: DType, device: &Device) -> Decoder {
    // Two query heads share a key head.
    let config = DecoderConfig { family, initializer_range: 0.2, ..DecoderConfig::tiny(50) };
    let mut parameters = Parameters::init(&config, 3, dtype, device).unwrap();
    if lora {
        parameters = parameters.with_lora(&config, &LoraConfig::of_rank(2), 1).unwrap();
    }
    Decoder::new(&config, &parameters).unwrap()
}

pub fn decoding_agrees_with_the_forward_pass(device: &Device) {
    let long: Vec<u32> = (0..45).map(|i| 7 * i % 50).collect();
    let rows: [&[u32]; 4] = [&long, &long[..33], &[4, 9], &[1, 2, 3, 4, 5, 6, 7, 8, 9]];
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::BF16, 0.2)] {
        for (family, lora) in
            [(Family::Qwen2, false), (Family::Qwen2, true), (Family::Qwen3, false)]
        {
            let gap = max_decode_forward_gap(&decoder(family, lora, dtype, device), &rows).unwrap();
            assert!(gap < tolerance, "{family:?} {dtype:?}, LoRA {lora}: {gap}");
        }
    }
}

/// Two turns of five rows, three of which begin alike; with choices, two of them choose.
fn play(decoder: &Decoder, sampling: &SamplingParams, choose: bool) -> Vec<Generated> {
    let common: Vec<u32> = (0..21).map(|i| 3 * i % 50).collect();
    let trie = TokenTrie::new([vec![5, 1, 0], vec![5, 2, 0], vec![9, 0]]).unwrap();
    let mut cache = KvCache::new(decoder.config(), 5);
    let mut all = Vec::new();
    for turn in 0..2 {
        let prompt = |row: usize| match (turn, row) {
            (0, 0..3) => &common[..],
            (0, _) => &common[row..row + 4],
            _ => &common[2 * row..2 * row + 3],
        };
        let request = |row| Request {
            row,
            prompt: prompt(row),
            stream: Stream::new(7, Purpose::Rollout, 0, 0, row as u32),
            turn,
            choices: (choose && row % 2 == 1).then_some(&trie),
        };
        let requests: Vec<Request<'_>> = (0..5).map(request).collect();
        all.extend(decoder.generate(&mut cache, &requests, sampling).unwrap());
        // A clone has keys and values of its own.
        let mut other = cache.clone();
        other.reset(1).unwrap();
        decoder.extend(&mut other, &[0, 1], &[&[1, 2], &[3]]).unwrap();
    }
    all
}

pub fn generation_follows_the_cpu(device: &Device) {
    let plain = SamplingParams { max_tokens: 6, stop_ids: vec![0], ..SamplingParams::default() };
    for (sampling, choose) in [
        (plain.clone(), false),
        (SamplingParams { temperature: 1.7, ..plain.clone() }, true),
        (SamplingParams { greedy: true, ..plain.clone() }, true),
        (SamplingParams { top_k: 5, top_p: 0.9, ..plain }, true),
    ] {
        let run = |device: &Device| {
            play(&decoder(Family::Qwen2, true, DType::F32, device), &sampling, choose)
        };
        let want = on_the_cpu(|| run(&Device::Cpu));
        for (i, (got, want)) in run(device).into_iter().zip(want).enumerate() {
            let what = format!("{sampling:?}, request {i}");
            assert_eq!((&got.ids, got.finish), (&want.ids, want.finish), "{what}");
            assert_eq!((got.supports, got.read), (want.supports, want.read), "{what}");
            let numbers = |g: &[f32], w: &[f32]| {
                g.iter().zip(w).all(|(g, w)| (g - w).abs() < 1e-3) && g.len() == w.len()
            };
            assert!(numbers(&got.log_probs, &want.log_probs), "{what}: {:?}", got.log_probs);
            assert!(numbers(&got.entropies, &want.entropies), "{what}: {:?}", got.entropies);
        }
    }
}

pub fn a_cache_does_not_move_between_devices_while_it_is_filled(device: &Device) {
    let decoder = decoder(Family::Qwen2, false, DType::F32, device);
    let mut cache = KvCache::new(decoder.config(), 1);
    on_the_cpu(|| {
        let there = self::decoder(Family::Qwen2, false, DType::F32, &Device::Cpu);
        there.extend(&mut cache, &[0], &[&[1, 2]]).unwrap();
    });
    let error = decoder.extend(&mut cache, &[0], &[&[3]]).unwrap_err().to_string();
    assert!(error.contains("cache"), "{error}");
    cache.reset(0).unwrap();
    decoder.extend(&mut cache, &[0], &[&[3]]).unwrap();
    let error = on_the_cpu(|| {
        let there = self::decoder(Family::Qwen2, false, DType::F32, &Device::Cpu);
        there.extend(&mut cache, &[0], &[&[1]]).unwrap_err().to_string()
    });
    assert!(error.contains("cache"), "{error}");
}

pub fn logits_that_are_not_numbers_are_an_error(device: &Device) {
    let decoder = decoder(Family::Qwen2, false, DType::F32, device);
    let config = decoder.config().clone();
    let parameters = Parameters::init(&config, 3, DType::F32, device).unwrap();
    let norm = parameters.get("model.norm.weight").unwrap();
    norm.set(&(norm.as_tensor() * f64::NAN).unwrap()).unwrap();
    let decoder = Decoder::new(&config, &parameters).unwrap();
    let mut cache = KvCache::new(&config, 1);
    let stream = Stream::new(7, Purpose::Rollout, 0, 0, 0);
    let request = Request { row: 0, prompt: &[1, 2], stream, turn: 0, choices: None };
    let sampling = SamplingParams::default();
    let error = decoder.generate(&mut cache, &[request], &sampling).unwrap_err().to_string();
    assert!(error.contains("logits"), "{error}");
}
