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
    names(
        &load(dir.path()),
        &["no model.safetensors and", ".safetensors, which must be called model.safetensors"],
    );
    let dir = copy("qwen3_sharded");
    let index = dir.path().join("model.safetensors.index.json");
    edit_json(&index, |index| index["weight_map"] = serde_json::json!({}));
    names(&load(dir.path()), &["model.safetensors.index.json", "weight_map", "no file"]);
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

/// The tensors of a fixture.
fn stored(case: &str) -> HashMap<String, Tensor> {
    let path = super::committed().join(case).join("model.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn logits(folder: &Path) -> Vec<Vec<f32>> {
    let pretrained = Pretrained::open(folder).unwrap();
    let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    let decoder = super::decoder(&pretrained, &parameters);
    let hidden = decoder.forward_packed(&[&[3, 9, 4, 1, 7, 22]]).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2().unwrap()
}

#[test]
fn a_stored_head_that_differs_from_tied_embeddings_is_used() {
    let dir = copy("qwen2_tied");
    let plain = logits(dir.path());
    let path = dir.path().join("model.safetensors");
    let mut tensors = stored("qwen2_tied");
    let embedding = tensors["model.embed_tokens.weight"].clone();
    let half = (&embedding * 0.5).unwrap();
    tensors.insert("lm_head.weight".into(), embedding.clone());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    assert!(Pretrained::open(dir.path()).unwrap().config().tie_word_embeddings);
    assert_eq!(logits(dir.path()), plain);
    tensors.insert("lm_head.weight".into(), half);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let pretrained = Pretrained::open(dir.path()).unwrap();
    assert!(!pretrained.config().tie_word_embeddings);
    let halves: Vec<Vec<f32>> =
        plain.iter().map(|row| row.iter().map(|x| x * 0.5).collect()).collect();
    assert_eq!(logits(dir.path()), halves);
    // What is saved says so, and is the same model.
    let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    let out = dir.path().join("out");
    pretrained.save(&out, &parameters, Pretrained::SHARD_BYTES).unwrap();
    let saved: serde_json::Value = super::json(&out.join("config.json"));
    assert_eq!(saved["tie_word_embeddings"], false);
    assert_eq!(logits(&out), halves);
    // Only the head is stored.
    tensors.insert("lm_head.weight".into(), embedding);
    tensors.remove("model.embed_tokens.weight");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    assert_eq!(logits(dir.path()), plain);
}

#[test]
fn a_missing_head_is_named_with_the_field_that_ties_it() {
    let error = with_tensor("qwen2_untied", "lm_head.weight", None);
    names(&error, &["model.safetensors", "lm_head.weight", "missing", "tie_word_embeddings"]);
}

#[test]
fn prefixes_of_training_frameworks_are_understood() {
    let renamings: [fn(&str) -> String; 7] = [
        |name| name.replacen("model.", "", 1),
        |name| format!("model.{name}"),
        |name| format!("_orig_mod.{name}"),
        |name| format!("module._orig_mod.{name}"),
        |name| format!("base_model.model.{name}"),
        |name| name.replacen("model.", "model.language_model.", 1),
        |name| name.replace(".mlp.", "._orig_mod.mlp."),
    ];
    for case in ["qwen2_untied", "llama_tied"] {
        let dir = copy(case);
        let plain = logits(dir.path());
        let path = dir.path().join("model.safetensors");
        for rename in renamings {
            let tensors = stored(case).into_iter().map(|(name, tensor)| (rename(&name), tensor));
            let tensors: HashMap<String, Tensor> = tensors.collect();
            candle_core::safetensors::save(&tensors, &path).unwrap();
            assert_eq!(logits(dir.path()), plain, "{case} {}", rename("model.norm.weight"));
        }
        let pretrained = Pretrained::open(dir.path()).unwrap();
        let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
        let out = dir.path().join("out");
        pretrained.save(&out, &parameters, Pretrained::SHARD_BYTES).unwrap();
        let saved = candle_core::safetensors::load(out.join("model.safetensors"), &Device::Cpu);
        assert_eq!(
            saved.unwrap().into_keys().collect::<std::collections::BTreeSet<_>>(),
            stored(case).into_keys().collect()
        );
    }
    let norm = stored("qwen2_tied")["model.norm.weight"].clone();
    let error = with_tensor("qwen2_tied", "_orig_mod.model.norm.weight", Some(norm));
    names(&error, &["_orig_mod.model.norm.weight", "another name", "model.norm.weight"]);
}

#[test]
fn pointers_and_pages_in_place_of_files_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 988097824\n";
    for name in ["model.safetensors", "config.json", "generation_config.json"] {
        let dir = copy("qwen2_tied");
        std::fs::write(dir.path().join(name), pointer).unwrap();
        names(&load(dir.path()), &[name, "Git LFS pointer", "988097824", "git lfs pull"]);
        std::fs::write(dir.path().join(name), "\n<!DOCTYPE html><p>404").unwrap();
        names(&load(dir.path()), &[name, "web page"]);
    }
    let dir = copy("qwen2_tied");
    std::fs::write(dir.path().join("tokenizer.json"), pointer).unwrap();
    let pretrained = Pretrained::open(dir.path()).unwrap();
    #[cfg(feature = "text")]
    names(&pretrained.tokenizer().unwrap_err().to_string(), &["tokenizer.json", "LFS pointer"]);
    let parameters = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    let out = dir.path().join("out");
    let error = pretrained.save(&out, &parameters, Pretrained::SHARD_BYTES).unwrap_err();
    names(&error.to_string(), &["tokenizer.json", "LFS pointer"]);
    for name in ["model.safetensors.index.json", "model-00003-of-00003.safetensors"] {
        let dir = copy("qwen3_sharded");
        std::fs::write(dir.path().join(name), pointer).unwrap();
        names(&load(dir.path()), &[name, "Git LFS pointer"]);
    }
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let dir = tempfile::tempdir().unwrap();
        let adapter = super::committed().join("adapters/plain");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter.join(file), dir.path().join(file)).unwrap();
        }
        std::fs::write(dir.path().join(name), pointer).unwrap();
        names(&load_adapter(dir.path()).unwrap_err(), &[name, "Git LFS pointer"]);
    }
    #[cfg(unix)]
    {
        let dir = copy("qwen2_tied");
        let path = dir.path().join("model.safetensors");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("../../blobs/absent", &path).unwrap();
        names(&load(dir.path()), &["model.safetensors", "blobs/absent", "no file"]);
    }
}

