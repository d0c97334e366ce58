//! A JSON object whose fields are taken out one by one, so that unknown ones are left over.

use crate::policy::config::keys::unknown;
use crate::policy::config::rejected::{require, Rejected};
use serde_json::{Map, Value};

/// The fields of a JSON object that have not been read yet.
pub(crate) struct Fields<'a> {
    pub(crate) map: Map<String, Value>,
    /// Prefix of field names in errors, such as `rope_scaling.`.
    pub(crate) prefix: &'static str,
    /// Full names of fields that may be unknown.
    pub(crate) ignore: &'a [String],
    /// The names of all fields.
    all: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: Map<String, Value>, prefix: &'static str, ignore: &'a [String]) -> Self {
        let all = map.keys().cloned().collect();
        Self { map, prefix, ignore, all }
    }

    /// The full name of a field.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// Removes and parses `field`. A missing field is `default` or, without one, an error.
    pub(crate) fn take<T: serde::de::DeserializeOwned>(
        &mut self,
        field: &str,
        default: Option<T>,
    ) -> Result<T, Rejected> {
        let name = self.name(field);
        match (self.map.remove(field), default) {
            (Some(value), _) => serde_json::from_value(value.clone())
                .map_err(|e| (name, value.to_string(), e.to_string())),
            (None, Some(default)) => Ok(default),
            (None, None) => Err((name, "missing".to_owned(), "the field is required".to_owned())),
        }
    }

    /// Removes and parses `field`; missing and null mean `default`.
    pub(crate) fn take_or<T: serde::de::DeserializeOwned>(
        &mut self,
        field: &str,
        default: T,
    ) -> Result<T, Rejected> {
        Ok(self.take::<Option<T>>(field, Some(None))?.unwrap_or(default))
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
                require(false, &self.name(field), value, reason)
            }
            _ => Ok(()),
        }
    }

    /// Returns true if the settings let `field` pass.
    pub(crate) fn passes(&self, field: &str) -> bool {
        self.ignore.iter().any(|name| name.strip_prefix(self.prefix) == Some(field))
    }

    /// Requires that no field that was taken is to be ignored.
    pub(crate) fn check_ignored(&self) -> Result<(), Rejected> {
        let taken = |field: &&String| !self.map.contains_key(*field) && self.passes(field);
        match self.all.iter().find(taken) {
            Some(field) => {
                let reason = "the model is built from it, so model.ignore must not name it";
                require(false, &self.name(field), "in model.ignore", reason)
            }
            None => Ok(()),
        }
    }

    /// Requires that only nulls and fields that the settings let pass are left.
    pub(crate) fn finish(self) -> Result<(), Rejected> {
        self.check_ignored()?;
        let left = |(field, value): &(&String, &Value)| !value.is_null() && !self.passes(field);
        match self.map.iter().find(left) {
            Some((field, value)) => {
                let field = self.name(field);
                require(false, &field, value, &unknown(&field))
            }
            None => Ok(()),
        }
    }
}
