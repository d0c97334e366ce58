//! One line of a run's metrics: written the same for the same seed, read back and compared.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// The file of a run folder that holds its metrics.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// How keys begin that depend on the clock.
pub const TIME_PREFIX: &str = "time/";

/// One line of `metrics.jsonl`: a phase, a step and its values, keys sorted.
///
/// ```
/// use epo::train::Record;
/// let record = Record::new("rl", 3).with("entropy", 1.5).with("entropy_turn", [1.0, f64::NAN]);
/// assert_eq!(record.to_json(), r#"{"entropy":1.5,"entropy_turn":[1.0,"NaN"],"phase":"rl","step":3}"#);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    phase: String,
    step: u64,
    values: BTreeMap<String, Metric>,
}

impl Record {
    /// An empty record of `step` (counted from 0 within its phase) in `phase` (`clone`, `rl`, `eval`, …).
    pub fn new(phase: impl Into<String>, step: u64) -> Self {
        Self { phase: phase.into(), step, values: BTreeMap::new() }
    }

    /// The record with one more value; the last one set under a key counts.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Metric>) -> Self {
        self.set(key, value);
        self
    }

    /// Sets a value; the last one set under a key counts. `phase` and `step` cannot be replaced.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Metric>) {
        self.values.insert(key.into(), value.into());
    }

    /// Its phase.
    pub fn phase(&self) -> &str {
        &self.phase
    }

    /// Its step, counted from 0 within its phase.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The value under `key`, where it is a number.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Metric::Number(x) => Some(*x),
            Metric::Count(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// The line, without its end.
    pub fn to_json(&self) -> String {
        let mut sorted: BTreeMap<&str, Value> =
            self.values.iter().map(|(key, value)| (key.as_str(), value.to_json())).collect();
        sorted.insert("phase", Value::from(self.phase.as_str()));
        sorted.insert("step", Value::from(self.step));
        let fields: Vec<String> =
            sorted.iter().map(|(k, v)| format!("{}:{v}", Value::from(*k))).collect();
        format!("{{{}}}", fields.join(","))
    }

    /// Every number as (tag, value), the entries of a series under `key/00`, `key/01`, ….
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

    /// The TensorBoard folder: `phase`, or `phase/panel`.
    pub(crate) fn folder(&self) -> String {
        match self.values.get("panel") {
            Some(Metric::Text(panel)) => {
                format!("{}/{}", folder_safe(&self.phase), folder_safe(panel))
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
    /// Numbers by index, as one per turn index.
    Series(Vec<f64>),
    /// A value that does not exist in this step, written as `null`.
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

/// The lines of a run's `metrics.jsonl`; a last line without its end, cut off by a kill, is left out.
///
/// # Errors
/// [`Error::File`] naming the line that is not a JSON object, [`Error::Io`].
pub fn read_metrics(run_dir: impl AsRef<Path>) -> Result<Vec<serde_json::Map<String, Value>>> {
    read_lines(&run_dir.as_ref().join(METRICS_FILE))
}

/// The lines of a file of JSON objects, without a last line that was cut off.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<serde_json::Map<String, Value>>> {
    let mut lines = Vec::new();
    whole_lines(path, |number, line| {
        let parsed = serde_json::from_str(line);
        lines.push(parsed.map_err(|e| bad_line(path, number, &e))?);
        Ok(())
    })?;
    Ok(lines)
}

/// What is wrong with a line of JSON; serde counts lines within it.
pub(crate) fn bad_line(path: &Path, number: usize, error: &serde_json::Error) -> Error {
    Error::file(
        path,
        format!("line {number}"),
        error.to_string().replace(" at line 1 column", " at column"),
    )
}

/// Calls `each` with every line that has its end, and its number from 1; one line in memory at a time.
pub(crate) fn whole_lines(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> Result<()>,
) -> Result<()> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let (mut reader, mut line) = (std::io::BufReader::new(file), String::new());
    for number in 1.. {
        line.clear();
        reader.read_line(&mut line).map_err(|e| Error::io(path, e))?;
        match line.strip_suffix('\n') {
            Some(whole) => each(number, whole)?,
            None => break,
        }
    }
    Ok(())
}

/// The first difference between the metrics of two runs, times left out; `None` where they are the same.
///
/// Numbers are compared to the bit.
///
/// # Errors
/// Those of [`read_metrics`].
pub fn first_difference(
    run_a: impl AsRef<Path>,
    run_b: impl AsRef<Path>,
) -> Result<Option<String>> {
    let (a, b) = (without_times(run_a.as_ref())?, without_times(run_b.as_ref())?);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let keys = a.keys().chain(b.keys());
        if let Some(key) = keys.into_iter().find(|k| a.get(*k) != b.get(*k)) {
            let show = |v: Option<&Value>| v.map_or("absent".to_owned(), Value::to_string);
            let (a, b) = (show(a.get(key)), show(b.get(key)));
            return Ok(Some(format!("line {}: `{key}` is {a} and {b}", i + 1)));
        }
    }
    Ok((a.len() != b.len()).then(|| format!("{} lines and {} lines", a.len(), b.len())))
}

fn without_times(run_dir: &Path) -> Result<Vec<serde_json::Map<String, Value>>> {
    let mut lines = read_metrics(run_dir)?;
    lines.iter_mut().for_each(|line| line.retain(|key, _| !key.starts_with(TIME_PREFIX)));
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
