//! The Jinja environment of chat templates, set up as in transformers.

use crate::policy::chat::{json, strftime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// Most steps of a template; one that runs longer, such as an endless loop, is an error.
const FUEL: u64 = 50_000_000;

pub(crate) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(format);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("raise_exception: {message}")))
    });
    environment.add_function("strftime_now", |state: &mut State, format: &str| {
        let fixed = state.lookup("__now").and_then(|now| u64::try_from(now).ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        strftime::strftime(format, fixed.unwrap_or_else(now)).map_err(|code| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now: unknown format code {code}"),
            )
        })
    });
    Ok(environment)
}

/// Prints a value as Python does: floats by `repr`, everything else as minijinja.
fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone())?;
            out.write_str(&json::python_float(number)).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Replaces `{% generation %}` blocks, which only mark the assistant's text for training, by
/// `{% if true %}` blocks.
pub(crate) fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length];
        out.push_str(&rest[..start]);
        match tag[2..].trim_matches(|c: char| c.is_whitespace() || "+-".contains(c)) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}
