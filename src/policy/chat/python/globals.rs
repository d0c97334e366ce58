//! Functions and types that every template can call.

use crate::policy::chat::python::args::Args;
use crate::policy::chat::python::dicts;
use crate::policy::chat::python::numbers::expect_index;
use crate::policy::chat::python::text::text;
use crate::policy::chat::python::types::{failed, Cycler, Joiner, Range};
use crate::policy::chat::strftime::strftime;
use minijinja::{Error, State, Value};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const NAMES: [&str; 8] =
    ["cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"];

/// Most numbers of a `range`, as in jinja2's sandbox.
const LONGEST_RANGE: usize = 100_000;

pub(crate) fn call(name: &str, state: &mut State, values: &[Value]) -> Result<Value, Error> {
    let args = Args::of(values)?;
    match name {
        "range" => range(&args),
        "dict" => dict(&args),
        "namespace" => {
            let entries = dict(&args)?;
            Value::from_function(minijinja::functions::namespace).call(state, &[entries])
        }
        "cycler" => {
            if args.positional.is_empty() || !args.named.is_empty() {
                return Err(failed("cycler takes at least one item, without names"));
            }
            Ok(Value::from_object(Cycler { items: args.positional, at: Mutex::new(0) }))
        }
        "joiner" => {
            let [separator] = args.bind(["sep"], 0)?;
            let separator = separator.unwrap_or_else(|| Value::from(", "));
            Ok(Value::from_object(Joiner { separator, used: Mutex::new(false) }))
        }
        "raise_exception" => {
            let [message] = args.bind(["message"], 1)?;
            let message = message.unwrap_or_default();
            Err(failed(format!("raise_exception: {}", text(&message)?)))
        }
        "strftime_now" => {
            let [format] = args.bind(["format"], 1)?;
            let format = format.unwrap_or_default();
            let format = format.as_str().ok_or_else(|| failed("strftime_now takes a string"))?;
            Ok(Value::from(strftime(format, now(state))))
        }
        _ => Err(failed(format!("{name} is not supported: its text depends on chance"))),
    }
}

/// The run's time, or the clock's.
fn now(state: &State) -> u64 {
    let fixed = state.lookup("__now").and_then(|now| u64::try_from(now).ok());
    fixed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
    })
}

fn range(args: &Args) -> Result<Value, Error> {
    let given = args.only(1, 3)?;
    let mut numbers = Vec::new();
    for value in given {
        let number = expect_index(value, "range")?;
        numbers.push(i64::try_from(number).map_err(|_| failed("range: a number is too large"))?);
    }
    let range = match numbers.as_slice() {
        [stop] => Range { start: 0, stop: *stop, step: 1 },
        [start, stop] => Range { start: *start, stop: *stop, step: 1 },
        _ => Range { start: numbers[0], stop: numbers[1], step: numbers[2] },
    };
    if range.step == 0 {
        return Err(failed("range: the step is zero"));
    }
    if range.len() > LONGEST_RANGE {
        return Err(failed(format!("range: more than {LONGEST_RANGE} numbers")));
    }
    Ok(Value::from_object(range))
}

fn dict(args: &Args) -> Result<Value, Error> {
    let mut entries = match args.positional.as_slice() {
        [] => Vec::new(),
        [value] => dicts::pairs(value)?,
        _ => return Err(failed("dict takes at most one value without a name")),
    };
    let named = args.named.iter().map(|(name, value)| (Value::from(name), value.clone()));
    entries.extend(named);
    dicts::from_entries(entries)
}
