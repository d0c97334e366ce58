//! It learns, under every entropy method and from rows of either kind.

use epo::entropy::{
    AdaptiveConfig, AdaptiveRule, AdaptiveTarget, BonusConfig, ClipCov, DecayedBonusConfig,
    EntropyConfig, EntropyMethod, EpoOfficialConfig, KlCov, TopEntropy,
};
use epo::env::Demonstration;
use epo::objective::{Aggregation, ImportanceCorrection, PolicyLoss, PolicyLossKind, RatioLevel};
use epo::optim::AdamWConfig;
use epo::rollout::{ActionSpace, RowKind};
use epo::run::{read_metrics, Recorder};
use epo::settings::{Count, Decay, Finite, Limit, NonNegative, Positive, Share};
use epo::train::learn::{clone_demonstrations, Agent};

use crate::driver::{demonstrations, epo, train, Config};

#[test]
fn reinforcement_learning_solves_what_cloning_left_unsolved() {
    let mut config = Config { steps: 25, learning_rate: 1e-3, ..Config::default() };
    config.cloning.epochs = Count::literal(25);
    config.cloning.learning_rate = Positive::literal(3e-3);
    config.rollout.group = Count::literal(16);
    config.optimizer.beta2 = Decay::literal(0.95);
    config.entropy.method = epo(0.001);
    let weak = tempfile::tempdir().unwrap();
    let before =
        config.success(&train(weak.path(), &Config { steps: 0, ..config.clone() }).unwrap());
    let trained = tempfile::tempdir().unwrap();
    let after = config.success(&train(trained.path(), &config).unwrap());
    eprintln!("success {before} before, {after} after");
    assert!(before < 0.4 && after > before + 0.2, "{before} before, {after} after");
}

#[test]
fn a_choice_of_admissible_actions_is_scored_over_the_same_support_and_learned() {
    let mut config = Config { steps: 20, learning_rate: 1e-3, ..Config::default() };
    config.cloning.epochs = Count::literal(1);
    config.rollout.actions = ActionSpace::Admissible;
    config.entropy.method = epo(0.001);
    let folder = tempfile::tempdir().unwrap();
    let agent = train(folder.path(), &config).unwrap();
    let lines = read_metrics(folder.path()).unwrap();
    let steps: Vec<_> = lines.iter().filter(|line| line["phase"] == "rl").collect();
    for line in &steps {
        assert!(
            line["decode_forward_gap"].as_f64().unwrap() < 1e-4,
            "{}",
            line["decode_forward_gap"]
        );
        assert_eq!(line["valid_actions"], 1.0);
    }
    let (before, after) = (steps[0]["success"].as_f64().unwrap(), config.success(&agent));
    eprintln!("success {before} before, {after} after");
    assert!(after > before + 0.2, "{before} before, {after} after");
}

#[test]
fn every_entropy_method_trains_and_a_large_weight_raises_the_entropy() {
    let entropy_after_one_step = |method| {
        let preset = match method {
            EntropyMethod::EpoOfficial(_) => EntropyConfig::official_code(),
            _ => EntropyConfig::paper_v2(),
        };
        let folder = tempfile::tempdir().unwrap();
        let entropy = EntropyConfig { method, ..preset };
        train(folder.path(), &Config { entropy, ..Config::default() }).unwrap();
        let lines = read_metrics(folder.path()).unwrap();
        let steps: Vec<_> = lines.iter().filter(|line| line["phase"] == "rl").collect();
        assert_eq!(steps.len(), 2);
        for line in &steps {
            for key in ["loss", "grad_norm", "entropy", "beta", "success"] {
                assert!(
                    line[key].as_f64().is_some_and(f64::is_finite),
                    "{method:?}: {key} = {}",
                    line[key]
                );
            }
            assert!(
                line["decode_forward_gap"].as_f64().unwrap() < 1e-4,
                "{}",
                line["decode_forward_gap"]
            );
        }
        steps[1]["entropy"].as_f64().unwrap()
    };
    let without = entropy_after_one_step(EntropyMethod::None);
    let lambda = Positive::literal(0.3);
    for method in [
        EntropyMethod::Bonus(BonusConfig { lambda }),
        epo(0.3),
        EntropyMethod::EpoOfficial(EpoOfficialConfig { lambda, ..EpoOfficialConfig::default() }),
    ] {
        let with = entropy_after_one_step(method);
        eprintln!("{method:?}: {with} nats, {without} without");
        assert!(with > without + 0.02, "{method:?}: {with} nats, {without} without");
    }
}

