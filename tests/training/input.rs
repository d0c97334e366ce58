//! Bad input: one clear error each, and nothing learned from it.

use epo::evaluation::{TaskSchedule, TaskSet};
use epo::policy::Tokenizer;
use epo::rollout::{Rollouts, Trajectory, SPECIAL_TOKENS};
use epo::run::{read_config, Checkpoint, CheckpointWriter, Recorder, RunFolder};
use epo::train::learn::{clone_demonstrations, Agent};
use epo::train::{evaluation_episodes, Advantages};
use epo::Error;

use crate::driver::{demonstrations, learned, panel, resume, small, train, Config};

fn untouched(config: &Config) -> (Agent, Rollouts) {
    let agent = config.new_agent().unwrap();
    let rollouts = config.play(&agent, &config.episodes(0)).unwrap();
    (agent, rollouts)
}

/// Every weight, bit for bit (NaN equals itself).
fn weights(agent: &Agent) -> Vec<u32> {
    let tensors = agent.learner.parameters.tensors();
    let values = tensors.values().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    values.map(f32::to_bits).collect()
}

fn poison(agent: &Agent, name: &str) {
    let var = agent.learner.parameters.get(name).unwrap();
    var.set(&(var.zeros_like().unwrap() + f64::NAN).unwrap()).unwrap();
}

#[track_caller]
fn assert_non_finite(error: &Error, named: &str) {
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert!(error.to_string().contains(named), "{error}");
}

#[test]
fn nan_weights_stop_playing_cloning_and_learning_before_anything_changes() {
    let config = Config::default();
    let (mut agent, rollouts) = untouched(&config);
    poison(&agent, "model.norm.weight");
    let before = weights(&agent);
    assert_non_finite(&config.play(&agent, &config.episodes(0)).unwrap_err(), "logits");
    assert_non_finite(&config.update(&mut agent, &rollouts, 0).unwrap_err(), "logits");
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(folder.path()).unwrap();
    let Config { cloning, update, .. } = &config;
    let error =
        clone_demonstrations(&mut agent, &demonstrations(), cloning, update, 0, &mut recorder);
    assert_non_finite(&error.unwrap_err(), "logits");
    assert!(weights(&agent) == before && agent.learner.optimizer.steps() == 0);
}

#[test]
fn numbers_that_are_none_are_named_and_change_nothing() {
    type Spoil = fn(&mut Rollouts);
    let spoils: [(&str, Spoil); 3] = [
        ("old_log_probs", |r| r.trajectories[5].turns[0].log_probs[0] = f32::NAN),
        ("entropy", |r| r.trajectories[5].turns[0].entropies[0] = f32::INFINITY),
        ("scores", |r| r.trajectories[5].turns[0].score = f64::INFINITY),
    ];
    let config = Config::default();
    for (named, spoil) in spoils {
        let (mut agent, mut rollouts) = untouched(&config);
        let before = weights(&agent);
        spoil(&mut rollouts);
        assert_non_finite(&config.update(&mut agent, &rollouts, 0).unwrap_err(), named);
        assert!(weights(&agent) == before && agent.learner.optimizer.steps() == 0, "{named}");
    }
}

#[test]
fn a_demonstration_longer_than_the_context_is_named_before_anything_is_learned() {
    let config = Config { model: small(8), ..Config::default() };
    let mut agent = untouched(&config).0;
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(folder.path()).unwrap();
    let Config { cloning, update, .. } = &config;
    let error =
        clone_demonstrations(&mut agent, &demonstrations(), cloning, update, 0, &mut recorder);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("setting `model.context` = 8: must be at least "), "{error}");
}

#[test]
fn episodes_and_updates_without_tokens_are_errors() {
    let config = Config { model: small(8), ..Config::default() };
    let (mut agent, rollouts) = untouched(&config);
    let error = config.update(&mut agent, &rollouts, 0).unwrap_err();
    assert!(matches!(error, Error::EmptyMask { .. }), "{error}");
    assert!(error.to_string().contains("episode 0 of find-coin:"), "{error}");

    let error = config.update(&mut agent, &Rollouts::default(), 0).unwrap_err();
    assert!(matches!(error, Error::EmptyMask { .. }), "{error}");
}

