//! Model outputs, a loss and its gradients, greedy decoding and saving, compared with transformers.

use super::{cases, decoder, json, root};
use candle_core::{DType, Device, Tensor};
use epo::kernels::logprob_entropy;
use epo::policy::{
    max_decode_forward_gap, Gradients, KvCache, Parameters, Pretrained, Request, SamplingParams,
};
use epo::rng::{Purpose, Stream};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) rows: Vec<Vec<u32>>,
    pub(crate) temperature: f64,
    loss: f64,
    advantages: Vec<f32>,
    lambda: f64,
    alpha: f64,
    beta: f64,
    kappa_low: f64,
    kappa_high: f64,
    reference: f64,
    dtype: String,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    eos: serde_json::Value,
}

impl Expected {
    pub(crate) fn read(folder: &Path) -> Self {
        json(&folder.join("expected.json"))
    }

    pub(crate) fn rows(&self) -> Vec<&[u32]> {
        self.rows.iter().map(Vec::as_slice).collect()
    }

    fn dtype(&self) -> DType {
        match self.dtype.as_str() {
            "float32" => DType::F32,
            "bfloat16" => DType::BF16,
            "float16" => DType::F16,
            other => panic!("{other}"),
        }
    }

    /// Log-probabilities and entropies of every next token, from the logits of all positions.
    fn scores(&self, logits: &Tensor) -> (Tensor, Tensor) {
        let mut positions = Vec::new();
        let mut targets = Vec::new();
        let mut start = 0;
        for row in &self.rows {
            positions.extend(start..start + row.len() as u32 - 1);
            targets.extend_from_slice(&row[1..]);
            start += row.len() as u32;
        }
        let logits =
            logits.index_select(&Tensor::new(positions, &Device::Cpu).unwrap(), 0).unwrap();
        logprob_entropy(&logits, &Tensor::new(targets, &Device::Cpu).unwrap(), self.temperature)
            .unwrap()
    }

    /// mean(−A log p) − λ [mean H − β α mean([κ_l H̄ − H]₊ + [H − κ_r H̄]₊)]
    fn loss(&self, log_probs: &Tensor, entropies: &Tensor) -> candle_core::Result<Tensor> {
        let advantages = Tensor::new(self.advantages.as_slice(), &Device::Cpu)?;
        let policy = (log_probs * advantages)?.mean_all()?.neg()?;
        let below = entropies.affine(-1.0, self.kappa_low * self.reference)?.relu()?;
        let above = entropies.affine(1.0, -self.kappa_high * self.reference)?.relu()?;
        let smooth = ((below + above)?.mean_all()? * (self.beta * self.alpha))?;
        policy - ((entropies.mean_all()? - smooth)? * self.lambda)?
    }
}

pub(crate) fn tensors(folder: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap()
}

/// max |a − b|
pub(crate) fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn within(what: &str, got: &Tensor, expected: &Tensor) {
    let gap = gap(got, expected);
    assert!(gap <= 1e-4, "{what}: {gap:.2e}");
}

#[test]
fn every_family_computes_what_transformers_does() {
    for (folder, name) in cases() {
        let expected = Expected::read(&folder);
        let tensors = tensors(&folder);
        let pretrained = Pretrained::open(&folder).unwrap();
        let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
        let decoder = decoder(&pretrained, &parameters);
        let hidden = decoder.forward_packed(&expected.rows()).unwrap();
        let logits = decoder.logits(&hidden).unwrap();
        let (log_probs, entropies) = expected.scores(&logits);
        for (what, got) in [
            ("hidden", &hidden),
            ("logits", &logits),
            ("log_probs", &log_probs),
            ("entropies", &entropies),
        ] {
            within(&format!("{name}: {what}"), got, &tensors[what]);
        }
        let loss = expected.loss(&log_probs, &entropies).unwrap();
        assert!(
            (f64::from(loss.to_scalar::<f32>().unwrap()) - expected.loss).abs() < 1e-5,
            "{name}: loss"
        );
        let gradients = Gradients::of(&loss, &parameters).unwrap();
        gradients.check(&parameters).unwrap();
        for (parameter, _) in parameters.iter() {
            let expected = &tensors[&format!("grad.{parameter}")];
            within(&format!("{name}: {parameter}"), gradients.get(parameter).unwrap(), expected);
        }
        let gradients = tensors.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(gradients, parameters.iter().count(), "{name}");
    }
}

