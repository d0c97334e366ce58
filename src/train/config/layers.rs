//! A file and a command line over a preset: each layer names only what it changes.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::Serialize;
use toml::{Table, Value};

use crate::run::folder::{flatten, read_config};
use crate::train::config::run::TrainConfig;
use crate::{Error, Result};

/// One setting that a file or the command line gives.
#[derive(Debug, Clone)]
struct Given {
    key: String,
    value: Value,
    from_file: bool,
}

impl Given {
    fn error(&self, reason: &str, file: Option<&Path>) -> Error {
        match file {
            Some(path) if self.from_file => {
                Error::file(path, self.key.clone(), format!("= {}: {reason}", self.value))
            }
            _ => Error::setting(&self.key, &self.value, reason),
        }
    }
}

/// serde's reason without the names of Rust types, which no file has.
fn in_words(reason: &str) -> String {
    let numbers = [
        ("usize", "a whole number"),
        ("u64", "a whole number"),
        ("u32", "a whole number"),
        ("f64", "a number"),
    ];
    for (name, words) in numbers {
        if let Some(start) = reason.strip_suffix(&format!("expected {name}")) {
            return format!("{start}expected {words}");
        }
    }
    let kinds = [("internally tagged enum ", "a table with a `kind`"), ("struct ", "a table")];
    for (start, words) in kinds {
        let Some(at) = reason.find(&format!("expected {start}")) else { continue };
        let name = at + "expected ".len();
        let rest = &reason[name + start.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        return format!("{}{words}{}", &reason[..name], &rest[end..]);
    }
    reason.to_owned()
}

impl<E: Serialize + DeserializeOwned> TrainConfig<E> {
    /// These settings with those of a TOML file over them, and `sets` (`KEY=VALUE`, such as
    /// `entropy.method.kind=bonus`) over both. A new `kind` replaces its table by that kind's
    /// defaults.
    ///
    /// # Errors
    /// A file that cannot be read, and the full key, the value and the rule of a setting that does
    /// not exist, is out of range, or contradicts another ([`TrainConfig::check`]).
    pub fn layered(self, file: Option<&Path>, sets: &[String]) -> Result<Self> {
        let base = Table::try_from(&self)
            .map_err(|e| Error::setting("config", "as TOML", e.to_string()))?;
        let mut given = Vec::new();
        if let Some(path) = file {
            given.extend(leaves("", &Value::Table(read_config(path)?), true));
        }
        for set in sets {
            let (key, value) = parse_set(set)?;
            given.extend(leaves(&key, &value, false));
        }
        let config = match apply::<E>(&base, &given) {
            Ok(config) => config,
            Err(error) => return Err(blame::<E>(&base, given, error.message(), file)),
        };
        let used = Table::try_from(&config)
            .map_err(|e| Error::setting("config", "as TOML", e.to_string()))?;
        // serde ignores unknown fields of a kind without settings.
        if let Some(unused) = given.iter().find(|given| !holds(&used, &given.key)) {
            return Err(unused.error("unknown field for this kind", file));
        }
        config.check()?;
        Ok(config)
    }

    /// A sentence for every schedule whose length is not `steps`. Schedules keep their own length,
    /// so that a run can be ended early or continued.
    ///
    /// # Errors
    /// Settings that TOML cannot represent.
    pub fn schedule_notes(&self) -> Result<Vec<String>> {
        let all = Value::try_from(self)
            .map_err(|e| Error::setting("config", "as TOML", e.to_string()))?;
        let steps = self.steps;
        let mut notes = Vec::new();
        flatten("", &all, &mut |key, value| {
            let Some(length) = value.as_integer() else { return };
            if key.ends_with(".total_steps") && length != steps as i64 {
                notes.push(format!("{key} = {length} does not follow steps = {steps}"));
            }
        });
        Ok(notes)
    }

    /// The changes that a resumed run may make, for
    /// [`RunFolder::resume`](crate::run::RunFolder::resume): the number of steps, and where its
    /// model checkpoint is now.
    ///
    /// # Errors
    /// `model` for a run that did not start from a model checkpoint.
    pub fn resumed(
        steps: Option<u64>,
        model: Option<&str>,
    ) -> impl Fn(&mut Self) -> Result<()> + use<'_, E> {
        move |config| {
            if let Some(steps) = steps {
                config.steps = steps;
            }
            match model {
                Some(source) => config.model.relocate(source),
                None => Ok(()),
            }
        }
    }
}

