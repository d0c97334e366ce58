//! config.json and model.safetensors: round trips and broken files.

use crate::policy::tests::*;
use std::collections::BTreeMap;

fn bits(parameters: &Parameters) -> Vec<(String, Vec<u32>)> {
    let bits = |t: &Tensor| {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
    };
    parameters.iter().map(|(name, var)| (name.to_owned(), bits(var))).collect()
}

#[test]
fn initial_parameters_repeat_and_have_their_distribution() {
    let config = DecoderConfig { vocab_size: 400, initializer_range: 0.02, ..config() };
    let init = |seed| Parameters::init(&config, seed, DType::F32, &Device::Cpu).unwrap();
    let a = init(1);
    assert_eq!(bits(&a), bits(&init(1)));
    assert_ne!(bits(&a), bits(&init(2)));
    for (name, var) in a.iter() {
        let x: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
        let std =
            (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        let (want_mean, want_std) = match name {
            _ if name.ends_with("norm.weight") => (1.0, 0.0),
            _ if name.ends_with("bias") => (0.0, 0.0),
            _ => (0.0, 0.02),
        };
        assert!(
            (mean - want_mean).abs() < 2e-3 && (std - want_std).abs() < 2e-3,
            "{name}: {mean} ± {std}"
        );
    }
}

#[test]
fn saved_parameters_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let (_, parameters) = decoder(&config(), DType::F32);
    parameters.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let loaded = Parameters::load(&path, &config(), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(bits(&parameters), bits(&loaded));
    loaded.save(&path).unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let copy = parameters.duplicate().unwrap();
    copy.assign(&Parameters::init(&config(), 6, DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(bits(&parameters), bits(&loaded), "a duplicate shares nothing");
}

#[test]
fn broken_checkpoints_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let (_, parameters) = decoder(&config(), DType::F32);
    let load =
        || Parameters::load(&path, &config(), DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(load().contains("model.safetensors"));
    parameters.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for keep in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        assert!(load().contains("model.safetensors"), "{keep} bytes");
    }
    let write = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = parameters.tensors();
        change(&mut tensors);
        crate::policy::files::save_tensors(&path, &tensors).unwrap();
        load()
    };
    let name = "model.layers.1.mlp.up_proj.weight";
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let missing = write(&|t| drop(t.remove(name)));
    assert!(missing.contains(name) && missing.contains("missing"), "{missing}");
    let extra = write(&|t| drop(t.insert("model.extra".into(), zeros(&[1], DType::F32))));
    assert!(extra.contains("model.extra"), "{extra}");
    let shape = write(&|t| drop(t.insert(name.into(), zeros(&[64, 31], DType::F32))));
    assert!(shape.contains(name) && shape.contains("[64, 31]"), "{shape}");
    let dtype = write(&|t| drop(t.insert(name.into(), zeros(&[64, 32], DType::F64))));
    assert!(dtype.contains(name) && dtype.contains("f64"), "{dtype}");
}

#[test]
fn configs_of_all_families_round_trip_through_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for config in families() {
        let config = DecoderConfig { rope_theta: 1e6, tie_word_embeddings: false, ..config };
        // Files of Qwen3 always contain the head width.
        let stated = (config.family == Family::Qwen3).then_some(config.head_dim());
        let config = DecoderConfig { head_dim: config.head_dim.or(stated), ..config };
        config.save(&path).unwrap();
        assert_eq!(DecoderConfig::from_file(&path).unwrap(), config);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DecoderConfig>(&text).unwrap(), config);
    }
}

#[test]
fn a_published_qwen2_config_is_read() {
    let text = r#"{"architectures":["Qwen2ForCausalLM"],"attention_dropout":0.0,
        "bos_token_id":151643,"eos_token_id":151645,"hidden_act":"silu","hidden_size":896,
        "initializer_range":0.02,"intermediate_size":4864,"max_position_embeddings":32768,
        "max_window_layers":21,"model_type":"qwen2","num_attention_heads":14,
        "num_hidden_layers":24,"num_key_value_heads":2,"rms_norm_eps":1e-06,
        "rope_theta":1000000.0,"sliding_window":32768,"tie_word_embeddings":true,
        "torch_dtype":"bfloat16","transformers_version":"4.43.1","use_cache":true,
        "use_sliding_window":false,"vocab_size":151936}"#;
    let config: DecoderConfig = serde_json::from_str(text).unwrap();
    assert_eq!((config.head_dim(), config.rope_theta, config.num_key_value_heads), (64, 1e6, 2));
    assert_eq!(config.parameter_shapes().len(), 2 + 24 * 12);
}

