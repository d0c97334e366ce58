//! PPO with its critic on the toy environment, through the parts that the examples are made of.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use epo::entropy::EntropyConfig;
use epo::optim::AdamW;
use epo::optim::{AdamWConfig, LrSchedule};
use epo::policy::{DecoderConfig, LoraConfig, Parameters};
use epo::rollout::{ActionSpace, RolloutConfig, RowKind};
use epo::run::{first_difference, read_metrics, Checkpoint, CheckpointWriter, RunFolder};
use epo::settings::{Count, Decay, Limit, NonNegative, Positive};
use epo::train::config::{
    Algorithm, AlgorithmConfig, DumpConfig, NoSettings, TrainConfig, UpdateConfig,
};
use epo::train::credit::{token_advantages, GaeLevel};
use epo::train::learn::{CloningConfig, Critic, CriticBody, CriticConfig, Learner, ValueBatch};
use epo::train::{
    record_without_update, update_critic, update_policy, Advantages, EvaluationConfig, Setup,
    Trainer,
};
use epo::Result;

use crate::driver::{assert_same_run, demonstrations, environments, epo, panel, small};

pub(crate) type Config = TrainConfig;

/// A short run of everything, with a critic that first learns alone.
pub(crate) fn config() -> Config {
    let mut config = Config::small(Algorithm::Ppo, NoSettings {});
    config.seed = 3;
    config.steps = 3;
    config.checkpoint_every = Limit::literal(1);
    config.environments = Count::literal(4);
    config.learning_rate = Positive::literal(1e-3);
    config.schedule = LrSchedule::default();
    config.evaluation =
        EvaluationConfig { every: 0, episodes: Count::literal(2), ..EvaluationConfig::default() };
    config.model = small(96);
    config.demonstrations = Count::literal(4);
    config.cloning = Some(CloningConfig {
        epochs: Count::literal(25),
        batch: Count::literal(4),
        learning_rate: Positive::literal(3e-3),
        observation_weight: NonNegative::literal(0.1),
    });
    config.rollout = RolloutConfig {
        tasks: Count::literal(32),
        group: Count::literal(1),
        max_turns: Count::literal(3),
        actions: ActionSpace::Free { max_tokens: Count::literal(8) },
        ..RolloutConfig::default()
    };
    config.update.micro_batch_tokens = Limit::literal(512);
    config.optimizer.beta2 = Decay::literal(0.95);
    config.entropy = EntropyConfig { method: epo(0.001), ..EntropyConfig::paper_v2() };
    let optimizer = config.optimizer.clone();
    let critic = critic(&mut config);
    *critic = CriticConfig {
        learning_rate: Positive::literal(3e-3),
        warmup_steps: 1,
        optimizer,
        ..CriticConfig::default()
    };
    config
}

/// The critic of a run of PPO, to be changed.
pub(crate) fn critic(config: &mut Config) -> &mut CriticConfig {
    match &mut config.algorithm {
        AlgorithmConfig::Ppo { critic, .. } => critic,
        AlgorithmConfig::Grpo { .. } => panic!("GRPO has no critic"),
    }
}

fn set_level(config: &mut Config, of_gae: GaeLevel) {
    if let AlgorithmConfig::Ppo { gae, .. } = &mut config.algorithm {
        gae.level = of_gae;
    }
}

/// A new run in `dir`, begun and not trained.
pub(crate) fn open(dir: &Path, config: &Config) -> Result<Trainer<NoSettings>> {
    let beginning =
        Setup { train: panel(), evaluation: vec![panel()], demonstrations: demonstrations() };
    let folder = RunFolder::create(dir, config.clone())?;
    Trainer::open(folder, environments(config.environments.get()), Some(beginning))
}

fn train(dir: &Path, config: &Config) -> Result<Trainer<NoSettings>> {
    run(open(dir, config)?)
}

