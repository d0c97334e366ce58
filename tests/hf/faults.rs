//! Broken model checkpoints: the error names the file, the field or tensor, and the problem.

use super::copy;
use candle_core::{DType, Device, Tensor};
use epo::policy::Pretrained;
use std::collections::HashMap;
use std::path::Path;

fn load(folder: &Path) -> String {
    let result = Pretrained::open(folder).and_then(|p| p.parameters(DType::F32, &Device::Cpu));
    result.map(drop).unwrap_err().to_string()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut value = super::json(path);
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[track_caller]
fn names(error: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| error.contains(part)), "{error}: {parts:?}");
}

#[test]
fn a_missing_or_misnamed_shard_is_named() {
    let dir = copy("qwen3_sharded");
    let shard = "model-00002-of-00003.safetensors";
    std::fs::remove_file(dir.path().join(shard)).unwrap();
    names(&load(dir.path()), &["model.safetensors.index.json", shard, "missing"]);

    let dir = copy("qwen3_sharded");
    let index = dir.path().join("model.safetensors.index.json");
    edit_json(&index, |index| {
        index["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors".into()
    });
    names(&load(dir.path()), &["weight_map", "../elsewhere.safetensors"]);
    std::fs::write(&index, "{").unwrap();
    names(&load(dir.path()), &["model.safetensors.index.json"]);
    std::fs::remove_file(&index).unwrap();
    names(&load(dir.path()), &["neither model.safetensors nor"]);
}

#[test]
fn a_tensor_in_two_shards_or_in_none_is_named() {
    let dir = copy("qwen3_sharded");
    let shard = dir.path().join("model-00003-of-00003.safetensors");
    let whole = candle_core::safetensors::load(&shard, &Device::Cpu).unwrap();
    let mut fewer = whole.clone();
    let name = fewer.keys().next().unwrap().clone();
    fewer.remove(&name);
    candle_core::safetensors::save(&fewer, &shard).unwrap();
    names(&load(dir.path()), &[&name, "missing"]);
    let mut more = whole;
    let repeated = Tensor::zeros((48, 16), DType::F32, &Device::Cpu).unwrap();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        more.insert(name.into(), repeated.clone());
    }
    candle_core::safetensors::save(&more, &shard).unwrap();
    names(&load(dir.path()), &[".safetensors", "is also in another file"]);
}

#[test]
fn a_truncated_file_is_named() {
    let dir = copy("qwen2_tied");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for keep in [0, 5, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        names(&load(dir.path()), &["model.safetensors", "header"]);
    }
    std::fs::write(&path, [&[255; 8][..], &bytes[8..]].concat()).unwrap();
    names(&load(dir.path()), &["model.safetensors", "header"]);
}

fn with_tensor(case: &str, name: &str, tensor: Option<Tensor>) -> String {
    let dir = copy(case);
    let path = dir.path().join("model.safetensors");
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    match tensor {
        Some(tensor) => tensors.insert(name.to_owned(), tensor),
        None => tensors.remove(name),
    };
    candle_core::safetensors::save(&tensors, &path).unwrap();
    Pretrained::open(dir.path())
        .and_then(|p| p.parameters(DType::F32, &Device::Cpu))
        .map_or_else(|e| e.to_string(), |_| "loaded".to_owned())
}

#[test]
fn tensors_of_another_shape_or_dtype_missing_or_unknown_are_named() {
    let name = "model.layers.1.self_attn.k_proj.weight";
    let zeros =
        |shape: (usize, usize), dtype| Some(Tensor::zeros(shape, dtype, &Device::Cpu).unwrap());
    let error = with_tensor("qwen2_tied", name, zeros((7, 16), DType::F32));
    names(&error, &["model.safetensors", name, "[7, 16]", "[8, 16]"]);
    let error = with_tensor("qwen2_tied", name, zeros((8, 16), DType::U8));
    names(&error, &["model.safetensors", name, "U8"]);
    names(&with_tensor("qwen2_tied", name, None), &["model.safetensors", name, "missing"]);
    let extra = "model.layers.1.self_attn.q_norm.weight";
    names(&with_tensor("qwen2_tied", extra, zeros((4, 1), DType::F32)), &[extra, "no such tensor"]);
    // Attention biases of another family.
    names(
        &with_tensor(
            "llama_tied",
            "model.layers.0.self_attn.q_proj.bias",
            zeros((16, 1), DType::F32),
        ),
        &["q_proj.bias"],
    );
}

