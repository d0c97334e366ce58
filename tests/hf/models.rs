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

/// Loads the adapter of `folder` over the fixture `qwen2_tied`; its logits for PEFT's row.
fn adapter_logits(folder: &Path) -> Result<Tensor, String> {
    let pretrained = Pretrained::open(root().0.join("qwen2_tied")).unwrap();
    let base = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    let parameters =
        base.load_adapter(pretrained.config(), folder).map_err(|error| error.to_string())?;
    let decoder = decoder(&pretrained, &parameters);
    let ids = tensors(folder)["ids"].to_vec1::<i64>().unwrap();
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    Ok(decoder.logits(&decoder.forward_packed(&[&ids]).unwrap()).unwrap())
}

#[test]
fn adapters_compute_what_peft_does() {
    let (root, _) = root();
    let index: super::Index = json(&root.join("index.json"));
    assert!(index.adapters.len() >= 9);
    for name in index.adapters {
        let folder = root.join("adapters").join(&name);
        let got = adapter_logits(&folder).unwrap();
        within(&name, &got, &tensors(&folder)["logits"]);
    }
}

/// [`adapter_logits`] of a committed adapter with another value of `field`; `None` removes it.
fn with_field(name: &str, field: &str, value: Option<serde_json::Value>) -> Result<f32, String> {
    let folder = super::committed().join("adapters").join(name);
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("adapter_config.json");
    let mut config: serde_json::Value = json(&path);
    match value {
        Some(value) => config[field] = value,
        None => drop(config.as_object_mut().unwrap().remove(field)),
    }
    std::fs::write(path, config.to_string()).unwrap();
    let got = adapter_logits(dir.path())?;
    Ok(gap(&got, &tensors(&folder)["logits"]))
}

#[test]
fn settings_of_adapters_are_honoured_or_refused_by_name_and_value() {
    use serde_json::json;
    // "plain" has rank 2, alpha 8, q_proj and down_proj in both layers.
    let full: Vec<String> = (0..2)
        .flat_map(|i| {
            ["self_attn.q_proj", "mlp.down_proj"].map(|m| format!("model.layers.{i}.{m}"))
        })
        .collect();
    for (field, value) in [
        ("target_modules", json!(full)),
        ("target_modules", json!(r"model\.layers\.[01]\.\w+\.(q|down)_proj")),
        (
            "target_modules",
            json!(r"(?:vision.*)|(?:\bmodel\.layers\.[\d]{1,}\.\w+\.(?:(?:q|down)_proj))"),
        ),
        ("target_modules", json!(r"^(?!.*lm_head).*\.(?P<name>q_proj|down_proj)$")),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", json!("orthogonal")),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("fan_in_fan_out", json!(true)),
        ("layers_to_transform", json!([0, 1])),
        ("rank_pattern", json!({"q_proj": 2})),
        ("alpha_pattern", json!({"k_proj": 3})),
        ("exclude_modules", json!(["k_proj"])),
        ("ensure_weight_tying", json!(true)),
        ("modules_to_save", json!([])),
        ("lora_dropout", json!(0.5)),
        ("lora_alpha", json!(8.0)),
        ("a_field_of_tomorrow", json!(null)),
        ("another_one", json!(false)),
        ("task_type", json!(null)),
    ] {
        let gap = with_field("plain", field, Some(value.clone())).unwrap();
        assert!(gap < 1e-4, "{field} {value}: {gap}");
    }
    for field in ["lora_alpha", "lora_dropout", "bias", "init_lora_weights", "use_dora"] {
        assert!(with_field("plain", field, None).unwrap() < 1e-4, "{field} is missing");
    }
    assert!(with_field("all_linear", "target_modules", Some(json!("ALL-linear"))).unwrap() < 1e-4);
    assert!(with_field("unstated", "target_modules", None).unwrap() < 1e-4);
    for (field, value, named) in [
        ("init_lora_weights", json!("pissa"), "pissa"),
        ("init_lora_weights", json!("pissa_niter_16"), "pissa_niter_16"),
        ("init_lora_weights", json!("olora"), "olora"),
        ("init_lora_weights", json!("corda"), "corda"),
        ("init_lora_weights", json!("loftq"), "loftq"),
        ("init_lora_weights", json!("lora_ga"), "lora_ga"),
        ("init_lora_weights", json!("of_tomorrow"), "of_tomorrow"),
        ("arrow_config", json!({"top_k": 1}), "top_k"),
        ("kasa_config", json!({}), "{}"),
        ("monteclora_config", json!({"num_samples": 8}), "num_samples"),
        ("velora_config", json!({}), "{}"),
        ("use_bdlora", json!({}), "{}"),
        ("alora_invocation_tokens", json!([3]), "[3]"),
        ("use_dora", json!(true), "true"),
        ("use_qalora", json!(true), "true"),
        ("use_rslora", json!("false"), "false"),
        ("lora_bias", json!(true), "true"),
        ("bias", json!("lora_only"), "lora_only"),
        ("peft_type", json!("IA3"), "IA3"),
        ("modules_to_save", json!(["lm_head"]), "lm_head"),
        ("trainable_token_indices", json!([1]), "[1]"),
        ("target_parameters", json!(["x"]), "x"),
        ("layer_replication", json!([[0, 2]]), "[[0,2]]"),
        ("megatron_config", json!({"a": 1}), "{"),
        ("r", json!(2.0), "2.0"),
        ("r", json!("2"), "\"2\""),
        ("r", json!(0), "0"),
        ("r", json!(null), "null"),
        ("lora_alpha", json!("8"), "\"8\""),
        ("lora_alpha", json!(-8), "-8"),
        ("lora_dropout", json!(null), "null"),
        ("lora_dropout", json!(1.0), "1"),
        ("layers_to_transform", json!([0]), "[0]"),
        ("layers_to_transform", json!(1), "1"),
        ("layers_pattern", json!("layers"), "layers"),
        ("target_modules", json!(["layers.0.self_attn.q_proj", "down_proj"]), "1 of 2 layers"),
        ("target_modules", json!("q_proj"), "names no projection"),
        ("target_modules", json!(["c_attn"]), "names no projection"),
        ("target_modules", json!(["q_proj", "lm_head"]), "lm_head"),
        ("target_modules", json!("(["), "(["),
        ("rank_pattern", json!({"q_proj": 4}), "q_proj"),
        ("alpha_pattern", json!({"q_proj": 4}), "one value for all"),
        ("exclude_modules", json!("(?:.*)layers.1.*"), "1 of 2 layers"),
        ("a_field_of_tomorrow", json!(1), "1"),
        ("another_one", json!({}), "{}"),
    ] {
        let error = with_field("plain", field, Some(value.clone())).unwrap_err();
        let parts = ["adapter_config.json", field, named];
        assert!(parts.iter().all(|part| error.contains(part)), "{field} {value}: {error}");
    }
    let error = with_field("plain", "peft_type", None).unwrap_err();
    assert!(error.contains("peft_type") && error.contains("missing"), "{error}");
    // The tensors decide with the configuration.
    for (value, named) in [
        (json!(["q_proj"]), "model.layers.0.mlp.down_proj.lora_A.weight"),
        (json!(["q_proj", "v_proj", "down_proj"]), "model.layers.0.self_attn.v_proj.lora_A.weight"),
    ] {
        let error = with_field("plain", "target_modules", Some(value)).unwrap_err();
        assert!(error.contains("adapter_model.safetensors") && error.contains(named), "{error}");
    }
    let error = with_field("plain", "r", Some(json!(3))).unwrap_err();
    assert!(error.contains("lora_A") && error.contains("[2, "), "{error}");
}