/// One optimiser step that moves every weight by about its gradient: Adam with a large ε.
fn step_like_gradient(change: impl FnOnce(&mut Config)) -> (Vec<f32>, f64) {
    let entropy = EntropyConfig { method: epo(0.1), ..EntropyConfig::paper_v2() };
    let optimizer = AdamWConfig {
        eps: NonNegative::literal(1.0),
        weight_decay: NonNegative::literal(0.0),
        ..AdamWConfig::default()
    };
    let mut config = Config { learning_rate: 1.0, optimizer, entropy, ..Config::default() };
    config.update.mini_batches = Count::literal(1);
    config.update.max_grad_norm = Positive::literal(1e9);
    change(&mut config);
    let mut agent = config.new_agent().unwrap();
    let before = flat(&agent);
    let mut rollouts = config.play(&agent, &config.episodes(0)).unwrap();
    // An untrained policy scores nothing: give the episodes different scores to learn from.
    for (i, t) in rollouts.trajectories.iter_mut().enumerate() {
        t.turns[0].score = (i * 37 % 100) as f64;
    }
    let loss = config.update(&mut agent, &rollouts, 0).unwrap().number("loss").unwrap();
    (flat(&agent).iter().zip(before).map(|(a, b)| a - b).collect(), loss)
}

fn flat(agent: &Agent) -> Vec<f32> {
    let tensors = agent.learner.parameters.tensors();
    tensors.values().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

/// max |a − b| / max |a|
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = |x: f32, y: f32| x.max(y.abs());
    a.iter().zip(b).map(|(a, b)| a - b).fold(0.0, largest) / a.iter().copied().fold(0.0, largest)
}

#[test]
fn rows_of_turns_and_rows_of_trajectories_teach_the_same() {
    for aggregation in [Aggregation::TurnMean, Aggregation::TokenMean] {
        let of = |rows| {
            step_like_gradient(|c| (c.update.aggregation, c.rollout.rows) = (aggregation, rows))
        };
        let (whole, loss) = of(RowKind::Trajectory);
        let (turns, turns_loss) = of(RowKind::Turn);
        assert!(distance(&whole, &turns) < 1e-4, "{aggregation:?}: {}", distance(&whole, &turns));
        assert!((loss - turns_loss).abs() < 1e-6, "{aggregation:?}: {loss} and {turns_loss}");
    }
    let of = |rows| {
        step_like_gradient(|c| {
            (c.update.aggregation, c.rollout.rows) = (Aggregation::SeqMeanTokenSum, rows)
        })
    };
    let (whole, turns) = (of(RowKind::Trajectory).0, of(RowKind::Turn).0);
    assert!(distance(&whole, &turns) > 0.1, "a mean over rows must see the rows");
}

#[test]
fn the_size_of_micro_batches_does_not_change_the_update() {
    let of = |tokens| step_like_gradient(|c| c.update.micro_batch_tokens = Limit::literal(tokens));
    let (whole, loss) = of(100_000);
    for tokens in [1, 200] {
        let (split, split_loss) = of(tokens);
        assert!(distance(&whole, &split) < 1e-4, "{tokens} tokens: {}", distance(&whole, &split));
        assert!((loss - split_loss).abs() < 1e-6, "{tokens} tokens: {loss} and {split_loss}");
    }
    let other = step_like_gradient(|c| c.seed += 1).0;
    assert!(distance(&whole, &other) > 0.1, "other episodes must teach something else");
}

/// A change of the configuration that selects one algorithm.
type Change = fn(&mut Config);

#[test]
fn every_algorithm_teaches_the_same_however_the_step_is_cut_and_laid_out() {
    let of_kind = |kind| PolicyLoss { kl: None, ..PolicyLoss::of(kind) };
    let changes: [(&str, Change); 9] = [
        ("gspo", |c| c.update.policy = PolicyLoss::of(PolicyLossKind::Gspo)),
        ("cispo", |c| c.update.policy = PolicyLoss::of(PolicyLossKind::Cispo)),
        ("reinforce", |c| c.update.policy = PolicyLoss::of(PolicyLossKind::Reinforce)),
        ("tis", |c| {
            c.update.correction =
                Some(ImportanceCorrection::Truncate { level: RatioLevel::Token, max: 2.0 });
        }),
        ("decayed bonus", |c| {
            let lambda = Positive::literal(0.1);
            let config = DecayedBonusConfig { lambda, ..DecayedBonusConfig::default() };
            c.entropy.method = EntropyMethod::DecayedBonus(config);
        }),
        ("adaptive", |c| {
            let goal = AdaptiveTarget {
                target: Positive::literal(9.0),
                rate: Positive::literal(0.01),
                max: Positive::literal(1.0),
                rule: AdaptiveRule::Skywork,
            };
            let lambda = Positive::literal(0.1);
            c.entropy.method = EntropyMethod::Adaptive(AdaptiveConfig { lambda, goal });
        }),
        ("clip-cov", |c| {
            let share = Share::literal(0.3);
            let low = Finite::literal(0.0);
            let high = Finite::literal(9.0);
            c.entropy.method = EntropyMethod::ClipCov(ClipCov { share, low, high });
        }),
        ("kl-cov", |c| c.entropy.method = EntropyMethod::KlCov(KlCov::default())),
        ("top-entropy", |c| {
            c.entropy.method = EntropyMethod::TopEntropy(TopEntropy::default());
        }),
    ];
    let (plain, _) = step_like_gradient(|c| {
        (c.update.policy, c.entropy.method) = (of_kind(PolicyLossKind::Ppo), EntropyMethod::None)
    });
    for (name, change) in changes {
        let of = |tokens, rows| {
            step_like_gradient(|c| {
                c.update.micro_batch_tokens = Limit::literal(tokens);
                c.rollout.rows = rows;
                change(c)
            })
        };
        let (whole, loss) = of(100_000, RowKind::Trajectory);
        let (cut, cut_loss) = of(200, RowKind::Trajectory);
        assert!(distance(&whole, &cut) < 1e-4, "{name}: {}", distance(&whole, &cut));
        assert!((loss - cut_loss).abs() < 1e-6, "{name}: {loss} and {cut_loss}");
        let (turns, turns_loss) = of(100_000, RowKind::Turn);
        assert!(
            distance(&whole, &turns) < 1e-4,
            "{name}, rows of turns: {}",
            distance(&whole, &turns)
        );
        assert!((loss - turns_loss).abs() < 1e-6, "{name}: {loss} and {turns_loss}");
        if ["decayed bonus", "adaptive", "clip-cov", "top-entropy"].contains(&name) {
            assert!(distance(&plain, &whole) > 1e-3, "{name} must change the update");
        }
    }
}

