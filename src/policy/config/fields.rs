//! The fields of a JSON object, taken out one by one.

use crate::policy::config::rejected::{require, Rejected};
use serde_json::{Map, Value};

/// Reads fields off a JSON object; what is left at the end is unknown.
pub(crate) struct Fields {
    pub(crate) map: Map<String, Value>,
    /// What stands before a field's name in an error.
    pub(crate) prefix: &'static str,
}

impl Fields {
    pub(crate) fn take<T: serde::de::DeserializeOwned>(
        &mut self,
        field: &str,
        default: Option<T>,
    ) -> Result<T, Rejected> {
        let name = format!("{}{field}", self.prefix);
        match (self.map.remove(field), default) {
            (Some(value), _) => serde_json::from_value(value.clone())
                .map_err(|e| (name, value.to_string(), e.to_string())),
            (None, Some(default)) => Ok(default),
            (None, None) => Err((name, "missing".to_owned(), "the field is required".to_owned())),
        }
    }

    /// Requires `field`, where present and not null, to have a value that keeps the maths.
    pub(crate) fn only(
        &mut self,
        field: &str,
        accepted: impl Fn(&Value) -> bool,
        reason: &str,
    ) -> Result<(), Rejected> {
        match self.map.remove(field) {
            Some(value) if !value.is_null() && !accepted(&value) => {
                require(false, &format!("{}{field}", self.prefix), value, reason)
            }
            _ => Ok(()),
        }
    }

    /// Requires that nothing is left but `ignored` and nulls.
    pub(crate) fn finish(self, ignored: &[&str]) -> Result<(), Rejected> {
        let unknown = |(field, value): &(&String, &Value)| {
            !ignored.contains(&field.as_str()) && !value.is_null()
        };
        match self.map.iter().find(unknown) {
            Some((field, value)) => {
                let field = format!("{}{field}", self.prefix);
                require(false, &field, value, "unknown field: it might change the model")
            }
            None => Ok(()),
        }
    }
}
