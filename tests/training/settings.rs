//! Every setting by its full key: what is printed reads back as the same run, and a refusal names
//! the key and the value.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use epo::entropy::EntropyMethod;
use epo::run::{config_text, read_config};
use epo::train::config::{Algorithm, NoSettings, Preset, TrainConfig};
use epo::worlds::{AlfWorldTasks, Benchmark, ScienceWorldTasks};
use epo::Error;
use toml::{Table, Value};

const ENTROPY_KINDS: [&str; 9] = [
    "none",
    "bonus",
    "decayed-bonus",
    "adaptive",
    "epo",
    "epo-official",
    "clip-cov",
    "kl-cov",
    "top-entropy",
];

/// The tables that the presets switch off, with every kind of each.
const OPTIONAL: [&[&str]; 3] = [
    &[
        "dump={}",
        "rollout.group=4",
        "dynamic_sampling={max_rounds=4}",
        "overlong={limit=12, buffer=8, penalty=0.5}",
        "update.policy.kl={estimator=\"k3\", coef=0.01}",
        "kl_reward.estimator=k1",
        "kl_reward.control={kind=\"adaptive\", coef=0.1, target=0.1, horizon=10000}",
        "update.correction={kind=\"mask\", level=\"token\", min=0.5, max=5.0}",
    ],
    &[
        "model.kind=checkpoint",
        "model.source=somewhere",
        "model.context=4096",
        "model.lora={rank=8, dropout=0.1}",
        "alarm.action.kind=lower-lr",
        "kl_reward={estimator=\"k2\", control={kind=\"fixed\", coef=0.1}}",
        "update.correction={kind=\"truncate\", level=\"sequence\", max=5.0}",
        "rollout.actions.kind=admissible",
    ],
    &[
        "cloning=false",
        "alarm=false",
        "entropy.history={kind=\"window\", steps=20}",
        "update.policy.kind=reinforce",
        "schedule={kind=\"constant\", warmup_steps=3}",
        "rollout.actions={kind=\"free\", max_tokens=12}",
    ],
];

trait World: Benchmark + Clone + PartialEq + Debug {}
impl<E: Benchmark + Clone + PartialEq + Debug> World for E {}

fn set<E: World>(base: &TrainConfig<E>, sets: &[&str]) -> epo::Result<TrainConfig<E>> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    base.clone().layered(None, &sets)
}

/// All presets for an algorithm.
fn presets<E: World>(algorithm: Algorithm) -> Vec<TrainConfig<E>> {
    [Preset::Small, Preset::Llm, Preset::Paper, Preset::Official]
        .map(|preset| E::preset(preset, algorithm))
        .to_vec()
}

/// A preset with each entropy method, and with each of [`OPTIONAL`].
fn variants<E: World>(preset: &TrainConfig<E>) -> Vec<TrainConfig<E>> {
    let mut all = Vec::new();
    for kind in ENTROPY_KINDS {
        // KL-Cov has no gradient in the first of a step's updates.
        let method = format!("entropy.method.kind={kind}");
        all.push(set(preset, &["update.mini_batches=2", &method]).unwrap());
    }
    for sets in OPTIONAL {
        all.push(set(preset, sets).unwrap_or_else(|e| panic!("{sets:?}: {e}")));
    }
    all
}

