//! Keys and values of the `config.json` of published checkpoints: they load, with the number of
//! parameters that their model cards state, or are refused by name and value.

use crate::policy::tests::*;
use serde_json::{json, Value};

/// A checkpoint that loads.
struct Published {
    name: &'static str,
    kind: &'static str,
    /// Width, inner width, layers, query heads, key/value heads, vocabulary.
    sizes: [usize; 6],
    /// Number of parameters; tied embeddings count once.
    parameters: u64,
    /// Context in tokens.
    context: usize,
    /// The other keys.
    rest: Value,
}

impl Published {
    fn json(&self) -> Value {
        let [hidden, inner, layers, heads, key_value_heads, vocabulary] = self.sizes;
        let mut json = json!({
            "model_type": self.kind,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": self.context,
            "initializer_range": 0.02,
            "use_cache": true,
        });
        json.as_object_mut().unwrap().extend(self.rest.as_object().unwrap().clone());
        json
    }
}

fn llama3(factor: f64) -> Value {
    json!({"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"})
}

/// A checkpoint of the Llama layout; its ε is 1e-5.
fn llama(
    name: &'static str,
    sizes: [usize; 6],
    parameters: u64,
    context: usize,
    rest: Value,
) -> Published {
    let mut all = json!({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5,
        "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "pretraining_tp": 1, "rope_scaling": null, "torch_dtype": "bfloat16",
        "tie_word_embeddings": false, "transformers_version": "4.42.3"});
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Published { name, kind: "llama", sizes, parameters, context, rest: all }
}

fn llamas() -> Vec<Published> {
    let eos = json!([128001, 128008, 128009]);
    let smol = |theta: u32| {
        json!({"is_llama_config": true, "rope_interleaved": false, "rope_theta": theta,
            "initializer_range": 0.041666666666666664, "pad_token_id": 2, "mlp_bias": false,
            "tie_word_embeddings": true,
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}})
    };
    let smaller = json!({"rope_theta": 5e5, "rope_scaling": llama3(32.0), "mlp_bias": false,
        "tie_word_embeddings": true, "eos_token_id": eos});
    let with = |rest: &Value, key: &str, value: Value| {
        let mut rest = rest.clone();
        rest[key] = value;
        rest
    };
    vec![
        llama(
            "Llama-2-7b-hf",
            [4096, 11008, 32, 32, 32, 32000],
            6_738_415_616,
            4096,
            json!({"_name_or_path": "meta-llama/Llama-2-7b-hf", "torch_dtype": "float16"}),
        ),
        llama(
            "Llama-2-13b-chat-hf",
            [5120, 13824, 40, 40, 40, 32000],
            13_015_864_320,
            4096,
            json!({"torch_dtype": "float16", "transformers_version": "4.32.0.dev0"}),
        ),
        llama(
            "Meta-Llama-3-8B-Instruct",
            [4096, 14336, 32, 32, 8, 128256],
            8_030_261_248,
            8192,
            json!({"rope_theta": 5e5, "bos_token_id": 128000, "eos_token_id": 128009}),
        ),
        llama(
            "Llama-3.1-8B-Instruct",
            [4096, 14336, 32, 32, 8, 128256],
            8_030_261_248,
            131_072,
            json!({"rope_theta": 5e5, "rope_scaling": llama3(8.0), "mlp_bias": false,
                "eos_token_id": eos}),
        ),
        llama(
            "Llama-3.2-1B-Instruct",
            [2048, 8192, 16, 32, 8, 128256],
            1_235_814_400,
            131_072,
            with(&smaller, "head_dim", json!(64)),
        ),
        llama(
            "Llama-3.2-3B-Instruct",
            [3072, 8192, 28, 24, 8, 128256],
            3_212_749_824,
            131_072,
            with(&smaller, "head_dim", json!(128)),
        ),
        llama(
            "DeepSeek-R1-Distill-Llama-8B",
            [4096, 14336, 32, 32, 8, 128256],
            8_030_261_248,
            131_072,
            json!({"rope_theta": 5e5, "rope_scaling": llama3(8.0), "mlp_bias": false}),
        ),
        llama(
            "TinyLlama-1.1B-Chat-v1.0",
            [2048, 5632, 22, 32, 4, 32000],
            1_100_048_384,
            2048,
            json!({"rope_theta": 10000.0}),
        ),
        llama(
            "SmolLM2-135M-Instruct",
            [576, 1536, 30, 9, 3, 49152],
            134_515_008,
            8192,
            smol(100_000),
        ),
        llama(
            "SmolLM2-360M-Instruct",
            [960, 2560, 32, 15, 5, 49152],
            361_821_120,
            8192,
            smol(100_000),
        ),
        llama(
            "SmolLM2-1.7B-Instruct",
            [2048, 8192, 24, 32, 32, 49152],
            1_711_376_384,
            8192,
            smol(130_000),
        ),
        llama(
            "Yi-1.5-6B-Chat",
            [4096, 11008, 32, 32, 4, 64000],
            6_061_035_520,
            4096,
            json!({"rope_theta": 5e6, "rms_norm_eps": 1e-6, "pad_token_id": 0}),
        ),
        llama(
            "vicuna-7b-v1.5-16k",
            [4096, 11008, 32, 32, 32, 32000],
            6_738_415_616,
            4096,
            json!({"_name_or_path": "vicuna", "max_sequence_length": 16384, "pad_token_id": 0,
                "rope_scaling": {"factor": 4.0, "type": "linear"}}),
        ),
    ]
}