/// The run in `dir`, ready to go on up to `steps`.
pub(crate) fn reopen(dir: &Path, steps: u64) -> Result<Trainer<NoSettings>> {
    let folder = RunFolder::resume(dir, Config::resumed(Some(steps), None))?;
    let environments = environments(folder.config.environments.get());
    Trainer::open(folder, environments, None)
}

fn resume(dir: &Path, steps: u64) -> Result<Trainer<NoSettings>> {
    run(reopen(dir, steps)?)
}

pub(crate) fn run(mut run: Trainer<NoSettings>) -> Result<Trainer<NoSettings>> {
    let config = run.config().clone();
    let (gae, _) = config.algorithm.ppo()?;
    while let Some(step) = run.next_step() {
        let rollouts = run.play(step)?;
        let rewards = config.reward.of(&rollouts.trajectories);
        let returns: Vec<f64> = rewards.iter().map(|r| r.iter().sum()).collect();
        let (settings, (agent, critic)) =
            (config.settings(step, run.lr_factor()), run.actor_critic()?);
        let values = critic.values(&rollouts.trajectories, config.rollout.rows, &config.update)?;
        let credit = token_advantages(&rollouts.trajectories, &rewards, None, &values, &gae)?;
        let mut record = if critic.warms_up(step) {
            record_without_update(agent, &rollouts, &returns, &settings)?
        } else {
            let advantages = Advantages::Tokens(credit.advantages);
            update_policy(agent, &rollouts, &returns, &advantages, &settings)?
        };
        update_critic(critic, &rollouts, &values, &credit.returns, &settings, &mut record)?;
        run.record(record, &rollouts, Instant::now())?;
        run.evaluate_and_save()?;
    }
    Ok(run)
}

