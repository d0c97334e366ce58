//! One line of a run's metrics: written, read back and compared.
//!
//! Keys are sorted and floats keep every bit, so that the same seed gives the same line.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::run::lines::{bad_line, whole_lines};
use crate::Result;

/// The file of a run folder that holds its metrics.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The prefix of keys whose values depend on the clock.
pub const TIME_PREFIX: &str = "time/";

/// One line of `metrics.jsonl`: a phase, a step and named values, with sorted keys.
///
/// ```
/// use epo::run::Record;
/// let record = Record::new("rl", 3).with("success", 1.5).with("turns", [1.0, f64::NAN]);
/// assert_eq!(record.to_json(), r#"{"phase":"rl","step":3,"success":1.5,"turns":[1.0,"NaN"]}"#);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    phase: String,
    step: u64,
    values: BTreeMap<String, Metric>,
}

impl Record {
    /// Creates an empty record of a phase (`clone`, `rl`, `eval`, …) and a step, counted from 0
    /// within the phase.
    pub fn new(phase: impl Into<String>, step: u64) -> Self {
        Self { phase: phase.into(), step, values: BTreeMap::new() }
    }

    /// Returns the record with one more value, which replaces an earlier one of the same key.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Metric>) -> Self {
        self.set(key, value);
        self
    }

    /// Sets a value, replacing an earlier one of the same key; `phase` and `step` stay as they are.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Metric>) {
        self.values.insert(key.into(), value.into());
    }

    /// The phase.
    pub fn phase(&self) -> &str {
        &self.phase
    }

    /// The step, counted from 0 within its phase.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The value of `key` if it is a number.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Metric::Number(x) => Some(*x),
            Metric::Count(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// The record as a line of JSON, without the line end.
    pub fn to_json(&self) -> String {
        let mut sorted: BTreeMap<&str, Value> =
            self.values.iter().map(|(key, value)| (key.as_str(), value.to_json())).collect();
        sorted.insert("phase", Value::from(self.phase.as_str()));
        sorted.insert("step", Value::from(self.step));
        let fields: Vec<String> =
            sorted.iter().map(|(k, v)| format!("{}:{v}", Value::from(*k))).collect();
        format!("{{{}}}", fields.join(","))
    }

    /// Every number as (tag, value); the entries of a series have tags `key/00`, `key/01`, ….
    pub(crate) fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars = Vec::new();
        for (key, value) in &self.values {
            match value {
                Metric::Series(xs) => {
                    scalars
                        .extend(xs.iter().enumerate().map(|(i, x)| (format!("{key}/{i:02}"), *x)));
                }
                _ => scalars.extend(self.number(key).map(|x| (key.clone(), x))),
            }
        }
        scalars
    }

    /// The TensorBoard folder: `phase`, or `phase/SET` for an evaluation set.
    pub(crate) fn folder(&self) -> String {
        match self.values.get("panel") {
            Some(Metric::Text(name)) => {
                format!("{}/{}", folder_safe(&self.phase), folder_safe(name))
            }
            _ => folder_safe(&self.phase),
        }
    }
}

/// A value of a [`Record`].
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// A real number; NaN and infinities are written as strings.
    Number(f64),
    /// A count.
    Count(u64),
    /// Yes or no.
    Flag(bool),
    /// A name.
    Text(String),
    /// Numbers by index, for example one per turn index.
    Series(Vec<f64>),
    /// A value that this step does not have, written as `null`.
    Missing,
}

impl Metric {
    fn to_json(&self) -> Value {
        match self {
            Self::Number(x) => number_to_json(*x),
            Self::Count(n) => Value::from(*n),
            Self::Flag(b) => Value::from(*b),
            Self::Text(s) => Value::from(s.as_str()),
            Self::Series(xs) => xs.iter().map(|x| number_to_json(*x)).collect(),
            Self::Missing => Value::Null,
        }
    }
}

macro_rules! metric_from {
    ($($from:ty => $variant:ident($convert:expr)),* $(,)?) => {$(
        impl From<$from> for Metric {
            fn from(value: $from) -> Self {
                Self::$variant($convert(value))
            }
        }
    )*};
}
metric_from! {
    f64 => Number(f64::from), f32 => Number(f64::from),
    u64 => Count(u64::from), u32 => Count(u64::from), usize => Count(|n| n as u64),
    bool => Flag(bool::from), String => Text(String::from), &str => Text(String::from),
    Vec<f64> => Series(Vec::from), &[f64] => Series(<[f64]>::to_vec),
}

impl<const N: usize> From<[f64; N]> for Metric {
    fn from(values: [f64; N]) -> Self {
        Self::Series(values.to_vec())
    }
}

impl<T: Into<Metric>> From<Option<T>> for Metric {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

/// Reads the lines of a run's `metrics.jsonl`, without a last line that a kill has cut off.
///
/// # Errors
/// [`Error::File`](crate::Error::File) with the number of a line that is not a JSON object;
/// [`Error::Io`](crate::Error::Io).
pub fn read_metrics(run_dir: impl AsRef<Path>) -> Result<Vec<Map<String, Value>>> {
    let path = run_dir.as_ref().join(METRICS_FILE);
    let mut lines = Vec::new();
    whole_lines(&path, |number, line| {
        let parsed = serde_json::from_str(line);
        lines.push(parsed.map_err(|e| bad_line(&path, number, &e))?);
        Ok(())
    })?;
    Ok(lines)
}

/// Compares the metrics of two runs bit for bit, without times, and describes the first difference.
///
/// Returns `None` if the metrics are the same.
///
/// # Errors
/// [`Error::File`](crate::Error::File) with the number of a line that is not a JSON object;
/// [`Error::Io`](crate::Error::Io).
pub fn first_difference(
    run_a: impl AsRef<Path>,
    run_b: impl AsRef<Path>,
) -> Result<Option<String>> {
    let a = without_times(run_a.as_ref())?;
    let b = without_times(run_b.as_ref())?;
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let keys = a.keys().chain(b.keys());
        if let Some(key) = keys.into_iter().find(|k| a.get(*k) != b.get(*k)) {
            let show = |v: Option<&Value>| v.map_or("absent".to_owned(), Value::to_string);
            let difference = format!("{} and {}", show(a.get(key)), show(b.get(key)));
            return Ok(Some(format!("line {}: `{key}` is {difference}", i + 1)));
        }
    }
    Ok((a.len() != b.len()).then(|| format!("{} lines and {} lines", a.len(), b.len())))
}

fn without_times(run_dir: &Path) -> Result<Vec<Map<String, Value>>> {
    let mut lines = read_metrics(run_dir)?;
    for line in &mut lines {
        line.retain(|key, _| !key.starts_with(TIME_PREFIX));
    }
    Ok(lines)
}

fn number_to_json(x: f64) -> Value {
    serde_json::Number::from_f64(x).map_or_else(|| Value::from(x.to_string()), Value::Number)
}

fn folder_safe(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.chars().all(|c| c == '.') {
        "_".to_owned()
    } else {
        name
    }
}