#[test]
fn samples_of_another_engine_are_weighed() {
    let mut config = Config::default();
    config.update.mini_batches = Count::literal(1);
    config.update.correction =
        Some(ImportanceCorrection::Mask { level: RatioLevel::SequenceMean, min: 0.5, max: 2.0 });
    let mut agent = config.new_agent().unwrap();
    let mut rollouts = config.play(&agent, &config.episodes(0)).unwrap();
    let own = config.update(&mut agent, &rollouts, 0).unwrap();
    assert_eq!(own.number("is/cut"), Some(0.0));
    assert!(
        (own.number("is/mean").unwrap() - 1.0).abs() < 1e-3
            && own.number("is/ess").unwrap() > 0.999
    );
    // An engine that reports another probability for every second episode: a ratio of e.
    let mut agent = config.new_agent().unwrap();
    let (mut foreign, mut all) = (0, 0);
    for (i, turn) in rollouts
        .trajectories
        .iter_mut()
        .enumerate()
        .flat_map(|(i, t)| t.turns.iter_mut().map(move |turn| (i, turn)))
    {
        all += turn.log_probs.len();
        if i % 2 == 0 {
            foreign += turn.log_probs.len();
            turn.log_probs.iter_mut().for_each(|log_prob| *log_prob -= 1.0);
        }
    }
    let record = config.update(&mut agent, &rollouts, 0).unwrap();
    let share = foreign as f64 / all as f64;
    assert!(
        (record.number("is/cut").unwrap() - share).abs() < 1e-9,
        "{:?} {share}",
        record.number("is/cut")
    );
    assert!((record.number("is/ess").unwrap() - (1.0 - share)).abs() < 1e-3);
    assert!((record.number("is/max").unwrap() - 1f64.exp()).abs() < 1e-2);
    // π_old is the learner's own: its ratio starts at 1 whatever the engine said.
    assert!(record.number("ppo_kl").unwrap().abs() < 1e-6, "{:?}", record.number("ppo_kl"));
}

#[test]
fn cloning_lowers_the_loss_in_a_seeded_order() {
    let mut config = Config { steps: 0, ..Config::default() };
    config.cloning.batch = Count::literal(2);
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &config).unwrap();
    let lines = read_metrics(folder.path()).unwrap();
    let losses: Vec<f64> = lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    assert!(losses.len() == config.cloning.epochs.get() && losses[0] > 5.0, "{losses:?}");
    assert!(losses[losses.len() - 1] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn only_demonstrations_that_solve_their_task_are_cloned() {
    let config = Config { steps: 0, ..Config::default() };
    let cloned = |shown: &[Demonstration]| {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = config.new_agent().unwrap();
        let mut recorder = Recorder::create(folder.path()).unwrap();
        let Config { cloning, update, seed, .. } = &config;
        clone_demonstrations(&mut agent, shown, cloning, update, *seed, &mut recorder)?;
        recorder.sync()?;
        Ok::<_, epo::Error>((flat(&agent), read_metrics(folder.path())?))
    };
    let mut failed = demonstrations().remove(0);
    failed.turns.pop();
    assert!(!failed.solves());
    for nothing in [Vec::new(), vec![failed.clone()]] {
        let error = cloned(&nothing).unwrap_err().to_string();
        assert!(error.contains("`cloning`") && error.contains("limits on turns"), "{error}");
    }
    let without = cloned(&demonstrations()).unwrap();
    let mut mixed = demonstrations();
    mixed.insert(2, failed);
    assert!(cloned(&mixed).unwrap() == without, "a failed demonstration changes nothing");
}