/// The metrics of the training steps, by key.
pub(crate) fn steps(dir: &Path, key: &str) -> Vec<f64> {
    let lines = read_metrics(dir).unwrap();
    let lines = lines.iter().filter(|line| line["phase"] == "rl");
    lines.filter_map(|line| line.get(key)?.as_f64()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn ppo_solves_what_cloning_left_unsolved_and_the_critic_foresees_it() {
    for (level, rows) in
        [(GaeLevel::Turn, RowKind::Trajectory), (GaeLevel::Trajectory, RowKind::Turn)]
    {
        let mut config = Config { steps: 20, checkpoint_every: Limit::literal(20), ..config() };
        set_level(&mut config, level);
        config.rollout.rows = rows;
        let dir = tempfile::tempdir().unwrap();
        let [before, after] = train(dir.path(), &config).unwrap().finish().unwrap();
        let success = steps(dir.path(), "success");
        let (first, last) = (mean(&success[..4]), mean(&success[16..]));
        let (update, optimizer) =
            (steps(dir.path(), "time/update_seconds"), steps(dir.path(), "time/optimizer_seconds"));
        assert_eq!(update.len(), 20);
        assert!(update
            .iter()
            .zip(&optimizer)
            .all(|(update, optimizer)| 0.0 < *optimizer && optimizer < update));
        let (loss, explained) =
            (steps(dir.path(), "value_loss"), steps(dir.path(), "explained_variance"));
        eprintln!("{level:?}: {first} to {last}; {} to {}", before[0], after[0]);
        eprintln!("value loss {loss:.3?}, explained {explained:.2?}");
        assert!(last > first + 0.2, "{level:?}: {first} at first, {last} at last");
        assert!(explained[0].abs() < 1e-6, "a critic that says 0 explains nothing: {explained:?}");
        assert!(mean(&explained[10..]) > 0.3, "{level:?}: {explained:?}");
        assert!(mean(&loss[1..4]) < loss[0], "{level:?}: {loss:?}");
    }
}

#[test]
fn the_policy_waits_for_the_critic() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.steps = 2;
    critic(&mut config).warmup_steps = 2;
    let weights = |step: u64| {
        let file = format!("checkpoints/step-{step:06}/model.safetensors");
        std::fs::read(dir.path().join(file)).unwrap()
    };
    train(dir.path(), &config).unwrap();
    assert!(weights(0) == weights(2), "the policy moved while the critic warmed up");
    let critic = |step: u64| {
        std::fs::read(dir.path().join(format!("checkpoints/step-{step:06}/critic.safetensors")))
            .unwrap()
    };
    assert!(critic(0) != critic(1) && critic(1) != critic(2), "the critic stood still");
    assert_eq!(steps(dir.path(), "grad_norm").len(), 0);
    for key in
        ["value_loss", "value_clipfrac", "explained_variance", "critic_grad_norm", "critic_lr"]
    {
        assert_eq!(steps(dir.path(), key).len(), 2, "{key}");
    }
}

#[test]
fn three_steps_are_one_step_and_two_resumed_with_any_critic() {
    let with = |body, rows, level| {
        let mut config = config();
        critic(&mut config).body = body;
        set_level(&mut config, level);
        config.rollout.rows = rows;
        config.update.epochs = Count::literal(2);
        config.dump = Some(DumpConfig::default());
        config
    };
    let own = CriticBody::Own { hidden_size: Count::literal(64), layers: Count::literal(1) };
    for config in [
        with(CriticBody::Policy, RowKind::Trajectory, GaeLevel::Turn),
        with(own, RowKind::Turn, GaeLevel::Token),
    ] {
        let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        train(whole.path(), &config).unwrap();
        train(parts.path(), &Config { steps: 1, ..config.clone() }).unwrap();
        assert!(first_difference(whole.path(), parts.path()).unwrap().is_some());
        resume(parts.path(), config.steps).unwrap();
        assert_same_run(whole.path(), parts.path());
        let [a, b] =
            [&whole, &parts].map(|dir| Checkpoint::latest(dir.path()).unwrap().checkpoint.unwrap());
        for name in ["critic.safetensors", "critic_optimizer.safetensors", "state.json"] {
            let [a, b] =
                [&a, &b].map(|checkpoint| std::fs::read(checkpoint.file(name).unwrap()).unwrap());
            assert!(a == b, "{name} differs");
        }
    }
}

/// A learner over tiny weights, with or without corrections.
fn learner(dtype: DType, lora: bool) -> Learner {
    let config = DecoderConfig { tie_word_embeddings: false, ..DecoderConfig::tiny(30) };
    let mut parameters = Parameters::init(&config, 5, dtype, &Device::Cpu).unwrap();
    if lora {
        parameters = parameters.with_lora(&config, &LoraConfig::of_rank(2), 5).unwrap();
    }
    Learner::new(&config, parameters, AdamW::new(AdamWConfig::default()), 1.0).unwrap()
}

fn rows() -> Vec<epo::rollout::Row> {
    let turns: [(&[u32], &[u32]); 2] = [(&[1, 2, 3], &[4, 5]), (&[6, 9], &[7, 8])];
    let mut rows = epo::rollout::Row::from_turns(&turns, 0, RowKind::Turn).unwrap();
    rows.extend(epo::rollout::Row::from_turns(&turns[..1], 1, RowKind::Turn).unwrap());
    rows
}

#[test]
fn a_critic_of_any_policy_learns_its_targets_leaves_the_policy_alone_and_is_restored_to_the_bit() {
    for (dtype, lora) in
        [(DType::F32, false), (DType::F32, true), (DType::BF16, true), (DType::BF16, false)]
    {
        let policy = learner(dtype, lora);
        let sum = |learner: &Learner| -> f32 {
            let of = |t: &candle_core::Tensor| {
                t.to_dtype(DType::F32)
                    .unwrap()
                    .sqr()
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap()
            };
            learner.parameters.tensors().values().map(of).sum()
        };
        let before = sum(&policy);
        let config = CriticConfig {
            learning_rate: Positive::literal(1e-2),
            value_clip: Positive::literal(10.0),
            ..CriticConfig::default()
        };
        let mut critic = Critic::new(&config, &policy, 1).unwrap();
        let update = UpdateConfig { mini_batches: Count::literal(1), ..UpdateConfig::default() };
        let (rows, targets) = (rows(), [vec![1.0, -0.5], vec![0.25, 2.0], vec![1.0, -0.5]]);
        let values = critic.row_values(&rows, 4096).unwrap();
        assert!(values.concat().iter().all(|&v| v == 0.0));
        let step = |critic: &mut Critic, step| {
            let data =
                ValueBatch { rows: &rows, values: &values, returns: &targets, seed: 1, step };
            critic.value_step(&data, &update).unwrap().get("value_loss").unwrap()
        };
        let losses: Vec<f64> = (0..40).map(|i| step(&mut critic, i)).collect();
        assert!(losses[39] < 0.2 * losses[0], "{dtype:?}, LoRA {lora}: {losses:?}");
        assert_eq!(sum(&policy), before);

        let dir = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::new(dir.path(), 1).unwrap();
        critic.save(&mut writer).unwrap();
        let checkpoint = writer.finish(&()).unwrap();
        let mut back = Critic::restore(&config, &policy, &checkpoint).unwrap();
        for i in 40..42 {
            assert_eq!(step(&mut critic, i), step(&mut back, i));
        }
        assert_eq!(critic.row_values(&rows, 4096).unwrap(), back.row_values(&rows, 4096).unwrap());
        let other = learner(dtype, !lora);
        assert!(Critic::restore(&config, &other, &checkpoint).is_err());
    }
}

#[test]
fn a_value_is_the_states_before_its_token_and_micro_batches_change_nothing() {
    let policy = learner(DType::F32, false);
    let mut critic = Critic::new(&CriticConfig::default(), &policy, 1).unwrap();
    let (rows, targets) = (rows(), [vec![1.0, -0.5], vec![0.25, 2.0], vec![1.0, -0.5]]);
    let zeros = [vec![0.0; 2], vec![0.0; 2], vec![0.0; 2]];
    let data = ValueBatch { rows: &rows, values: &zeros, returns: &targets, seed: 1, step: 0 };
    critic.value_step(&data, &UpdateConfig::default()).unwrap();
    let values = critic.row_values(&rows, 4096).unwrap();
    // The last token of a row is no part of any state that is valued; the one before it is.
    let value_after = |place: usize, id: u32| {
        let mut changed = rows.clone();
        let at = changed[0].ids.len() - place;
        changed[0].ids[at] = id;
        critic.row_values(&changed, 4096).unwrap()
    };
    assert_eq!(value_after(1, 20), values);
    let changed = value_after(2, 20);
    assert_eq!(changed[0][0], values[0][0]);
    assert_ne!(changed[0][1], values[0][1]);
    for (a, b) in critic.row_values(&rows, 1).unwrap().concat().iter().zip(values.concat()) {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
fn numbers_that_are_none_or_too_few_change_nothing_of_a_critic() {
    let policy = learner(DType::F32, false);
    let mut critic = Critic::new(&CriticConfig::default(), &policy, 1).unwrap();
    let rows = rows();
    let zeros = [vec![0.0; 2], vec![0.0; 2], vec![0.0; 2]];
    let mut error = |values: &[Vec<f32>], returns: &[Vec<f32>]| {
        let data = ValueBatch { rows: &rows, values, returns, seed: 1, step: 0 };
        critic.value_step(&data, &UpdateConfig::default()).map(drop).unwrap_err().to_string()
    };
    let nan = [vec![0.0; 2], vec![0.0, f32::NAN], vec![0.0; 2]];
    assert!(error(&zeros, &nan).contains("value returns"));
    assert!(error(&nan, &zeros).contains("row 1, token 1"));
    assert!(error(&zeros, &zeros[..2]).contains("value returns"));
    assert_eq!(critic.optimizer.steps(), 0);
}

#[test]
fn a_run_needs_a_beginning_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(dir.path(), config()).unwrap();
    let error = Trainer::open(folder, environments(1), None).map(drop).unwrap_err().to_string();
    assert!(error.contains("setup"), "{error}");
}