#[test]
fn a_repeated_tied_head_must_be_the_embeddings() {
    let path = super::committed().join("qwen2_tied/model.safetensors");
    let embedding = candle_core::safetensors::load(path, &Device::Cpu).unwrap()
        ["model.embed_tokens.weight"]
        .clone();
    let other = (&embedding + 1e-3).unwrap();
    assert_eq!(with_tensor("qwen2_tied", "lm_head.weight", Some(embedding)), "loaded");
    let error = with_tensor("qwen2_tied", "lm_head.weight", Some(other));
    names(&error, &["model.safetensors", "lm_head.weight", "ties"]);
}

#[test]
fn unknown_architectures_fields_and_ids_are_named() {
    let cases: [(&str, serde_json::Value, &[&str]); 5] = [
        (
            "model_type",
            "gemma3".into(),
            &["config.json", "model_type", "gemma3", "qwen2, qwen3, llama, mistral"],
        ),
        (
            "architectures",
            ["Qwen2MoeForCausalLM"].as_slice().into(),
            &["architectures", "Qwen2MoeForCausalLM"],
        ),
        (
            "no_rope_layers",
            [1, 0].as_slice().into(),
            &["config.json", "no_rope_layers", "[1,0]", "unknown field"],
        ),
        ("vocab_size", 47.into(), &["model.embed_tokens.weight", "[47, 16]"]),
        (
            "rope_parameters",
            serde_json::json!({"rope_type": "yarn"}),
            &["rope_parameters.rope_type", "yarn"],
        ),
    ];
    for (field, value, parts) in cases {
        let dir = copy("qwen2_tied");
        edit_json(&dir.path().join("config.json"), |config| config[field] = value);
        names(&load(dir.path()), parts);
    }
    let dir = copy("qwen2_tied");
    edit_json(&dir.path().join("generation_config.json"), |g| {
        g["eos_token_id"] = serde_json::json!([2, 100_000])
    });
    names(&load(dir.path()), &["generation_config.json", "eos_token_id", "100000"]);
    edit_json(&dir.path().join("generation_config.json"), |g| g["eos_token_id"] = "</s>".into());
    names(&load(dir.path()), &["generation_config.json", "eos_token_id", "</s>"]);
    edit_json(&dir.path().join("generation_config.json"), |g| {
        *g = serde_json::json!({"eos_token_id": 2, "pad_token_id": -1});
    });
    let generation = Pretrained::open(dir.path()).unwrap().generation().clone();
    assert_eq!((generation.eos_token_ids, generation.pad_token_id), (vec![2], None));
    let dir = tempfile::tempdir().unwrap();
    names(&load(dir.path()), &["config.json"]);
    assert!(epo::policy::Source::open("no/such/folder")
        .unwrap_err()
        .to_string()
        .contains("no/such/folder"));
}

#[test]
fn recommended_sampling_of_any_form_is_passed_over() {
    let dir = copy("qwen2_tied");
    let path = dir.path().join("generation_config.json");
    let odd = serde_json::json!({
        "eos_token_id": 2, "bos_token_id": [1, 7], "pad_token_id": "none", "top_k": -1,
        "top_p": "0.9", "min_p": [], "temperature": null, "max_new_tokens": 1e9,
        "do_sample": "yes", "repetition_penalty": {}, "a_key_of_tomorrow": {"x": 1},
    });
    std::fs::write(&path, odd.to_string()).unwrap();
    let generation = Pretrained::open(dir.path()).unwrap().generation().clone();
    assert_eq!((generation.eos_token_ids, generation.bos_token_id), (vec![2], Some(1)));
    assert_eq!((generation.pad_token_id, generation.top_k, generation.top_p), (None, None, None));
}

#[test]
fn parameters_of_another_model_are_not_saved() {
    let of = |case: &str| Pretrained::open(super::committed().join(case)).unwrap();
    let parameters = of("qwen3").parameters(DType::F32, &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = of("qwen2_tied")
        .save(dir.path().join("out"), &parameters, 1 << 20)
        .unwrap_err()
        .to_string();
    names(&error, &["model.layers.0.self_attn"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
