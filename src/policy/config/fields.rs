//! A JSON object whose fields are taken out one by one, so that unknown ones are left over.

use crate::policy::config::rejected::{require, Rejected};
use serde_json::{Map, Value};

/// The fields of a JSON object that have not been read yet.
pub(crate) struct Fields {
    pub(crate) map: Map<String, Value>,
    /// Prefix of field names in errors, such as `rope_scaling.`.
    pub(crate) prefix: &'static str,
}

impl Fields {
    /// Removes and parses `field`. A missing field is `default` or, without one, an error.
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

    /// Removes `field`, which must be missing, null or one of the values that the implementation
    /// supports.
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

    /// Requires that only `ignored` fields and nulls are left.
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