fn config_file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn reads_back<E: World>(algorithm: Algorithm) {
    let folder = tempfile::tempdir().unwrap();
    let bases = presets::<E>(algorithm);
    let others: Vec<TrainConfig<E>> = bases.iter().flat_map(variants).collect();
    for preset in &bases {
        preset.check().unwrap();
        preset.environment.check().unwrap();
        E::smoke(preset.clone()).check().unwrap();
        assert_eq!(preset.algorithm.kind(), algorithm);
        assert_eq!(preset.clone().layered(Some(&config_file(&folder, "")), &[]).unwrap(), *preset);
        for config in variants(preset) {
            let text = config_text(&config).unwrap();
            let path = config_file(&folder, &text);
            assert_eq!(read_config::<TrainConfig<E>>(&path).unwrap(), config, "{text}");
            for other in bases.iter().chain(&others[others.len() - OPTIONAL.len()..]) {
                let read = other.clone().layered(Some(&path), &[]);
                assert_eq!(read.unwrap_or_else(|e| panic!("{e}\n{text}")), config, "{text}");
            }
        }
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same_run_over_any_base() {
    for algorithm in [Algorithm::Grpo, Algorithm::Ppo] {
        reads_back::<AlfWorldTasks>(algorithm);
        reads_back::<ScienceWorldTasks>(algorithm);
    }
}

#[test]
fn only_the_settings_of_the_chosen_kind_are_printed() {
    let base = AlfWorldTasks::preset(Preset::Small, Algorithm::Grpo);
    for kind in ENTROPY_KINDS {
        let method = format!("entropy.method.kind={kind}");
        let text = config_text(&set(&base, &["update.mini_batches=2", &method]).unwrap()).unwrap();
        let lambda = !["none", "clip-cov", "kl-cov", "top-entropy"].contains(&kind);
        assert_eq!(text.contains("\nlambda = 0.001\n"), lambda, "{text}");
        assert!(text.contains("kappa_low") && text.contains("[entropy.history]"), "{text}");
    }
    for of_ppo in ["[algorithm.critic", "[algorithm.gae"] {
        assert!(!config_text(&base).unwrap().contains(of_ppo));
    }
}

/// Calls `each` with the dotted key of every value that is not a table.
fn leaves(prefix: &str, table: &Table, each: &mut dyn FnMut(String, &Value)) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) if !inner.is_empty() => leaves(&key, inner, each),
            value => each(key, value),
        }
    }
}

fn keys<E: World>(config: &TrainConfig<E>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let table = Table::try_from(config).unwrap();
    leaves("", &table, &mut |key, _| {
        keys.insert(key);
    });
    keys
}

/// Wrong values as TOML text, with a part of each that an error has to show.
const WRONG: [(&str, &str); 10] = [
    ("-1", "-1"),
    ("0", "0"),
    ("1e9", "1000000000"),
    ("nan", "nan"),
    ("inf", "inf"),
    ("\"nonsense\"", "nonsense"),
    ("true", "true"),
    ("[]", "[]"),
    ("[\"nonsense\"]", "nonsense"),
    ("[9, 4]", "9, 4"),
];

fn checked<E: World>(
    base: &TrainConfig<E>,
    key: &str,
    file: Option<&Path>,
    sets: &[String],
) -> epo::Result<()> {
    let config = base.clone().layered(file, sets)?;
    if key.starts_with("environment.") {
        config.environment.check()?;
    }
    Ok(())
}

/// A fault of the error that setting `key` to `value` led to, if it has one.
fn fault(
    error: &Error,
    keys: &BTreeSet<String>,
    key: &str,
    value: &str,
    file: Option<&Path>,
) -> Option<String> {
    let text = error.to_string();
    let field = match error {
        Error::Setting { field, .. } | Error::File { field, .. } => field,
        _ => return Some(format!("{key}: names no key: {text}")),
    };
    // A rule between two settings may blame the other one, and then names both.
    if field != key && !(keys.contains(field) && text.contains(key)) {
        return Some(format!("{key} = {value}: names `{field}`: {text}"));
    }
    if !text.to_lowercase().contains(value) {
        return Some(format!("{key} = {value}: does not show the value: {text}"));
    }
    // The world's check comes after the file was read.
    match file {
        Some(file) if matches!(error, Error::File { path, .. } if path != file) => {
            Some(format!("{key}: names another file: {text}"))
        }
        _ => None,
    }
}

