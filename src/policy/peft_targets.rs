//! The modules that an `adapter_config.json` chooses, by PEFT's rules.

use crate::policy::config::decoder_config::DecoderConfig;
use crate::policy::config::rejected::Rejected;
use crate::policy::lora::LORA_MODULES;
use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A regular expression, or names.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    Pattern(String),
    List(Vec<String>),
}

/// One layer or several.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Layers {
    One(usize),
    Many(Vec<usize>),
}

/// The fields of a configuration that choose modules.
pub(crate) struct Targets {
    pub(crate) modules: Option<Names>,
    pub(crate) exclude: Option<Names>,
    pub(crate) layers: Option<Layers>,
    pub(crate) layers_pattern: Option<Names>,
}

/// A value of a pattern field, such as a rank.
pub(crate) type Patterns<T> = BTreeMap<String, T>;

/// PEFT's targets for these families if a configuration names none.
const UNSTATED: [&str; 2] = ["q_proj", "v_proj"];

/// Matrices of a decoder that cannot have an adapter here.
const OTHERS: [&str; 2] = ["lm_head", "model.embed_tokens"];

fn rejected(field: &str, value: impl Serialize, reason: impl Into<String>) -> Rejected {
    let value = serde_json::to_string(&value).unwrap_or_default();
    (field.to_owned(), value, reason.into())
}

/// A pattern that is anchored at the start, as Python's `re.match`.
fn regex(field: &str, pattern: &str, whole: &str) -> Result<Regex, Rejected> {
    Regex::new(&format!("^(?:{whole})")).map_err(|e| rejected(field, pattern, e.to_string()))
}

fn matches(field: &str, pattern: &str, regex: &Regex, name: &str) -> Result<bool, Rejected> {
    regex.is_match(name).map_err(|e| rejected(field, pattern, e.to_string()))
}

/// Returns true if a module's name is `entry` or ends in it.
fn ends_in(name: &str, entry: &str) -> bool {
    name == entry || name.strip_suffix(entry).is_some_and(|start| start.ends_with('.'))
}

impl Targets {
    /// The names of all modules of `model` that get an adapter, such as
    /// `model.layers.0.mlp.up_proj`.
    pub(crate) fn modules_of(&self, model: &DecoderConfig) -> Result<Vec<String>, Rejected> {
        self.check()?;
        let every = model.parameter_shapes().into_iter().filter_map(|(name, _)| {
            let module = name.strip_suffix(".weight")?;
            LORA_MODULES.contains(&module.rsplit('.').next()?).then(|| module.to_owned())
        });
        let mut chosen = self.choose(every.collect())?;
        let chosen_others = self.choose(OTHERS.map(str::to_owned).to_vec())?;
        if let Some(other) = chosen_others.first() {
            let reason = format!("an adapter of {other} is not supported");
            return Err(rejected("target_modules", &self.modules, reason));
        }
        if chosen.is_empty() {
            let reason = "names no projection of this model";
            return Err(rejected("target_modules", &self.modules, reason));
        }
        chosen.sort_unstable();
        Ok(chosen)
    }

    fn check(&self) -> Result<(), Rejected> {
        let pattern = matches!(&self.modules, Some(Names::Pattern(_)));
        if let (true, Some(layers)) = (pattern, &self.layers) {
            return Err(rejected("layers_to_transform", layers, "needs a list of target_modules"));
        }
        match (&self.layers_pattern, &self.layers) {
            (Some(Names::List(list)), _) if list.is_empty() => Ok(()),
            (Some(pattern), None) => {
                Err(rejected("layers_pattern", pattern, "needs layers_to_transform"))
            }
            _ => Ok(()),
        }
    }

    /// The chosen ones of `modules`.
    fn choose(&self, modules: Vec<String>) -> Result<Vec<String>, Rejected> {
        let mut chosen = Vec::new();
        for module in modules {
            if self.includes(&module)? && !self.excludes(&module)? {
                chosen.push(module);
            }
        }
        Ok(chosen)
    }