#[test]
fn published_configs_of_the_other_families_are_read() {
    let llama = r#"{"architectures":["LlamaForCausalLM"],"attention_bias":false,
        "attention_dropout":0.0,"bos_token_id":128000,"eos_token_id":[128001,128008,128009],
        "head_dim":64,"hidden_act":"silu","hidden_size":2048,"initializer_range":0.02,
        "intermediate_size":8192,"max_position_embeddings":131072,"mlp_bias":false,
        "model_type":"llama","num_attention_heads":32,"num_hidden_layers":16,
        "num_key_value_heads":8,"pretraining_tp":1,"rms_norm_eps":1e-05,
        "rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
        "original_max_position_embeddings":8192,"rope_type":"llama3"},"rope_theta":500000.0,
        "tie_word_embeddings":true,"torch_dtype":"bfloat16","transformers_version":"4.45.0.dev0",
        "use_cache":true,"vocab_size":128256}"#;
    let smol = r#"{"architectures":["LlamaForCausalLM"],"attention_bias":false,"bos_token_id":1,
        "eos_token_id":2,"hidden_act":"silu","hidden_size":576,
        "initializer_range":0.041666666666666664,"intermediate_size":1536,"is_llama_config":true,
        "max_position_embeddings":8192,"mlp_bias":false,"model_type":"llama",
        "num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,"pad_token_id":2,
        "pretraining_tp":1,"rms_norm_eps":1e-05,"rope_interleaved":false,"rope_scaling":null,
        "rope_theta":100000,"tie_word_embeddings":true,
        "transformers.js_config":{"kv_cache_dtype":{"q4f16":"float16"}},"use_cache":true,
        "vocab_size":49152}"#;
    let qwen3 = r#"{"architectures":["Qwen3ForCausalLM"],"attention_bias":false,"head_dim":128,
        "hidden_act":"silu","hidden_size":1024,"initializer_range":0.02,"intermediate_size":3072,
        "layer_types":["full_attention"],"max_position_embeddings":40960,"max_window_layers":28,
        "model_type":"qwen3","num_attention_heads":16,"num_hidden_layers":28,
        "num_key_value_heads":8,"rms_norm_eps":1e-06,"rope_parameters":{"rope_theta":1000000,
        "rope_type":"default"},"sliding_window":null,"tie_word_embeddings":true,
        "use_sliding_window":false,"vocab_size":151936}"#;
    let mistral = r#"{"architectures":["MistralForCausalLM"],"hidden_act":"silu",
        "hidden_size":4096,"initializer_range":0.02,"intermediate_size":14336,
        "max_position_embeddings":32768,"model_type":"mistral","num_attention_heads":32,
        "num_hidden_layers":32,"num_key_value_heads":8,"rms_norm_eps":1e-05,
        "rope_theta":1000000.0,"sliding_window":null,"tie_word_embeddings":false,
        "vocab_size":32768}"#;
    let read = |text: &str| serde_json::from_str::<DecoderConfig>(text).unwrap();
    assert!(matches!(read(llama).rope_scaling, RopeScaling::Llama3 { factor: 32.0, .. }));
    assert_eq!(read(llama).parameter_shapes().len(), 2 + 16 * 9);
    assert_eq!((read(smol).head_dim(), read(smol).rope_theta), (64, 1e5));
    assert_eq!((read(qwen3).rope_theta, read(qwen3).parameter_shapes().len()), (1e6, 2 + 28 * 11));
    assert_eq!(read(mistral).parameter_shapes().len(), 3 + 32 * 9);
}