/// Sets each of the keys of `base` that `walked` chooses to every wrong value; returns the faults
/// of the errors. Every key must refuse some value.
fn walk<E: World>(base: &TrainConfig<E>, walked: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(base);
    let mut faults = Vec::new();
    for key in keys.iter().filter(|key| walked(key)) {
        let mut refused = false;
        for (value, shown) in WRONG {
            let text = format!("{key}={value}");
            if let Err(error) = checked(base, key, None, std::slice::from_ref(&text)) {
                faults.extend(fault(&error, &keys, key, shown, None));
                let path = config_file(&folder, &text);
                let error = checked(base, key, Some(&path), &[]).unwrap_err();
                faults.extend(fault(&error, &keys, key, shown, Some(&path)));
                refused = true;
            }
        }
        if !refused {
            faults.push(format!("{key}: every value is accepted"));
        }
    }
    faults
}

fn walk_world<E: World>() {
    let mut faults = Vec::new();
    for algorithm in [Algorithm::Grpo, Algorithm::Ppo] {
        let small = E::preset(Preset::Small, algorithm);
        let known = keys(&small);
        faults.extend(walk(&small, |_| true));
        for base in variants(&small) {
            faults.extend(walk(&base, |key| {
                key.starts_with("entropy.method.") || !known.contains(key)
            }));
        }
        let paper = E::preset(Preset::Paper, algorithm);
        faults.extend(walk(&paper, |key| !known.contains(key)));
    }
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_refused_setting_of_alfworld_is_named_by_its_key() {
    walk_world::<AlfWorldTasks>();
}

#[test]
fn every_refused_setting_of_scienceworld_is_named_by_its_key() {
    walk_world::<ScienceWorldTasks>();
}

fn small(algorithm: Algorithm) -> TrainConfig {
    TrainConfig::small(algorithm, NoSettings {})
}

/// Requires `text`, in a file and if it is one setting also as `--set`, to be refused over a small
/// run, naming the key, the file and a part of the reason.
fn refuses(algorithm: Algorithm, text: &str, key: &str, reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = config_file(&folder, text);
    let error = small(algorithm).layered(Some(&path), &[]).map(drop).unwrap_err().to_string();
    assert!(error.contains(&format!("`{key}`")) && error.contains(reason), "{text}: {error}");
    if !text.contains('\n') && !text.starts_with('[') {
        let error = small(algorithm).layered(None, &[text.to_owned()]).map(drop).unwrap_err();
        match error {
            Error::Setting { field, .. } => assert_eq!(field, key, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
}

/// The same, refused when the file is read, so that the error names the file.
fn refuses_in_file(algorithm: Algorithm, text: &str, key: &str, reason: &str) {
    refuses(algorithm, text, key, reason);
    let folder = tempfile::tempdir().unwrap();
    let path = config_file(&folder, text);
    let error = small(algorithm).layered(Some(&path), &[]).map(drop).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{text}: {error}");
}

#[test]
fn unknown_keys_kinds_and_switches_are_refused_by_their_full_key() {
    use Algorithm::{Grpo, Ppo};
    for (text, key, reason) in [
        ("step = 3", "step", "unknown field"),
        ("rollout.temprature = 0.5", "rollout.temprature", "unknown field"),
        ("entropy.kapa_low = 0.5", "entropy.kapa_low", "unknown field"),
        ("environment.tasks = []", "environment.tasks", "unknown field"),
        ("entropy.method.kind = \"epoo\"", "entropy.method.kind", "epo-official"),
        ("algorithm.kind = \"dqn\"", "algorithm.kind", "grpo"),
        ("rollout.actions.kind = \"some\"", "rollout.actions.kind", "admissible"),
        ("alarm.action.kind = \"off\"", "alarm.action.kind", "lower-lr"),
        ("dump = true", "dump", "`false`"),
        ("cloning = true", "cloning", "`false`"),
        ("alarm = true", "alarm", "`false`"),
        ("overlong = true", "overlong", "`false`"),
        ("kl_reward = true", "kl_reward", "`false`"),
        ("dynamic_sampling = true", "dynamic_sampling", "`false`"),
        ("update.correction = true", "update.correction", "`false`"),
        ("entropy.method.gate = 3", "entropy.method.gate", "unknown field"),
        ("dump_megabytes = 9", "dump_megabytes", "unknown field"),
    ] {
        refuses_in_file(Grpo, text, key, reason);
        refuses_in_file(Ppo, text, key, reason);
    }
    refuses_in_file(Grpo, "[critic]", "critic", "unknown field");
    refuses_in_file(Grpo, "[algorithm.critic]", "algorithm.critic", "unknown field");
}

#[test]
fn a_setting_of_another_kind_is_refused_by_its_full_key() {
    use Algorithm::{Grpo, Ppo};
    let method = |kind: &str, field: &str| {
        let text = format!("[entropy.method]\nkind = \"{kind}\"\n{field} = 1.0");
        refuses_in_file(Grpo, &text, &format!("entropy.method.{field}"), "unknown field");
    };
    method("none", "lambda");
    method("none", "alpha");
    method("none", "granularity");
    method("bonus", "alpha");
    method("bonus", "beta");
    method("decayed-bonus", "alpha");
    method("adaptive", "beta");
    method("clip-cov", "lambda");
    method("clip-cov", "coef");
    method("kl-cov", "granularity");
    method("kl-cov", "low");
    method("top-entropy", "alpha");
    method("epo", "share");
    for (algorithm, text, key) in [
        (Grpo, "algorithm.gae.lambda = 0.9", "algorithm.gae.lambda"),
        (Grpo, "algorithm.critic.warmup_steps = 1", "algorithm.critic.warmup_steps"),
        (Ppo, "algorithm.advantage.gamma = 0.9", "algorithm.advantage.gamma"),
        (Ppo, "algorithm.critic.lr = 1.0", "algorithm.critic.lr"),
        (Grpo, "alarm.action.factor = 0.25", "alarm.action.factor"),
        (Grpo, "model.format = \"plain\"", "model.format"),
        (Grpo, "model.lora.rank = 4", "model.lora.rank"),
        (Grpo, "model = { kind = \"checkpoint\", source = \"x\", layers = 2 }", "model.layers"),
        (
            Grpo,
            "rollout.actions = { kind = \"admissible\", max_tokens = 8 }",
            "rollout.actions.max_tokens",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = config_file(&folder, text);
        let error = small(algorithm).layered(Some(&path), &[]).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
        assert!(error.contains("unknown field"), "{text}: {error}");
        assert!(error.starts_with(&path.display().to_string()), "{text}: {error}");
    }
}

#[test]
fn contradictions_are_refused_by_their_full_key() {
    use Algorithm::{Grpo, Ppo};
    let body = "algorithm.critic.body = { kind = \"own\", hidden_size = 20, layers = 1 }";
    let fixed = "kl_reward = { estimator = \"k1\", control = { kind = \"fixed\", coef = -1.0 } }";
    let short = "entropy.history = { kind = \"official\", max_steps = 9 }";
    let one_step = "update.mini_batches = 1\n[entropy.method]\nkind = \"kl-cov\"";
    let reinforce = "update.policy = { kind = \"reinforce\", clip_low = 0.1 }";
    for (algorithm, text, key) in [
        (Grpo, "rollout.group = 1", "rollout.group"),
        (Ppo, "dynamic_sampling.max_rounds = 4", "rollout.group"),
        (Ppo, "algorithm.gae.lambda = 1.5", "algorithm.gae.lambda"),
        (Ppo, "algorithm.critic.value_clip = 0.0", "algorithm.critic.value_clip"),
        (Ppo, body, "algorithm.critic.body.hidden_size"),
        (Ppo, "overlong = { limit = 20, buffer = 8, penalty = 1.0 }", "overlong.limit"),
        (Ppo, "overlong = { limit = 4, buffer = 8, penalty = 1.0 }", "overlong.buffer"),
        (Ppo, fixed, "kl_reward.control.coef"),
        (Ppo, "environments = 0", "environments"),
        (Ppo, "entropy.method.lambda = 0.0", "entropy.method.lambda"),
        (Ppo, "entropy.method.alpha = 0.0", "entropy.method.alpha"),
        (Ppo, "entropy.method = { kind = \"kl-cov\", coef = 0.0 }", "entropy.method.coef"),
        (Grpo, one_step, "entropy.method.kind"),
        (Grpo, short, "entropy.history.max_steps"),
        (Ppo, "reward = { kind = \"success\", value = 0.0 }", "reward.value"),
        (Grpo, "algorithm.advantage.estimator = \"rloo\"", "algorithm.advantage.estimator"),
        (Grpo, "update.policy = { kind = \"gspo\", dual_clip = 3.0 }", "update.policy.dual_clip"),
        (Grpo, reinforce, "update.policy.clip_low"),
        (Grpo, "evaluation = { temperature = 0.0, greedy = true }", "evaluation.greedy"),
        (Grpo, "model.hidden_size = 20", "model.hidden_size"),
        (Grpo, "schedule.warmup_steps = 900", "schedule.warmup_steps"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = config_file(&folder, text);
        let error = small(algorithm).layered(Some(&path), &[]).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
    }
}

#[test]
fn sizes_that_no_machine_has_are_refused_by_their_full_key() {
    for (text, key, reason) in [
        ("rollout.tasks = 100000000000", "rollout.tasks", "at most 1000000"),
        ("rollout.group = 1000000", "rollout.tasks", "× rollout.group must be at most 1000000"),
        ("rollout.max_turns = 100000000", "rollout.max_turns", "at most 1000000"),
        ("rollout.actions.max_tokens = 9999999", "rollout.actions.max_tokens", "at most 1000000"),
        ("environments = 1000000001", "environments", "at most 1000000"),
        ("demonstrations = 1000000001", "demonstrations", "at most 1000000"),
        ("evaluation.episodes = 1000000001", "evaluation.episodes", "at most 1000000"),
        ("update.micro_batch_tokens = 2000000000", "update.micro_batch_tokens", "at most 1000000"),
        ("model.layers = 9000000", "model.layers", "at most 1000000"),
        ("model.hidden_size = 640000", "model.hidden_size", "e12 weights"),
        ("alarm.window = 9000000", "alarm.window", "at most 1000000"),
    ] {
        refuses(Algorithm::Grpo, text, key, reason);
    }
}

#[test]
fn a_reason_names_no_type_of_the_program() {
    let table = "invalid type: integer `3`, expected a table";
    refuses(Algorithm::Grpo, "rollout = 3", "rollout", table);
    refuses(Algorithm::Grpo, "steps = 1e3", "steps", "`1000.0`, expected a whole number");
    refuses(Algorithm::Grpo, "learning_rate = \"x\"", "learning_rate", "expected a number");
    refuses(Algorithm::Grpo, "entropy.history = \"x\"", "entropy.history", "a table with a `kind`");
    let error = small(Algorithm::Grpo).layered(None, &[format!("seed={}", u64::MAX)]).unwrap_err();
    let expected = "setting `seed` = 18446744073709551615: must be at most 9223372036854775807";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn schedules_that_do_not_follow_the_steps_are_named() {
    let base = small(Algorithm::Ppo);
    let sets = ["steps=90", "entropy.method.beta.total_steps=90"].map(str::to_owned);
    let notes = base.clone().layered(None, &sets).unwrap().schedule_notes().unwrap();
    assert_eq!(notes, ["schedule.total_steps = 60 does not follow steps = 90"]);
    let sets = ["schedule.total_steps=90", "steps=90"].map(str::to_owned);
    let notes = base.layered(None, &sets).unwrap().schedule_notes().unwrap();
    assert_eq!(notes, ["entropy.method.beta.total_steps = 150 does not follow steps = 90"]);
}

#[test]
fn a_set_without_a_value_is_refused() {
    let error = small(Algorithm::Grpo).layered(None, &["steps".to_owned()]).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "setting `--set` = steps: must be KEY=VALUE");
}

#[test]
fn the_command_line_goes_over_the_file_and_keeps_what_it_does_not_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = config_file(&folder, "seed = 1\nentropy.band.kappa_high = 1.25\n[dump]\n");
    let sets = ["seed=7", "entropy.method.kind=epo-official", "entropy.method.gate=3"];
    let config = small(Algorithm::Grpo).layered(Some(&path), &sets.map(String::from)).unwrap();
    assert_eq!((config.seed, config.entropy.band.kappa_high()), (7, 1.25));
    assert!(config.dump.is_some(), "an empty table switches a setting on");
    let EntropyMethod::EpoOfficial(method) = config.entropy.method else {
        panic!("{:?}", config.entropy.method)
    };
    assert_eq!((method.gate, method.alpha.get()), (Some(3), 0.1));

    // `reinforce-pp` discounts without turns, and an estimator that counts is one.
    let advantage = "[algorithm.advantage]\nestimator = \"reinforce-pp\"\nepisode_weight = 1.0\n\
                     turn_weight = 0.0\ngamma = 0.9";
    let path = config_file(&folder, advantage);
    let config = small(Algorithm::Grpo).layered(Some(&path), &[]).unwrap();
    assert_eq!(config.algorithm.grpo().unwrap().gamma.get(), 0.9);
    // The band is reported, and watched, whatever the method.
    let sets = ["entropy.method.kind=none", "entropy.band.kappa_low=0.75"].map(String::from);
    let config = small(Algorithm::Grpo).layered(None, &sets).unwrap();
    assert_eq!(config.entropy.band.kappa_low(), 0.75);
    let kept = small(Algorithm::Grpo).layered(None, &["algorithm.advantage.gamma=0.9".into()]);
    let kept = kept.unwrap().algorithm.grpo().unwrap();
    assert_eq!((kept.gamma.get(), kept.episode_weight.get()), (0.9, 0.0));
}

#[test]
fn the_papers_numbers_are_in_the_presets() {
    let ppo = ScienceWorldTasks::preset(Preset::Paper, Algorithm::Ppo);
    assert_eq!((ppo.learning_rate.get(), ppo.steps, ppo.rollout.max_turns.get()), (3e-6, 125, 30));
    let text = config_text(&ppo).unwrap();
    assert!(text.contains("alpha = 0.05") && text.contains("kappa_low = 0.0\nkappa_high = 2.0"));
    assert_eq!(ppo.rollout.tasks.get() * ppo.rollout.group.get(), 128);
    assert!(text.contains("level = \"token\""), "{text}");
    let grpo = AlfWorldTasks::preset(Preset::Official, Algorithm::Grpo);
    let numbers = (grpo.learning_rate.get(), grpo.steps, grpo.rollout.group.get());
    assert_eq!(numbers, (5e-6, 150, 8));
    let EntropyMethod::EpoOfficial(method) = grpo.entropy.method else {
        panic!("{:?}", grpo.entropy.method)
    };
    assert_eq!(method.alpha.get(), 0.1);
    let text = config_text(&grpo).unwrap();
    assert!(text.contains("kind = \"official-two-phase\"\ntotal_steps = 150"), "{text}");
    assert!(text.contains("aggregation = \"token-mean\""), "{text}");
    assert_eq!(grpo.model.checkpoint().unwrap().source, "Qwen/Qwen2.5-3B-Instruct");
    assert!("large".parse::<Preset>().unwrap_err().to_string().contains("large"));
}

#[test]
fn the_preset_of_a_language_model_has_adapters_and_schedules_of_its_own_length() {
    for algorithm in [Algorithm::Grpo, Algorithm::Ppo] {
        let config = AlfWorldTasks::preset(Preset::Llm, algorithm);
        let model = config.model.checkpoint().unwrap();
        assert_eq!(model.source, "smollm2-135m-instruct");
        assert_eq!(model.lora.as_ref().map(|lora| lora.rank), Some(16));
        assert_eq!(config.rollout.tasks.get() * config.rollout.group.get(), 32);
        assert_eq!(config.schedule_notes().unwrap(), Vec::<String>::new());
    }
}
