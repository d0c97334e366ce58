//! config.json and model.safetensors: round trips and broken files.

use super::*;
use std::collections::BTreeMap;

fn bits(parameters: &Parameters) -> Vec<(String, Vec<u32>)> {
    let bits =
        |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
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
        let std = (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        let (want_mean, want_std) = match name {
            _ if name.ends_with("norm.weight") => (1.0, 0.0),
            _ if name.ends_with("bias") => (0.0, 0.0),
            _ => (0.0, 0.02),
        };
        assert!((mean - want_mean).abs() < 2e-3 && (std - want_std).abs() < 2e-3, "{name}: {mean} ± {std}");
    }
}

#[test]
fn saved_parameters_come_back_to_the_bit() {
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
    let load = || Parameters::load(&path, &config(), DType::F32, &Device::Cpu).unwrap_err().to_string();
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
        crate::policy::save_tensors(&path, &tensors).unwrap();
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
fn config_round_trips_through_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let config = DecoderConfig { rope_theta: 1e6, tie_word_embeddings: false, ..config() };
    config.save(&path).unwrap();
    assert_eq!(DecoderConfig::from_file(&path).unwrap(), config);
    assert_eq!(
        serde_json::from_str::<DecoderConfig>(&serde_json::to_string(&config).unwrap()).unwrap(),
        config
    );
}

#[test]
fn a_published_qwen2_config_is_read() {
    let text = r#"{"architectures":["Qwen2ForCausalLM"],"attention_dropout":0.0,"bos_token_id":151643,"eos_token_id":151645,
        "hidden_act":"silu","hidden_size":896,"initializer_range":0.02,"intermediate_size":4864,"max_position_embeddings":32768,
        "max_window_layers":21,"model_type":"qwen2","num_attention_heads":14,"num_hidden_layers":24,"num_key_value_heads":2,
        "rms_norm_eps":1e-06,"rope_theta":1000000.0,"sliding_window":32768,"tie_word_embeddings":true,"torch_dtype":"bfloat16",
        "transformers_version":"4.43.1","use_cache":true,"use_sliding_window":false,"vocab_size":151936}"#;
    let config: DecoderConfig = serde_json::from_str(text).unwrap();
    assert_eq!((config.head_dim(), config.rope_theta, config.num_key_value_heads), (64, 1e6, 2));
    assert_eq!(config.parameter_shapes().len(), 2 + 24 * 12);
}

#[test]
fn settings_that_change_the_maths_are_errors_with_file_field_and_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let cases = [
        ("model_type", "\"llama\""),
        ("architectures", "[\"LlamaForCausalLM\"]"),
        ("hidden_act", "\"gelu\""),
        ("use_sliding_window", "true"),
        ("rope_scaling", "{\"factor\":2.0}"),
        ("partial_rotary_factor", "0.5"),
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
