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
fn parameters_that_are_not_finite_are_named_when_they_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let (_, parameters) = decoder(&config(), DType::F32);
    let name = "model.layers.1.mlp.up_proj.weight";
    let var = parameters.get(name).unwrap();
    var.set(&(var.as_tensor() * f64::INFINITY).unwrap()).unwrap();
    parameters.save(&path).unwrap();
    let error = Parameters::load(&path, &config(), DType::F32, &Device::Cpu).unwrap_err();
    let error = error.to_string();
    let parts = [name, "[0, 0]", "model.safetensors"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    let error = parameters.load_trainable(&path).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
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
        "layer_types":null,"max_position_embeddings":40960,"max_window_layers":28,
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

/// The configuration of `family` with further fields.
fn with(family: Family, fields: &str) -> crate::Result<DecoderConfig> {
    let mut json = serde_json::Value::from(DecoderConfig { family, ..config() });
    let extra: serde_json::Value = serde_json::from_str(fields).unwrap();
    json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    DecoderConfig::try_from(json)
}

#[test]
fn a_window_limits_the_context_if_it_reaches_a_layer() {
    use Family::{Llama, Mistral, Qwen2, Qwen3};
    for (family, window, context) in [
        (Mistral, r#"{"sliding_window":256}"#, 256),
        (Mistral, r#"{"sliding_window":255}"#, 255),
        (Mistral, r#"{"sliding_window":9,"use_sliding_window":false}"#, 9),
        (Mistral, r#"{"sliding_window":9,"layer_types":["full_attention","attention"]}"#, 256),
        (Mistral, r#"{"sliding_window":null}"#, 256),
        (Llama, r#"{"sliding_window":9}"#, 256),
        (Llama, r#"{"sliding_window":9,"use_sliding_window":true}"#, 9),
        (Qwen2, r#"{"sliding_window":7}"#, 256),
        (Qwen2, r#"{"sliding_window":7,"use_sliding_window":true}"#, 256),
        (Qwen2, r#"{"sliding_window":7,"use_sliding_window":true,"max_window_layers":2}"#, 256),
        (Qwen2, r#"{"sliding_window":7,"use_sliding_window":true,"max_window_layers":1}"#, 7),
        (Qwen2, r#"{"use_sliding_window":true,"max_window_layers":0}"#, 256),
        (
            Qwen3,
            r#"{"sliding_window":7,"use_sliding_window":true,"max_window_layers":0,
                "layer_types":["full_attention","full_attention"]}"#,
            256,
        ),
        (
            Qwen3,
            r#"{"sliding_window":7,"use_sliding_window":true,
                "layer_types":["full_attention","sliding_attention"]}"#,
            7,
        ),
    ] {
        let read = with(family, window).unwrap();
        assert_eq!(read.max_position_embeddings, context, "{family:?} {window}");
        let back = DecoderConfig::try_from(serde_json::Value::from(read.clone())).unwrap();
        assert_eq!(back, DecoderConfig { head_dim: back.head_dim, ..read });
    }
    for (family, window, field) in [
        (Mistral, r#"{"sliding_window":0}"#, "sliding_window"),
        (Mistral, r#"{"sliding_window":-1}"#, "sliding_window"),
        (Qwen2, r#"{"layer_types":["full_attention","sliding_attention"]}"#, "layer_types"),
        (Qwen2, r#"{"layer_types":["full_attention"]}"#, "layer_types"),
        (Qwen2, r#"{"layer_types":["full_attention","chunked_attention"]}"#, "layer_types"),
        (Qwen2, r#"{"use_sliding_window":true,"max_window_layers":"x"}"#, "max_window_layers"),
    ] {
        let error = with(family, window).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let mut json = serde_json::Value::from(DecoderConfig { family: Mistral, ..config() });
    json["max_position_embeddings"] = 32768.into();
    json.as_object_mut().unwrap().remove("sliding_window");
    assert_eq!(DecoderConfig::try_from(json).unwrap().max_position_embeddings, 4096);
}

#[test]
fn rotary_settings_that_change_nothing_are_read_as_no_scaling() {
    for fields in [
        r#"{"rope_scaling":{}}"#,
        r#"{"rope_scaling":{"rope_type":"default"},"rope_parameters":{"rope_type":"default"}}"#,
        r#"{"rope_scaling":{"type":"default","factor":1.0}}"#,
        r#"{"rope_scaling":{"factor":1}}"#,
        r#"{"rope_parameters":{"rope_type":"default","rope_theta":10000.0,"factor":4.0,
            "original_max_position_embeddings":16,"attention_factor":1.0,"mrope_section":[1,1]}}"#,
        r#"{"rope_parameters":{"rope_type":"dynamic","factor":3.0,"attention_factor":null}}"#,
        r#"{"rope_scaling":{"rope_type":"yarn","factor":1.0,"beta_fast":32,"beta_slow":1,
            "original_max_position_embeddings":256,"mscale":2.0,"truncate":false}}"#,
        r#"{"rope_scaling":{"type":"yarn","factor":null,"original_max_position_embeddings":256}}"#,
        r#"{"rope_scaling":{"type":"longrope","factor":1.0,"short_factor":[1,1.0],
            "long_factor":[1,1]}}"#,
        r#"{"original_max_position_embeddings":16,"partial_rotary_factor":1.0}"#,
    ] {
        assert_eq!(with(Family::Qwen2, fields).unwrap(), config(), "{fields}");
    }
    for (fields, parts) in [
        (r#"{"rope_scaling":{"factor":2.0}}"#, ["rope_scaling.factor", "2.0"]),
        (r#"{"rope_scaling":{"type":"dynamic"}}"#, ["rope_scaling.factor", "required"]),
        (r#"{"rope_scaling":{"rope_type":"yarn","factor":4.0}}"#, ["rope_type", "4.0"]),
        (
            r#"{"rope_scaling":{"rope_type":"yarn","factor":null,
                "original_max_position_embeddings":64}}"#,
            ["rope_type", "64"],
        ),
        (
            r#"{"rope_scaling":{"rope_type":"yarn","factor":1.0,"attention_factor":1.5}}"#,
            ["rope_scaling.attention_factor", "1.5"],
        ),
        (
            r#"{"rope_scaling":{"rope_type":"longrope","factor":1.0,"short_factor":[1,1.2],
                "long_factor":[1,1]}}"#,
            ["rope_type", "1.2"],
        ),
        (r#"{"rope_scaling":{"rope_type":"mrope"}}"#, ["rope_scaling.rope_type", "mrope"]),
        (r#"{"rope_scaling":{"wavelength":9}}"#, ["rope_scaling.wavelength", "model.ignore"]),
        (r#"{"rope_scaling":"linear"}"#, ["rope_scaling", "linear"]),
        (
            r#"{"rope_scaling":{"rope_type":"linear","factor":2.0},
                "rope_parameters":{"rope_type":"linear","factor":4.0}}"#,
            ["rope_parameters", "contradicts"],
        ),
        (r#"{"rope_parameters":{"partial_rotary_factor":0.5}}"#, ["partial_rotary_factor", "0.5"]),
    ] {
        let error = with(Family::Qwen2, fields).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    // Without its own value, Llama 3's scaling starts from the model's context.
    let scaled = r#"{"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
        "high_freq_factor":4.0}}"#;
    let scaled = with(Family::Llama, scaled).unwrap().rope_scaling;
    let RopeScaling::Llama3 { original_max_position_embeddings: tokens, .. } = scaled else {
        panic!("{scaled:?}");
    };
    assert_eq!(tokens, 256);
}

#[test]
fn fields_that_cannot_change_the_model_are_ignored() {
    let fields = r#"{"_attn_implementation_autoset":true,"unsloth_version":"2025.3.19",
        "auto_map":{"AutoConfig":"x.Y"},"max_length":4096,"top_p":0.6,"top_k":-1,
        "tokenizer_class":"Qwen2Tokenizer","unk_token_id":0,"sep_token_id":[1],"is_decoder":false,
        "tie_encoder_decoder":false,"gradient_checkpointing":false,"num_labels":2,
        "output_router_logits":true,"task_specific_params":{"a":1},"pretraining_tp":2,
        "hidden_dropout":0.1,"pruned_heads":{},"model_max_length":9,"use_flash_attn":true,
        "architectures":["Qwen2Model"],"hidden_act":"swish","anything":null,"mlp_only_layers":[],
        "final_logit_softcapping":null,"logit_scale":1,"residual_multiplier":1.0,"num_experts":0,
        "query_pre_attn_scalar":8,"attention_multiplier":0.35355339059327373,"clip_qkv":null,
        "no_rope_layers":[1,1],"layer_norm_eps":1e-6,"qk_norm":false,"norm_type":"rmsnorm",
        "position_embedding_type":"rope","use_mrope":false,"quantization_config":{},
        "attention_bias":true,"per_layer_config":{},"tie_word_embeddings":null,
        "initializer_range":0.3,"mup_output_alpha":1.0,"vision_config":null,"qkv_bias":true,
        "eos_token":"</s>","peft_version":"1","context_length":9,"output_multiplier":1.0}"#;
    let read = with(Family::Qwen2, fields).unwrap();
    assert_eq!(read, DecoderConfig { tie_word_embeddings: false, ..config() });
    assert!(with(Family::Qwen3, r#"{"qk_norm":true}"#).is_ok());
    assert!(with(Family::Llama, r#"{"architectures":["LLaMAForCausalLM"]}"#).is_ok());
    let mut json = serde_json::Value::from(DecoderConfig { rms_norm_eps: 1e-3, ..config() });
    for field in ["rms_norm_eps", "max_position_embeddings", "hidden_act", "rope_theta"] {
        json.as_object_mut().unwrap().remove(field);
    }
    let read = DecoderConfig::try_from(json).unwrap();
    assert_eq!(read, DecoderConfig { max_position_embeddings: 32_768, ..config() });
}

#[test]
fn an_unknown_field_passes_if_the_settings_name_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let mut json = serde_json::Value::from(config());
    json["trained_by"] = "us".into();
    json["logit_scale"] = 0.5.into();
    json["rope_scaling"] = serde_json::json!({"rope_type": "default", "wavelength": 3});
    std::fs::write(&path, json.to_string()).unwrap();
    let read = |ignore: &[&str]| {
        let ignore: Vec<String> = ignore.iter().map(|name| (*name).to_owned()).collect();
        DecoderConfig::from_file_ignoring(&path, &ignore).map_err(|e| e.to_string())
    };
    let all = ["trained_by", "logit_scale", "rope_scaling.wavelength", "absent"];
    assert_eq!(read(&all), Ok(config()));
    for missing in &all[..3] {
        let rest: Vec<&str> = all.into_iter().filter(|name| name != missing).collect();
        let error = read(&rest).unwrap_err();
        assert!(error.contains("config.json") && error.contains(missing), "{error}");
    }
    let error = read(&[]).unwrap_err();
    assert!(error.contains("model.ignore = [\"rope_scaling.wavelength\"]"), "{error}");
    for read_field in ["vocab_size", "rope_scaling", "rope_scaling.rope_type", "model_type"] {
        let error = read(&[&all[..], &[read_field]].concat()).unwrap_err();
        assert!(error.contains(read_field) && error.contains("must not name it"), "{error}");
    }
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
        ("final_logit_softcapping", "30.0"),
        ("logit_scale", "0.0625"),
        ("query_pre_attn_scalar", "256"),
        ("attention_multiplier", "1.0"),
        ("residual_multiplier", "0.22"),
        ("output_multiplier", "0.5"),
        ("qkv_bias", "false"),
        ("num_experts", "8"),
        ("qk_norm", "true"),
        ("clip_qkv", "8.0"),
        ("no_rope_layers", "[1,0]"),
        ("layer_norm_eps", "0.01"),
        ("num_hidden_layers", "4000000000"),
        ("text_config", "{\"hidden_size\":8}"),
        ("trained_by", "\"us\""),
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