#[test]
fn models_in_another_form_are_told_what_to_do() {
    for (name, parts) in [
        ("model-Q4_K_M.gguf", ["model-Q4_K_M.gguf", "name the GGUF file itself"]),
        ("pytorch_model.bin", ["pytorch_model.bin", "save_pretrained"]),
        ("pytorch_model-00001-of-00002.bin", ["pytorch_model-00001-of-00002.bin", "convert"]),
        ("consolidated.00.pth", ["consolidated.00.pth", "convert"]),
        ("consolidated.safetensors", ["consolidated.safetensors", "convert"]),
        ("tf_model.h5", ["tf_model.h5", "convert"]),
    ] {
        let dir = copy("qwen2_tied");
        std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        std::fs::write(dir.path().join(name), "x").unwrap();
        names(&load(dir.path()), &parts);
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        names(&load(dir.path()), &["config.json", parts[0], parts[1]]);
    }
    let error = load(&super::committed().join("adapters/plain"));
    names(&error, &["LoRA adapter", "base model (\"qwen2_tied\")", "Parameters::load_adapter"]);
    let dir = copy("qwen2_tied");
    std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    names(&load(dir.path()), &["adapter_config.json", "LoRA adapter"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("snapshots/0123")).unwrap();
    names(&load(dir.path()), &["config.json", "snapshots/0123"]);
    let file = super::committed().join("qwen2_tied/model.safetensors");
    let error = epo::policy::Source::open(file.to_str().unwrap()).unwrap_err().to_string();
    names(&error, &["model.safetensors", "give the folder"]);
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    for (case, value) in [("qwen2_tied", f32::NAN), ("qwen2_bf16", f32::NEG_INFINITY)] {
        let mut tensor = stored(case)[name].clone();
        let dtype = tensor.dtype();
        let spoilt = Tensor::full(value, (1, 1), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        tensor = tensor.slice_assign(&[7..8, 3..4], &spoilt).unwrap();
        let error = with_tensor(case, name, Some(tensor));
        names(&error, &["model.safetensors", name, "[7, 3]", &value.to_string()]);
    }
    let dir = tempfile::tempdir().unwrap();
    let adapter = super::committed().join("adapters/plain");
    std::fs::copy(adapter.join("adapter_config.json"), dir.path().join("adapter_config.json"))
        .unwrap();
    let weights = adapter.join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
    let spoilt = (&tensors[name] / 0.0).unwrap();
    tensors.insert(name.to_owned(), spoilt);
    candle_core::safetensors::save(&tensors, dir.path().join("adapter_model.safetensors")).unwrap();
    names(
        &load_adapter(dir.path()).unwrap_err(),
        &["adapter_model.safetensors", name, "[0, 0]", "inf"],
    );
}

/// Loads an adapter of the fixture `qwen2_tied`.
fn load_adapter(folder: &Path) -> Result<epo::policy::Parameters, String> {
    let pretrained = Pretrained::open(super::committed().join("qwen2_tied")).unwrap();
    let base = pretrained.parameters(DType::F32, &Device::Cpu).unwrap();
    base.load_adapter(pretrained.config(), folder).map_err(|e| e.to_string())
}

#[test]
fn unknown_architectures_fields_and_ids_are_named() {
    let cases: [(&str, serde_json::Value, &[&str]); 6] = [
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
            &["config.json", "no_rope_layers", "[1,0]", "without rotary positions"],
        ),
        (
            "trained_by",
            "us".into(),
            &["config.json", "trained_by", "unknown field", "model.ignore = [\"trained_by\"]"],
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
