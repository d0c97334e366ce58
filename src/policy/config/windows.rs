//! Sliding windows of attention: the rule of every family for the layers that have one.

use crate::policy::config::family::Family;
use crate::policy::config::fields::Fields;
use crate::policy::config::rejected::{require, Rejected};
use serde_json::Value;

/// The window of a configuration that does not state one, in tokens.
const UNSTATED: usize = 4096;

/// The first layer with a window in a configuration that does not state one.
const FIRST: u64 = 28;

/// Reads the sliding window of a decoder of `layers` blocks, in tokens: `None` if no layer has one.
///
/// A row that is not longer than the window is computed as without it.
pub(crate) fn read_window(
    fields: &mut Fields<'_>,
    family: Family,
    layers: usize,
) -> Result<Option<usize>, Rejected> {
    let stated: Option<bool> = fields.take("use_sliding_window", Some(None))?;
    // transformers reads the window of Mistral without the switch.
    let used = family == Family::Mistral || stated.unwrap_or(false);
    let types = layer_types(fields, layers)?;
    let first = fields.map.remove("max_window_layers");
    let window = fields.map.remove("sliding_window");
    if !used {
        let windowed = types.is_some_and(|types| types.contains(&true));
        let reason = "a layer has a sliding window, but none is used";
        require(!windowed, "layer_types", "\"sliding_attention\"", reason)?;
        return Ok(None);
    }
    let Some(window) = tokens(window)? else { return Ok(None) };
    let reached = match (family, types) {
        (_, Some(types)) => types.contains(&true),
        (Family::Llama | Family::Mistral, None) => true,
        (Family::Qwen2 | Family::Qwen3, None) => first_windowed(first)? < layers as u64,
    };
    Ok(reached.then_some(window))
}

fn first_windowed(value: Option<Value>) -> Result<u64, Rejected> {
    match value {
        None | Some(Value::Null) => Ok(FIRST),
        Some(value) => value.as_u64().ok_or_else(|| {
            let reason = "a number of layers is required".to_owned();
            ("max_window_layers".to_owned(), value.to_string(), reason)
        }),
    }
}

/// True for every layer with a window, if the configuration lists the types of its layers.
fn layer_types(fields: &mut Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, Rejected> {
    let Some(list) = fields.map.remove("layer_types").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let windowed = |kind: &Value| match kind.as_str() {
        Some("full_attention" | "attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let reason = "only full attention and sliding windows are supported, one type per layer";
    let rejected = || ("layer_types".to_owned(), list.to_string(), reason.to_owned());
    let types: Option<Vec<bool>> =
        list.as_array().and_then(|list| list.iter().map(windowed).collect());
    match types {
        Some(types) if types.len() == layers => Ok(Some(types)),
        _ => Err(rejected()),
    }
}

fn tokens(window: Option<Value>) -> Result<Option<usize>, Rejected> {
    match window {
        None => Ok(Some(UNSTATED)),
        Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|&tokens| tokens > 0) {
            Some(tokens) => Ok(Some(usize::try_from(tokens).unwrap_or(usize::MAX))),
            None => {
                let reason = "a positive number of tokens is required".to_owned();
                Err(("sliding_window".to_owned(), value.to_string(), reason))
            }
        },
    }
}
