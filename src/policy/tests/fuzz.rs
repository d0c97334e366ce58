//! Mutated JSON of model checkpoints and adapters: reading returns an error that names the field,
//! or the unchanged model unless a field that it is built from has changed; it never panics.

use crate::policy::lora::LoraConfig;
use crate::policy::peft_config;
use crate::policy::pretrained::index::weight_files;
use crate::policy::source::Source;
use crate::policy::tests::*;
use proptest::prelude::*;
use serde_json::{json, Map, Value};

/// Fields that a decoder is built from.
const OF_MODEL: &[&str] = &[
    "attention_bias",
    "head_dim",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// Fields that cannot change a decoder, or must be off.
const OTHERS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "eos_token_id",
    "final_logit_softcapping",
    "hidden_act",
    "layer_norm_eps",
    "logit_scale",
    "mlp_bias",
    "no_rope_layers",
    "num_experts",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "pruned_heads",
    "qk_norm",
    "quantization_config",
    "query_pre_attn_scalar",
    "temperature",
    "torch_dtype",
    "trained_by",
];

/// Fields that an adapter is built from.
const OF_ADAPTER: &[&str] = &[
    "alpha_pattern",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// Keys and texts that mean something in one of the files.
const WORDS: &[&str] = &[
    "",
    ".*",
    "(",
    "(?i)all-linear",
    "all-linear",
    "attention_factor",
    "default",
    "dynamic",
    "factor",
    "full_attention",
    "linear",
    "llama",
    "llama3",
    "long_factor",
    "longrope",
    "lm_head",
    "mistral",
    "model.layers.0.mlp.up_proj",
    "model.safetensors",
    "none",
    "original_max_position_embeddings",
    "pissa",
    "q_proj",
    "qwen3",
    "rope_theta",
    "rope_type",
    "short_factor",
    "silu",
    "sliding_attention",
    "type",
    "yarn",
    "\u{0}",
    "é/../",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(WORDS).prop_map(str::to_owned),
        1 => "[ -~]{0,12}",
    ]
}

/// Any JSON of small depth, most of it near what the files hold.
fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (-3i64..70).prop_map(Value::from),
        prop::sample::select(vec![0.0, 0.5, 1.0, 2.0, 1e-6, 1e300, -1.0]).prop_map(Value::from),
        prop::sample::select(vec![u64::MAX, 1 << 32, 1 << 53]).prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        2 => any::<bool>().prop_map(Value::from),
        4 => number,
        3 => word().prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// One to three changes: a field and its new value, or none to remove it.
fn changes(fields: Vec<&'static str>) -> impl Strategy<Value = Vec<(String, Option<Value>)>> {
    let field = prop_oneof![
        9 => prop::sample::select(fields).prop_map(str::to_owned),
        1 => word(),
    ];
    prop::collection::vec((field, prop::option::weighted(0.85, value())), 1..4)
}

fn changed(mut map: Map<String, Value>, changes: &[(String, Option<Value>)]) -> Map<String, Value> {
    for (field, value) in changes {
        match value {
            Some(value) => drop(map.insert(field.clone(), value.clone())),
            None => drop(map.remove(field)),
        }
    }
    map
}

/// Requires an error to name one of the changed fields or, if a change affects another field, a
/// field of the file.
fn names_a_field(error: &str, map: &Map<String, Value>, changes: &[(String, Option<Value>)]) {
    let mut fields = map.keys().chain(changes.iter().map(|(field, _)| field));
    let known = OF_MODEL.iter().chain(OTHERS).chain(OF_ADAPTER);
    let named = fields.any(|field| error.contains(&format!("`{field}")))
        || known.into_iter().any(|field| error.contains(&format!("`{field}")));
    assert!(named, "{error}: {changes:?}");
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

/// An adapter's configuration with every field that PEFT writes.
fn adapter() -> Map<String, Value> {
    object(json!({
        "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
        "auto_mapping": null, "base_model_name_or_path": "base", "bias": "none",
        "corda_config": null, "ensure_weight_tying": false, "eva_config": null,
        "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "kasa_config": null, "layer_replication": null,
        "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8,
        "lora_bias": false, "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null,
        "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null,
        "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4,
        "rank_pattern": {}, "revision": null, "target_modules": ["down_proj", "q_proj"],
        "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null,
        "use_bdlora": null, "use_dora": false, "use_qalora": false, "use_rslora": false,
        "velora_config": null,
    }))
}

proptest! {
    #[test]
    fn mutated_configurations_are_refused_by_field_or_the_same_model(
        family in 0usize..6,
        changes in changes([OF_MODEL, OTHERS].concat()),
    ) {
        let config = &families()[family];
        let before = Value::from(config.clone());
        let unchanged = DecoderConfig::try_from(before.clone()).unwrap();
        let map = changed(object(before), &changes);
        match DecoderConfig::try_from(Value::Object(map.clone())) {
            Err(error) => names_a_field(&error.to_string(), &map, &changes),
            Ok(read) => {
                let same = changes.iter().all(|(field, _)| !OF_MODEL.contains(&field.as_str()));
                prop_assert!(!same || read == unchanged, "{changes:?}");
                let again = DecoderConfig::try_from(Value::from(read.clone())).unwrap();
                prop_assert_eq!(again, read);
            }
        }
    }

    #[test]
    fn mutated_adapter_configurations_are_refused_by_field_or_the_same_adapter(
        changes in changes(adapter_fields()),
    ) {
        let model = config();
        let read = |map| peft_config::parse(map, &model);
        let unchanged: LoraConfig = read(adapter()).unwrap();
        let map = changed(adapter(), &changes);
        match read(map.clone()) {
            Err((field, ..)) => names_a_field(&format!("`{field}`"), &map, &changes),
            Ok(read) => {
                let same = changes.iter().all(|(field, _)| !OF_ADAPTER.contains(&field.as_str()));
                prop_assert!(!same || read == unchanged, "{changes:?}");
                read.validate().unwrap();
            }
        }
    }

    #[test]
    fn mutated_indices_are_refused_by_field_or_name_files_that_exist(
        shards in prop::collection::vec((word(), value()), 0..3),
        changes in changes(vec!["metadata", "weight_map"]),
    ) {
        let folder = fuzz_folder();
        let map: Map<String, Value> = shards.into_iter().collect();
        let index = object(json!({"metadata": {"total_size": 1}, "weight_map": map}));
        let text = Value::Object(changed(index, &changes)).to_string();
        let path = folder.join("model.safetensors.index.json");
        std::fs::write(&path, text).unwrap();
        match weight_files(&Source::from(folder)) {
            Err(error) => {
                let error = error.to_string();
                let field = error.contains("weight_map") || error.contains("`json`");
                prop_assert!(field && error.contains("index.json"), "{error}");
            }
            Ok(files) => prop_assert!(files.iter().all(|file| file == &path)),
        }
    }
}

fn adapter_fields() -> Vec<&'static str> {
    let other = [
        "arrow_config",
        "bias",
        "init_lora_weights",
        "kasa_config",
        "loftq_config",
        "modules_to_save",
        "peft_type",
        "revision",
        "task_type",
        "use_dora",
    ];
    OF_ADAPTER.iter().copied().chain(other).collect()
}

/// The folder of the indices, which holds no other file.
fn fuzz_folder() -> &'static std::path::Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}
