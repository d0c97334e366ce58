//! Dynamic sampling, the penalty for long answers and KL in the reward, in runs of both algorithms
//! on the toy environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use epo::advantage::Overlong;
use epo::evaluation::{TaskSchedule, TaskSet};
use epo::objective::{AdaptiveKl, KlControl, KlKind};
use epo::rollout::{Row, RowKind};
use epo::run::{read_episodes, Checkpoint, ROLLOUTS_FILE};
use epo::settings::{Count, Limit, Positive};
use epo::train::config::{AlgorithmConfig, DumpConfig, NoSettings};
use epo::train::credit::{turn_advantages, AdvantageConfig, DynamicSampling};
use epo::train::learn::{kl_rewards, KlReward};
use epo::train::{
    record_without_update, round_episodes, update_critic, update_policy, Advantages, StepSettings,
    Trainer,
};
use epo::Result;

use crate::driver::assert_same_run;
use crate::ppo::{config as ppo, open, reopen, run as run_ppo, steps, Config};

fn grpo() -> Config {
    let mut config = ppo();
    config.algorithm = AlgorithmConfig::Grpo { advantage: AdvantageConfig::default() };
    config.rollout.tasks = Count::literal(4);
    config.rollout.group = Count::literal(4);
    config
}

/// The loop of the examples, of either algorithm.
fn run(mut run: Trainer<NoSettings>) -> Result<Trainer<NoSettings>> {
    let config = run.config().clone();
    let AlgorithmConfig::Grpo { advantage } = config.algorithm else { return run_paid(run) };
    while let Some(step) = run.next_step() {
        let rollouts = run.play(step)?;
        let rewards = run.rewards(step, &rollouts)?;
        let advantages = turn_advantages(&rollouts.trajectories, rewards.turns(), &advantage)?;
        let (settings, advantages) =
            (config.settings(step, run.lr_factor()), Advantages::Turns(advantages));
        let record =
            update_policy(&mut run.agent, &rollouts, &rewards.returns(), &advantages, &settings)?;
        run.record(record, &rollouts, Instant::now())?;
        run.evaluate_and_save()?;
    }
    Ok(run)
}