#[test]
fn returns_are_one_an_episode_and_advantages_one_a_turn() {
    let config = Config::default();
    let (mut agent, rollouts) = untouched(&config);
    let update = &config.update;
    let settings =
        epo::train::StepSettings { seed: 0, step: 0, lr: 1e-3, rows: config.rollout.rows, update };
    let whole: Vec<Vec<f64>> =
        rollouts.trajectories.iter().map(|t| vec![0.0; t.turns.len()]).collect();
    let mut short = whole.clone();
    short[7].pop();
    let tokens = |t: &Trajectory| vec![0.0; t.sampled_tokens()];
    let mut few: Vec<Vec<f64>> = rollouts.trajectories.iter().map(tokens).collect();
    few[3].pop();
    let (short, whole, few) =
        (Advantages::Turns(short), Advantages::Turns(whole), Advantages::Tokens(few));
    for (returns, advantages, named) in
        [(32, short, "advantages"), (31, whole, "returns"), (32, few, "advantages")]
    {
        let returns = vec![0.0; returns];
        let error =
            epo::train::update_policy(&mut agent, &rollouts, &returns, &advantages, &settings);
        let error = error.unwrap_err();
        assert!(
            matches!(error, Error::Shape { .. }) && error.to_string().contains(named),
            "{error}"
        );
    }
}

#[test]
fn a_task_set_needs_tasks() {
    let error = TaskSet::new("unseen", vec![]).unwrap_err().to_string();
    assert!(error.contains("task set unseen") && error.contains("at least one task"), "{error}");
    assert!(panel().thin(0).is_err() && TaskSchedule::new(&panel(), 0, 0).is_err());
    assert!(evaluation_episodes(&panel(), 0, 0).is_empty());
}

#[test]
fn a_truncated_file_is_named_and_not_used() {
    for name in [
        "model.safetensors",
        "optimizer.safetensors",
        "tokenizer.json",
        "config.json",
        "entropy.json",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { steps: 0, ..Config::default() };
        train(folder.path(), &config).unwrap();
        let opened = Checkpoint::latest(folder.path()).unwrap().checkpoint.unwrap();
        let path = opened.file(name).unwrap();
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, &content[..content.len() / 2]).unwrap();
        let error = resume(folder.path(), 1).map(drop).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        // Damaged after it was verified: the reader of the file itself must notice.
        let error =
            Agent::restore(&config.agent(), &opened, None).map(drop).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let config = Config::default();
    let agent = config.new_agent().unwrap();
    let words: Vec<String> = (0..200).map(|i| format!("word{i} ")).collect();
    let other = Tokenizer::train(&words, 400, &SPECIAL_TOKENS).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::new(folder.path(), 0).unwrap();
    agent.learner.save(&mut writer).unwrap();
    writer.add_file("tokenizer.json", |path| other.save(path)).unwrap();
    let checkpoint = writer.finish(&()).unwrap();
    let error =
        Agent::restore(&config.agent(), &checkpoint, None).map(drop).unwrap_err().to_string();
    assert!(error.contains("the tokenizer does not fit"), "{error}");
}

#[test]
fn a_changed_configuration_is_shown_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &Config { steps: 0, ..Config::default() }).unwrap();
    let before = learned(folder.path());
    let path = folder.path().join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("group = 8", "group = 4")).unwrap();
    let error = resume(folder.path(), 1).map(drop).unwrap_err().to_string();
    assert!(
        error.contains("config.toml") && error.contains("`rollout.group` was 8, is 4"),
        "{error}"
    );
    assert!(learned(folder.path()) == before);

    let empty = tempfile::tempdir().unwrap();
    let error = RunFolder::<Config>::resume(empty.path(), |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("there is no run in this folder"), "{error}");
}

#[test]
fn every_bad_setting_is_named() {
    let paper = "[entropy.method.beta]\nkind = \"paper-v2\"\ngamma = 3.0\n";
    let cases = [
        ("[rollout]\ntemprature = 0.5".into(), "temprature"),
        ("[entropy.band]\nkappa_low = -0.5".into(), "kappa_low = -0.5"),
        ("[entropy.band]\nkappa_low = 2.0\nkappa_high = 0.5".into(), "kappa_low must not exceed"),
        ("[entropy.band]\nkappa_high = -1.0".into(), "kappa_high = -1.0"),
        (format!("[entropy.method]\nkind = \"epo\"\n{paper}total_steps = 0"), "at least 2, got 0"),
        ("[entropy.method]\nkind = \"epoo\"".into(), "epoo"),
        ("[rollout]\ngroup = 0".into(), "group = 0"),
        ("[rollout]\ntemperature = 0.0".into(), "temperature = 0.0"),
        ("[optimizer]\nbeta1 = 1.0".into(), "beta1 = 1.0"),
        ("steps = -1".into(), "steps"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    for (text, named) in cases {
        std::fs::write(&path, &text).unwrap();
        let read = read_config::<Config>(&path);
        let error = read.and_then(|config| config.agent().check()).unwrap_err().to_string();
        assert!(error.contains(named), "{text:?}: {error}");
        let made = read_config::<Config>(&path).and_then(|config| config.new_agent());
        assert_eq!(made.map(drop).unwrap_err().to_string(), error);
    }
}