    fn includes(&self, module: &str) -> Result<bool, Rejected> {
        let by_name = |names: &[&str]| {
            if names.contains(&module) {
                return Ok(true);
            }
            Ok(names.iter().any(|name| ends_in(module, name)) && self.includes_layer(module)?)
        };
        match &self.modules {
            None => by_name(&UNSTATED),
            Some(Names::List(list)) => {
                by_name(&list.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Some(Names::Pattern(text)) if text.eq_ignore_ascii_case("all-linear") => {
                Ok(!OTHERS.contains(&module))
            }
            Some(Names::Pattern(pattern)) => {
                let field = "target_modules";
                let regex = regex(field, pattern, &format!("(?:{pattern})$"))?;
                matches(field, pattern, &regex, module)
            }
        }
    }

    fn excludes(&self, module: &str) -> Result<bool, Rejected> {
        match &self.exclude {
            None => Ok(false),
            Some(Names::List(list)) => Ok(list.iter().any(|name| ends_in(module, name))),
            Some(Names::Pattern(pattern)) if pattern.is_empty() => Ok(false),
            Some(Names::Pattern(pattern)) => {
                let field = "exclude_modules";
                let regex = regex(field, pattern, &format!("(?:{pattern})$"))?;
                matches(field, pattern, &regex, module)
            }
        }
    }

    fn includes_layer(&self, module: &str) -> Result<bool, Rejected> {
        let layers = match &self.layers {
            None => return Ok(true),
            Some(Layers::One(layer)) => std::slice::from_ref(layer),
            Some(Layers::Many(layers)) if layers.is_empty() => return Ok(true),
            Some(Layers::Many(layers)) => layers,
        };
        let index = module.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        let Some(index) = index.and_then(|index| index.parse().ok()) else { return Ok(false) };
        Ok(layers.contains(&index) && self.layer_has_pattern(module)?)
    }

    fn layer_has_pattern(&self, module: &str) -> Result<bool, Rejected> {
        let patterns = match &self.layers_pattern {
            None => return Ok(true),
            Some(Names::Pattern(pattern)) => std::slice::from_ref(pattern),
            Some(Names::List(patterns)) => patterns,
        };
        let field = "layers_pattern";
        for pattern in patterns {
            let regex = regex(field, pattern, &format!(r"(?:.*?\.)?(?:{pattern})\.\d+\."))?;
            if matches(field, pattern, &regex, module)? {
                return Ok(true);
            }
        }
        Ok(patterns.is_empty() || patterns.iter().all(String::is_empty))
    }

    /// The projections of `modules`, each of which must have an adapter in every one of `layers`
    /// layers.
    pub(crate) fn projections(
        &self,
        modules: &[String],
        layers: usize,
    ) -> Result<Vec<String>, Rejected> {
        let last = |module: &String| module.rsplit('.').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = modules.iter().map(last).collect();
        for name in &names {
            let found = modules.iter().filter(|module| last(module) == *name).count();
            if found != layers {
                let reason = format!(
                    "{name} gets an adapter in {found} of {layers} layers: all or none is supported"
                );
                return Err(match (&self.layers, &self.exclude) {
                    (Some(layers), _) => rejected("layers_to_transform", layers, reason),
                    (None, Some(exclude)) => rejected("exclude_modules", exclude, reason),
                    (None, None) => rejected("target_modules", &self.modules, reason),
                });
            }
        }
        let chosen = LORA_MODULES.iter().filter(|name| names.contains(**name));
        Ok(chosen.map(|name| (*name).to_owned()).collect())
    }
}

/// The value that `patterns` gives all `modules`, `default` for modules without a pattern.
pub(crate) fn uniform<T: Copy + PartialEq + fmt::Display + Serialize>(
    field: &str,
    patterns: &Patterns<T>,
    modules: &[String],
    default: T,
) -> Result<T, Rejected> {
    let mut compiled = Vec::with_capacity(patterns.len());
    for (pattern, value) in patterns {
        let whole = format!(r"(?:.*\.)?(?:{pattern})$");
        compiled.push((pattern, regex(field, pattern, &whole)?, *value));
    }
    let mut found: Option<(&String, T)> = None;
    for module in modules {
        let mut own: Option<T> = None;
        for (pattern, regex, value) in &compiled {
            if matches(field, pattern, regex, module)? {
                if own.is_some_and(|own| own != *value) {
                    let reason = format!("{module} has several values");
                    return Err(rejected(field, patterns, reason));
                }
                own = Some(*value);
            }
        }
        let own = own.unwrap_or(default);
        match found {
            Some((first, value)) if value != own => {
                let reason = format!(
                    "{first} has {value} and {module} has {own}: one value for all is supported"
                );
                return Err(rejected(field, patterns, reason));
            }
            _ => found = found.or(Some((module, own))),
        }
    }
    Ok(found.map_or(default, |(_, value)| value))
}