/// A checkpoint of the Qwen2 layout.
fn qwen2(
    name: &'static str,
    sizes: [usize; 6],
    parameters: u64,
    context: usize,
    tied: bool,
    rest: Value,
) -> Published {
    let mut all = json!({"architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
        "max_window_layers": 21, "rope_theta": 1e6, "sliding_window": 32768,
        "use_sliding_window": false, "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1"});
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Published { name, kind: "qwen2", sizes, parameters, context, rest: all }
}

fn qwen2s() -> Vec<Published> {
    let large = json!({"max_window_layers": 70, "sliding_window": 131_072});
    vec![
        qwen2(
            "Qwen2.5-0.5B-Instruct",
            [896, 4864, 24, 14, 2, 151936],
            494_032_768,
            32768,
            true,
            json!({}),
        ),
        qwen2(
            "Qwen2.5-1.5B-Instruct",
            [1536, 8960, 28, 12, 2, 151936],
            1_543_714_304,
            32768,
            true,
            json!({}),
        ),
        qwen2(
            "Qwen2.5-3B-Instruct",
            [2048, 11008, 36, 16, 2, 151936],
            3_085_938_688,
            32768,
            true,
            json!({"max_window_layers": 70}),
        ),
        qwen2(
            "Qwen2.5-7B-Instruct",
            [3584, 18944, 28, 28, 4, 152064],
            7_615_616_512,
            32768,
            false,
            json!({"max_window_layers": 28, "sliding_window": 131_072}),
        ),
        qwen2(
            "Qwen2.5-14B-Instruct",
            [5120, 13824, 48, 40, 8, 152064],
            14_770_033_664,
            32768,
            false,
            large.clone(),
        ),
        qwen2(
            "Qwen2.5-32B-Instruct",
            [5120, 27648, 64, 40, 8, 152064],
            32_763_876_352,
            32768,
            false,
            large,
        ),
        qwen2(
            "DeepSeek-R1-Distill-Qwen-1.5B",
            [1536, 8960, 28, 12, 2, 151936],
            1_777_088_000,
            131_072,
            false,
            json!({"use_mrope": false, "sliding_window": 4096, "rope_theta": 10000}),
        ),
    ]
}

/// A checkpoint of the Qwen3 layout.
fn qwen3(
    name: &'static str,
    sizes: [usize; 6],
    parameters: u64,
    context: usize,
    tied: bool,
    theta: u32,
) -> Published {
    let rest = json!({"architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6,
        "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "max_window_layers": sizes[2],
        "rope_scaling": null, "rope_theta": theta, "sliding_window": null,
        "use_sliding_window": false, "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0"});
    Published { name, kind: "qwen3", sizes, parameters, context, rest }
}