fn run_paid(mut run: Trainer<NoSettings>) -> Result<Trainer<NoSettings>> {
    let config = run.config().clone();
    let (gae, _) = config.algorithm.ppo()?;
    while let Some(step) = run.next_step() {
        let rollouts = run.play(step)?;
        let rewards = run.rewards(step, &rollouts)?;
        let (returns, settings) = (rewards.returns(), config.settings(step, run.lr_factor()));
        let (agent, critic) = run.actor_critic()?;
        let values = critic.values(&rollouts.trajectories, config.rollout.rows, &config.update)?;
        let credit = rewards.credit(&rollouts.trajectories, &values, &gae)?;
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

fn train(config: &Config) -> (tempfile::TempDir, Trainer<NoSettings>) {
    let dir = tempfile::tempdir().unwrap();
    let run = run(open(dir.path(), config).unwrap()).unwrap();
    (dir, run)
}

fn adaptive(coef: f64, target: f64, horizon: f64) -> Option<KlReward> {
    Some(KlReward {
        estimator: KlKind::K1,
        control: KlControl::Adaptive(AdaptiveKl { coef, target, horizon }),
    })
}

fn fixed(coef: f64) -> Option<KlReward> {
    Some(KlReward { estimator: KlKind::K1, control: KlControl::Fixed { coef } })
}

fn weights(dir: &Path, step: u64) -> Vec<u8> {
    std::fs::read(dir.join(format!("checkpoints/step-{step:06}/model.safetensors"))).unwrap()
}

#[test]
fn without_them_a_run_is_what_it_was() {
    let config = Config { dump: Some(DumpConfig::default()), ..ppo() };
    assert!(
        config.dynamic_sampling.is_none()
            && config.overlong.is_none()
            && config.kl_reward.is_none()
    );
    let (new, _) = train(&config);
    let old = tempfile::tempdir().unwrap();
    // This loop uses RewardConfig::of and token_advantages.
    run_ppo(open(old.path(), &config).unwrap()).unwrap();
    assert_same_run(old.path(), new.path());
}

/// The groups of a step by number, each with its tasks and returns.
type DumpedGroups = BTreeMap<u32, (BTreeSet<String>, Vec<f64>)>;

/// The groups of each step.
fn dumped(dir: &Path) -> BTreeMap<u64, DumpedGroups> {
    let mut all: BTreeMap<u64, DumpedGroups> = BTreeMap::new();
    read_episodes(dir.join(ROLLOUTS_FILE), |_, line| {
        if line.used == Some(false) {
            return Ok(());
        }
        let group = all.entry(line.step).or_default().entry(line.episode.group).or_default();
        group.0.insert(line.episode.task.to_string());
        group.1.push(line.episode.best_score());
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn a_step_of_dynamic_sampling_learns_from_groups_that_differ() {
    let mut config = grpo();
    config.steps = 4;
    config.dump = Some(DumpConfig::default());
    config.rollout.tasks = Count::literal(3);
    config.rollout.group = Count::literal(2);
    config.dynamic_sampling = Some(DynamicSampling { max_rounds: 3 });
    let (dir, _) = train(&config);
    let [rounds, played, kept, success] = ["rounds", "played_groups", "kept_groups", "success"]
        .map(|k| steps(dir.path(), &format!("sampling/{k}")));
    eprintln!("rounds {rounds:?}, played {played:?}, kept {kept:?}, success {success:?}");
    let dumped = dumped(dir.path());
    for step in 0..4 {
        let groups = &dumped[&(step as u64)];
        assert_eq!(played[step], 3.0 * rounds[step]);
        assert!(kept[step] == groups.len() as f64 && kept[step] <= 3.0);
        assert!(
            kept[step] == 3.0 || rounds[step] == 3.0,
            "stopped early with {} groups",
            kept[step]
        );
        for (tasks, returns) in groups.values() {
            assert_eq!((tasks.len(), returns.len()), (1, 2));
            assert_ne!(returns[0], returns[1]);
        }
    }
    assert!(rounds.iter().any(|&n| n > 1.0), "no step needed a second round");
    let mut all = [0.0; 4];
    read_episodes(dir.path().join(ROLLOUTS_FILE), |_, line| {
        all[line.step as usize] += 1.0;
        Ok(())
    })
    .unwrap();
    assert_eq!(
        all.to_vec(),
        played.iter().map(|n| 2.0 * n).collect::<Vec<_>>(),
        "every episode is dumped"
    );
    assert!(dumped.values().flat_map(|groups| groups.keys()).any(|&group| group >= 3));
    assert!(steps(dir.path(), "zero_variance_groups").iter().all(|&share| share == 0.0));
}

#[test]
fn rounds_share_no_task_place_and_no_stream() {
    let panel = TaskSet::new("p", (0..24).map(crate::driver::task).collect()).unwrap();
    let schedule = TaskSchedule::new(&panel, 1, 2).unwrap();
    let sampling = DynamicSampling { max_rounds: 3 };
    let (mut streams, mut tasks, mut groups) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (step, round) in (0..4).flat_map(|step| (0..3).map(move |round| (step, round))) {
        let episodes = round_episodes(&schedule, 1, step, round, sampling, 2);
        assert_eq!(episodes.len(), 4);
        for episode in episodes {
            assert!(streams.insert(format!("{:?}", episode.stream)));
            tasks.insert(episode.task);
            groups.insert((step, episode.group));
        }
    }
    assert_eq!(
        (tasks.len(), groups.len()),
        (24, 24),
        "an epoch of 12 rounds plays each of 24 tasks once"
    );
}

#[test]
fn long_answers_are_paid_less_and_the_reported_return_stays() {
    for config in [grpo(), ppo()] {
        let mut config = config;
        config.steps = 1;
        if let AlgorithmConfig::Ppo { critic, .. } = &mut config.algorithm {
            critic.warmup_steps = 0;
        }
        let (plain, _) = train(&config);
        config.overlong = Some(Overlong { limit: 8, buffer: 8, penalty: 0.5 });
        let (short, _) = train(&config);
        let cost = steps(short.path(), "overlong/reward");
        // Every token below the limit costs 1/16, whatever the turn.
        let tokens = steps(short.path(), "action_tokens")[0] * steps(short.path(), "turns")[0];
        assert!((cost[0] + tokens / 16.0).abs() < 1e-9, "{cost:?}, {tokens} tokens an episode");
        let mean = |dir: &tempfile::TempDir| steps(dir.path(), "return_mean");
        assert_eq!(mean(&plain), mean(&short));
        assert!(weights(plain.path(), 0) == weights(short.path(), 0));
        assert!(weights(plain.path(), 1) != weights(short.path(), 1), "the penalty taught nothing");
    }
}

#[test]
fn a_kl_in_the_reward_keeps_the_policy_near_its_reference() {
    for config in [grpo(), ppo()] {
        let last = |coef| {
            let checkpoint_every = Limit::literal(8);
            let mut config = Config { steps: 8, checkpoint_every, ..config.clone() };
            config.rollout.group = Count::literal(32 / config.rollout.tasks.get());
            config.kl_reward = fixed(coef);
            let (dir, run) = train(&config);
            assert!(run.agent.learner.reference.is_some(), "frozen for the reward");
            let kl = steps(dir.path(), "kl_reward/kl");
            assert!(kl[0].abs() < 1e-4, "the policy begins as its reference: {kl:?}");
            assert_eq!(steps(dir.path(), "kl_reward/coef"), [coef; 8]);
            eprintln!("β {coef}: {kl:.4?}");
            kl[5..].iter().sum::<f64>() / 3.0
        };
        let (free, held) = (last(0.0), last(20.0));
        assert!(held < 0.6 * free, "{held} nats per token with β, {free} without");
    }
}

#[test]
fn a_tokens_kl_is_its_own_in_both_forms_of_rows() {
    let learning_rate = Positive::literal(1e-2);
    let (_dir, mut run) = train(&Config { kl_reward: fixed(0.1), learning_rate, ..grpo() });
    let config = run.config().clone();
    let played = run.play(9).unwrap();
    let with = |rows| StepSettings { rows, ..config.settings(9, 1.0) };
    let learner = &run.agent.learner;
    let of =
        |rows| kl_rewards(learner, &played.trajectories, KlKind::K1, 0.5, &with(rows)).unwrap();
    let [(pay, kl), (by_turn, _)] = [RowKind::Trajectory, RowKind::Turn].map(of);
    let (mut sum, mut tokens) = (0.0, 0);
    for (i, trajectory) in played.trajectories.iter().enumerate() {
        let rows = Row::from_trajectory(trajectory, i, RowKind::Trajectory).unwrap();
        let reference =
            learner.reference_log_probs(&rows, &config.update).unwrap().unwrap().concat();
        let sampled = trajectory.turns.iter().flat_map(|turn| &turn.log_probs);
        assert_eq!(pay[i].len(), reference.len());
        for (j, (&log_prob, &of_reference)) in sampled.zip(&reference).enumerate() {
            let difference = f64::from(log_prob) - f64::from(of_reference);
            assert!((pay[i][j] + 0.5 * difference).abs() < 1e-4, "episode {i}, token {j}");
            assert!((pay[i][j] - by_turn[i][j]).abs() < 1e-4, "episode {i}, token {j}");
            (sum, tokens) = (sum + difference, tokens + 1);
        }
    }
    assert!((kl - sum / f64::from(tokens)).abs() < 1e-4 && kl > 1e-3, "{kl}");
    run.agent.learner.reference = None;
    let error = run.rewards(9, &played).unwrap_err().to_string();
    assert!(error.contains("kl_reward") && error.contains("reference"), "{error}");
}

#[test]
fn an_adaptive_coefficient_moves_once_a_step() {
    let config = Config { kl_reward: adaptive(0.1, 0.01, 100.0), ..grpo() };
    let (dir, _) = train(&config);
    let [kl, coef] = ["kl_reward/kl", "kl_reward/coef"].map(|key| steps(dir.path(), key));
    assert_eq!((coef.len(), coef[0]), (3, 0.1));
    for i in 1..3 {
        let error = (kl[i - 1] / 0.01 - 1.0).clamp(-0.2, 0.2);
        assert!(
            (coef[i] / coef[i - 1] - 1.0 - error * 16.0 / 100.0).abs() < 1e-12,
            "{kl:?} {coef:?}"
        );
    }
    assert!(coef[1] < coef[0], "the first step's KL is below the target");
}

#[test]
fn four_steps_are_two_and_two_resumed_with_all_of_them() {
    for config in [grpo(), ppo()] {
        let mut config = Config { steps: 4, dump: Some(DumpConfig::default()), ..config };
        config.rollout.tasks = Count::literal(3);
        config.rollout.group = Count::literal(2);
        config.dynamic_sampling = Some(DynamicSampling { max_rounds: 3 });
        config.overlong = Some(Overlong { limit: 8, buffer: 4, penalty: 0.1 });
        config.kl_reward = adaptive(0.1, 0.01, 50.0);
        let (whole, _) = train(&config);
        let (parts, _) = train(&Config { steps: 2, ..config.clone() });
        run(reopen(parts.path(), 4).unwrap()).unwrap();
        assert_same_run(whole.path(), parts.path());
        let [a, b] =
            [&whole, &parts].map(|dir| Checkpoint::latest(dir.path()).unwrap().checkpoint.unwrap());
        let [a, b] = [a, b].map(|checkpoint| {
            std::fs::read_to_string(checkpoint.file("state.json").unwrap()).unwrap()
        });
        assert!(a.contains("\"adaptive\"") && a == b, "{a}\n{b}");
        let coef = steps(parts.path(), "kl_reward/coef");
        assert!(coef.len() == 4 && coef.windows(2).all(|two| two[0] != two[1]), "{coef:?}");
    }
}