#[test]
fn every_family_decodes_what_transformers_does() {
    for (folder, name) in cases() {
        let expected = Expected::read(&folder);
        let pretrained = Pretrained::open(&folder).unwrap();
        let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
        let decoder = decoder(&pretrained, &parameters);
        let mut cache = KvCache::new(pretrained.config(), 1);
        let stream = Stream::new(1, Purpose::Rollout, 0, 0, 0);
        let request = Request { row: 0, prompt: &expected.prompt, stream, turn: 0, choices: None };
        let sampling = SamplingParams {
            greedy: true,
            max_tokens: expected.greedy.len(),
            ..Default::default()
        };
        let out = decoder.generate(&mut cache, &[request], &sampling).unwrap();
        assert_eq!(out[0].ids, expected.greedy, "{name}");
        let gap = max_decode_forward_gap(&decoder, &expected.rows()).unwrap();
        assert!(gap < 1e-4, "{name}: {gap}");
    }
}

#[test]
fn generation_settings_are_read() {
    for (folder, name) in cases() {
        let generation = Pretrained::open(&folder).unwrap().generation().clone();
        let eos: Vec<u32> = match Expected::read(&folder).eos {
            serde_json::Value::Array(ids) => {
                ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
            }
            id => vec![id.as_u64().unwrap() as u32],
        };
        assert_eq!(generation.eos_token_ids, eos, "{name}");
        assert_eq!(generation.sampling().stop_ids, eos);
        assert_eq!((generation.bos_token_id, generation.pad_token_id), (Some(1), Some(0)));
        let numbers = (generation.temperature, generation.top_k, generation.top_p);
        assert_eq!(numbers, (Some(0.7), Some(20), Some(0.8)));
    }
}

fn bits(parameters: &Parameters) -> Vec<(String, Vec<u64>)> {
    let of = |t: &Tensor| {
        let flat = t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        flat.into_iter().map(f64::to_bits).collect()
    };
    parameters.iter().map(|(name, var)| (name.to_owned(), of(var))).collect()
}

#[test]
fn a_saved_checkpoint_comes_back_bit_for_bit_in_every_layout() {
    let (root, generated) = root();
    let temporary = tempfile::tempdir().unwrap();
    let out = if generated { root.join("reloaded") } else { temporary.path().join("reloaded") };
    if out.exists() {
        std::fs::remove_dir_all(&out).unwrap();
    }
    std::fs::create_dir(&out).unwrap();
    for (i, (folder, name)) in cases().into_iter().enumerate() {
        let pretrained = Pretrained::open(&folder).unwrap();
        let dtype = pretrained.stored_dtype().unwrap();
        assert_eq!(dtype, Expected::read(&folder).dtype(), "{name}");
        let parameters = pretrained.parameters(dtype, &Device::Cpu).unwrap();
        let limit = if i % 2 == 0 { Pretrained::SHARD_BYTES } else { 8_000 };
        pretrained.save(out.join(&name), &parameters, limit).unwrap();
        // The config.json that is written for a policy without a model checkpoint.
        std::fs::create_dir(out.join(&name).join("own")).unwrap();
        pretrained.config().save(out.join(&name).join("own/config.json")).unwrap();
        let again = Pretrained::open(out.join(&name)).unwrap();
        assert_eq!(again.config(), pretrained.config());
        assert_eq!(again.stored_dtype().unwrap(), dtype);
        assert_eq!(
            bits(&again.parameters(dtype, &Device::Cpu).unwrap()),
            bits(&parameters),
            "{name}"
        );
        assert_eq!(
            out.join(&name).join("model.safetensors.index.json").exists(),
            i % 2 == 1,
            "{name}"
        );
        let refused = pretrained.save(out.join(&name), &parameters, limit).unwrap_err().to_string();
        assert!(refused.contains(&name) && refused.contains("not empty"), "{refused}");
    }
}