fn qwen3s() -> Vec<Published> {
    vec![
        qwen3("Qwen3-0.6B", [1024, 3072, 28, 16, 8, 151936], 596_049_920, 40960, true, 1_000_000),
        qwen3("Qwen3-1.7B", [2048, 6144, 28, 16, 8, 151936], 1_720_574_976, 40960, true, 1_000_000),
        qwen3(
            "Qwen3-4B-Instruct-2507",
            [2560, 9728, 36, 32, 8, 151936],
            4_022_468_096,
            262_144,
            true,
            5_000_000,
        ),
        qwen3("Qwen3-8B", [4096, 12288, 36, 32, 8, 151936], 8_190_735_360, 40960, false, 1_000_000),
    ]
}

/// A checkpoint of the Mistral layout.
fn mistral(
    name: &'static str,
    sizes: [usize; 6],
    parameters: u64,
    context: usize,
    rest: Value,
) -> Published {
    let mut all = json!({"architectures": ["MistralForCausalLM"], "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "sliding_window": null, "rope_theta": 1e6,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16"});
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Published { name, kind: "mistral", sizes, parameters, context, rest: all }
}

fn mistrals() -> Vec<Published> {
    let seven = [4096, 14336, 32, 32, 8, 32000];
    let v1 = json!({"rope_theta": 10000.0, "max_position_embeddings": 32768,
        "sliding_window": 4096});
    let mut zephyr = v1.clone();
    zephyr["_name_or_path"] = json!("mistralai/Mistral-7B-v0.1");
    zephyr["pad_token_id"] = json!(2);
    vec![
        mistral("Mistral-7B-v0.1", seven, 7_241_732_096, 4096, v1),
        mistral("zephyr-7b-beta", seven, 7_241_732_096, 4096, zephyr),
        mistral(
            "Mistral-7B-Instruct-v0.2",
            seven,
            7_241_732_096,
            32768,
            json!({"attention_dropout": 0.0, "transformers_version": "4.36.0"}),
        ),
        mistral(
            "Mistral-7B-Instruct-v0.3",
            [4096, 14336, 32, 32, 8, 32768],
            7_248_023_552,
            32768,
            json!({"attention_dropout": 0.0}),
        ),
        mistral(
            "Mistral-Nemo-Instruct-2407",
            [5120, 14336, 40, 32, 8, 131_072],
            12_247_782_400,
            131_072,
            json!({"head_dim": 128, "attention_dropout": 0.0}),
        ),
    ]
}

#[test]
fn published_checkpoints_load_with_all_their_parameters() {
    let all = [llamas(), qwen2s(), qwen3s(), mistrals()].into_iter().flatten();
    for published in all {
        let name = published.name;
        let config = DecoderConfig::try_from(published.json())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let count = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
        let parameters: u64 = config.parameter_shapes().iter().map(|(_, s)| count(s)).sum();
        assert_eq!(
            (parameters, config.max_position_embeddings),
            (published.parameters, published.context),
            "{name}"
        );
        let scaled = published.rest["rope_scaling"].is_object();
        assert_eq!(config.rope_scaling != RopeScaling::None, scaled, "{name}");
        let theta = published.rest["rope_theta"].as_f64().unwrap_or(10_000.0);
        assert_eq!(config.rope_theta, theta, "{name}");
    }
}