#[test]
fn windows_as_long_as_the_context_are_accepted() {
    let read = |family, window: &str| {
        let mut json = serde_json::Value::from(DecoderConfig { family, ..config() });
        let extra: serde_json::Value = serde_json::from_str(window).unwrap();
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        DecoderConfig::try_from(json)
    };
    for (family, window) in [
        (Family::Mistral, r#"{"sliding_window":256}"#),
        (Family::Qwen2, r#"{"sliding_window":7}"#),
        (
            Family::Qwen2,
            r#"{"sliding_window":256,"use_sliding_window":true,
                "layer_types":["sliding_attention"]}"#,
        ),
    ] {
        read(family, window).unwrap();
    }
    for (family, window, field) in [
        (Family::Mistral, r#"{"sliding_window":255}"#, "sliding_window"),
        (
            Family::Qwen3,
            r#"{"sliding_window":255,"use_sliding_window":true}"#,
            "use_sliding_window",
        ),
        (Family::Qwen2, r#"{"layer_types":["full_attention","sliding_attention"]}"#, "layer_types"),
    ] {
        let error = read(family, window).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("256") | error.contains("full"), "{error}");
    }
    let mut json = serde_json::Value::from(DecoderConfig { family: Family::Mistral, ..config() });
    json["max_position_embeddings"] = 32768.into();
    json.as_object_mut().unwrap().remove("sliding_window");
    let error = DecoderConfig::try_from(json).unwrap_err().to_string();
    assert!(error.contains("sliding_window") && error.contains("4096"), "{error}");
}

#[test]
fn llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let llama =
        DecoderConfig { head_dim: Some(128), rope_theta: 5e5, rope_scaling: scaling, ..config() };
    let plain =
        DecoderConfig { rope_scaling: RopeScaling::None, ..llama.clone() }.rope_frequencies();
    let mut kinds = [0; 3];
    for (scaled, plain) in llama.rope_frequencies().into_iter().zip(plain) {
        let turns = 8192.0 * plain / std::f64::consts::TAU;
        let ratio = scaled / plain;
        match turns {
            t if t > 4.0 => assert!((ratio - 1.0).abs() < 1e-12),
            t if t < 1.0 => assert!((ratio - 0.125).abs() < 1e-12),
            _ => assert!(ratio > 0.125 && ratio < 1.0),
        }
        kinds[if turns > 4.0 { 0 } else { 1 + usize::from(turns < 1.0) }] += 1;
    }
    assert!(kinds.iter().all(|&n| n > 0), "{kinds:?}");
}

#[test]
fn settings_that_change_the_maths_are_errors_with_file_field_and_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let cases = [
        ("model_type", "\"gemma\""),
        ("architectures", "[\"LlamaForCausalLM\"]"),
        ("hidden_act", "\"gelu\""),
        ("use_sliding_window", "true"),
        ("rope_scaling", "{\"factor\":2.0}"),
        ("rope_scaling", "{\"factor\":2.0,\"type\":\"yarn\"}"),
        ("partial_rotary_factor", "0.5"),
        ("mlp_bias", "true"),
        ("attention_bias", "false"),
        ("head_dim", "7"),
        ("quantization_config", "{\"bits\":4}"),
        ("hidden_size", "30"),
        ("hidden_size", "\"wide\""),
        ("num_key_value_heads", "3"),
        ("num_hidden_layers", "0"),
        ("rms_norm_eps", "-1.5"),
    ];
    for (field, value) in cases {
        let mut json = serde_json::Value::from(config());
        json[field] = serde_json::from_str(value).unwrap();
        std::fs::write(&path, json.to_string()).unwrap();
        let error = DecoderConfig::from_file(&path).unwrap_err().to_string();
        let compact: String = error.split_whitespace().collect();
        let named = compact.contains("config.json") && error.contains(field);
        assert!(named && compact.contains(value.trim_matches('"')), "{error}");
    }
    let mut json = serde_json::Value::from(config());
    json.as_object_mut().unwrap().remove("vocab_size");
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(DecoderConfig::from_file(&path).unwrap_err().to_string().contains("vocab_size"));
    std::fs::write(&path, "{").unwrap();
    assert!(DecoderConfig::from_file(&path).unwrap_err().to_string().contains("config.json"));
}