/// `KEY=VALUE` with a TOML value; text that is no TOML value is a string.
fn parse_set(set: &str) -> Result<(String, Value)> {
    let Some((key, text)) = set.split_once('=') else {
        return Err(Error::setting("--set", set, "must be KEY=VALUE"));
    };
    if text.trim().parse::<u64>().is_ok_and(|number| i64::try_from(number).is_err()) {
        let reason = format!("must be at most {}, TOML's largest integer", i64::MAX);
        return Err(Error::setting(key.trim(), text.trim(), reason));
    }
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    Ok((key.trim().to_owned(), value.unwrap_or_else(|| Value::String(text.trim().to_owned()))))
}

/// The settings in `value`, kinds first: a table's kind decides which other keys it has.
fn leaves(prefix: &str, value: &Value, from_file: bool) -> Vec<Given> {
    let mut found = Vec::new();
    flatten(prefix, value, &mut |key, value| {
        found.push(Given { key, value: value.clone(), from_file });
    });
    found.sort_by_key(|given| (!is_kind(&given.key), given.key.matches('.').count()));
    found
}

/// Returns true if a table has a dotted key.
fn holds(table: &Table, key: &str) -> bool {
    match key.split_once('.') {
        None => table.contains_key(key),
        Some((first, rest)) => match table.get(first) {
            Some(Value::Table(inner)) => holds(inner, rest),
            _ => false,
        },
    }
}

fn is_kind(key: &str) -> bool {
    key == "kind" || key.ends_with(".kind")
}

fn apply<E: DeserializeOwned>(
    base: &Table,
    given: &[Given],
) -> std::result::Result<TrainConfig<E>, toml::de::Error> {
    let mut table = base.clone();
    for Given { key, value, .. } in given {
        put(&mut table, key, value.clone());
    }
    table.try_into()
}

/// The error of settings that fail for `reason`, with the key to blame: settings that this failure
/// does not depend on are taken away one by one, kinds excepted, until one is left.
fn blame<E: DeserializeOwned>(
    base: &Table,
    given: Vec<Given>,
    reason: &str,
    file: Option<&Path>,
) -> Error {
    let fails = |given: &[Given]| match apply::<E>(base, given) {
        Ok(_) => false,
        Err(error) => error.message() == reason,
    };
    let mut left = given;
    let mut i = 0;
    while i < left.len() {
        let mut fewer = left.clone();
        fewer.remove(i);
        if !is_kind(&left[i].key) && fails(&fewer) {
            left = fewer;
        } else {
            i += 1;
        }
    }
    let blamed = left.iter().rfind(|given| !is_kind(&given.key)).or(left.last());
    match blamed {
        Some(given) => given.error(&in_words(reason), file),
        None => Error::setting("config", "the preset", reason),
    }
}

/// Sets a dotted key; tables are made where they are missing. A value of another `kind` replaces
/// the table, whose other keys belong to the old kind.
fn put(table: &mut Table, key: &str, value: Value) {
    if let Some((first, rest)) = key.split_once('.') {
        let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
        if !inner.is_table() {
            *inner = Value::Table(Table::new());
        }
        if let Value::Table(inner) = inner {
            put(inner, rest, value);
        }
        return;
    }
    match value {
        Value::Table(settings) => {
            let inner = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                let (kinds, others): (Vec<_>, Vec<_>) =
                    settings.into_iter().partition(|(key, _)| key == "kind");
                for (key, value) in kinds.into_iter().chain(others) {
                    put(inner, &key, value);
                }
            }
        }
        value => {
            if key == "kind" && table.get(key) != Some(&value) {
                table.clear();
            }
            table.insert(key.to_owned(), value);
        }
    }
}