#[test]
fn what_transformers_writes_loads() {
    let base = json!({"attention_dropout": 0.0, "bos_token_id": 1, "dtype": "float32",
        "eos_token_id": null, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02,
        "intermediate_size": 64, "max_position_embeddings": 64, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": null,
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
        "tie_word_embeddings": false, "transformers_version": "5.24.0", "use_cache": false,
        "vocab_size": 64});
    let windowed = json!(["full_attention", "sliding_attention"]);
    let cases = [
        (
            "llama",
            64,
            json!({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
            "head_dim": 8, "mlp_bias": false, "pretraining_tp": 1}),
        ),
        // From a GGUF file: the names that its metadata gives.
        (
            "llama",
            64,
            json!({"_model_name_or_path": "Smollm2 135M 8k Lc100K Mix1 Ep2",
            "attention_bias": false, "head_dim": 8, "mlp_bias": false, "pad_token_id": 2,
            "pretraining_tp": 1, "rms_norm_eps": 9.999999747378752e-06, "unk_token_id": 0}),
        ),
        (
            "qwen2",
            64,
            json!({"architectures": ["Qwen2ForCausalLM"],
            "layer_types": ["full_attention", "full_attention"], "max_window_layers": 28,
            "sliding_window": null, "use_sliding_window": false}),
        ),
        (
            "qwen2",
            16,
            json!({"architectures": ["Qwen2ForCausalLM"], "layer_types": windowed,
            "max_window_layers": 1, "sliding_window": 16, "use_sliding_window": true}),
        ),
        (
            "qwen3",
            64,
            json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
            "head_dim": 128, "layer_types": ["full_attention", "full_attention"],
            "max_window_layers": 28, "sliding_window": null, "use_sliding_window": false}),
        ),
        (
            "mistral",
            64,
            json!({"architectures": ["MistralForCausalLM"], "head_dim": 8,
            "sliding_window": 4096}),
        ),
    ];
    for (kind, context, rest) in cases {
        let mut json = base.clone();
        json["model_type"] = kind.into();
        json.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let config =
            DecoderConfig::try_from(json).unwrap_or_else(|error| panic!("{kind}: {rest}: {error}"));
        assert_eq!(config.max_position_embeddings, context, "{kind}: {rest}");
    }
}

#[test]
fn published_checkpoints_of_other_kinds_are_refused_by_name_and_value() {
    let qwen = || qwen2s().remove(3).json();
    let refused = |name: &str, mut json: Value, key: &str, value: Value, said: [&str; 2]| {
        json[key] = value;
        let error = DecoderConfig::try_from(json).unwrap_err().to_string();
        assert!(said.iter().all(|part| error.contains(part)), "{name}: {error}");
    };
    for (name, kind) in [
        ("Llama-3.2-11B-Vision-Instruct", "mllama"),
        ("Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
        ("Qwen3-30B-A3B", "qwen3_moe"),
        ("Mixtral-8x7B-Instruct-v0.1", "mixtral"),
        ("Phi-3-mini-4k-instruct", "phi3"),
        ("gemma-2-2b-it", "gemma2"),
        ("SmolLM3-3B", "smollm3"),
        ("granite-3.1-2b-instruct", "granite"),
    ] {
        refused(name, qwen(), "model_type", kind.into(), ["model_type", kind]);
    }
    for (name, method) in [
        ("Qwen2.5-7B-Instruct-AWQ", "awq"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "gptq"),
        ("Qwen3-8B-FP8", "fp8"),
        ("Llama-3.2-1B-Instruct-bnb-4bit", "bitsandbytes"),
        ("Qwen3-0.6B-MLX-4bit", "mlx"),
    ] {
        let value = json!({"quant_method": method, "bits": 4, "group_size": 128});
        let said = ["quantization_config", method];
        refused(name, qwen(), "quantization_config", value, said);
    }
    let yarn = json!({"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"});
    refused(
        "Qwen2.5-7B-Instruct for 128 K",
        qwen(),
        "rope_scaling",
        yarn,
        ["rope_scaling", "yarn"],
    );
    let chunks = json!({"chunk_size": 262_144, "local_size": 8192,
        "original_max_position_embeddings": 262_144});
    let said = ["dual_chunk_attention_config", "model.ignore"];
    refused("Qwen2.5-7B-Instruct-1M", qwen(), "dual_chunk_attention_config", chunks, said);
    for (name, architecture) in [
        ("a reward model", "Qwen2ForSequenceClassification"),
        ("Qwen2.5-Math-RM-72B", "Qwen2ForRewardModel"),
    ] {
        let value = json!([architecture]);
        refused(name, qwen(), "architectures", value, ["architectures", architecture]);
    }
}
