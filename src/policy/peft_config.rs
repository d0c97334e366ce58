//! The settings of an `adapter_config.json`.
//!
//! Every field of PEFT's `LoraConfig` is honoured, known not to affect a trained adapter, or
//! refused unless it is off. Other fields are refused unless they are off.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::rejected::Rejected;
use crate::policy::files::read_json;
use crate::policy::lora::LoraConfig;
use crate::policy::peft_targets::{uniform, Targets};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// Fields that do not affect what a trained adapter computes.
const IGNORED: &[&str] = &[
    // Bookkeeping.
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
    // Details of ways to draw the first adapter.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    // Of linear layers, PEFT does not use it.
    "fan_in_fan_out",
    // Details of fields that must be off.
    "ensure_weight_tying",
    "megatron_core",
    "qalora_group_size",
];

/// Ways to draw the first adapter that leave the base model as it is.
const INITIAL: &[&str] = &["eva", "gaussian", "mica", "orthogonal"];

/// PEFT's values of `r` and `lora_alpha` if they are missing.
const UNSTATED: u64 = 8;

/// Reads the settings of an `adapter_config.json` for adapters of `model`.
///
/// # Errors
/// An unreadable file, or the first field that is malformed or not supported, by name and value.
pub(crate) fn read_adapter_config(path: &Path, model: &DecoderConfig) -> Result<LoraConfig> {
    let map: Map<String, Value> = read_json(path)?;
    parse(map, model)
        .map_err(|(field, value, reason)| Error::file(path, field, format!("{value}: {reason}")))
}

/// Removes and parses `field`; `None` if it is missing.
fn take<T: DeserializeOwned>(
    map: &mut Map<String, Value>,
    field: &str,
) -> Result<Option<T>, Rejected> {
    let Some(value) = map.remove(field) else { return Ok(None) };
    let parsed = serde_json::from_value(value.clone());
    parsed.map(Some).map_err(|e| (field.to_owned(), value.to_string(), e.to_string()))
}

/// Removes and parses `field`; `None` if it is missing or null.
fn optional<T: DeserializeOwned>(
    map: &mut Map<String, Value>,
    field: &str,
) -> Result<Option<T>, Rejected> {
    Ok(take::<Option<T>>(map, field)?.flatten())
}

pub(crate) fn parse(
    mut map: Map<String, Value>,
    model: &DecoderConfig,
) -> Result<LoraConfig, Rejected> {
    check_kind(&mut map)?;
    check_initial(&mut map)?;
    let rank: u64 = take(&mut map, "r")?.unwrap_or(UNSTATED);
    let alpha: f64 = take(&mut map, "lora_alpha")?.unwrap_or(UNSTATED as f64);
    let dropout: f64 = take(&mut map, "lora_dropout")?.unwrap_or(0.0);
    let stabilised: bool = take(&mut map, "use_rslora")?.unwrap_or(false);
    let targets = Targets {
        modules: optional(&mut map, "target_modules")?,
        exclude: optional(&mut map, "exclude_modules")?,
        layers: optional(&mut map, "layers_to_transform")?,
        layers_pattern: optional(&mut map, "layers_pattern")?,
    };
    let modules = targets.modules_of(model)?;
    let ranks = optional(&mut map, "rank_pattern")?.unwrap_or_default();
    let alphas = optional(&mut map, "alpha_pattern")?.unwrap_or_default();
    let rank = uniform("rank_pattern", &ranks, &modules, rank)?;
    let alpha = uniform("alpha_pattern", &alphas, &modules, alpha)?;
    check_rest(&map)?;
    let rank = usize::try_from(rank).unwrap_or(usize::MAX);
    // α/√r as the α' of α'/r (rsLoRA, arXiv 2312.03732).
    let alpha = if stabilised { alpha * (rank as f64).sqrt() } else { alpha };
    let target_modules = targets.projections(&modules, model.num_hidden_layers)?;
    let lora = LoraConfig { rank, alpha, dropout, target_modules };
    lora.check().map_err(|(field, value, reason)| {
        let field = match field {
            "rank" => "r".to_owned(),
            "target_modules" => field.to_owned(),
            _ => format!("lora_{field}"),
        };
        (field, value, reason)
    })?;
    Ok(lora)
}

fn check_kind(map: &mut Map<String, Value>) -> Result<(), Rejected> {
    for (field, only, needed) in [("peft_type", "LORA", true), ("bias", "none", false)] {
        let value = map.remove(field);
        let fits = value.as_ref().map_or(!needed, |value| value == only);
        if !fits {
            let value = value.map_or_else(|| "missing".to_owned(), |value| value.to_string());
            return Err((field.to_owned(), value, format!("only {only:?} is supported")));
        }
    }
    Ok(())
}

/// Refuses adapters whose first value was taken out of the base model: without that change of the
/// base model they compute something else.
fn check_initial(map: &mut Map<String, Value>) -> Result<(), Rejected> {
    let field = "init_lora_weights";
    let Some(value) = map.remove(field) else { return Ok(()) };
    let harmless = match &value {
        Value::Null | Value::Bool(_) => true,
        Value::String(name) => INITIAL.contains(&name.to_lowercase().as_str()),
        _ => false,
    };
    if harmless {
        return Ok(());
    }
    let reason = "adapters that change the base model are not supported: convert this one with \
        PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…)";
    Err((field.to_owned(), value.to_string(), reason.to_owned()))
}

/// Requires every field that is left over to be ignored or off. An empty object turns most
/// methods on, with their default settings.
fn check_rest(map: &Map<String, Value>) -> Result<(), Rejected> {
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let on =
        |(field, value): &(&String, &Value)| !IGNORED.contains(&field.as_str()) && !is_off(value);
    match map.iter().find(on) {
        Some((field, value)) => {
            let reason = "not supported: it might change what the adapter computes";
            Err((field.clone(), value.to_string(), reason.to_owned()))
        }
        None => Ok(()),
    }
}
