//! Rotary settings as the JSON of Hugging Face's `config.json`, read and written.
//!
//! The base θ and the scaling are in `rope_theta` and `rope_scaling`, or in `rope_parameters`
//! (transformers 5). Types of scaling that change nothing for rows within the context are read as
//! no scaling.

use crate::policy::config::fields::Fields;
use crate::policy::config::rejected::Rejected;
use crate::policy::config::rope::RopeScaling;
use serde_json::{json, Value};

/// Fields of other types of scaling, which transformers does not read for the type at hand.
const OTHERS: &[&str] = &[
    "beta_fast",
    "beta_slow",
    "extrapolation_factor",
    "finetuned",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mrope_interleaved",
    // With text alone, all sections have the same positions.
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "short_factor",
    "truncate",
];

/// Reads the base θ and the scaling; `context` is `max_position_embeddings`.
pub(crate) fn read_rope(
    fields: &mut Fields<'_>,
    context: usize,
) -> Result<(f64, RopeScaling), Rejected> {
    let theta = fields.take_or("rope_theta", 10_000.0)?;
    let mut found: Option<(f64, RopeScaling)> = None;
    for (name, prefix) in
        [("rope_scaling", "rope_scaling."), ("rope_parameters", "rope_parameters.")]
    {
        let map = match fields.map.remove(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(map)) => map,
            Some(value) => {
                let reason = "an object is required".to_owned();
                return Err((name.to_owned(), value.to_string(), reason));
            }
        };
        if map.is_empty() {
            continue;
        }
        let whole = Value::Object(map.clone()).to_string();
        let mut inner = Fields::new(map, prefix, fields.ignore);
        let theta = inner.take_or("rope_theta", theta)?;
        let read = (theta, scaling(inner, context)?);
        if found.is_some_and(|found| found != read) {
            let reason = "contradicts rope_scaling or rope_theta".to_owned();
            return Err((name.to_owned(), whole, reason));
        }
        found = Some(read);
    }
    let (theta, scaling) = found.unwrap_or((theta, RopeScaling::None));
    check_original(fields, scaling)?;
    Ok((theta, scaling))
}

/// Takes the original context outside the rotary settings, where some files repeat it.
fn check_original(fields: &mut Fields<'_>, scaling: RopeScaling) -> Result<(), Rejected> {
    let same = |value: &Value| match scaling {
        RopeScaling::Llama3 { original_max_position_embeddings: tokens, .. } => {
            value.as_u64() == Some(tokens as u64)
        }
        RopeScaling::None | RopeScaling::Linear { .. } => true,
    };
    fields.only("original_max_position_embeddings", same, "contradicts rope_scaling")
}

fn scaling(mut fields: Fields<'_>, context: usize) -> Result<RopeScaling, Rejected> {
    let whole = Value::Object(fields.map.clone()).to_string();
    let field = fields.name("rope_type");
    let older: Option<String> = fields.take("type", Some(None))?;
    let kind: Option<String> = fields.take::<Option<String>>("rope_type", Some(None))?.or(older);
    let Some(scaling) = scaling_of_type(kind.as_deref(), &mut fields, context)? else {
        let reason = "only \"default\", \"linear\", \"llama3\" and \"dynamic\" are supported, \
            and others if they change nothing";
        return Err((field, whole, reason.to_owned()));
    };
    fields.only("attention_factor", is_one, "only 1.0 is supported")?;
    let reason = "only 1.0 is supported: whole heads are rotated";
    fields.only("partial_rotary_factor", is_one, reason)?;
    fields.map.retain(|key, _| !OTHERS.contains(&key.as_str()));
    fields.finish()?;
    Ok(scaling)
}

/// The scaling of a type; `None` if it is not supported.
fn scaling_of_type(
    kind: Option<&str>,
    fields: &mut Fields<'_>,
    context: usize,
) -> Result<Option<RopeScaling>, Rejected> {
    let scaling = match kind {
        None => {
            fields.only("factor", is_one, "a factor needs a rope_type")?;
            RopeScaling::None
        }
        Some("default") => {
            fields.map.remove("factor");
            RopeScaling::None
        }
        Some("linear") => RopeScaling::Linear { factor: fields.take("factor", None)? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: fields.take("factor", None)?,
            low_freq_factor: fields.take("low_freq_factor", None)?,
            high_freq_factor: fields.take("high_freq_factor", None)?,
            original_max_position_embeddings: fields
                .take_or("original_max_position_embeddings", context)?,
        },
        // Its frequencies differ from unscaled ones only for rows longer than the context.
        Some("dynamic") => {
            fields.take::<f64>("factor", None)?;
            RopeScaling::None
        }
        Some("yarn") if changes_nothing(&["factor"], fields, context)? => RopeScaling::None,
        Some("longrope" | "su")
            if changes_nothing(&["short_factor", "long_factor"], fields, context)? =>
        {
            RopeScaling::None
        }
        Some(_) => return Ok(None),
    };
    Ok(Some(scaling))
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

/// Returns true if the factors of YaRN (arXiv 2309.00071) or LongRoPE (arXiv 2402.13753) are 1 and
/// the `needed` fields are present.
fn changes_nothing(
    needed: &[&str],
    fields: &mut Fields<'_>,
    context: usize,
) -> Result<bool, Rejected> {
    if needed.iter().any(|key| !fields.map.contains_key(*key)) {
        return Ok(false);
    }
    let original = fields.map.get("original_max_position_embeddings").and_then(Value::as_f64);
    let implied = original.map_or(1.0, |original| context as f64 / original);
    let factor: f64 = fields.take_or("factor", implied)?;
    let ones = |key: &str| match fields.map.get(key) {
        None | Some(Value::Null) => true,
        Some(list) => list.as_array().is_some_and(|list| list.iter().all(is_one)),
    };
    Ok(factor == 1.0 && ones("short_factor") && ones("long_factor"))
}

impl From<RopeScaling> for Value {
    fn from(scaling: RopeScaling) -> Self {
        match scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        }
    }
}
